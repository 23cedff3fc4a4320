"""Affine bijectors: the Gaussian families, with a context or without."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pavi import ops
from pavi.bijectors.base import Array, Bijector, ParameterSpec, Params, linear
from pavi.errors import FamilyError
from pavi.ops.unrolled import LARGEST

# Up to this size a batch of matrix-vector products is cheaper as one fused product and sum.
SMALL = 8


@dataclass(frozen=True)
class ConditionalAffine(Bijector):
    """Affine map `y = r + R (loc + L (change(c) + M(c) x))`, triangular with a positive diagonal.

    `loc` and L are free. `change(c)` and M(c), which starts as the identity, are a linear function
    of the context, plus a one-layer tanh network of it where `hidden > 0`; their last layers start
    at zero, so that the map starts as a scaling by `exp(initial_log_scale)`.

    r and R are a reference that gradients leave alone. A gradient step of a given length moves y on
    the scale of R: right early, when R is the prior's scale and the posterior is far away, but not
    late, when the posterior is narrow and correlated and the step would have to be as short as its
    narrowest direction. `rebase` therefore folds `loc` and L into the reference now and then, which
    leaves the map as it is: the next steps are taken on the posterior's own scale, along its axes.
    """

    hidden: int = 0
    rank: Literal["full", "diagonal"] = "full"
    initial_log_scale: float = 0.0

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
        specs = {
            "loc": ParameterSpec((size,)),
            "log_diagonal": ParameterSpec((size,), "constant", self.initial_log_scale),
        }
        if packed:
            specs["off_diagonal"] = ParameterSpec((packed,))
        specs["reference_loc"] = ParameterSpec((size,), trainable=False)
        specs["reference_scale"] = (
            ParameterSpec((size, size), "eye", trainable=False)
            if packed
            else ParameterSpec((size,), "constant", 1.0, trainable=False)
        )
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
        reference_loc, reference_scale = _reference(params)
        log_det = ops.sum(params["log_diagonal"], -1) + _log_diagonal(reference_scale)
        if context is not None:
            # x <- change(c) + M(c) x
            change, log_diagonal, packed = self._conditioned(params, context)
            moved = ops.exp(log_diagonal) * x
            if packed is not None:
                moved = moved + _product(strictly_lower(packed, self.size), x)
            x, log_det = change + moved, log_det + ops.sum(log_diagonal, -1)
        # x <- loc + L x
        moved = ops.exp(params["log_diagonal"]) * x
        if self._packed_size:
            moved = moved + _product(strictly_lower(params["off_diagonal"], self.size), x)
        x = params["loc"] + moved
        # y = r + R x
        scaled = _product(reference_scale, x) if self._packed_size else reference_scale * x
        return reference_loc + scaled, log_det

    def _inverse(self, params: Params, y: Array, context: Any) -> tuple[Array, Array]:
        reference_loc, reference_scale = _reference(params)
        log_det = ops.sum(params["log_diagonal"], -1) + _log_diagonal(reference_scale)
        x = y - reference_loc
        x = _solve(reference_scale, x) if self._packed_size else x / reference_scale
        packed = params["off_diagonal"] if self._packed_size else None
        x = self._unscaled(x - params["loc"], params["log_diagonal"], packed)
        if context is not None:
            change, log_diagonal, packed = self._conditioned(params, context)
            x = self._unscaled(x - change, log_diagonal, packed)
            log_det = log_det + ops.sum(log_diagonal, -1)
        return x, -log_det

    def rebase(self, params: Params) -> dict[str, np.ndarray]:
        """The same map around another reference; NumPy weights in and out.

        `loc` is folded into r. R becomes the present scale R L, made longer by the way that the
        location has come since the last time, as in an evolution strategy: one that is far from
        home takes long steps, one that is there takes steps of the posterior's own size.

        Where the new reference is not finite or not positive, the weights come back as they are.
        """
        out = {name: np.asarray(value) for name, value in params.items()}
        with np.errstate(all="ignore"):
            moved = self._rebased(out)
            moved = {name: value.astype(out[name].dtype) for name, value in moved.items()}
        scale = moved["reference_scale"]
        diagonal = np.diag(scale) if self._packed_size else scale
        if not (diagonal > 0).all() or not all(np.isfinite(v).all() for v in moved.values()):
            # A scale beyond what the dtype holds: the map stays right around the old reference.
            return out
        return out | moved

    def moments(self, params: Params) -> tuple[np.ndarray, np.ndarray]:
        own = {name: np.asarray(value, np.float64) for name, value in params.items()}
        scale, free = own["reference_scale"], np.exp(own["log_diagonal"])
        if self._packed_size:
            root = scale @ (np.diag(free) + strictly_lower(own["off_diagonal"], self.size))
            return own["reference_loc"] + scale @ own["loc"], np.sqrt((root**2).sum(1))
        return own["reference_loc"] + scale * own["loc"], scale * free

    def _rebased(self, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The weights that `rebase` changes, in float64."""
        scale, loc = weights["reference_scale"].astype(np.float64), weights["loc"]
        free = np.exp(weights["log_diagonal"].astype(np.float64))
        out = {"loc": np.zeros_like(loc)}
        if self._packed_size:
            way = scale @ loc
            present = scale @ (np.diag(free) + strictly_lower(weights["off_diagonal"], self.size))
            # R R' = (R L)(R L)' + way way', without forming it: that would square the condition.
            _, root = np.linalg.qr(np.column_stack([present, way]).T)
            reference = root.T * np.where(np.diag(root) < 0, -1.0, 1.0)
            left = _lower_quotient(reference, present)
            free = np.diag(left)
            out["off_diagonal"] = _packed(left, self.size)
        else:
            way, present = scale * loc, scale * free
            reference = np.hypot(present, way)
            free = present / reference
        out["reference_loc"] = weights["reference_loc"] + way
        out["reference_scale"], out["log_diagonal"] = reference, np.log(free)
        return out

    def _unscaled(self, x: Array, log_diagonal: Array, packed: Array | None) -> Array:
        if packed is None:
            return x * ops.exp(-log_diagonal)
        diagonal = ops.expand_dims(ops.exp(log_diagonal), -1)
        identity = ops.asarray(np.eye(self.size), like=diagonal)
        return _solve(strictly_lower(packed, self.size) + diagonal * identity, x)

    def _conditioned(self, params: Params, context: Any) -> tuple[Array, Array, Array | None]:
        """change(c) `[..., d]`, M's log diagonal `[..., d]` and its rest, packed."""
        out = linear(context, params["context_weight"])
        if self.hidden:
            # W c + V tanh(U c + b)
            hidden = ops.tanh(linear(context, params["hidden_weight"]) + params["hidden_bias"])
            out = out + linear(hidden, params["output_weight"])
        size = self.size
        packed = out[..., 2 * size :] if self._packed_size else None
        return out[..., :size], out[..., size : 2 * size], packed


