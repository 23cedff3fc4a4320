"""Whether ranks are uniform: their cumulative distribution and an envelope that holds all of it.

Säilynoja, Bürkner, Vehtari, *Graphical test for discrete uniformity and its applications in
goodness-of-fit evaluation and multiple sample comparison*, Statistics and Computing 32 (2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, bdtrc

from pavi.errors import DataError
from pavi.integers import is_integer

# Places at which the distribution is looked at: more of them are not seen in a picture.
MAX_POINTS = 200
SIMULATIONS = 10_000
_SEED = 20_220_329


@dataclass(frozen=True, eq=False)
class Envelope:
    """Bounds that the whole distribution function of uniform ranks keeps to with one probability.

    Attributes:
        num_ranks: number of ranks.
        num_draws: draws that each rank is taken among: ranks run from 0 to this number.
        probability: the simultaneous probability, at least.
        pointwise: the probability of keeping to the bounds at one place, about.
        below: places `[points]`: what is looked at is the share of ranks below each.
        uniform: that share where ranks are uniform.
        lower: least share within the envelope.
        upper: largest share within the envelope.
        least: for the simulated sets of uniform ranks, in order, how far out in the tails each goes
            at its worst place: the smallest two-sided binomial probability of its counts.
    """

    num_ranks: int
    num_draws: int
    probability: float
    pointwise: float
    below: np.ndarray
    uniform: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    least: np.ndarray

    def ecdf(self, ranks: np.ndarray) -> np.ndarray:
        """Share of the ranks below each place, `[points]`.

        Raises:
            DataError: not `[num_ranks]` integers between 0 and `num_draws`.
        """
        found = np.asarray(ranks)
        if found.shape != (self.num_ranks,) or not np.issubdtype(found.dtype, np.integer):
            raise DataError(
                f"ranks of dtype {found.dtype} and shape {found.shape}: expected "
                f"({self.num_ranks},) integers, one for each simulated data set."
            )
        if found.min() < 0 or found.max() > self.num_draws:
            raise DataError(
                f"ranks run from {found.min()} to {found.max()}: among {self.num_draws} draws "
                f"they lie between 0 and {self.num_draws}. Give the number of draws behind each "
                f"rank as num_draws."
            )
        return np.searchsorted(np.sort(found), self.below, side="left") / self.num_ranks

    def holds(self, ranks: np.ndarray) -> bool:
        """Whether the ranks keep to the envelope everywhere."""
        share = self.ecdf(ranks)
        return bool(((self.lower <= share) & (share <= self.upper)).all())

    def p_value(self, ranks: np.ndarray) -> float:
        """Probability, at most, that uniform ranks go as far out in the tails at some place.

        By the simulated sets; where none of them goes as far, by Bonferroni's bound over places.
        """
        counts = np.rint(self.ecdf(ranks) * self.num_ranks).astype(np.int64)
        level = _levels(self.num_ranks, self.uniform)[np.arange(len(counts)), counts].min()
        further = int(np.searchsorted(self.least, level * (1.0 + 1e-9), side="right"))
        # P(any of the levels <= a) <= sum_j P(level_j <= a) <= points * a
        bound = len(counts) * level
        return float(min((1 + further) / (1 + len(self.least)), bound))


def ecdf_envelope(num_ranks: int, num_draws: int, probability: float = 0.95) -> Envelope:
    """The envelope of uniform ranks, the narrowest that is equally improbable to leave anywhere.

    The count of ranks below a place is binomial. The pointwise probability is adjusted until a
    share `probability` of simulated sets of uniform ranks keeps to the bounds everywhere. The
    simulations have a seed of their own; the standard error of that share is
    `sqrt(p (1 - p) / 10,000)`, 0.002 at 0.95.

    Args:
        num_ranks: number of ranks.
        num_draws: draws that each rank is taken among.
        probability: of keeping to the bounds everywhere.

    Raises:
        DataError: no positive integer, or no probability.
    """
    for name, value in (("num_ranks", num_ranks), ("num_draws", num_draws)):
        if not is_integer(value, 1):
            raise DataError(f"ecdf_envelope: {name}={value!r}: expected a positive integer.")
    if not 0 < probability < 1:
        raise DataError(
            f"ecdf_envelope: probability={probability!r}: expected one between 0 and 1."
        )
    places = np.linspace(0, num_draws + 1, min(num_draws + 1, MAX_POINTS) + 1)
    below = np.unique(places.round().astype(np.int64))[1:-1]
    uniform = below / (num_draws + 1)
    level = _levels(num_ranks, uniform)

    shares = np.diff(uniform, prepend=0.0, append=1.0)
    drawn = np.random.default_rng(_SEED).multinomial(num_ranks, shares, SIMULATIONS)
    counts = drawn[:, :-1].cumsum(axis=1)
    least = level[np.arange(len(below)), counts].min(axis=1)
    # So many of the simulations stay where the level is at least this.
    adjusted = np.quantile(least, 1.0 - probability, method="lower")
    within = level >= adjusted
    return Envelope(
        num_ranks=int(num_ranks),
        num_draws=int(num_draws),
        probability=float(probability),
        pointwise=float(1.0 - adjusted),
        below=below,
        uniform=uniform,
        lower=within.argmax(axis=1) / num_ranks,
        upper=(num_ranks - within[:, ::-1].argmax(axis=1)) / num_ranks,
        least=np.sort(least),
    )


def _levels(num_ranks: int, uniform: np.ndarray) -> np.ndarray:
    """How far in the tails each count is, `[points, num_ranks + 1]`: 1 in the middle, 0 far out."""
    # 2 min(P(X <= c), P(X >= c)),  X ~ Binomial(N, z)
    count = np.arange(num_ranks + 1.0)
    at_most = bdtr(count, num_ranks, uniform[:, None])
    at_least = bdtrc(count - 1.0, num_ranks, uniform[:, None])
    return 2.0 * np.minimum(at_most, at_least)
