"""Groups that are independent given the other latents, and the terms of the ELBO that are theirs.

A group is an element of an outermost plate that carries latents, with all that lies within it. Its
terms are those of every variable and block whose plates determine that element.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pavi import ops
from pavi.alignment import pool
from pavi.batch import Batch
from pavi.model import present, weighted_sum
from pavi.plan import BlockPlan, GuidePlan

Array = Any


class Groups(NamedTuple):
    """The groups of one plate.

    Attributes:
        plate: the plate.
        blocks: the blocks of their latents.
        given: the latents that lie on plates which cross it, at whose draws the groups stand.
    """

    plate: str
    blocks: tuple[str, ...]
    given: tuple[str, ...]


class Grouping(NamedTuple):
    """Which plates have groups that can be looked at one by one.

    Attributes:
        groups: those that can, disjoint.
        missing: why each other outermost plate cannot, in words.
    """

    groups: tuple[Groups, ...]
    missing: dict[str, str]

    @property
    def local(self) -> frozenset[str]:
        """Blocks of latents that lie in a group."""
        return frozenset(name for own in self.groups for name in own.blocks)

    def of(self, plan: GuidePlan, plates: tuple[str, ...]) -> str | None:
        """The plate with groups that these plates lie in."""
        reach = plan.graph.reach(plates)
        return next((own.plate for own in self.groups if own.plate in reach), None)


def grouping(plan: GuidePlan) -> Grouping:
    """The groups of a plan: of plates that cross one another, those of the one with most latents.

    The groups of a plate must be independent given all other latents, in the model and in the
    guide; and the guide must draw these others first, or it conditions on less than the model does.
    """
    graph = plan.graph
    carrying = {p for block in plan.blocks for p in block.plates}
    roots = [p for p in graph.plates if p in carrying and not carrying & set(graph.owners(p))]
    missing: dict[str, str] = {}
    found: list[tuple[int, Groups]] = []
    for plate in roots:
        reason = _coupled(plan, plate, _crossing(plan, plate, roots))
        if reason:
            missing[plate] = reason
            continue
        own = [b for b in plan.blocks if plate in graph.reach(b.plates)]
        given = [
            slot.name
            for b in plan.blocks
            if b not in own and graph.reach(b.plates) & set(_crossing(plan, plate, roots))
            for slot in b.slots
        ]
        size = sum(b.num_latents for b in own)
        found.append((size, Groups(plate, tuple(b.name for b in own), tuple(given))))
    chosen: list[Groups] = []
    for _, own_groups in sorted(found, key=lambda pair: -pair[0]):
        crossing = set(_crossing(plan, own_groups.plate, roots))
        other = next((c.plate for c in chosen if c.plate in crossing), None)
        if other is None:
            chosen.append(own_groups)
        else:
            missing[own_groups.plate] = f"it crosses {other!r}, whose elements are looked at"
    return Grouping(tuple(chosen), missing)


def _crossing(plan: GuidePlan, plate: str, roots: list[str]) -> list[str]:
    """The other outermost plates that some variable lies in together with this one."""
    graph = plan.graph
    reaches = [graph.reach(v.plates) for v in (*graph.latents, *graph.observed)]
    together = frozenset().union(*(reach for reach in reaches if plate in reach))
    return [p for p in roots if p != plate and p in together]


def _coupled(plan: GuidePlan, plate: str, crossing: list[str]) -> str | None:
    """Why the elements of a plate cannot be looked at one by one, None if they can."""
    graph = plan.graph
    own = [b for b in plan.blocks if plate in graph.reach(b.plates)]
    names = {b.name for b in own}
    latents = {slot.name for b in own for slot in b.slots}
    joint = next((b for b in own if b.joint), None)
    if joint is not None:
        return f"they have one joint density in the guide ({_latents(joint)})"
    for variable in (*graph.latents, *graph.observed):
        inside = plate in graph.reach(variable.plates)
        if inside and not graph.determines(variable.plates, (plate,)):
            return f"a copy of {variable.name!r} belongs to several of its elements"
        if not inside and latents & set(variable.parents):
            return f"{variable.name!r} depends on several of its elements"
    later = plan.blocks[plan.blocks.index(own[0]) :]
    for block in (b for b in later if b not in own):
        crosses = set(crossing) & graph.reach(block.plates)
        if crosses or names & {slot.block for slot in block.context}:
            return (
                f"the guide draws {_latents(own[0])} before {_latents(block)}, which the data "
                "couple to it"
            )
    return None


def _latents(block: BlockPlan) -> str:
    return " and ".join(repr(slot.name) for slot in block.slots)


class Parts(NamedTuple):
    """Terms of the ELBO in a batch, sorted by what they belong to.

    Attributes:
        rest: log p - log q of what lies in no group, each copy's term standing for N_i / N_i^r
            copies, `[S]`.
        local: log p - log q of each group, `{plate: [S, elements]}`.
        told: of it, log q less the log prior of the group's latents, so.
    """

    rest: Array
    local: dict[str, Array]
    told: dict[str, Array]


def parts(
    plan: GuidePlan,
    groups: Grouping,
    log_p: Mapping[str, Array],
    log_q: Mapping[str, Array],
    batch: Batch,
) -> Parts:
    """Sorts terms by group; the elements of a plate are those of the batch.

    Args:
        plan: the plan.
        groups: its groups.
        log_p: log density of each copy of a variable, `{variable: [S, *plates]}`.
        log_q: log density of each copy of a block, `{block: [S, *axes]}`.
        batch: the batch; what is in it of a group is all of the group.
    """
    # The first block lies outside, if any does.
    first = log_q[plan.blocks[0].name]
    rest: Array = ops.sum(ops.zeros_like(first), axis=tuple(range(1, len(ops.shape(first)))))
    local: dict[str, Array] = {own.plate: 0.0 for own in groups.groups}
    told: dict[str, Array] = dict(local)
    terms = [
        *((v.plates, log_p[v.name], v.kind == "latent") for v in plan.graph.latents),
        *((v.plates, log_p[v.name], False) for v in plan.graph.observed),
        *((b.axes, -log_q[b.name], True) for b in plan.blocks),
    ]
    for plates, term, tells in terms:
        plate = groups.of(plan, plates)
        if plate is None:
            rest = rest + weighted_sum(term, batch, plates)
            continue
        pooled = pooled_to(plan, (plate,), term * present(batch, plates), plates, batch)
        local[plate] = local[plate] + pooled
        if tells:
            told[plate] = told[plate] - pooled
    return Parts(rest, local, told)


def pooled_to(
    plan: GuidePlan,
    target: tuple[str, ...],
    term: Array,
    plates: tuple[str, ...],
    batch: Batch,
) -> Array:
    """Sums `[S, *plates]` over all that lies in each element of `target`: `[S, *target]`."""
    sizes = {plate: ops.shape(index)[0] for plate, index in batch.indices.items()}
    recipe = plan.graph.alignment(target, plates)
    return pool(term, recipe, plates, sizes, batch.members, trailing=0)
