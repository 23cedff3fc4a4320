"""Plates and how they lie in one another: owners, the way to them, and alignment by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from heapq import heapify, heappop, heappush
from keyword import iskeyword
from types import MappingProxyType

from pavi.errors import GraphError, did_you_mean

Names = str | Sequence[str] | None

# What the latents on no plate are called together, in a plan and in the names of weights.
GLOBALS = "globals"


def checked_name(name: object, what: str) -> str:
    """`name`, if it can be the name of a `what` and so of a function's argument."""
    if not isinstance(name, str):
        raise GraphError(
            f"The name of a {what} must be a string, got {name!r} of type {type(name).__name__}. "
            f"Write the name in quotes."
        )
    if not name.isidentifier() or iskeyword(name):
        why = "is a keyword of Python" if iskeyword(name) else "is not a Python identifier"
        raise GraphError(
            f"The {what} name {name!r} {why}, so that no function could take it as an argument. "
            f"Use letters, digits and underscores, as in {_identifier(name)!r}."
        )
    return name


def _identifier(name: str) -> str:
    """The identifier that is closest to `name`."""
    letters = "".join(c if c.isalnum() else "_" for c in name) or "x"
    letters = letters if letters.isidentifier() else f"_{letters}"
    return f"{letters}_" if iskeyword(letters) else letters


def checked_names(names: Names, what: str, argument: str) -> tuple[str, ...]:
    """One plate name or several, as a tuple without repetitions."""
    if names is None:
        return ()
    if isinstance(names, str):
        return (names,)
    if not isinstance(names, Iterable):
        raise GraphError(
            f"{what}: `{argument}` must be the name of a plate or a tuple of names, got {names!r}."
        )
    out = tuple(names)
    for name in out:
        if not isinstance(name, str):
            raise GraphError(
                f"{what}: `{argument}` must hold names of plates, got {name!r} of type "
                f"{type(name).__name__}. Write the plate's name in quotes."
            )
    repeated = sorted({name for name in out if out.count(name) > 1})
    if repeated:
        raise GraphError(
            f"{what}: `{argument}` names the plate {repeated[0]!r} twice. Name it once."
        )
    return out


@dataclass(frozen=True, init=False)
class Plate:
    """An i.i.d. replication. Its size is bound by the data.

    Args:
        name: an identifier, used by no other plate or variable, other than `globals`.
        within: the plate or plates that own it: one for a ragged nested plate (`"county"`), several
            for a crossed one (`("student", "lecturer")`). Each row has one owner in each of them.
    """

    name: str
    within: tuple[str, ...]

    def __init__(self, name: str, within: Names = None) -> None:
        object.__setattr__(self, "name", checked_name(name, "plate"))
        if name == GLOBALS:
            raise GraphError(
                f"A plate cannot have the name {GLOBALS!r}, which stands for the latents on no "
                f"plate. Rename it, as in pavi.Plate('global_site')."
            )
        object.__setattr__(self, "within", checked_names(within, f"Plate({self.name!r})", "within"))


