"""What a calibration found: ranks of the truth, in numbers; `calibration_report` has the words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pavi.calibration_report import written
from pavi.data import Data
from pavi.diagnosis_report import Finding
from pavi.errors import PaviError
from pavi.graph import Latent
from pavi.ranks import Estimate, bias, covered, holm, rate, width
from pavi.simulation import Design, seeds
from pavi.uniformity import Envelope, ecdf_envelope

INTERVALS = (0.5, 0.9)
# Most classes of group sizes that coverage is told of.
_CLASSES = 5


@dataclass(frozen=True, eq=False)
class Quantity:
    """One latent number, ranked once in each data set.

    Attributes:
        name: the latent, with its place in its event.
        latent: the latent.
        ranks: rank of the truth among the draws, `[data sets]`; of a latent in plates that of one
            copy, chosen at random in each data set, as copies of one data set depend on each other.
        p: p-value of the ranks' uniformity, see `Envelope.p_value`.
        adjusted: the same, adjusted for the number of quantities by Holm's method.
        held: whether the ranks keep to the envelope, taken by themselves.
        bias: how far the posterior lies too high, in its standard deviations.
        width: the posterior's standard deviation over the one that it should have.
        coverage: share of all copies within the central intervals, by their probability.
    """

    name: str
    latent: str
    ranks: np.ndarray
    p: float
    adjusted: float
    held: bool
    bias: Estimate
    width: Estimate
    coverage: Mapping[float, Estimate]


class SizeClass(NamedTuple):
    """Coverage of the groups of some sizes.

    Attributes:
        fewest: observed rows of the smallest.
        most: observed rows of the largest.
        copies: number of such groups in a data set.
        coverage: share within the central intervals, by their probability.
    """

    fewest: int
    most: int
    copies: int
    coverage: Mapping[float, Estimate]


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """What `pavi.calibrate` found; printing it shows the report.

    Attributes:
        design: what the data sets had in common.
        seed: the seed that was given.
        num_draws: posterior draws that each truth is ranked among.
        probability: of the envelopes, and that all of a calibrated model's quantities pass.
        all_ranks: rank of every copy of each latent, `{name: [data sets, *plates, *event]}`.
        fixed: elements of each latent's event that are the same in every draw, `[*event]`.
        copies: the copy of each latent that was chosen, by its place, `[data sets]`.
        rows: observed rows that belong to each copy of the latents in plates, `[*plates]`.
        converged: whether each fit converged, `[data sets]`.
        finite: whether all draws were finite, `[data sets]`.
        seconds: wall-clock seconds of each fit, `[data sets]`.
    """

    design: Design
    seed: int
    num_draws: int
    probability: float
    all_ranks: Mapping[str, np.ndarray]
    fixed: Mapping[str, np.ndarray]
    copies: Mapping[str, np.ndarray]
    rows: Mapping[str, np.ndarray]
    converged: np.ndarray
    finite: np.ndarray
    seconds: np.ndarray

    @property
    def num_datasets(self) -> int:
        """Number of simulated data sets."""
        return len(self.converged)

    def dataset(self, place: int) -> tuple[dict[str, np.ndarray], Data]:
        """One of the data sets again: its latents `{name: [*plates, *event]}`, and the data."""
        return self.design.simulate(seeds(self.seed, place).data)

    @cached_property
    def envelope(self) -> Envelope:
        """The envelope of one quantity's ranks."""
        return ecdf_envelope(self.num_datasets, self.num_draws, self.probability)

    @property
    def ranks(self) -> dict[str, np.ndarray]:
        """Ranks `[data sets]` of each quantity by name, as `pavi.plot.calibration` takes them."""
        return {quantity.name: quantity.ranks for quantity in self.quantities}

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """The quantities tested: every element of every latent's event that is not fixed."""
        found: list[tuple[str, str, np.ndarray, np.ndarray]] = []
        for latent in self.design.graph.latents:
            every = self._flat(latent)
            own = every[np.arange(len(every)), self.copies[latent.name]]
            for place in np.ndindex(latent.event):
                if not self.fixed[latent.name][place]:
                    index = (..., *place)
                    label = f"[{','.join(map(str, place))}]" if place else ""
                    ranks, pooled = own[index], every[(slice(None), slice(None), *place)]
                    found.append((f"{latent.name}{label}", latent.name, ranks, pooled))
        p = np.array([self.envelope.p_value(ranks) for _, _, ranks, _ in found])
        return tuple(
            Quantity(
                name=name,
                latent=latent_name,
                ranks=ranks,
                p=float(own_p),
                adjusted=float(adjusted),
                held=self.envelope.holds(ranks),
                bias=bias(ranks, self.num_draws),
                width=width(ranks, self.num_draws),
                coverage=self._coverage(pooled),
            )
            for (name, latent_name, ranks, pooled), own_p, adjusted in zip(
                found, p, holm(p), strict=True
            )
        )

    @property
    def uniform(self) -> bool:
        """Whether no quantity's ranks speak against uniform ones, all of them taken together.

        Of calibrated posteriors this holds with the probability asked for, at least: Holm's method
        adjusts for the number of quantities however they depend on each other.
        """
        return all(quantity.adjusted > 1.0 - self.probability for quantity in self.quantities)

    def by_size(self, latent: str) -> tuple[SizeClass, ...]:
        """Coverage of a latent in plates by the observed rows of its copies, few rows first.

        Raises:
            PaviError: no latent in plates of that name.
        """
        if latent not in self.rows:
            raise PaviError(
                f"by_size({latent!r}): expected a latent in plates, one of {sorted(self.rows)}."
            )
        variable = next(v for v in self.design.graph.latents if v.name == latent)
        rows = self.rows[latent].ravel()
        ranks = self._flat(variable)[:, :, ~self.fixed[latent]]
        out = []
        for fewest, most in size_classes(rows):
            own = (rows >= fewest) & (rows <= most)
            coverage = self._coverage(ranks[:, own])
            out.append(SizeClass(fewest, most, int(own.sum()), coverage))
        return tuple(out)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The lines of the report."""
        return written(self)[0]

    def __str__(self) -> str:
        return written(self)[1]

    __repr__ = __str__

    def _flat(self, latent: Latent) -> np.ndarray:
        """Ranks of all copies, `[data sets, copies, *event]`."""
        ranks = self.all_ranks[latent.name]
        return ranks.reshape(len(ranks), -1, *latent.event)

    def _coverage(self, ranks: np.ndarray) -> dict[float, Estimate]:
        return {c: rate(covered(ranks, self.num_draws, c)) for c in INTERVALS}


def size_classes(rows: np.ndarray) -> list[tuple[int, int]]:
    """Classes of about as many groups each, as the fewest and the most rows in one."""
    values, counts = np.unique(rows, return_counts=True)
    if len(values) <= _CLASSES:
        return [(int(v), int(v)) for v in values]
    # The class of a size by the share of groups that are smaller, half of its own included
    place = (counts.cumsum() - 0.5 * counts) / counts.sum()
    label = np.minimum((place * _CLASSES).astype(int), _CLASSES - 1)
    return [
        (int(values[label == k].min()), int(values[label == k].max())) for k in np.unique(label)
    ]
