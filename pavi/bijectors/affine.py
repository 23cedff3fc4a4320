"""Affine bijectors: the Gaussian families, with a context or without."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pavi import ops
from pavi.bijectors.base import Array, Bijector, ParameterSpec, Params, linear
from pavi.errors import FamilyError

# Up to this size a batch of matrix-vector products is cheaper as one fused product and sum.
SMALL = 8


@dataclass(frozen=True)
class ConditionalAffine(Bijector):
    """Affine map `y = loc(c) + L(c) (x + shift)`, L lower triangular with a positive diagonal.

    `loc`, the logarithm of L's diagonal and (`rank="full"`) its entries below the diagonal are each
    a free vector, plus a linear function of the context, plus a one-layer tanh network of it where
    `hidden > 0`. All the last layers start at zero, so that the map starts as the identity.

    Two location parameters, because one is ill conditioned. A gradient step on `loc` moves y on the
    scale of y itself, that of the prior: right early, when the posterior is far away. A step on
    `shift` moves y by L times as much, on the posterior's own scale and along its own axes: right
    late, when L has learned that the posterior is narrow, and correlated (there, steps on `loc`
    alone would have to be as small as the narrowest direction demands while the widest still has
    far to go). `L shift` with a fixed L reaches every location, so the family is the same.
    """

    hidden: int = 0
    rank: Literal["full", "diagonal"] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank not in ("full", "diagonal"):
            raise FamilyError(f"Expected rank 'full' or 'diagonal'; got {self.rank!r}.")
        if self.hidden < 0:
            raise FamilyError(f"Expected hidden >= 0; got {self.hidden}.")
        if self.hidden and not self.context_size:
            raise FamilyError(
                f"Expected a context for the hidden layer; got hidden={self.hidden} with "
                "context_size=0. Set hidden=0."
            )

    @property
    def _packed_size(self) -> int:
        """Number of entries below the diagonal of L."""
        return self.size * (self.size - 1) // 2 if self.rank == "full" else 0

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        size, packed = self.size, self._packed_size
        specs = {name: ParameterSpec((size,)) for name in ("loc", "shift", "log_diagonal")}
        if packed:
            specs["off_diagonal"] = ParameterSpec((packed,))
        width = 2 * size + packed
        if self.context_size:
            specs["context_weight"] = ParameterSpec((self.context_size, width))
        if self.hidden:
            scale = 1.0 / math.sqrt(self.context_size)
            specs["hidden_weight"] = ParameterSpec(
                (self.context_size, self.hidden), "normal", scale
            )
            specs["hidden_bias"] = ParameterSpec((self.hidden,))
            specs["output_weight"] = ParameterSpec((self.hidden, width))
        return specs

    def _forward(self, params: Params, x: Array, context: Any) -> tuple[Array, Array]:
        loc, log_diagonal, packed = self._coefficients(params, context)
        z = x + params["shift"]
        # y = loc + diag(L) z + (L - diag(L)) z
        y = loc + ops.exp(log_diagonal) * z
        if packed is not None:
            y = y + _product(strictly_lower(packed, self.size), z)
        return y, ops.sum(log_diagonal, -1)

    def _inverse(self, params: Params, y: Array, context: Any) -> tuple[Array, Array]:
        loc, log_diagonal, packed = self._coefficients(params, context)
        centred = y - loc
        if packed is None:
            z = centred * ops.exp(-log_diagonal)
        else:
            diagonal = ops.expand_dims(ops.exp(log_diagonal), -1)
            identity = ops.asarray(np.eye(self.size), like=diagonal)
            z = _solve(strictly_lower(packed, self.size) + diagonal * identity, centred)
        return z - params["shift"], -ops.sum(log_diagonal, -1)

    def _coefficients(self, params: Params, context: Any) -> tuple[Array, Array, Array | None]:
        """Returns loc `[..., d]`, log diagonal `[..., d]`, L packed `[..., d (d - 1) / 2]`."""
        loc, log_diagonal = params["loc"], params["log_diagonal"]
        packed = params["off_diagonal"] if self._packed_size else None
        if context is None:
            return loc, log_diagonal, packed
        change = linear(context, params["context_weight"])
        if self.hidden:
            # change(c) = W c + V tanh(U c + b)
            hidden = ops.tanh(linear(context, params["hidden_weight"]) + params["hidden_bias"])
            change = change + linear(hidden, params["output_weight"])
        size = self.size
        loc = loc + change[..., :size]
        log_diagonal = log_diagonal + change[..., size : 2 * size]
        if packed is not None:
            packed = packed + change[..., 2 * size :]
        return loc, log_diagonal, packed


def strictly_lower(packed: Array, size: int) -> Array:
    """Unpacks `[..., d (d - 1) / 2]` into strictly lower triangular matrices `[..., d, d]`.

    With k = d - 1, the k x k triangle holds `concat(packed[k:], reverse(packed))` row by row, its
    upper part cut off. Slices only: a gather would have a scatter for gradient, which is a serial
    loop on a CPU.
    """
    k = size - 1
    square = ops.concat([packed[..., k:], packed[..., ::-1]], -1)
    batch = ops.shape(packed)[:-1]
    triangle = ops.where(np.tri(k, dtype=bool), ops.reshape(square, (*batch, k, k)), 0.0)
    column = ops.zeros_like(triangle[..., :1])
    rows = ops.concat([triangle, column], -1)
    return ops.concat([ops.zeros_like(rows[..., :1, :]), rows], -2)


def _product(matrix: Array, vector: Array) -> Array:
    """Product of `[d, d]` or `[..., d, d]` with `[..., d]`, leading axes broadcast."""
    if len(ops.shape(matrix)) == 2:
        return linear(vector, ops.transpose(matrix, (1, 0)))
    if ops.shape(matrix)[-1] <= SMALL:
        return ops.sum(matrix * ops.expand_dims(vector, -2), -1)
    return ops.matmul(matrix, ops.expand_dims(vector, -1))[..., 0]


def _solve(lower: Array, vector: Array) -> Array:
    """Solves `lower z = vector` for `[d, d]` or `[..., d, d]` and `[..., d]`."""
    *batch, size = ops.shape(vector)
    if len(ops.shape(lower)) == 2:
        # One system with many right-hand sides.
        columns = ops.transpose(ops.reshape(vector, (math.prod(batch), size)), (1, 0))
        solution = ops.transpose(ops.solve_triangular(lower, columns), (1, 0))
        return ops.reshape(solution, (*batch, size))
    return ops.solve_triangular(lower, ops.expand_dims(vector, -1))[..., 0]
