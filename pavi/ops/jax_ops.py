"""Table of array functions on JAX; made only once the caller has loaded JAX."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, TypeAlias

import numpy as np

from pavi.ops import unrolled
from pavi.ops.numpy_ops import NumpyLike

Array: TypeAlias = Any

# Numbers in a row from which on moving the rows to the front costs more than scattering them where
# they are: for 4 x 4,300 outer products of 21 numbers 36 and 6 ms, for 8 x 4,000 of 2 0.3 and 0.5.
_WIDE = 64


class JaxOps(NumpyLike):
    """JAX arrays and tracers."""

    name = "jax"

    def __init__(self) -> None:
        self.jax = sys.modules["jax"]
        super().__init__(self.jax.numpy)

    def join(self, *xs: Array) -> tuple[Array, ...]:
        # A NumPy float64 constant must not promote float32 arrays: JAX's arrays fix the dtype.
        # Python scalars are weakly typed already.
        own = [x.dtype for x in xs if self._is_float(x)]
        if not own:
            return xs
        dtype = self.xp.result_type(*own)
        return tuple(
            x.astype(dtype)
            if isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind == "f"
            else x
            for x in xs
        )

    def _is_float(self, x: Array) -> bool:
        return isinstance(x, self.jax.Array) and self.xp.issubdtype(x.dtype, self.xp.floating)

    def _float(self, x: Array) -> Array:
        x = self.xp.asarray(x)
        return x if self._is_float(x) else x.astype(self.xp.result_type(float))

    def sum(self, x: Array, axis: Any, keepdims: bool) -> Array:
        x = self.xp.asarray(x)
        if isinstance(axis, tuple) and len(axis) == 1:
            (axis,) = axis
        if isinstance(axis, int) and not keepdims and 32 < x.shape[axis] <= 1024:
            place = axis % x.ndim
            length = x.shape[place]
            # XLA sums windows of 32 first, which it does not fuse with what makes the terms.
            parts = next((n for n in range(32, 1, -1) if length % n == 0 and length // n <= 32), 0)
            if parts:
                shape = (*x.shape[:place], length // parts, parts, *x.shape[place + 1 :])
                return self.xp.sum(x.reshape(shape), axis=(place, place + 1))
        return self.xp.sum(x, axis=axis, keepdims=keepdims)

    def maximum(self, a: Array, b: Array) -> Array:
        # At a tie the gradient goes to `a` (jax.numpy would halve it); a NaN stays one.
        a, b = self.join(a, b)
        return self.xp.where((a >= b) | (a != a), a, b)

    def minimum(self, a: Array, b: Array) -> Array:
        a, b = self.join(a, b)
        return self.xp.where((a <= b) | (a != a), a, b)

    def sigmoid(self, x: Array) -> Array:
        return self.jax.nn.sigmoid(x)

    def softplus(self, x: Array) -> Array:
        return self.jax.nn.softplus(x)

    def lgamma(self, x: Array) -> Array:
        return self.jax.lax.lgamma(self._float(x))

    def digamma(self, x: Array) -> Array:
        return self.jax.lax.digamma(self._float(x))

    def trigamma(self, x: Array) -> Array:
        x = self._float(x)
        return self.jax.lax.polygamma(self.xp.ones_like(x), x)

    def erf(self, x: Array) -> Array:
        return self.jax.lax.erf(self._float(x))

    def logsumexp(self, x: Array, axis: Any, keepdims: bool) -> Array:
        return self.jax.nn.logsumexp(x, axis=axis, keepdims=keepdims)

    def softmax(self, x: Array, axis: int) -> Array:
        return self.jax.nn.softmax(x, axis=axis)

    def segment_sum(self, x: Array, ids: Array, num: int, axis: int) -> Array:
        x, ids = self.xp.asarray(x), self.xp.asarray(ids)
        shape, axis = x.shape, axis % x.ndim
        lead = prod(shape[:axis])
        if lead > 1 and prod(shape[axis + 1 :]) >= _WIDE:
            # Each lead has bins of its own, and no large array is transposed.
            ids = self.xp.where((ids >= 0) & (ids < num), ids, lead * num)
            own = (ids + num * self.xp.arange(lead, dtype=ids.dtype)[:, None]).reshape(-1)
            rows = x.reshape(-1, *shape[axis + 1 :])
            return self.segment_sum(rows, own, lead * num, 0).reshape(
                *shape[:axis], num, *shape[axis + 1 :]
            )
        rows = self.xp.moveaxis(x, axis, 0)
        # A negative index would count from the end: send it past the end, where it is dropped.
        ids = self.xp.where(ids < 0, num, ids)
        total = self.xp.zeros((num, *rows.shape[1:]), rows.dtype).at[ids].add(rows, mode="drop")
        return self.xp.moveaxis(total, 0, axis)

    def unstack(self, x: Array, axis: int) -> list[Array]:
        parts = self.split(x, [1] * x.shape[axis], axis)
        return [self.xp.squeeze(part, axis=axis) for part in parts]

    def split(self, x: Array, sizes: list[int], axis: int) -> list[Array]:
        # Slices' gradients would be a sum of padded arrays.
        return list(self.jax.lax.split(x, sizes, axis=x.ndim + axis))

    def cholesky(self, a: Array) -> Array:
        if a.shape[-1] <= unrolled.LARGEST:
            return unrolled.cholesky(self, a)
        return self._one_by_one(self.xp.linalg.cholesky, a)

    def solve_triangular(self, factor: Array, b: Array, transpose: bool) -> Array:
        factor, b = self.join(factor, b)
        if factor.shape[-1] <= unrolled.LARGEST:
            return unrolled.solve_triangular(self, factor, b, transpose)
        batch = np.broadcast_shapes(factor.shape[:-2], b.shape[:-2])
        solve = partial(
            self.jax.lax.linalg.triangular_solve, left_side=True, lower=True, transpose_a=transpose
        )
        return self._one_by_one(
            solve,
            self.xp.broadcast_to(factor, batch + factor.shape[-2:]),
            self.xp.broadcast_to(b, batch + b.shape[-2:]),
        )

    def _one_by_one(self, function: Callable[..., Array], *matrices: Array) -> Array:
        """A LAPACK routine on each matrix of a batch in turn.

        On a batch jaxlib's own call waits, in a thread of XLA's pool, for tasks of the same pool:
        two such calls at once leave a pool of two threads waiting for ever.
        """
        batch = matrices[0].shape[:-2]
        flat = [m.reshape(-1, *m.shape[-2:]) for m in matrices]
        if len(flat[0]) == 1:
            out = function(*(m[0] for m in flat))
        else:
            out = self.jax.lax.map(lambda each: function(*each), tuple(flat))
        return out.reshape(*batch, *out.shape[-2:])

    def stop_gradient(self, x: Array) -> Array:
        return self.jax.lax.stop_gradient(x)

    def asarray(self, x: Array, dtype: str | None) -> Array:
        """`x` as a JAX array; a floating `x` takes `dtype` where one is given."""
        if dtype is not None and np.issubdtype(dtype, np.floating):
            kind = x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype
            if self.xp.issubdtype(kind, self.xp.floating):
                return self.xp.asarray(x, dtype=dtype)
        return self.xp.asarray(x)

    def dtype_name(self, x: Array) -> str:
        return str(self.xp.result_type(x))
