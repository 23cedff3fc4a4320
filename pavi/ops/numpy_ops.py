"""Table of array functions on NumPy, and what NumPy shares with `jax.numpy`."""

from __future__ import annotations

import importlib
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any


class NumpyLike:
    """Functions that `numpy` and `jax.numpy` spell alike; `xp` is one of the two.

    `join` brings the operands of a function to one dtype; NumPy's own promotion needs no help.
    """

    name = "numpy-like"

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    def join(self, *xs: Array) -> tuple[Array, ...]:
        return xs

    # Elementwise.
    def exp(self, x: Array) -> Array:
        return self.xp.exp(x)

    def log(self, x: Array) -> Array:
        return self.xp.log(x)

    def log1p(self, x: Array) -> Array:
        return self.xp.log1p(x)

    def expm1(self, x: Array) -> Array:
        return self.xp.expm1(x)

    def sqrt(self, x: Array) -> Array:
        return self.xp.sqrt(x)

    def abs(self, x: Array) -> Array:
        return self.xp.abs(x)

    def sin(self, x: Array) -> Array:
        return self.xp.sin(x)

    def cos(self, x: Array) -> Array:
        return self.xp.cos(x)

    def sinh(self, x: Array) -> Array:
        return self.xp.sinh(x)

    def cosh(self, x: Array) -> Array:
        return self.xp.cosh(x)

    def arcsinh(self, x: Array) -> Array:
        return self.xp.arcsinh(x)

    def tanh(self, x: Array) -> Array:
        return self.xp.tanh(x)

    def where(self, condition: Array, a: Array, b: Array) -> Array:
        return self.xp.where(condition, *self.join(a, b))

    def maximum(self, a: Array, b: Array) -> Array:
        return self.xp.maximum(*self.join(a, b))

    def minimum(self, a: Array, b: Array) -> Array:
        return self.xp.minimum(*self.join(a, b))

    # Reductions.
    def sum(self, x: Array, axis: Any, keepdims: bool) -> Array:
        return self.xp.sum(self.xp.asarray(x), axis=axis, keepdims=keepdims)

    def mean(self, x: Array, axis: Any, keepdims: bool) -> Array:
        return self.xp.mean(self.xp.asarray(x), axis=axis, keepdims=keepdims)

    def max(self, x: Array, axis: Any, keepdims: bool) -> Array:
        return self.xp.max(self.xp.asarray(x), axis=axis, keepdims=keepdims)

    def cumsum(self, x: Array, axis: int) -> Array:
        return self.xp.cumsum(x, axis=axis)

    # Shapes.
    def concat(self, xs: list[Array], axis: int) -> Array:
        return self.xp.concatenate(self.join(*xs), axis=axis)

    def stack(self, xs: list[Array], axis: int) -> Array:
        return self.xp.stack(self.join(*xs), axis=axis)

    def unstack(self, x: Array, axis: int) -> list[Array]:
        return list(self.xp.moveaxis(self.xp.asarray(x), axis, 0))

    def split(self, x: Array, sizes: list[int], axis: int) -> list[Array]:
        return list(self.xp.split(self.xp.asarray(x), np.cumsum(sizes)[:-1], axis=axis))

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        return self.xp.reshape(x, shape)

    def broadcast_to(self, x: Array, shape: tuple[int, ...]) -> Array:
        return self.xp.broadcast_to(x, shape)

    def expand_dims(self, x: Array, axis: int) -> Array:
        return self.xp.expand_dims(x, axis)

    def squeeze(self, x: Array, axis: int) -> Array:
        return self.xp.squeeze(x, axis=axis)

    def transpose(self, x: Array, perm: tuple[int, ...] | None) -> Array:
        return self.xp.transpose(x, perm)

    def take(self, x: Array, idx: Array, axis: int) -> Array:
        return self.xp.take(self.xp.asarray(x), self.xp.asarray(idx), axis=axis, mode="clip")

    # Products.
    def matmul(self, a: Array, b: Array) -> Array:
        return self.xp.matmul(*self.join(a, b))

    def einsum(self, equation: str, *xs: Array) -> Array:
        return self.xp.einsum(equation, *self.join(*xs))

    # Dtypes.
    def zeros_like(self, x: Array) -> Array:
        return self.xp.zeros_like(x)

    def ones_like(self, x: Array) -> Array:
        return self.xp.ones_like(x)

    def cast(self, x: Array, dtype: str) -> Array:
        return self.xp.asarray(x).astype(dtype)

    def one_hot(self, ids: Array, n: int, dtype: str) -> Array:
        ids = self.xp.asarray(ids)
        return (ids[..., None] == np.arange(n, dtype=str(ids.dtype))).astype(dtype)

    def shape(self, x: Array) -> tuple[int, ...]:
        return tuple(np.shape(x))

    def to_numpy(self, x: Array) -> np.ndarray:
        return np.asarray(x)


class NumpyOps(NumpyLike):
    """The oracle: plain NumPy, with SciPy (imported at first use) for the special functions."""

    name = "numpy"

    def __init__(self) -> None:
        super().__init__(np)

    @property
    def special(self) -> Any:
        # Not at the top: `import pavi` must not pay for SciPy.
        return importlib.import_module("scipy.special")

    def sigmoid(self, x: Array) -> Array:
        return self.special.expit(x)

    def softplus(self, x: Array) -> Array:
        return np.logaddexp(x, 0.0)

    def lgamma(self, x: Array) -> Array:
        return self.special.gammaln(x)

    def digamma(self, x: Array) -> Array:
        return self.special.digamma(x)

    def trigamma(self, x: Array) -> Array:
        # psi_1(x) = zeta(2, x), the Hurwitz zeta function
        return self.special.zeta(np.asarray(x).dtype.type(2), x)

    def erf(self, x: Array) -> Array:
        return self.special.erf(x)

    def logsumexp(self, x: Array, axis: Any, keepdims: bool) -> Array:
        top = np.max(x, axis=axis, keepdims=True)
        top = np.where(np.isfinite(top), top, 0)
        with np.errstate(divide="ignore"):
            total = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
        return total if keepdims else np.squeeze(total, axis=axis)

    def softmax(self, x: Array, axis: int) -> Array:
        weights = np.exp(x - np.max(x, axis=axis, keepdims=True))
        return weights / np.sum(weights, axis=axis, keepdims=True)

    def segment_sum(self, x: Array, ids: Array, num: int, axis: int) -> Array:
        rows = np.moveaxis(np.asarray(x), axis, 0)
        ids = np.asarray(ids)
        kept = (ids >= 0) & (ids < num)
        total = np.zeros((num, *rows.shape[1:]), rows.dtype)
        np.add.at(total, ids[kept], rows[kept])
        return np.moveaxis(total, 0, axis)

    def cholesky(self, a: Array) -> Array:
        return np.linalg.cholesky(a)

    def solve_triangular(self, factor: Array, b: Array, transpose: bool) -> Array:
        factor = np.tril(factor)
        return np.linalg.solve(np.swapaxes(factor, -1, -2) if transpose else factor, b)

    def stop_gradient(self, x: Array) -> Array:
        return x

    def asarray(self, x: Array, dtype: str | None) -> Array:
        """`x` as an array; a floating `x` takes `dtype` where one is given."""
        x = np.asarray(x)
        return x.astype(dtype) if dtype is not None and x.dtype.kind == "f" else x

    def dtype_name(self, x: Array) -> str:
        return np.asarray(x).dtype.name
