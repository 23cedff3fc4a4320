"""Entries of symbolic arrays: elements, slices, gathers, and arrays joined and taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pavi.backends.tfp.axes import (
    Axis,
    Gather,
    Join,
    Known,
    Pick,
    Symbol,
    broadcast,
    broadcast_to,
    elementwise,
    fresh,
    known,
    move,
    reduce,
    reshaped,
    sizes,
)


def joined(parts: Sequence[Symbol], d: int, where: str) -> Symbol:
    """Arrays joined along dimension `d`, the others broadcast."""
    shared = broadcast([_without(part, d) for part in parts], where)
    size = sum(sizes(part)[d] for part in parts)
    return Join((*shared[:d], Axis(size), *shared[d + 1 :]), tuple(parts), d, where)


def _without(x: Symbol, d: int) -> Symbol:
    return Symbol((*x.axes[:d], None, *x.axes[d + 1 :]))


def picked(x: Symbol, d: int, position: int, where: str) -> Symbol:
    """One entry of dimension `d`, which is dropped."""
    kept = (*x.axes[:d], *x.axes[d + 1 :])
    if x.axes[d] is None:
        return move(x, [i for i in range(x.rank) if i != d])
    return Pick(kept, x, d, position % sizes(x)[d], where)


def sliced(x: Symbol, entries: Sequence[Any], where: str) -> Symbol:
    """`x[entries]`, one dimension after the other."""
    d = 0
    for entry in entries:
        if entry is None:
            own: list[int | None] = list(range(x.rank))
            x = move(x, [*own[:d], None, *own[d:]])
        elif isinstance(entry, int):
            x = picked(x, d, entry, where)
            continue
        else:
            index = np.arange(sizes(x)[d])[entry]
            if not np.array_equal(index, np.arange(sizes(x)[d])):
                taken = fresh(index.shape)
                x = Gather((*x.axes[:d], *taken, *x.axes[d + 1 :]), x, d, index, where)
        d += 1
    return x


def gathered(x: Symbol, d: int, index: np.ndarray, where: str) -> Symbol:
    """The entries of dimension `d` at a constant index of any shape."""
    if index.ndim == 0:
        return picked(x, d, int(index), where)
    before, after = x.axes[:d], x.axes[d + 1 :]
    shape = [*sizes(x)[:d], *index.shape, *sizes(x)[d + 1 :]]
    if x.axes[d] is None:
        own = [*range(d), *[None] * index.ndim, *range(d + 1, x.rank)]
        return broadcast_to(move(x, own), shape)
    flat = index.ravel()
    return reshaped(Gather((*before, *fresh(flat.shape), *after), x, d, flat, where), shape, where)


def gathered_nd(x: Symbol, index: np.ndarray, where: str) -> Symbol:
    """`tf.gather_nd`: the entries at positions `[..., k]` in the first k dimensions."""
    *shape, count = index.shape
    flat = index.reshape(-1, count)
    out = gathered(x, 0, flat[:, 0], where)
    for position in flat.T[1:]:
        out = selected(out, 0, 1, position, where)
    return reshaped(out, [*shape, *sizes(x)[count:]], where)


def selected(x: Symbol, rows: int, d: int, index: np.ndarray, where: str) -> Symbol:
    """For each element of dimension `rows` its entry of dimension `d`, which is dropped."""
    # x[r, index[r]] = sum_i x[r, i] [i = index[r]]
    hot = np.eye(sizes(x)[d])[index]
    places: list[int | None] = [None] * x.rank
    places[rows], places[d] = 0, 1
    return reduce(
        "sum", elementwise("multiply", x, move(known(hot), places), where=where), [d], False, where
    )


def chosen(matrix: Symbol) -> np.ndarray | None:
    """The index of which a constant matrix is the one-hot form, None if it is not one."""
    if not isinstance(matrix, Known) or matrix.rank != 2 or 1 in matrix.value.shape:
        return None
    ones = matrix.value == 1
    if not np.array_equal(ones, matrix.value) or np.any(ones.sum(1) != 1):
        return None
    return np.argmax(ones, 1)


def part_of(x: Symbol, d: int, start: int, size: int, where: str) -> Symbol:
    """The entries of dimension `d` from `start` on."""
    return sliced(x, [*[slice(None)] * d, slice(start, start + size)], where)
