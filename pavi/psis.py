"""Pareto-smoothed importance sampling, by `arviz-stats`, which is imported when it is needed."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np

from pavi.errors import BackendError

# Fewest draws that a tail can be fitted to.
FEWEST = 25
# Nats by which ratios differ that are as good as constant: single precision rounds by as much.
CONSTANT = 1e-4
# Largest k-hat that importance weights can be trusted up to, however many draws.
LARGEST = 0.7


class Smoothed(NamedTuple):
    """Importance weights of some draws, their tail replaced by that of a Pareto law.

    Attributes:
        log_weights: normalised, `[..., S]`.
        khat: shape of the Pareto law, `[...]`: 0 where all ratios are the same, infinite where one
            is not finite.
    """

    log_weights: np.ndarray
    khat: np.ndarray


def threshold(draws: int) -> float:
    """The k-hat up to which so many draws are enough: min(1 - 1 / log10(S), 0.7).

    (Vehtari, Simpson, Gelman, Yao, Gabry: Pareto smoothed importance sampling, JMLR 25, 2024.)
    """
    return float(min(1.0 - 1.0 / np.log10(draws), LARGEST))


def smoothed(log_ratios: np.ndarray) -> Smoothed:
    """Smooths ratios of densities, target to proposal.

    Args:
        log_ratios: `[..., S]`, with S >= 25.

    Raises:
        BackendError: arviz-stats is not installed.
    """
    stats = _array_stats()
    ratios = np.asarray(log_ratios, np.float64)
    weights, khat = np.empty_like(ratios), np.empty(ratios.shape[:-1])
    for place in np.ndindex(khat.shape):
        own = ratios[place]
        if not (own < np.inf).all() or (own > -np.inf).sum() <= _tail(len(own)):
            # NaN too: nothing can be said of a draw whose density is not known, nor of a few draws.
            weights[place], khat[place] = -np.log(len(own)), np.inf
            continue
        if np.ptp(own) <= CONSTANT:
            weights[place], khat[place] = -np.log(len(own)), 0.0
            continue
        # It takes the ratios with the sign of a log likelihood that is divided out.
        weights[place], khat[place] = stats.psislw(-own)
    return Smoothed(weights, khat)


def _tail(draws: int) -> int:
    """How many of the largest weights the Pareto law is fitted to."""
    return int(min(0.2 * draws, 3.0 * np.sqrt(draws)))


def _array_stats() -> Any:
    try:
        return importlib.import_module("arviz_stats.base").array_stats
    except ImportError as error:
        raise BackendError(
            f"Pareto k-hat needs arviz-stats, which cannot be imported: {error}. Install it, "
            "pip install 'arviz-stats>=0.6'."
        ) from error
