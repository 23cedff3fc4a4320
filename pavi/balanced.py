"""Subsets drawn uniformly without replacement, so that successive ones take turns.

Draws of `count` of `size` elements come in cycles, in which each element is drawn equally often:
the elements are put in a random order, and the draws go round it. Each draw alone is a uniform
subset, but over a cycle the noise of the draws cancels, which that of independent ones does not.

The random order is a keyed permutation that is never written out: where an element stands costs
the same whatever the number of elements.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np

# Of the generator splitmix64 (Steele, Lea and Flood 2014).
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_HALF, _WORD = np.uint64(32), 1 << 64
_STAGES = tuple(np.uint64(stage * _GOLDEN % _WORD) for stage in range(1, 17))


def stream_key(*parts: object) -> np.uint64:
    """A key that any parts with a printed form tell apart."""
    digest = sha256(repr(parts).encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def balanced_draws(
    size: np.ndarray, count: np.ndarray, number: np.ndarray, key: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Subsets of `range(size)`, one after the other in one array.

    Args:
        size: number of elements that each is drawn from, `[n]`.
        count: number of elements of each, at most `size`, `[n]`.
        number: which draw of its sequence each is, `[n]`; over `size / gcd(size, count)` draws in
            a row from a multiple of that on, each element is drawn equally often.
        key: key of each sequence, unsigned 64-bit, `[n]`.

    Returns:
        The elements, `[sum(count)]`, and how often each has been drawn before.
    """
    common = np.maximum(np.gcd(size, count), 1)
    cycle, turn = np.divmod(number, np.maximum(size // common, 1))
    own = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(own)) - np.repeat(np.cumsum(count) - count, count)
    passes, place = np.divmod((turn * count)[own] + place, size[own])
    ordered = permuted(place, size[own], _mixed(key + _mixed(cycle.astype(np.uint64)))[own])
    return ordered, (cycle * (count // common))[own] + passes


def permuted(place: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The element at a place of a random order of `range(size)`; a key has an order.

    A Feistel network on the pairs (i, j), i < a and j < b, of the least grid that has `size`
    places; what falls on the others goes on until it does not (Black and Rogaway 2002).

    Args:
        place: places below `size`, `[n]`.
        size: number of elements, below 2^62, `[n]`.
        key: unsigned 64-bit keys, `[n]`.
    """
    size = size.astype(np.uint64)
    rows = np.ceil(np.sqrt(size)).astype(np.uint64)
    columns = (size + rows - np.uint64(1)) // np.maximum(rows, np.uint64(1))
    out = _network(place.astype(np.uint64), rows, columns, key)
    while (outside := np.flatnonzero(out >= size)).size:
        out[outside] = _network(out[outside], rows[outside], columns[outside], key[outside])
    return out.astype(np.int64)


def _network(
    place: np.ndarray, rows: np.ndarray, columns: np.ndarray, key: np.ndarray
) -> np.ndarray:
    i, j = np.divmod(place, np.maximum(columns, np.uint64(1)))
    for first, second in zip(_STAGES[::2], _STAGES[1::2], strict=True):
        i = _shifted(i, _mixed(key + first + j * _SECOND), rows)
        j = _shifted(j, _mixed(key + second + i * _SECOND), columns)
    return np.asarray(i * columns + j)


def _shifted(x: np.ndarray, by: np.ndarray, modulus: np.ndarray) -> np.ndarray:
    """(x + by') mod modulus, where by' is a random integer below the modulus, which is < 2^32."""
    moved = x + (((by >> _HALF) * modulus) >> _HALF)
    return np.where(moved >= modulus, moved - modulus, moved)


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64: each bit of the result depends on each of `x`."""
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return np.asarray(x ^ (x >> np.uint64(31)))
