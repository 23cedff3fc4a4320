"""Links: fixed bijections from unconstrained coordinates onto the support of a variable.

Shapes: `u` is `[*batch, *unconstrained_event]`, a value `[*batch, *event]`, a log-determinant
`[*batch]`: it is summed over the axes of one draw (none for a scalar). In float32 `exp` and
`sigmoid` saturate; there the forward maps stop at the last value strictly inside the support, where
densities are still finite. The inverse maps clamp nothing: a value off the support gives NaN, one
on its boundary an infinity.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from pavi import ops
from pavi.dist import supports
from pavi.errors import GraphError

Array: TypeAlias = Any

# exp(-80)..exp(80) are normal float32 numbers, and so are their quotients with moderate scales.
EXPONENT_LIMIT = 80.0


class Link(ABC):
    """A bijection from unconstrained coordinates onto one support."""

    @abstractmethod
    def forward_and_log_det(self, u: Array) -> tuple[Array, Array]:
        """Value at `u`, and `log |d value / d u|`."""

    @abstractmethod
    def inverse_and_log_det(self, value: Array) -> tuple[Array, Array]:
        """Coordinates of `value`, and `log |d u / d value|`."""


@dataclass(frozen=True)
class Identity(Link):
    """The reals, as they are."""

    def forward_and_log_det(self, u: Array) -> tuple[Array, Array]:
        return u, ops.zeros_like(u)

    def inverse_and_log_det(self, value: Array) -> tuple[Array, Array]:
        return value, ops.zeros_like(value)


@dataclass(frozen=True)
class Exp(Link):
    """Positive numbers: `exp(u)`."""

    def forward_and_log_det(self, u: Array) -> tuple[Array, Array]:
        u = _limited(u)
        return ops.exp(u), u

    def inverse_and_log_det(self, value: Array) -> tuple[Array, Array]:
        u = ops.log(value)
        return u, -u


@dataclass(frozen=True)
class ShiftedExp(Link):
    """Numbers above `low`: `low + exp(u)`."""

    low: Array

    def forward_and_log_det(self, u: Array) -> tuple[Array, Array]:
        u = _limited(u)
        return ops.cast(self.low, u) + ops.exp(u), u

    def inverse_and_log_det(self, value: Array) -> tuple[Array, Array]:
        u = ops.log(value - ops.cast(self.low, value))
        return u, -u


@dataclass(frozen=True)
class ReflectedExp(Link):
    """Numbers below `high`: `high - exp(u)`."""

    high: Array

    def forward_and_log_det(self, u: Array) -> tuple[Array, Array]:
        u = _limited(u)
        return ops.cast(self.high, u) - ops.exp(u), u

    def inverse_and_log_det(self, value: Array) -> tuple[Array, Array]:
        u = ops.log(ops.cast(self.high, value) - value)
        return u, -u


@dataclass(frozen=True)
class Sigmoid(Link):
    """The unit interval: `1 / (1 + exp(-u))`."""

    def forward_and_log_det(self, u: Array) -> tuple[Array, Array]:
        limits = np.finfo(ops.dtype_name(u))
        value = ops.clip(ops.sigmoid(u), float(limits.tiny), 1.0 - float(limits.eps))
        # log s'(u) = log s(u) + log s(-u)
        return value, -ops.softplus(u) - ops.softplus(-u)

    def inverse_and_log_det(self, value: Array) -> tuple[Array, Array]:
        log_value, log_rest = ops.log(value), ops.log1p(-value)
        return log_value - log_rest, -log_value - log_rest


@dataclass(frozen=True)
class ScaledSigmoid(Link):
    """An interval: `low + (high - low) / (1 + exp(-u))`."""

    low: Array
    high: Array

    def forward_and_log_det(self, u: Array) -> tuple[Array, Array]:
        low, width = self._low_and_width(u)
        share, log_det = Sigmoid().forward_and_log_det(u)
        return low + width * share, log_det + ops.log(width)

    def inverse_and_log_det(self, value: Array) -> tuple[Array, Array]:
        low, width = self._low_and_width(value)
        # From the two distances, not from their ratio: exact near both ends.
        log_below, log_above = ops.log(value - low), ops.log(low + width - value)
        return log_below - log_above, ops.log(width) - log_below - log_above

    def _low_and_width(self, like: Array) -> tuple[Array, Array]:
        low = ops.cast(self.low, like)
        return low, ops.cast(self.high, like) - low


@dataclass(frozen=True)
class StickBreaking(Link):
    """The simplex, by breaking a stick; `u = 0` is the uniform vector.

    Component k takes the share `z_k = sigmoid(u_k - log(K - k))` (k from 1) of what is left.
    """

    def forward_and_log_det(self, u: Array) -> tuple[Array, Array]:
        logits = u - _stick_offsets(u, ops.shape(u)[-1])
        # log x_k = log z_k + sum_{j<k} log(1 - z_j), and x_K is what is left
        log_taken = -ops.softplus(-logits)
        log_left = _cumsum_from_zero(-ops.softplus(logits))
        log_value = ops.concat([log_taken + log_left[..., :-1], log_left[..., -1:]], axis=-1)
        # dx_k/du_k = z_k (1 - z_k) left_k; their product is that of all K components
        return ops.exp(_limited(log_value)), ops.sum(log_value, axis=-1)

    def inverse_and_log_det(self, value: Array) -> tuple[Array, Array]:
        log_value = ops.log(value)
        # logit z_k = log x_k - log sum_{j>k} x_j
        log_after = ops.log(_sums_from_end(value)[..., 1:])
        logits = log_value[..., :-1] - log_after
        return logits + _stick_offsets(value, ops.shape(logits)[-1]), -ops.sum(log_value, axis=-1)


@dataclass(frozen=True)
class OrderedIncrements(Link):
    """Increasing vectors: `x_1 = u_1`, `x_k = x_{k-1} + exp(u_k)`."""

    def forward_and_log_det(self, u: Array) -> tuple[Array, Array]:
        log_steps = _limited(u[..., 1:])
        steps = ops.concat([u[..., :1], ops.exp(log_steps)], axis=-1)
        return ops.cumsum(steps, axis=-1), ops.sum(log_steps, axis=-1)

    def inverse_and_log_det(self, value: Array) -> tuple[Array, Array]:
        log_steps = ops.log(value[..., 1:] - value[..., :-1])
        return ops.concat([value[..., :1], log_steps], axis=-1), -ops.sum(log_steps, axis=-1)


@dataclass(frozen=True)
class PackedCholesky(Link):
    """Lower triangular matrices, packed row by row; the diagonal through `exp`."""

    def forward_and_log_det(self, u: Array) -> tuple[Array, Array]:
        size = ops.shape(u)[-1]
        # size = d (d + 1) / 2
        d = (math.isqrt(8 * size + 1) - 1) // 2
        rows, log_det = [], ops.zeros_like(u[..., 0])
        for i in range(d):
            start = i * (i + 1) // 2
            log_diagonal = _limited(u[..., start + i : start + i + 1])
            log_det = log_det + log_diagonal[..., 0]
            rows.append(_row(u[..., start : start + i], ops.exp(log_diagonal), d))
        return ops.stack(rows, axis=-2), log_det

    def inverse_and_log_det(self, value: Array) -> tuple[Array, Array]:
        packed, log_det = [], ops.zeros_like(value[..., 0, 0])
        for i in range(ops.shape(value)[-1]):
            log_diagonal = ops.log(value[..., i, i : i + 1])
            log_det = log_det - log_diagonal[..., 0]
            packed += [value[..., i, :i], log_diagonal]
        return ops.concat(packed, axis=-1), log_det


@dataclass(frozen=True)
class PartialCorrelations(Link):
    """Cholesky factors of correlation matrices, from partial correlations `z = tanh(u)`.

    `u` packs the strictly lower triangle row by row; each row of the factor is a point of the unit
    sphere, its squares a broken stick. The determinant is that of the strictly lower triangle.

    Reference: Lewandowski, Kurowicka and Joe (2009), Generating random correlation matrices based
    on vines and extended onion method.
    """

    def forward_and_log_det(self, u: Array) -> tuple[Array, Array]:
        size = ops.shape(u)[-1]
        # size = d (d - 1) / 2
        d = (math.isqrt(8 * size + 1) + 1) // 2
        rows, log_det = [_row(u[..., :0], _zero(u) + 1.0, d)], _zero(u)[..., 0]
        for i in range(1, d):
            start = i * (i - 1) // 2
            u_row = u[..., start : start + i]
            log_left, row_log_det = _sphere(u_row)
            # L_ij = z_ij sqrt(left_ij), L_ii = sqrt(left_ii), left_ij = prod_{k<j} (1 - z_ik^2)
            scale = ops.exp(_limited(0.5 * log_left))
            rows.append(_row(ops.tanh(u_row) * scale[..., :-1], scale[..., -1:], d))
            log_det = log_det + row_log_det
        return ops.stack(rows, axis=-2), log_det

    def inverse_and_log_det(self, value: Array) -> tuple[Array, Array]:
        packed = [value[..., 0, :0]]
        log_det = ops.zeros_like(value[..., 0, 0])
        for i in range(1, ops.shape(value)[-1]):
            row = value[..., i, : i + 1]
            # atanh(z_ij) = asinh(z / sqrt(1 - z^2)) = asinh(L_ij / sqrt(sum_{k>j} L_ik^2))
            after = _sums_from_end(row * row)[..., 1:]
            u_row = ops.arcsinh(row[..., :-1] / ops.sqrt(after))
            packed.append(u_row)
            log_det = log_det - _sphere(u_row)[1]
        return ops.concat(packed, axis=-1), log_det


def _limited(u: Array) -> Array:
    return ops.clip(u, -EXPONENT_LIMIT, EXPONENT_LIMIT)


def _stick_offsets(like: Array, size: int) -> Array:
    # log(K - k) for k = 1..K-1
    return ops.asarray(np.log(np.arange(size, 0, -1.0)), like=like)


def _zero(x: Array) -> Array:
    """Zeros `[*batch, 1]` for `x` `[*batch, n]`, also where `n` is 0."""
    return ops.sum(ops.zeros_like(x), axis=-1, keepdims=True)


def _cumsum_from_zero(x: Array) -> Array:
    """`[0, x_1, x_1 + x_2, ...]` along the last axis: `[*batch, n + 1]`."""
    return ops.concat([_zero(x), ops.cumsum(x, axis=-1)], axis=-1)


def _sums_from_end(x: Array) -> Array:
    """Sums of the entries from each one to the last, along the last axis."""
    return ops.cumsum(x[..., ::-1], axis=-1)[..., ::-1]


def _row(before: Array, diagonal: Array, d: int) -> Array:
    """A row `[*batch, d]` of a lower triangular matrix: `before`, `diagonal`, zeros."""
    after = [ops.zeros_like(diagonal)] * (d - 1 - ops.shape(before)[-1])
    return ops.concat([before, diagonal, *after], axis=-1)


def _sphere(u: Array) -> tuple[Array, Array]:
    """`log left` `[*batch, i + 1]` (0 first) and log-determinant `[*batch]` of one row's `u`."""
    # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u))
    log_rest = 2.0 * (math.log(2.0) - u - ops.softplus(-2.0 * u))
    log_left = _cumsum_from_zero(log_rest)
    # dL_ij/du_ij = (1 - z_ij^2) sqrt(left_ij)
    return log_left, ops.sum(log_rest + 0.5 * log_left[..., :-1], axis=-1)


_LINKS: dict[type[supports.Support], Callable[[Any], Link]] = {
    supports.Real: lambda support: Identity(),
    supports.Positive: lambda support: Exp(),
    supports.UnitInterval: lambda support: Sigmoid(),
    supports.Interval: lambda support: ScaledSigmoid(support.low, support.high),
    supports.GreaterThan: lambda support: ShiftedExp(support.low),
    supports.LessThan: lambda support: ReflectedExp(support.high),
    supports.Simplex: lambda support: StickBreaking(),
    supports.Ordered: lambda support: OrderedIncrements(),
    supports.LowerCholesky: lambda support: PackedCholesky(),
    supports.CorrelationCholesky: lambda support: PartialCorrelations(),
}


def link(support: supports.Support) -> Link:
    """The link onto `support`.

    Raises:
        GraphError: `support` is discrete, or of a kind unknown here.
    """
    if type(support) not in _LINKS:
        raise GraphError(
            f"No link onto {support} ({type(support).__name__}): a latent variable needs a "
            "continuous support; observe it, or sum it out with dist.Mixture."
        )
    return _LINKS[type(support)](support)
