"""Small dense linear algebra as unrolled recurrences, elementwise over the batch axes.

A library call per tiny matrix costs far more than its arithmetic and does not fuse; for `n` up to
`LARGEST` the scalar recurrences below compile to one fused loop. Nothing is clamped: a matrix that
is not positive definite gives NaN.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Array: TypeAlias = Any

# Beyond 8 the compile time grows past seconds. For 2,000 matrices, factor, two solves and their
# gradients took, unrolled and by LAPACK on a batch, on two CPU cores: n = 3: 0.1 and 2.3 ms; n = 6:
# 1.0 and 3.4 ms; n = 8: 7.1 and 3.6 ms (JAX, where a batch may not go to LAPACK), 2.6 and 12 (TF).
LARGEST = 8


def cholesky(table: Any, a: Array) -> Array:
    """Lower factor of `a` `[*batch, n, n]`; only the lower triangle of `a` is read."""
    # Taken apart at once: the gradient of n^2 slices would be a sum of n^2 padded matrices.
    entries = _entries(table, a)
    n = len(entries)
    factor: list[list[Array]] = [[None] * n for _ in range(n)]
    for j in range(n):
        # L_jj = sqrt(a_jj - sum_k L_jk^2)
        pivot = entries[j][j]
        for k in range(j):
            pivot = pivot - factor[j][k] * factor[j][k]
        factor[j][j] = table.sqrt(pivot)
        for i in range(j + 1, n):
            # L_ij = (a_ij - sum_k L_ik L_jk) / L_jj
            entry = entries[i][j]
            for k in range(j):
                entry = entry - factor[i][k] * factor[j][k]
            factor[i][j] = entry / factor[j][j]
    zero = table.zeros_like(entries[0][0])
    rows = [table.stack([*row[: i + 1], *[zero] * (n - i - 1)], -1) for i, row in enumerate(factor)]
    return table.stack(rows, -2)


def solve_triangular(table: Any, factor: Array, b: Array, transpose: bool) -> Array:
    """Solution `x` `[*batch, n, k]` of `L x = b`, or of `L' x = b` where `transpose`.

    Only the lower triangle of `factor` `[*batch, n, n]` is read.
    """
    entries, right = _entries(table, factor), table.unstack(b, -2)
    n = len(entries)
    solved: dict[int, Array] = {}
    for i in reversed(range(n)) if transpose else range(n):
        # x_i = (b_i - sum_k L_ik x_k) / L_ii, over the k already solved (L_ki if transposed)
        row = right[i]
        for k, x in solved.items():
            coefficient = entries[k][i] if transpose else entries[i][k]
            row = row - coefficient[..., None] * x
        solved[i] = row / entries[i][i][..., None]
    return table.stack([solved[i] for i in range(n)], -2)


def _entries(table: Any, matrix: Array) -> list[list[Array]]:
    return [table.unstack(row, -1) for row in table.unstack(matrix, -2)]
