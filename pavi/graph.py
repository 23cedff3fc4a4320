"""The plate graph: a hierarchical model as a template of variables in plates, free of data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from graphlib import CycleError
from hashlib import sha256
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pavi import ops
from pavi.dist.compound import Mixture
from pavi.dist.spec import Spec
from pavi.dist.supports import Support
from pavi.errors import GraphError, did_you_mean
from pavi.plates import Plate, Plates, in_order
from pavi.probing import (
    DISTINCT,
    FIRST,
    SECOND,
    VARYING,
    check_bounds,
    constant_support,
    constants,
    probe,
)
from pavi.variables import Covariate, Latent, Observed, Random, Variable, defaults

if TYPE_CHECKING:
    from pavi.data import Data

__all__ = ["Covariate", "Latent", "Observed", "Plate", "PlateGraph", "Random", "Variable"]


class PlateGraph:
    """A template of random variables enriched with plates (paper, section 3.1). Immutable.

    Args:
        plates: the plates; owners may be declared behind what they own.
        variables: latents, observed variables and covariates, in any order.

    Attributes:
        plates: the plates by name, in the order of declaration.
        variables: the variables by name, each behind its parents.
        probe: the distribution of every latent and observed variable, evaluated on NumPy
            placeholders with 2 elements a plate and one leading batch axis.

    Raises:
        GraphError: the graph is not a well-formed model; the message says where and what to do.
    """

    plates: Plates
    variables: Mapping[str, Variable]
    probe: Mapping[str, Spec]
    _constants: Mapping[str, Spec]
    _supports: Mapping[str, Support]

    def __init__(self, plates: Iterable[Plate], variables: Iterable[Variable]) -> None:
        set_field = object.__setattr__  # the graph is immutable
        _check_list("plates", plates)
        _check_list("variables", variables)
        set_field(self, "plates", Plates(plates))
        set_field(self, "variables", MappingProxyType(self._ordered(variables)))
        for variable in self.variables.values():
            self._check_plates(variable)
            self._check_parents(variable)
        first: dict[str, Spec] = {}
        second: dict[str, Spec] = {}
        fixed: dict[str, Spec] = {}
        for variable in self.variables.values():
            if isinstance(variable, Random):
                name = variable.name
                for setting, specs in ((FIRST, first), (SECOND, second)):
                    specs[name] = probe(variable, self.variables, self.plates, specs, setting)
                _check_discrete(variable, first[name])
                _check_one_support(variable, first[name], second[name])
                fixed[name] = constants(first[name], second[name])
                fixed[name].validate(name)
        set_field(self, "probe", MappingProxyType(first))
        set_field(self, "_constants", fixed)
        supports = {name: constant_support(spec, second[name]) for name, spec in first.items()}
        for name, support in supports.items():
            check_bounds(self._random(name), support)
        set_field(self, "_supports", supports)

    @classmethod
    def from_numpyro(cls, model: Any, *args: Any, **kwargs: Any) -> tuple[PlateGraph, Data]:
        """The graph and the data of a NumPyro model, read from one run of it.

        Plates are the model's own, subsampled ones at their full size. An index of a plate's
        latents in another plate, as `theta[county]`, becomes a membership; arrays that meet
        latents become covariates, by the names of the model's arguments where they are these.

        Args:
            model: the model.
            args: its arguments, data included.
            kwargs: its named arguments.

        Raises:
            GraphError: something in it cannot be said by a plate graph; the message names the site.
        """
        # An adapter is loaded where it is asked for, by name: the graph imports no framework.
        reader = import_module("pavi.backends.numpyro.portable")
        graph, data = reader.from_numpyro(model, *args, **kwargs)
        return graph, data

    @property
    def latents(self) -> tuple[Latent, ...]:
        """The latent variables, each behind its parents."""
        return tuple(v for v in self.variables.values() if isinstance(v, Latent))

    @property
    def observed(self) -> tuple[Observed, ...]:
        """The observed variables, each behind its parents."""
        return tuple(v for v in self.variables.values() if isinstance(v, Observed))

    @property
    def covariates(self) -> tuple[Covariate, ...]:
        """The covariates, in the order of declaration."""
        return tuple(v for v in self.variables.values() if isinstance(v, Covariate))

    def owners(self, plate: str) -> tuple[str, ...]:
        """The plates of which each row of `plate` has one, through all levels, nearest first."""
        return self.plates.owners(plate)

    def reach(self, plates: tuple[str, ...]) -> frozenset[str]:
        """Plates of which each combination of rows of `plates` has one: themselves and owners."""
        return frozenset(q for plate in plates for q in (plate, *self.owners(plate)))

    def determines(self, fine: tuple[str, ...], coarse: tuple[str, ...]) -> bool:
        """Whether an element of the plates `fine` belongs to exactly one element of `coarse`."""
        try:
            self.alignment(coarse, fine)
        except GraphError:
            return False
        return True

    def path(self, plate: str, owner: str) -> tuple[str, ...]:
        """The plates from `plate` to `owner`: `("pupil", "school", "authority")`."""
        return self.plates.path(plate, owner)

    def alignment(
        self, parent_plates: tuple[str, ...], child_plates: tuple[str, ...]
    ) -> tuple[tuple[str, str], ...]:
        """For each plate `q` of a parent, `(q, p)`: it is taken along the child's plate `p`.

        If `p == q` the axis is shared, else the membership of `p` in `q` gathers it.

        Raises:
            GraphError: no plate of the child belongs to `q`, or several do.
        """
        return self.plates.alignment(parent_plates, child_plates)

    def spec(self, name: str, values: Mapping[str, Any]) -> Spec:
        """The distribution of a variable given its parents.

        Args:
            name: a latent or observed variable.
            values: its parents' arrays, aligned:
                `[*batch, *plates of the variable (size or 1), *event of the parent]`.

        Raises:
            GraphError: its function runs on NumPy's arrays alone.
        """
        variable = self._random(name)
        try:
            return variable.spec(values)
        except (AttributeError, NotImplementedError, TypeError) as error:
            if ops.namespace(*values.values()).name == "numpy":
                raise
            cause = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise GraphError(
                f"The distribution function of {name!r} runs on NumPy's arrays, as when the graph "
                f"was built, but not on those of the backend ({cause}). Use the functions of "
                f"pavi.ops in it, as in `from pavi import ops` and ops.exp(x), instead of those of "
                f"numpy and math and of methods of arrays."
            ) from error

    def constant_support(self, name: str) -> Support:
        """The support of a variable; a bound that depends on its parents counts as infinite."""
        return self._supports[self._random(name).name]

    def children(self, name: str) -> tuple[str, ...]:
        """The variables of which `name` is a parent."""
        return tuple(v.name for v in self.variables.values() if name in v.parents)

    def fingerprint(self) -> str:
        """SHA-256 of the structure: plates, variables, distributions and their constants.

        A function enters by its parents, by the type of what it returns and by its value where
        every parent and element has another value, not by its source or bytecode.
        """
        lines = [f"{p.name} within {p.within}" for p in self.plates.values()]
        specs: dict[str, Spec] = {}
        for v in self.variables.values():
            lines.append(f"{v.kind} {v.name} {v.plates} {v.event} {v.parents}")
            if isinstance(v, Random):
                try:
                    specs[v.name] = probe(v, self.variables, self.plates, specs, DISTINCT)
                except GraphError:
                    # A function may take whole numbers alone.
                    specs[v.name] = self.probe[v.name]
                lines.append(_digits(specs[v.name]))
        return sha256("\n".join(lines).encode()).hexdigest()

    def __str__(self) -> str:
        rows = [
            (
                v.kind,
                v.name,
                f"[{', '.join(v.plates)}]" if v.plates else "",
                f"event={v.event}" if v.event else "",
                self._described(v),
            )
            for v in self.variables.values()
        ]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(5)]
        lines = ["PlateGraph", "  plates" if self.plates else "  no plates"]
        lines += [f"    {line}" for line in self._plate_tree()]
        lines.append("  variables" if rows else "  no variables")
        for row in rows:
            pairs = zip(row, widths, strict=True)
            cells = "  ".join(cell.ljust(width) for cell, width in pairs if width)
            lines.append(f"    {cells}".rstrip())
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"PlateGraph(plates={list(self.plates)}, variables={list(self.variables)})"

    def __setattr__(self, name: str, value: object) -> None:
        raise GraphError(f"A PlateGraph is immutable: cannot set {name!r}. Build another one.")

    def __delattr__(self, name: str) -> None:
        raise GraphError(f"A PlateGraph is immutable: cannot delete {name!r}. Build another one.")

    def __deepcopy__(self, memo: dict[int, Any]) -> PlateGraph:
        return self

    def _plate_tree(self) -> list[str]:
        """Plates, each indented below its owner; a crossed one below the first of its owners."""
        lines: list[str] = []

        def show(plate: Plate, depth: int) -> None:
            others = plate.within[1:]
            crossed = f"  (within {' and '.join(plate.within)})" if others else ""
            lines.append(f"{'  ' * depth}{plate.name}{crossed}")
            for child in self.plates.values():
                if child.within[:1] == (plate.name,):
                    show(child, depth + 1)

        for plate in self.plates.values():
            if not plate.within:
                show(plate, 0)
        return lines

    def _described(self, variable: Variable) -> str:
        if not isinstance(variable, Random):
            return ""
        given = f" given {', '.join(variable.parents)}" if variable.parents else ""
        return f"{self._constants[variable.name]!r}{given}"

    def _random(self, name: str) -> Random:
        variable = self.variables.get(name)
        if not isinstance(variable, Random):
            random = [v.name for v in (*self.latents, *self.observed)]
            raise GraphError(
                f"There is no latent or observed variable {name!r}.{did_you_mean(name, random)}"
            )
        return variable

    def _ordered(self, variables: Iterable[Variable]) -> dict[str, Variable]:
        """The variables by name, each behind its parents."""
        named: dict[str, Variable] = {}
        for variable in variables:
            if not isinstance(variable, Variable):
                raise GraphError(
                    f"PlateGraph(variables=...) got {variable!r} of type "
                    f"{type(variable).__name__}, which is no pavi.Latent, pavi.Observed or "
                    f"pavi.Covariate."
                )
            if variable.name in self.plates:
                raise GraphError(
                    f"The name {variable.name!r} is used by a plate and by a {variable.kind} "
                    f"variable. Rename one of them."
                )
            if variable.name in named:
                raise GraphError(
                    f"The name {variable.name!r} is used by two variables. Rename one of them."
                )
            named[variable.name] = variable
        for variable in named.values():
            for parent in variable.parents:
                if parent not in named:
                    raise GraphError(_unknown_parent(variable, parent, named, self.plates))
            if isinstance(variable, Random):
                for argument in defaults(variable):
                    if argument in named:
                        raise GraphError(
                            f"The argument {argument!r} of the distribution function of "
                            f"{variable.name!r} has a default value, and is also the name of a "
                            f"variable: remove the default to make it a parent, or rename the "
                            f"argument."
                        )
        try:
            order = in_order({name: v.parents for name, v in named.items()})
        except CycleError as error:
            raise GraphError(
                f"The variables {' -> '.join(error.args[1])} form a cycle (an arrow points from "
                f"parent to child). Remove one of these parents."
            ) from None
        return {name: named[name] for name in order}

    def _check_plates(self, variable: Variable) -> None:
        for plate in variable.plates:
            if plate not in self.plates:
                raise GraphError(
                    f"Variable {variable.name!r} is on plate {plate!r}, which the graph does not "
                    f"have. Add pavi.Plate({plate!r}).{did_you_mean(plate, self.plates)}"
                )
            for owner in set(self.plates.ancestors(plate)).intersection(variable.plates):
                rest = tuple(p for p in variable.plates if p != owner)
                raise GraphError(
                    f"Variable {variable.name!r} is on plate {plate!r} and on its owner {owner!r}. "
                    f"Each row of {plate!r} has one {owner!r} already: write "
                    f"plates={rest[0] if len(rest) == 1 else rest!r}."
                )

    def _check_parents(self, variable: Variable) -> None:
        for name in variable.parents:
            parent = self.variables[name]
            try:
                self.alignment(parent.plates, variable.plates)
            except GraphError as error:
                raise GraphError(
                    f"{variable.name!r} on plates {variable.plates} cannot have the parent "
                    f"{name!r} on plates {parent.plates}: {error}"
                ) from None


def _check_list(argument: str, given: object) -> None:
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise GraphError(
            f"PlateGraph({argument}=...) must be a list, got {given!r}. Write {argument}=[...]."
        )


def _unknown_parent(
    variable: Variable, parent: str, named: Mapping[str, Variable], plates: Plates
) -> str:
    start = f"The distribution function of {variable.name!r} has the argument {parent!r}, "
    if parent in plates:
        return (
            f"{start}which is a plate, not a variable. A plate has no values; add a "
            f"pavi.Covariate on it if you need one."
        )
    others = [name for name in named if name != variable.name]
    return (
        f"{start}but there is no variable {parent!r}. Add it, or give the argument a default "
        f"value if it is a constant.{did_you_mean(parent, others)}"
    )


def _check_discrete(variable: Random, spec: Spec) -> None:
    if variable.kind == "latent" and spec.discrete:
        raise GraphError(
            f"Latent {variable.name!r} (plates {variable.plates}) is discrete: "
            f"{type(spec).__name__}. Variational inference here needs continuous latents. "
            f"Marginalise it: give its children the distribution summed over its values, as "
            f"dist.Mixture(weights, components) does, and drop the variable."
        )


def _check_one_support(variable: Random, *specs: Spec) -> None:
    """A link of a latent maps onto one interval, on all of which its density must be positive."""
    for spec in specs:
        if variable.kind == "latent" and isinstance(spec, Mixture) and spec.differing_bounds:
            supports = " and ".join(str(component.support) for component in spec.components)
            raise GraphError(
                f"Latent {variable.name!r} (plates {variable.plates}) is a Mixture of components "
                f"on {supports}: its density jumps at the bounds of each, where variational "
                f"inference has no gradient. Give the components the same bounds, or ones without "
                f"bounds, as dist.Normal."
            )


def _digits(value: Any) -> str:
    """A parameter or spec in print, floats to 6 digits, so that rounding does not change it."""
    if isinstance(value, Spec):
        inside = ", ".join(f"{f.name}={_digits(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__name__}({inside})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_digits, value))})"
    if isinstance(value, (str, Support)) or value is None or value is VARYING:
        return str(value)
    array = np.asarray(ops.to_numpy(value), dtype=np.float64)
    return f"{array.shape} {' '.join(f'{x + 0.0:.6g}' for x in array.ravel())}"
