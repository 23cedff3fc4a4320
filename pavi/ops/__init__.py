"""A small closed set of array functions that dispatch on the type of their arguments.

Written against these, the mathematics of the package runs on NumPy, JAX and TensorFlow alike. A
framework is touched only where the caller has already loaded it. If any argument is TensorFlow's,
the result is; else if any is JAX's, the result is; else it is NumPy's, the oracle for the others.
NumPy arrays and Python numbers take the float dtype of the framework's array they meet. Shapes are
static; results keep the floating dtype.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from pavi.ops.jax_ops import JaxOps
from pavi.ops.numpy_ops import NumpyOps
from pavi.ops.placeholder import Placeholder, PlaceholderOps
from pavi.ops.tensorflow_ops import TensorflowOps

Array: TypeAlias = Any
Axis: TypeAlias = int | tuple[int, ...] | None
Namespace: TypeAlias = NumpyOps | PlaceholderOps | JaxOps | TensorflowOps

_numpy = NumpyOps()
_placeholder = PlaceholderOps(_numpy)
_jax = cache(JaxOps)
_tensorflow = cache(TensorflowOps)

# Framework of each array type met so far: 0 NumPy or Python, 1 placeholder, 2 JAX, 3 TensorFlow.
_ranks: dict[type, int] = {float: 0, int: 0, bool: 0, np.ndarray: 0, np.float64: 0, np.float32: 0}
_ranks[Placeholder] = 1


def _rank(x: Array) -> int:
    kind = type(x)
    if kind not in _ranks:
        tf, jax = sys.modules.get("tensorflow"), sys.modules.get("jax")
        if tf is not None and tf.is_tensor(x):
            _ranks[kind] = 3
        else:
            _ranks[kind] = 2 if jax is not None and isinstance(x, jax.Array) else 0
    return _ranks[kind]


def namespace(*arrays: Array) -> Namespace:
    """The table of functions of the framework that `arrays` belong to."""
    rank = builtins.max(map(_rank, arrays), default=0)
    if rank < 2:
        return _placeholder if rank else _numpy
    return _jax() if rank == 2 else _tensorflow()


# --- elementwise --------------------------------------------------------------------------------


def exp(x: Array) -> Array:
    """Exponential."""
    return namespace(x).exp(x)


def log(x: Array) -> Array:
    """Natural logarithm."""
    return namespace(x).log(x)


def log1p(x: Array) -> Array:
    """`log(1 + x)`, exact near 0."""
    return namespace(x).log1p(x)


def expm1(x: Array) -> Array:
    """`exp(x) - 1`, exact near 0."""
    return namespace(x).expm1(x)


def sqrt(x: Array) -> Array:
    """Square root."""
    return namespace(x).sqrt(x)


def abs(x: Array) -> Array:
    """Absolute value."""
    return namespace(x).abs(x)


def sin(x: Array) -> Array:
    """Sine."""
    return namespace(x).sin(x)


def cos(x: Array) -> Array:
    """Cosine."""
    return namespace(x).cos(x)


def sinh(x: Array) -> Array:
    """Hyperbolic sine."""
    return namespace(x).sinh(x)


def cosh(x: Array) -> Array:
    """Hyperbolic cosine."""
    return namespace(x).cosh(x)


def arcsinh(x: Array) -> Array:
    """Inverse hyperbolic sine."""
    return namespace(x).arcsinh(x)


def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return namespace(x).tanh(x)


def sigmoid(x: Array) -> Array:
    """`1 / (1 + exp(-x))`."""
    return namespace(x).sigmoid(x)


def softplus(x: Array) -> Array:
    """`log(1 + exp(x))`, finite for every finite `x`."""
    return namespace(x).softplus(x)


def lgamma(x: Array) -> Array:
    """Logarithm of the absolute value of the gamma function."""
    return namespace(x).lgamma(x)


def digamma(x: Array) -> Array:
    """Derivative of `lgamma`."""
    return namespace(x).digamma(x)


def trigamma(x: Array) -> Array:
    """Second derivative of `lgamma`, for `x > 0`."""
    return namespace(x).trigamma(x)


def erf(x: Array) -> Array:
    """Error function."""
    return namespace(x).erf(x)


def where(condition: Array, a: Array, b: Array) -> Array:
    """`a` where the boolean `condition` holds, else `b`; all three broadcast.

    One of `a` and `b` should be an array: of two Python numbers TensorFlow makes float32.
    """
    return namespace(condition, a, b).where(condition, a, b)


def maximum(a: Array, b: Array) -> Array:
    """Larger of the two, elementwise; at a tie the gradient goes to `a`."""
    return namespace(a, b).maximum(a, b)


def minimum(a: Array, b: Array) -> Array:
    """Smaller of the two, elementwise; at a tie the gradient goes to `a`."""
    return namespace(a, b).minimum(a, b)


def clip(x: Array, low: Array, high: Array) -> Array:
    """`x` limited to `[low, high]`; no gradient outside."""
    return minimum(maximum(x, low), high)


# --- reductions ---------------------------------------------------------------------------------


def sum(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """Sum over `axis` (all axes where None)."""
    return namespace(x).sum(x, axis, keepdims)


def mean(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """Mean over `axis` (all axes where None)."""
    return namespace(x).mean(x, axis, keepdims)


def max(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """Largest entry over `axis` (all axes where None)."""
    return namespace(x).max(x, axis, keepdims)


def logsumexp(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """`log(sum(exp(x)))` over `axis`, without overflow."""
    return namespace(x).logsumexp(x, axis, keepdims)


def softmax(x: Array, axis: int = -1) -> Array:
    """`exp(x) / sum(exp(x))` along `axis`."""
    return namespace(x).softmax(x, axis)


def cumsum(x: Array, axis: int = -1) -> Array:
    """Running sum along `axis`."""
    return namespace(x).cumsum(x, axis)


def segment_sum(x: Array, ids: Array, num: int, axis: int) -> Array:
    """Sums of the rows of `x` along `axis` into `num` bins: `[.., n, ..] -> [.., num, ..]`.

    Row `i` is added to bin `ids[i]`; rows whose id is outside `0..num-1` are dropped.
    """
    return namespace(x, ids).segment_sum(x, ids, num, axis)


# --- shapes -------------------------------------------------------------------------------------


def concat(arrays: Sequence[Array], axis: int = -1) -> Array:
    """Arrays joined along an existing axis."""
    return namespace(*arrays).concat(list(arrays), axis)


def stack(arrays: Sequence[Array], axis: int = -1) -> Array:
    """Arrays of one shape joined along a new axis."""
    return namespace(*arrays).stack(list(arrays), axis)


def unstack(x: Array, axis: int) -> list[Array]:
    """The slices of `x` along `axis`; the gradient of all of them is one stack."""
    return list(namespace(x).unstack(x, axis if axis < 0 else axis - len(shape(x))))


def split(x: Array, sizes: Sequence[int], axis: int) -> list[Array]:
    """Parts of `x` of these sizes along `axis`; their gradient is one concatenation."""
    return list(namespace(x).split(x, list(sizes), axis if axis < 0 else axis - len(shape(x))))


def reshape(x: Array, shape: Sequence[int]) -> Array:
    """`x` in another shape of the same size; one entry may be -1."""
    return namespace(x).reshape(x, tuple(shape))


def broadcast_to(x: Array, shape: Sequence[int]) -> Array:
    """`x` repeated to `shape`."""
    return namespace(x).broadcast_to(x, tuple(shape))


def broadcast_arrays(*arrays: Array) -> tuple[Array, ...]:
    """All arrays repeated to their common shape."""
    common = np.broadcast_shapes(*(shape(x) for x in arrays))
    return tuple(broadcast_to(x, common) for x in arrays)


def expand_dims(x: Array, axis: int) -> Array:
    """`x` with a new axis of size 1."""
    return namespace(x).expand_dims(x, axis)


def squeeze(x: Array, axis: int) -> Array:
    """`x` without its `axis`, of size 1."""
    return namespace(x).squeeze(x, axis)


def transpose(x: Array, perm: Sequence[int] | None = None) -> Array:
    """Axes of `x` in the order `perm` (reversed where None)."""
    return namespace(x).transpose(x, None if perm is None else tuple(perm))


def take(x: Array, idx: Array, axis: int) -> Array:
    """Rows `idx` of `x` along `axis`; an index outside the range reads the nearest row."""
    return namespace(x, idx).take(x, idx, axis)


# --- products and linear algebra ----------------------------------------------------------------


def matmul(a: Array, b: Array) -> Array:
    """Matrix product over the last two axes, leading axes broadcast."""
    return namespace(a, b).matmul(a, b)


def einsum(equation: str, *arrays: Array) -> Array:
    """Einstein summation."""
    return namespace(*arrays).einsum(equation, *arrays)


def cholesky(a: Array) -> Array:
    """Lower factor `L` of `a = L L'`, `[*batch, n, n]`, for symmetric positive definite `a`."""
    return namespace(a).cholesky(a)


def solve_triangular(factor: Array, b: Array, *, transpose: bool = False) -> Array:
    """Solution of `L x = b` (`L' x = b` where `transpose`), `b` `[*batch, n, k]`.

    Only the lower triangle of `factor` `[*batch, n, n]` is read; batch axes broadcast.
    """
    return namespace(factor, b).solve_triangular(factor, b, transpose)


# --- dtypes and conversion ----------------------------------------------------------------------


def zeros_like(x: Array) -> Array:
    """Zeros of the shape and dtype of `x`."""
    return namespace(x).zeros_like(x)


def ones_like(x: Array) -> Array:
    """Ones of the shape and dtype of `x`."""
    return namespace(x).ones_like(x)


def cast(x: Array, dtype_like: Array | str) -> Array:
    """`x` in the dtype named, or in the dtype of the array given."""
    if isinstance(dtype_like, str):
        return namespace(x).cast(x, dtype_like)
    return namespace(x, dtype_like).cast(x, dtype_name(dtype_like))


def one_hot(ids: Array, n: int, like: Array) -> Array:
    """Indicators `[*ids.shape, n]` in the dtype of `like`; all zero where the id is outside."""
    return namespace(ids, like).one_hot(ids, n, dtype_name(like))


def stop_gradient(x: Array) -> Array:
    """`x`, with no gradient through it."""
    return namespace(x).stop_gradient(x)


def asarray(x: Array, like: Array | None = None) -> Array:
    """`x` as an array of the framework of `like`; floats take its float dtype, integers stay."""
    if like is None:
        return namespace(x).asarray(x, None)
    return namespace(x, like).asarray(x, dtype_name(like))


def shape(x: Array) -> tuple[int, ...]:
    """Static shape."""
    return namespace(x).shape(x)


def dtype_name(x: Array) -> str:
    """Name of the dtype, as `"float32"`."""
    return namespace(x).dtype_name(x)


def to_numpy(x: Array) -> np.ndarray:
    """`x` as a NumPy array (not inside a traced function)."""
    return namespace(x).to_numpy(x)