class Plates(Mapping[str, Plate]):
    """The plates of a graph by name, in the order of declaration, with their owners."""

    def __init__(self, plates: Iterable[Plate]) -> None:
        self._plates: dict[str, Plate] = {}
        for plate in plates:
            if not isinstance(plate, Plate):
                raise GraphError(
                    f"PlateGraph(plates=...) got {plate!r} of type {type(plate).__name__}. "
                    f"Write pavi.Plate({plate if isinstance(plate, str) else 'name'!r})."
                )
            if plate.name in self._plates:
                raise GraphError(
                    f"The name {plate.name!r} is used by two plates. Rename one of them."
                )
            self._plates[plate.name] = plate
        for plate in self._plates.values():
            for owner in plate.within:
                if owner not in self._plates:
                    raise GraphError(
                        f"Plate({plate.name!r}, within={owner!r}): there is no plate {owner!r}. "
                        f"Add pavi.Plate({owner!r}) to `plates`.{did_you_mean(owner, self._plates)}"
                    )
        self._check_acyclic()
        self._ancestors = MappingProxyType({name: self._walk(name) for name in self._plates})

    def __getitem__(self, name: str) -> Plate:
        return self._plates[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._plates)

    def __len__(self) -> int:
        return len(self._plates)

    def ancestors(self, plate: str) -> tuple[str, ...]:
        """All plates that own `plate`, through all levels, nearest first."""
        return self._ancestors[plate]

    def owners(self, plate: str) -> tuple[str, ...]:
        """The ancestors of which each row of `plate` has exactly one, nearest first.

        An ancestor that is reached in two ways (a rating's country, through the user and through
        the film) is left out unless `within` names it.
        """
        return tuple(o for o in self.ancestors(plate) if self._resolve(plate, o) is not None)

    def path(self, plate: str, owner: str) -> tuple[str, ...]:
        """The plates from `plate` to `owner`: `("pupil", "school", "authority")`.

        Raises:
            GraphError: `owner` does not own `plate`, or does in several ways.
        """
        if owner not in self.ancestors(plate):
            raise GraphError(
                f"Plate {plate!r} does not belong to plate {owner!r}. "
                f"Write pavi.Plate({plate!r}, within={owner!r}) if each {plate} has one {owner}."
            )
        path = self._resolve(plate, owner)
        if path is None:
            ways = " and ".join(repr(p) for p in self._ways(plate, owner))
            raise GraphError(
                f"Plate {plate!r} belongs to plate {owner!r} in several ways, through {ways}: "
                f"which {owner} is a row's own is ambiguous. Add {owner!r} to `within` of "
                f"{plate!r} and give its own membership index."
            )
        return path

    def indirect_path(self, plate: str, owner: str) -> tuple[str, ...] | None:
        """The way from `plate` to `owner` through other owners, where there is exactly one."""
        return self._through(plate, owner, [p for p in self[plate].within if p != owner])

    def alignment(
        self, parent_plates: Sequence[str], child_plates: Sequence[str]
    ) -> tuple[tuple[str, str], ...]:
        """The plate of the child along which each plate of the parent is taken.

        Args:
            parent_plates: plates of the parent.
            child_plates: plates of the child.

        Returns:
            Pairs `(q, p)`, one for each parent plate `q`: the axis `p` of the child itself if
            `p == q`, else the plate `p` whose membership gathers `q`.

        Raises:
            GraphError: no plate of the child belongs to `q`, or several do.
        """
        pairs = []
        for q in parent_plates:
            along = [q] if q in child_plates else []
            along = along or [p for p in child_plates if q in self.ancestors(p)]
            if not along:
                raise GraphError(self._unaligned(q, child_plates))
            if len(along) > 1:
                listed = " and ".join(map(repr, along))
                raise GraphError(
                    f"the alignment with plate {q!r} is ambiguous, as {listed} both belong to it. "
                    f"Replace them by one crossed plate that has its own {q}, as in "
                    f"pavi.Plate('pair', within={(*along, q)!r})."
                )
            if along[0] != q:
                self.path(along[0], q)
            pairs.append((q, along[0]))
        return tuple(pairs)

    def _unaligned(self, q: str, child_plates: Sequence[str]) -> str:
        """Says that no plate of a child belongs to `q`, and what to do about it."""
        finer = [p for p in child_plates if p in self.ancestors(q)]
        if finer:
            return (
                f"plate {q!r} lies within {finer[0]!r}, so that there are many {q} rows to one "
                f"{finer[0]}. A parent must be on the same plates or on coarser ones: put the "
                f"child on {q!r}, or turn the arrow round."
            )
        if not child_plates:
            return f"it is on no plate. Put it on {q!r}, or take the parent off {q!r}."
        first = child_plates[0]
        return (
            f"none of its plates {tuple(child_plates)!r} is or belongs to {q!r}. Put it on {q!r} "
            f"too, or write pavi.Plate({first!r}, within={q!r}) if each {first} has one {q}."
        )

    def _check_acyclic(self) -> None:
        try:
            in_order({name: plate.within for name, plate in self._plates.items()})
        except CycleError as error:
            raise GraphError(
                f"The plates {' -> '.join(error.args[1])} lie within each other in a cycle. "
                f"Remove `within` from one of them."
            ) from None

    def _walk(self, plate: str) -> tuple[str, ...]:
        """Breadth first, so that the nearest owners come first."""
        found: dict[str, None] = {}
        level = list(self[plate].within)
        while level:
            found.update(dict.fromkeys(level))
            level = [owner for p in level for owner in self[p].within if owner not in found]
        return tuple(found)

    def _resolve(self, plate: str, owner: str) -> tuple[str, ...] | None:
        within = self[plate].within
        return (plate, owner) if owner in within else self._through(plate, owner, within)

    def _through(self, plate: str, owner: str, candidates: Sequence[str]) -> tuple[str, ...] | None:
        """The path by way of `candidates`; None if there is none, or several that may differ."""
        ways = {p: self._resolve(p, owner) for p in candidates if owner in self.ancestors(p)}
        for p, path in ways.items():
            # every other way passes through p, whose two memberships the data must agree about
            if path and all(other and p in other for other in ways.values()):
                return (plate, *path)
        return None

    def _ways(self, plate: str, owner: str) -> list[str]:
        return [p for p in self[plate].within if owner in self.ancestors(p)]


def in_order(edges: Mapping[str, Sequence[str]]) -> list[str]:
    """The nodes, each behind those in its `edges`, in the order of declaration where that is free.

    Raises:
        CycleError: with a cycle `[a, b, ..., a]` as its second argument.
    """
    rank = {name: i for i, name in enumerate(edges)}
    sorter = TopologicalSorter(edges)
    sorter.prepare()
    ready = [rank[name] for name in sorter.get_ready()]
    heapify(ready)
    names, out = list(edges), []
    while ready:
        name = names[heappop(ready)]
        out.append(name)
        sorter.done(name)
        for freed in sorter.get_ready():
            heappush(ready, rank[freed])
    return out
