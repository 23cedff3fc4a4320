"""Small dense linear algebra as unrolled recurrences, elementwise over the batch axes.

LAPACK calls per tiny matrix cost far more than their arithmetic and do not fuse; for `n` up to
`LARGEST` the scalar recurrences below compile to one fused loop. Nothing is clamped: a matrix that
is not positive definite gives NaN.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Array: TypeAlias = Any

LARGEST = 8


def cholesky(table: Any, a: Array) -> Array:
    """Lower factor of `a` `[*batch, n, n]`; only the lower triangle of `a` is read."""
    n = table.shape(a)[-1]
    factor: list[list[Array]] = [[None] * n for _ in range(n)]
    for j in range(n):
        # L_jj = sqrt(a_jj - sum_k L_jk^2)
        pivot = a[..., j, j]
        for k in range(j):
            pivot = pivot - factor[j][k] * factor[j][k]
        factor[j][j] = table.sqrt(pivot)
        for i in range(j + 1, n):
            # L_ij = (a_ij - sum_k L_ik L_jk) / L_jj
            entry = a[..., i, j]
            for k in range(j):
                entry = entry - factor[i][k] * factor[j][k]
            factor[i][j] = entry / factor[j][j]
    zero = table.zeros_like(a[..., 0, 0])
    rows = [table.stack([*row[: i + 1], *[zero] * (n - i - 1)], -1) for i, row in enumerate(factor)]
    return table.stack(rows, -2)


def solve_triangular(table: Any, factor: Array, b: Array, transpose: bool) -> Array:
    """Solution `x` `[*batch, n, k]` of `L x = b`, or of `L' x = b` where `transpose`.

    Only the lower triangle of `factor` `[*batch, n, n]` is read.
    """
    n = table.shape(factor)[-1]
    solved: dict[int, Array] = {}
    for i in reversed(range(n)) if transpose else range(n):
        # x_i = (b_i - sum_k L_ik x_k) / L_ii, over the k already solved (L_ki if transposed)
        row = b[..., i, :]
        for k, x in solved.items():
            coefficient = factor[..., k, i] if transpose else factor[..., i, k]
            row = row - coefficient[..., None] * x
        solved[i] = row / factor[..., i, i][..., None]
    return table.stack([solved[i] for i in range(n)], -2)
