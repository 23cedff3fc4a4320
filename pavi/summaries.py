"""Statistics of draws that come in parts: of each element its mean, its spread, its quantiles."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

STATISTICS = ("mean", "sd", "quantiles")

# Numbers that are widened to float64, or sorted, at once: about what a processor's cache holds.
_SLAB = 1 << 17


class Summary:
    """What is known of `[n, *shape]` draws, so many of them at a time.

    Moments are sums in float64 of differences from the first draw: as it is one of the draws, they
    lose no more digits than log10(n), however far from zero the draws lie.

    Args:
        first: some draws, of which the first is taken as the origin.
        statistics: which of `STATISTICS` will be asked for.
        held: how many of the first draws to keep.
    """

    def __init__(self, first: np.ndarray, statistics: Collection[str], held: int) -> None:
        self._shape = first.shape[1:]
        self._moments = "mean" in statistics or "sd" in statistics
        self._origin = first[0].ravel().astype(np.float64)
        self._sum = np.zeros_like(self._origin)
        self._square = np.zeros_like(self._origin)
        self._held = np.empty((held, self._origin.size), first.dtype)
        # Sums of the variances about what is taken in, where that is itself a mean.
        self._within = np.zeros_like(self._origin)
        self._count = 0

    def add(self, draws: np.ndarray, spread: np.ndarray | None = None) -> None:
        """Takes in the next draws, `[n, *shape]`, or conditional means and their deviations.

        Args:
            draws: draws; with `spread`, means given what varies from one draw to the next.
            spread: standard deviations about these means, as `draws`.
        """
        flat = draws.reshape(len(draws), -1)
        if spread is not None:
            about = spread.reshape(len(spread), -1)
            self._within += np.einsum("sn,sn->n", about, about, dtype=np.float64)
        kept = max(min(len(flat), len(self._held) - self._count), 0)
        self._held[self._count : self._count + kept] = flat[:kept]
        step = max(_SLAB // self._origin.size, 1)
        for start in range(0, len(flat) if self._moments else 0, step):
            away = np.subtract(flat[start : start + step], self._origin, dtype=np.float64)
            self._sum += away.sum(0)
            self._square += np.einsum("sn,sn->n", away, away)
        self._count += len(flat)

    def mean(self) -> np.ndarray:
        """Means, `shape`."""
        return (self._origin + self._sum / self._count).reshape(self._shape)

    def sd(self) -> np.ndarray:
        """Standard deviations, `shape`; 0 of a single draw."""
        # sum (x - mean)^2 = sum (x - a)^2 - n (mean - a)^2
        square = np.maximum(self._square - self._sum**2 / self._count, 0.0)
        # Var x = Var E[x | y] + E Var[x | y]
        variance = square / max(self._count - 1, 1) + self._within / self._count
        return np.sqrt(variance).reshape(self._shape)

    def draws(self, count: int) -> np.ndarray:
        """The first draws, `[count, *shape]`."""
        return self._held[:count].reshape(count, *self._shape)

    def quantiles(self, levels: Sequence[float]) -> np.ndarray:
        """Quantiles of the draws, all of which were kept, `[levels, *shape]`."""
        out = np.empty((len(levels), self._origin.size))
        # A level falls between two of the sorted draws, as numpy.quantile has it.
        place = np.asarray(levels, np.float64) * (self._count - 1)
        below = np.floor(place).astype(np.int64)
        above, share = np.minimum(below + 1, self._count - 1), place - below
        step = max(_SLAB // self._count, 1)
        for start in range(0, self._origin.size, step):
            # Contiguous draws of an element sort several times as fast.
            ordered = np.sort(np.ascontiguousarray(self._held[:, start : start + step].T), axis=1)
            low, high = ordered[:, below].astype(np.float64), ordered[:, above].astype(np.float64)
            out[:, start : start + step] = (low + (high - low) * share).T
        return out.reshape(len(levels), *self._shape)
