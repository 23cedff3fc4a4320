"""Standard normal noise on the host, by ground element: the same on either backend.

The noise of an element depends on the seed, its source (a block of latents, say), the draw and the
element alone. Neither the other elements that are drawn with it nor the number of draws in a chunk
change it, so that parts of a posterior that are drawn separately belong to the same joint draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

import numpy as np

# Elements that share a stream: one for each would be slow to start, and one for all would have to
# be drawn whole for the sake of a few.
PAGE = 64


class Source(Protocol):
    """What noise is drawn for: vectors of this dimension, one for each element of some plates."""

    @property
    def name(self) -> str:
        """Tells its noise from that of others."""

    @property
    def axes(self) -> tuple[str, ...]:
        """The plates."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""


class _Page(NamedTuple):
    """A stream of `[draws, elements of the page, dimension]` and which of its elements go where."""

    stream: np.random.Generator
    elements: np.ndarray | slice
    places: np.ndarray | slice


class Noise:
    """Noise of the draws 0, 1, 2 and so on, for chosen elements of each plate.

    Args:
        sources: what to draw for: the blocks of a plan.
        sizes: ground size of every plate.
        indices: ground elements of every plate to draw for, as in a batch.
        seed: any integer.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        sizes: Mapping[str, int],
        indices: Mapping[str, np.ndarray],
        seed: int,
    ) -> None:
        self._sources = sources
        self._axes = {s.name: tuple(len(indices[p]) for p in s.axes) for s in sources}
        self._pages = {s.name: _pages(s, sizes, indices, seed) for s in sources}

    def draw(self, count: int) -> dict[str, np.ndarray]:
        """The next `count` draws, `{source: [count, *axes, dimension]}`."""
        return {source.name: self._source(source, count) for source in self._sources}

    def _source(self, source: Source, count: int) -> np.ndarray:
        axes, width = self._axes[source.name], PAGE if source.axes else 1
        out = np.empty((count, int(np.prod(axes)), source.dimension))
        for page in self._pages[source.name]:
            # Draws come one after the other: where a chunk ends the next one goes on.
            eps = page.stream.standard_normal((count, width, source.dimension))
            out[:, page.places] = eps[:, page.elements]
        return out.reshape(count, *axes, source.dimension)


def _pages(
    source: Source, sizes: Mapping[str, int], indices: Mapping[str, np.ndarray], seed: int
) -> list[_Page]:
    """The streams that hold a source's elements, and the places of these in a batch."""
    flat = np.zeros(1, np.int64)
    for plate in source.axes:
        flat = (flat[:, None] * sizes[plate] + np.asarray(indices[plate], np.int64)).ravel()
    order = np.argsort(flat, kind="stable")
    numbers, starts = np.unique(flat[order] // PAGE, return_index=True)
    key = int.from_bytes(sha256(f"{seed} {source.name}".encode()).digest()[:16], "big")
    pages = []
    for number, places in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
        # The last word of the counter is the page; the others count what it has given.
        counter = np.array([0, 0, 0, number], np.uint64)
        stream = np.random.Generator(np.random.Philox(key=key, counter=counter))
        elements = flat[places] - number * PAGE
        pages.append(_Page(stream, _compact(elements), _compact(places)))
    return pages


def _compact(index: np.ndarray) -> np.ndarray | slice:
    """A slice where the indices are consecutive: it copies several times as fast."""
    start = int(index[0])
    consecutive = np.array_equal(index, np.arange(start, start + len(index)))
    return slice(start, start + len(index)) if consecutive else index
