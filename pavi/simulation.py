"""Data simulated from the prior: what a calibration fits, with the truth behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any, NamedTuple

import numpy as np

from pavi.alignment import pool
from pavi.ancestral import copies_of, drawn_given
from pavi.backends.base import Arrays
from pavi.data import Data
from pavi.dist.bounded import Flat
from pavi.dist.compound import Censored
from pavi.errors import DataError, did_you_mean
from pavi.graph import Covariate, Latent, PlateGraph, Random
from pavi.integers import is_integer
from pavi.noise import Noise
from pavi.subsampling import full_batch


@dataclass(frozen=True, eq=False)
class Design:
    """What simulated data sets have in common.

    Attributes:
        graph: the model.
        sizes: number of elements of every plate.
        members: `members[plate][owner]`, as in `Data`.
        covariates: those that are given; the others are standard normal, new in each data set.
        balanced: memberships that were not given, `(plate, owner)`.
    """

    graph: PlateGraph
    sizes: dict[str, int]
    members: dict[str, dict[str, np.ndarray]]
    covariates: dict[str, Any]
    balanced: tuple[tuple[str, str], ...]

    @property
    def normal(self) -> tuple[Covariate, ...]:
        """The covariates that are drawn."""
        return tuple(v for v in self.graph.covariates if v.name not in self.covariates)

    def simulate(self, seed: int) -> tuple[Arrays, Data]:
        """Latents `{name: [*plates, *event]}` from the prior, and data given them.

        Raises:
            DataError: what is given does not fit the graph, or a draw is not finite.
        """
        graph, rng = self.graph, np.random.default_rng(seed)
        drawn = {v.name: rng.standard_normal(self._shape(v)) for v in self.normal}
        given = {**self.covariates, **drawn}
        bound = Data(given, self.members, self.sizes).bind(graph, need_outcomes=False)
        batch = full_batch(bound, "float64")
        random = [v for v in graph.variables.values() if isinstance(v, Random)]
        copies = {v.name: copies_of(graph, v, "simulation") for v in random}
        noise = Noise(list(copies.values()), bound.sizes, batch.indices, seed).draw(1)
        latents: Arrays = {}
        for variable in random:
            eps = noise[copies[variable.name].name]
            value = drawn_given(graph, variable, latents, batch, eps, "calibrate")
            if variable.kind == "latent":
                latents[variable.name] = value
            else:
                batch = batch._replace(values={**batch.values, variable.name: value[0]})
        values = {**given, **{v.name: batch.values[v.name] for v in graph.observed}}
        truth = {name: value[0] for name, value in latents.items()}
        return truth, Data(values, self.members, self.sizes)

    def rows(self, latent: Latent) -> np.ndarray:
        """Observed rows that belong to each copy of a latent, `[*plates]`."""
        graph = self.graph
        zeros = {v.name: np.zeros(self._shape(v)) for v in self.normal}
        bound = Data({**self.covariates, **zeros}, self.members, self.sizes).bind(
            graph, need_outcomes=False
        )
        members = full_batch(bound, "float64").members
        out = np.zeros([self.sizes[plate] for plate in latent.plates])
        for variable in graph.observed:
            if graph.determines(variable.plates, latent.plates):
                recipe = graph.alignment(latent.plates, variable.plates)
                ones = np.ones([self.sizes[plate] for plate in variable.plates])
                out = out + pool(ones, recipe, variable.plates, self.sizes, members, trailing=0)
        return np.rint(out).astype(np.int64)

    def _shape(self, covariate: Covariate) -> tuple[int, ...]:
        return (*(self.sizes[plate] for plate in covariate.plates), *covariate.event)


class Seeds(NamedTuple):
    """Seeds of one data set: of its values, its fit, its posterior's draws, its ranks."""

    data: int
    fit: int
    draws: int
    ranks: int


def seeds(seed: int, place: int) -> Seeds:
    """The seeds of the data set at a place, whatever the others are."""
    words = np.random.SeedSequence((int(seed), int(place))).generate_state(4, np.uint64)
    return Seeds(*(int(word >> np.uint64(1)) for word in words))


