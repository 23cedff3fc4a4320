"""Table of array functions on TensorFlow; made only once the caller has loaded TensorFlow."""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import numpy as np

from pavi.ops import unrolled

Array: TypeAlias = Any


class TensorflowOps:
    """TensorFlow tensors and variables, of static shape, eager or traced (XLA included)."""

    name = "tensorflow"

    def __init__(self) -> None:
        self.tf = sys.modules["tensorflow"]

    def join(self, *xs: Array) -> tuple[Array, ...]:
        """All operands as tensors of one dtype; TensorFlow itself promotes nothing."""
        dtype = self._common_dtype(xs)
        return tuple(self._convert(x, dtype) for x in xs)

    def _common_dtype(self, xs: tuple[Array, ...]) -> str:
        own = [x.dtype.name for x in xs if self.tf.is_tensor(x)]
        given = [self.dtype_name(x) for x in xs if not self.tf.is_tensor(x)]
        # The tensors' float dtype wins, then any float; integers only among themselves.
        for names in (own, given):
            floats = [name for name in names if np.issubdtype(name, np.floating)]
            if floats:
                return np.result_type(*floats).name
        return np.result_type(*(own or given)).name

    def _convert(self, x: Array, dtype: str) -> Array:
        if self.tf.is_tensor(x):
            x = self.tf.convert_to_tensor(x)
            return x if x.dtype.name == dtype else self.tf.cast(x, dtype)
        return self.tf.convert_to_tensor(np.asarray(x).astype(dtype))

    def _float(self, x: Array) -> Array:
        x = self.tf.convert_to_tensor(x)
        return x if x.dtype.is_floating else self.tf.cast(x, "float32")

    # Elementwise.
    def exp(self, x: Array) -> Array:
        return self.tf.math.exp(self._float(x))

    def log(self, x: Array) -> Array:
        return self.tf.math.log(self._float(x))

    def log1p(self, x: Array) -> Array:
        return self.tf.math.log1p(self._float(x))

    def expm1(self, x: Array) -> Array:
        return self.tf.math.expm1(self._float(x))

    def sqrt(self, x: Array) -> Array:
        return self.tf.math.sqrt(self._float(x))

    def abs(self, x: Array) -> Array:
        return self.tf.math.abs(x)

    def sin(self, x: Array) -> Array:
        return self.tf.math.sin(self._float(x))

    def cos(self, x: Array) -> Array:
        return self.tf.math.cos(self._float(x))

    def sinh(self, x: Array) -> Array:
        return self.tf.math.sinh(self._float(x))

    def cosh(self, x: Array) -> Array:
        return self.tf.math.cosh(self._float(x))

    def arcsinh(self, x: Array) -> Array:
        return self.tf.math.asinh(self._float(x))

    def tanh(self, x: Array) -> Array:
        return self.tf.math.tanh(self._float(x))

    def sigmoid(self, x: Array) -> Array:
        return self.tf.math.sigmoid(self._float(x))

    def softplus(self, x: Array) -> Array:
        return self.tf.math.softplus(self._float(x))

    def lgamma(self, x: Array) -> Array:
        return self.tf.math.lgamma(self._float(x))

    def digamma(self, x: Array) -> Array:
        return self.tf.math.digamma(self._float(x))

    def trigamma(self, x: Array) -> Array:
        x = self._float(x)
        return self.tf.math.polygamma(self.tf.ones_like(x), x)

    def erf(self, x: Array) -> Array:
        return self.tf.math.erf(self._float(x))

    def where(self, condition: Array, a: Array, b: Array) -> Array:
        return self.tf.where(condition, *self.join(a, b))

    def maximum(self, a: Array, b: Array) -> Array:
        # Not tf.maximum: compiled for a CPU it loses a NaN in one of the operands.
        a, b = self.join(a, b)
        return self.tf.where((a >= b) | (a != a), a, b)

    def minimum(self, a: Array, b: Array) -> Array:
        a, b = self.join(a, b)
        return self.tf.where((a <= b) | (a != a), a, b)

    # Reductions.
    def sum(self, x: Array, axis: Any, keepdims: bool) -> Array:
        x = self.tf.convert_to_tensor(x)
        x = self.tf.cast(x, "int32") if x.dtype.is_bool else x
        return self.tf.math.reduce_sum(x, axis=axis, keepdims=keepdims)

    def mean(self, x: Array, axis: Any, keepdims: bool) -> Array:
        return self.tf.math.reduce_mean(self._float(x), axis=axis, keepdims=keepdims)

    def max(self, x: Array, axis: Any, keepdims: bool) -> Array:
        return self.tf.math.reduce_max(x, axis=axis, keepdims=keepdims)

    def logsumexp(self, x: Array, axis: Any, keepdims: bool) -> Array:
        return self.tf.math.reduce_logsumexp(self._float(x), axis=axis, keepdims=keepdims)

    def softmax(self, x: Array, axis: int) -> Array:
        return self.tf.nn.softmax(self._float(x), axis=axis)

    def cumsum(self, x: Array, axis: int) -> Array:
        return self.tf.math.cumsum(x, axis=axis)

    def segment_sum(self, x: Array, ids: Array, num: int, axis: int) -> Array:
        x, ids = self.tf.convert_to_tensor(x), self.tf.convert_to_tensor(ids)
        rank = len(x.shape)
        axis %= rank
        to_front = [axis, *range(axis), *range(axis + 1, rank)]
        to_back = [*range(1, axis + 1), 0, *range(axis + 1, rank)]
        # Negative ids are dropped everywhere, too large ones on some devices only.
        ids = self.tf.where(ids < num, ids, -1)
        rows = x if axis == 0 else self.tf.transpose(x, to_front)
        total = self.tf.math.unsorted_segment_sum(rows, ids, num)
        return total if axis == 0 else self.tf.transpose(total, to_back)

    # Shapes.
    def concat(self, xs: list[Array], axis: int) -> Array:
        return self.tf.concat(self.join(*xs), axis=axis)

    def stack(self, xs: list[Array], axis: int) -> Array:
        return self.tf.stack(self.join(*xs), axis=axis)

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        return self.tf.reshape(x, shape)

    def broadcast_to(self, x: Array, shape: tuple[int, ...]) -> Array:
        x = self.tf.convert_to_tensor(x)
        return x if self.shape(x) == tuple(shape) else self.tf.broadcast_to(x, shape)

    def expand_dims(self, x: Array, axis: int) -> Array:
        return self.tf.expand_dims(x, axis)

    def squeeze(self, x: Array, axis: int) -> Array:
        return self.tf.squeeze(x, axis=axis)

    def transpose(self, x: Array, perm: tuple[int, ...] | None) -> Array:
        return self.tf.transpose(x, perm)

    def take(self, x: Array, idx: Array, axis: int) -> Array:
        x, idx = self.tf.convert_to_tensor(x), self.tf.convert_to_tensor(idx)
        # Out-of-range rows raise on one device and read zeros on another: clip everywhere.
        idx = self.tf.clip_by_value(idx, 0, x.shape[axis] - 1)
        return self.tf.gather(x, idx, axis=axis)

    # Products.
    def matmul(self, a: Array, b: Array) -> Array:
        a, b = self.join(a, b)
        if len(b.shape) == 1:
            return self.tf.linalg.matvec(a, b) if len(a.shape) > 1 else self.sum(a * b, None, False)
        if len(a.shape) == 1:
            return self.tf.squeeze(self.tf.linalg.matmul(a[None, :], b), axis=-2)
        return self.tf.linalg.matmul(a, b)

    def einsum(self, equation: str, *xs: Array) -> Array:
        return self.tf.einsum(equation, *self.join(*xs))

    def unstack(self, x: Array, axis: int) -> list[Array]:
        return list(self.tf.unstack(x, axis=axis))

    def split(self, x: Array, sizes: list[int], axis: int) -> list[Array]:
        return list(self.tf.split(x, sizes, axis=axis))

    def cholesky(self, a: Array) -> Array:
        if a.shape[-1] <= unrolled.LARGEST:
            return unrolled.cholesky(self, a)
        return self.tf.linalg.cholesky(a)

    def solve_triangular(self, factor: Array, b: Array, transpose: bool) -> Array:
        factor, b = self.join(factor, b)
        if factor.shape[-1] <= unrolled.LARGEST:
            return unrolled.solve_triangular(self, factor, b, transpose)
        batch = np.broadcast_shapes(self.shape(factor)[:-2], self.shape(b)[:-2])
        return self.tf.linalg.triangular_solve(
            self.broadcast_to(factor, batch + self.shape(factor)[-2:]),
            self.broadcast_to(b, batch + self.shape(b)[-2:]),
            lower=True,
            adjoint=transpose,
        )

    # Dtypes.
    def zeros_like(self, x: Array) -> Array:
        return self.tf.zeros_like(x)

    def ones_like(self, x: Array) -> Array:
        return self.tf.ones_like(x)

    def cast(self, x: Array, dtype: str) -> Array:
        return self._convert(x, dtype)

    def one_hot(self, ids: Array, n: int, dtype: str) -> Array:
        ids = self.tf.cast(ids, "int32")
        return self.tf.cast(ids[..., None] == np.arange(n, dtype="int32"), dtype)

    def stop_gradient(self, x: Array) -> Array:
        return self.tf.stop_gradient(x)

    def asarray(self, x: Array, dtype: str | None) -> Array:
        """`x` as a tensor; a floating `x` takes `dtype` where a floating one is given."""
        own = self.dtype_name(x)
        both_float = dtype and all(np.issubdtype(name, np.floating) for name in (own, dtype))
        return self._convert(x, dtype if dtype and both_float else own)

    def shape(self, x: Array) -> tuple[int, ...]:
        return tuple(x.shape.as_list()) if self.tf.is_tensor(x) else tuple(np.shape(x))

    def dtype_name(self, x: Array) -> str:
        if self.tf.is_tensor(x):
            return x.dtype.name
        # A bare Python number is float32 (int32) to TensorFlow.
        if type(x) is float:
            return "float32"
        return "int32" if type(x) is int else np.asarray(x).dtype.name

    def to_numpy(self, x: Array) -> np.ndarray:
        return self.tf.convert_to_tensor(x).numpy()
