"""An array that stands for a backend's: operators and `pavi.ops` take it, NumPy does not.

A function of NumPy's runs on NumPy's placeholders and fails on the tracers of a fit. With
placeholders of this type it is found out when the graph is built.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from pavi.ops.numpy_ops import NumpyOps

# What Python's operators call; `np.add(x, y)` cannot be told from `x + y`.
_OPERATORS = frozenset(
    {
        *(np.add, np.subtract, np.multiply, np.true_divide, np.floor_divide, np.remainder),
        *(np.divmod, np.power, np.matmul, np.negative, np.positive, np.absolute),
        *(np.less, np.less_equal, np.equal, np.not_equal, np.greater, np.greater_equal),
        *(np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.invert),
        *(np.left_shift, np.right_shift),
    }
)
# Functions of the shape alone, which every framework's arrays have.
_OF_THE_SHAPE = frozenset({np.shape, np.ndim, np.size})


class NotPortableError(TypeError):
    """A placeholder was given to a function that takes no backend's arrays.

    Args:
        function: name of the function, "" where a placeholder was made one number.
    """

    def __init__(self, function: str) -> None:
        super().__init__(f"{function or 'float'} takes no arrays of a backend")
        self.function = function


class Placeholder(np.ndarray):
    """A NumPy array that refuses what a backend's array would not stand."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        # reductions, as `x.sum()` calls them, are methods of JAX's arrays too
        if method == "__call__" and ufunc not in _OPERATORS:
            raise NotPortableError(ufunc.__name__)
        return lifted(getattr(ufunc, method))(*inputs, **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func not in _OF_THE_SHAPE:
            raise NotPortableError(func.__name__)
        return func(*plain(args), **kwargs)

    def __float__(self) -> float:
        raise NotPortableError("")

    def __int__(self) -> int:
        raise NotPortableError("")

    def __repr__(self) -> str:
        return repr(plain(self))

    def __str__(self) -> str:
        return str(plain(self))


def plain(value: Any) -> Any:
    """`value` with each placeholder in it, tuples and lists included, as a NumPy array."""
    if isinstance(value, Placeholder):
        return value.view(np.ndarray)
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    return value


def lifted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of NumPy arrays as one of placeholders."""

    @wraps(function)
    def on_placeholders(*args: Any, **kwargs: Any) -> Any:
        out = function(*plain(args), **{name: plain(value) for name, value in kwargs.items()})
        if isinstance(out, list):
            return [part.view(Placeholder) for part in out]
        return out.view(Placeholder) if isinstance(out, np.ndarray) else out

    return on_placeholders


# `x ** 2` and `x ** 0.5` are no np.power to NumPy, and these methods no reductions.
for _name in ("__pow__", "__rpow__", "clip", "conj", "conjugate", "mean", "round", "std", "var"):
    setattr(Placeholder, _name, lifted(getattr(np.ndarray, _name)))
# the placeholder itself stays as it is
Placeholder.__ipow__ = Placeholder.__pow__  # type: ignore[method-assign,assignment]


class PlaceholderOps:
    """NumPy's table of functions, for placeholders."""

    def __init__(self, table: NumpyOps) -> None:
        self._table = table

    def to_numpy(self, x: Any) -> np.ndarray:
        return self._table.to_numpy(plain(x))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._table, name)
        return lifted(found) if callable(found) else found