def design(
    graph: PlateGraph,
    sizes: Mapping[str, int],
    members: Mapping[str, Mapping[str, Any]] | None,
    covariates: Mapping[str, Any] | None,
) -> Design:
    """The design that was asked for; memberships that are not given are balanced.

    Raises:
        DataError: no plate's size, an unknown name, a prior that cannot be drawn from.
    """
    for argument, mapping in (("sizes", sizes), ("members", members), ("covariates", covariates)):
        if mapping is not None and not isinstance(mapping, Mapping):
            raise DataError(
                f"calibrate({argument}=...) must be a mapping by name, got "
                f"{type(mapping).__name__}."
            )
    _check_drawable(graph)
    given = {p: {o: np.asarray(i) for o, i in m.items()} for p, m in (members or {}).items()}
    known = _checked_sizes(graph, sizes, given)
    names = [v.name for v in graph.covariates]
    for name in covariates or {}:
        if name not in names:
            raise DataError(
                f"calibrate(covariates={{{name!r}: ...}}): {name!r} is no covariate of the graph; "
                f"latents and observed variables are simulated.{did_you_mean(name, names)}"
            )
    balanced = []
    for plate in graph.plates.values():
        for owner in plate.within:
            if owner in given.get(plate.name, {}) or _derived(given, plate.name, owner):
                continue
            owners = [known[other] for other in plate.within]
            index = _balanced(known[plate.name], owners, plate.within.index(owner))
            balanced.append((plate.name, owner, index))
    for name, owner, index in balanced:
        given.setdefault(name, {})[owner] = index
    made = tuple((plate, owner) for plate, owner, _ in balanced)
    return Design(graph, known, given, dict(covariates or {}), made)


def _check_drawable(graph: PlateGraph) -> None:
    for variable in (*graph.latents, *graph.observed):
        spec = graph.probe[variable.name]
        if isinstance(spec, Flat):
            raise DataError(
                f"calibrate: {variable.place} has the improper prior dist.Flat, from which nothing "
                f"can be simulated. Give it a proper prior, such as dist.Normal(0.0, 10.0), that "
                f"is as wide as you mean."
            )
        if isinstance(spec, Censored):
            raise DataError(
                f"calibrate: {variable.place} is censored, and nothing says which simulated values "
                f"would be. Calibrate the model with the distribution inside of dist.Censored."
            )


def _checked_sizes(
    graph: PlateGraph, sizes: Mapping[str, int], members: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, int]:
    """The size of every plate: as given, or by a membership of its elements."""
    for plate, size in sizes.items():
        if plate not in graph.plates:
            raise DataError(
                f"calibrate(sizes={{{plate!r}: ...}}): the graph has no plate {plate!r}."
                f"{did_you_mean(plate, graph.plates)}"
            )
        if not is_integer(size, 1):
            raise DataError(
                f"calibrate(sizes={{{plate!r}: {size!r}}}): expected a positive integer, the "
                f"number of elements of the plate."
            )
    known = {plate: int(size) for plate, size in sizes.items()}
    for plate, owners in members.items():
        for index in owners.values():
            known.setdefault(plate, len(np.atleast_1d(index)))
    absent = [plate for plate in graph.plates if plate not in known]
    if absent:
        raise DataError(
            f"calibrate: sizes={dict(sizes)} holds no size of plate {absent[0]!r}. Add "
            f"sizes={{{absent[0]!r}: ...}}: the number of its elements in each simulated data set."
        )
    return {plate: known[plate] for plate in graph.plates}


def _derived(given: Mapping[str, Mapping[str, Any]], plate: str, owner: str) -> bool:
    """Whether the rows of a finer plate say which `owner` each element of `plate` belongs to."""
    return any(plate in owners and owner in owners for owners in given.values())


def _balanced(size: int, owners: list[int], place: int) -> np.ndarray:
    """The owner of each of `size` rows, of those with so many elements; all in turn.

    Of several, each pair of owners is met before any of them is met again.
    """
    row = np.arange(size)
    if len(owners) == 1:
        return row * owners[0] // size if size >= owners[0] else row
    # r mod n_i meets each pair once in lcm(n_0, n_i) rows; then the later ones move on by one.
    period = owners[0] * owners[place] // gcd(owners[0], owners[place])
    return (row + (row // period if place else 0)) % owners[place]