def _reference(params: Params) -> tuple[Array, Array]:
    return ops.stop_gradient(params["reference_loc"]), ops.stop_gradient(params["reference_scale"])


def _log_diagonal(scale: Array) -> Array:
    """Log |R| of a triangular matrix `[d, d]` or of a diagonal one `[d]`."""
    shape = ops.shape(scale)
    if len(shape) == 2:
        scale = ops.sum(ops.where(np.eye(shape[0], dtype=bool), scale, 0.0), -1)
    return ops.sum(ops.log(scale), -1)


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


def _packed(matrix: np.ndarray, size: int) -> np.ndarray:
    """The entries below the diagonal, in the order that `strictly_lower` unpacks."""
    count = size * (size - 1) // 2
    places = strictly_lower(np.arange(1.0, count + 1.0), size)
    out = np.zeros(count)
    out[places[places > 0].astype(int) - 1] = matrix[places > 0]
    return out


def _lower_quotient(factor: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Solves `factor x = matrix`, all lower triangular; no error where it is singular."""
    out = np.zeros_like(matrix)
    for i, row in enumerate(factor):
        out[i, : i + 1] = (matrix[i, : i + 1] - row[:i] @ out[:i, : i + 1]) / row[i]
    return out


def _product(matrix: Array, vector: Array) -> Array:
    """Product of `[d, d]` or `[..., d, d]` with `[..., d]`, leading axes broadcast."""
    if ops.shape(matrix)[-1] <= SMALL:
        return ops.sum(matrix * ops.expand_dims(vector, -2), -1)
    if len(ops.shape(matrix)) == 2:
        return linear(vector, ops.transpose(matrix, (1, 0)))
    return ops.matmul(matrix, ops.expand_dims(vector, -1))[..., 0]


def _solve(lower: Array, vector: Array) -> Array:
    """Solves `lower z = vector` for `[d, d]` or `[..., d, d]` and `[..., d]`."""
    *batch, size = ops.shape(vector)
    if len(ops.shape(lower)) == 2 and size > LARGEST:
        # One system with many right-hand sides; smaller ones are elementwise already.
        columns = ops.transpose(ops.reshape(vector, (math.prod(batch), size)), (1, 0))
        solution = ops.transpose(ops.solve_triangular(lower, columns), (1, 0))
        return ops.reshape(solution, (*batch, size))
    return ops.solve_triangular(lower, ops.expand_dims(vector, -1))[..., 0]


@dataclass(frozen=True)
class Identity(Bijector):
    """Leaves its argument as it is; it has no parameters."""

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        return {}

    def _forward(self, params: Params, x: Array, context: Any) -> tuple[Array, Array]:
        return x, ops.sum(ops.zeros_like(x), -1)

    def _inverse(self, params: Params, y: Array, context: Any) -> tuple[Array, Array]:
        return y, ops.sum(ops.zeros_like(y), -1)
