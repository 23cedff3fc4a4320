"""Draws of the groups' latents given draws of all others, with the density ratio of each group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from pavi import elements
from pavi.backends.base import Arrays
from pavi.errors import DataError
from pavi.fitted import Fitted
from pavi.grouping import Grouping, Parts, parts
from pavi.noise import Noise
from pavi.objective import Terms
from pavi.subsampling import check_paths

# Draws of one compiled call, if they fit: every stage has the same, to be compiled once.
_CALL = 500


class Drawn(NamedTuple):
    """Some draws.

    Attributes:
        given: which draw of the other latents each stands at, `[n]`.
        parts: terms of the groups asked for.
        values: latents, `{name: [n, *plates, *event]}`, of all that the batch holds.
    """

    given: np.ndarray
    parts: Parts
    values: Arrays


class Conditional:
    """Groups of a fit, to be drawn again and again given the other latents.

    Args:
        fitted: the fit.
        groups: its groups.
        chosen: positions of the elements to look at, by plate. Only these, and what the guide needs
            to encode them, are drawn.
    """

    def __init__(self, fitted: Fitted, groups: Grouping, chosen: Mapping[str, np.ndarray]) -> None:
        self.fitted, self.groups, self.chosen = fitted, groups, dict(chosen)
        sizes = fitted.data.sizes
        some = {p: i for p, i in chosen.items() if len(i) < sizes[p] and _partable(fitted, p)}
        self.batch = fitted.part(some)
        self.places = {
            plate: elements.places(self.batch.indices[plate], index)
            for plate, index in chosen.items()
        }
        self._rows = fitted.rows(self.batch)
        self.call = fitted.chunk(_CALL, self.batch)

    @property
    def whole(self) -> bool:
        """Whether all groups are looked at."""
        sizes = self.fitted.data.sizes
        return all(len(index) == sizes[plate] for plate, index in self.chosen.items())

    def draw(self, given: int, each: int, seed: int) -> Iterator[Drawn]:
        """`each` draws of the groups at each of `given` draws of the other latents, in order."""
        for flat, noise in self.noise(given, each, seed):
            yield self.evaluated(flat, noise)

    def evaluated(self, given: np.ndarray, noise: Arrays) -> Drawn:
        """The draws of some noise, of which as many count as `given` has."""
        terms, count = self.terms(noise), len(given)
        log_p, log_q = (
            {name: term[:count] for name, term in part.items()}
            for part in (terms.log_p, terms.log_q)
        )
        found = parts(self.fitted.plan, self.groups, log_p, log_q, self.batch)
        local, told = (
            {plate: part[:, self.places[plate]] for plate, part in side.items()}
            for side in (found.local, found.told)
        )
        values = {name: np.asarray(value)[:count] for name, value in terms.values.items()}
        return Drawn(given, Parts(found.rest, local, told), values)

    def noise(self, given: int, each: int, seed: int) -> Iterator[tuple[np.ndarray, Arrays]]:
        """Noise call by call, all of one size, and at which draw of the others each stands."""
        # By places in the batch: a few elements among many share no pages of noise.
        plan, sizes = self.fitted.plan, {p: len(i) for p, i in self.batch.indices.items()}
        indices = {p: np.arange(size) for p, size in sizes.items()}
        inside = [b for b in plan.blocks if b.name in self.groups.local]
        rest = Noise([b for b in plan.blocks if b not in inside], sizes, indices, seed)
        local = Noise(inside, sizes, indices, seed)
        held = rest.draw(0)
        first = drawn = 0
        for start in range(0, given * each, self.call):
            place = np.arange(start, start + self.call) // each
            fresh = rest.draw(max(0, int(place[-1]) + 1 - drawn))
            drawn = max(drawn, int(place[-1]) + 1)
            skipped, first = int(place[0]) - first, int(place[0])
            held = {n: np.concatenate([held[n], fresh[n]])[skipped:] for n in held}
            noise = {n: eps[place - first] for n, eps in held.items()} | local.draw(self.call)
            yield place[: given * each - start], noise

    def terms(self, noise: Arrays) -> Terms:
        """The draws of some noise, with their terms in float64: sums over groups are long."""
        fitted = self.fitted
        terms = fitted.functions.terms(fitted.weights, self._rows, noise, self.batch)
        log_p, log_q = (
            {name: np.asarray(term, np.float64) for name, term in part.items()}
            for part in (terms.log_p, terms.log_q)
        )
        return Terms(terms.values, log_p, log_q)


def _partable(fitted: Fitted, plate: str) -> bool:
    """Whether some elements of a plate can be drawn without the others."""
    try:
        check_paths(fitted.data, {plate: 1})
    except DataError:
        return False
    return True
