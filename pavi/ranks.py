"""Ranks of the truth among posterior draws: what they say of bias, width and coverage.

Talts, Betancourt, Simpson, Vehtari, Gelman, *Validating Bayesian Inference Algorithms with
Simulation-Based Calibration*, arXiv 1804.06788: of data simulated from the prior, the rank of the
truth among draws of the exact posterior is uniform.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri


class Ranked(NamedTuple):
    """Ranks of one draw of a variable among others.

    Attributes:
        rank: number of draws below it, ties at random: 0 to the number of draws.
        fixed: where all draws are the same as it: there is nothing to rank.
    """

    rank: np.ndarray
    fixed: np.ndarray


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.2f} +- {self.error:.2f}"


def ranked(truth: np.ndarray, draws: np.ndarray, rng: np.random.Generator) -> Ranked:
    """Ranks `truth`, of any shape, among draws `[S, *shape]`; draws that are NaN are above it."""
    # In the draws' own precision: what rounds to the same is a tie.
    truth = np.asarray(truth).astype(draws.dtype)
    below = (draws < truth).sum(0)
    same = (draws == truth).sum(0)
    return Ranked(below + rng.integers(0, same + 1), same == len(draws))


def covered(ranks: np.ndarray, num_draws: int, probability: float) -> np.ndarray:
    """Whether the central interval of the draws holds the truth.

    Exact, `probability` of uniform ranks, where (1 - probability) (num_draws + 1) / 2 is whole.
    """
    outside = round(0.5 * (1.0 - probability) * (num_draws + 1))
    return (ranks >= outside) & (ranks <= num_draws - outside)


def rate(hits: np.ndarray) -> Estimate:
    """Share of hits `[data sets, ...]`; the error knows that those of one data set go together."""
    means = hits.reshape(len(hits), -1).mean(1)
    return Estimate(float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means))))


def scores(ranks: np.ndarray, num_draws: int) -> np.ndarray:
    """Normal scores of ranks: standard normal where these are uniform."""
    return np.asarray(ndtri((ranks + 0.5) / (num_draws + 1.0)))


def bias(ranks: np.ndarray, num_draws: int) -> Estimate:
    """How far the posterior lies too high, in its own standard deviations, if it is Gaussian."""
    z = scores(ranks, num_draws)
    return Estimate(-float(z.mean()), float(z.std(ddof=1) / np.sqrt(len(z))))


def width(ranks: np.ndarray, num_draws: int) -> Estimate:
    """The posterior's standard deviation over the one that it should have, if it is Gaussian.

    Ranks end at the outermost draws: with 999 of them it is never below 0.3.
    """
    # sd z = (right sd) / (posterior's sd), up to what finitely many draws cut off of the tails
    z = scores(ranks, num_draws)
    uniform = scores(np.arange(num_draws + 1), num_draws)
    ratio = float(uniform.std() / max(z.std(), 1e-12))
    return Estimate(ratio, ratio / np.sqrt(2.0 * len(z)))


def holm(p: np.ndarray) -> np.ndarray:
    """P-values adjusted for their number by Holm's method, which holds however they depend."""
    order = np.argsort(p, kind="stable")
    # p_(i) (K - i + 1), the largest so far
    scaled = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(scaled, 1.0)
    return out
