"""A distribution as a function of its parents, in single-assignment form: frozen and printable.

Another library's model arrives as such: what its code computes from the parents is a list of steps,
each a function of parents, constants and earlier steps. Every value is held in *row layout*,
`[*batch, *plates of the child (size or 1), *event axes]`, with event axes counted from the right,
so that elementwise functions broadcast whatever the sizes of the plates.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pavi import ops
from pavi.dist.spec import Spec
from pavi.dist.supports import Support

Array = Any


@dataclass(frozen=True)
class Constant:
    """A known array; a number where the shape is ()."""

    shape: tuple[int, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, value: Any) -> Constant:
        """The constant of a number or an array."""
        array = np.asarray(value, np.float64)
        return cls(array.shape, tuple(array.ravel().tolist()))

    def array(self) -> Any:
        """A number, or a NumPy array."""
        return np.asarray(self.values).reshape(self.shape) if self.shape else self.values[0]


Operand = str | int | Constant
"""The name of a parent, the position of an earlier step, or a constant."""


@dataclass(frozen=True)
class Step:
    """One value: a function of `FUNCTIONS` with its operands and its fixed integers."""

    function: str
    operands: tuple[Operand, ...]
    options: tuple[int, ...] = ()


@dataclass(frozen=True)
class Expression:
    """A function of parents that returns a spec.

    Args:
        parents: their names, which are the names of its arguments.
        steps: the values on the way, each behind those it uses.
        kind: the spec's class.
        parameters: where each parameter of the spec is found.
        settings: what of the spec is no array: a support, a dimension.
    """

    parents: tuple[str, ...]
    steps: tuple[Step, ...]
    kind: type[Spec]
    parameters: tuple[tuple[str, Operand], ...]
    settings: tuple[tuple[str, Support | int], ...] = ()
    __signature__: inspect.Signature = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in self.parents]
        object.__setattr__(self, "__signature__", inspect.Signature(named))

    def __call__(self, **parents: Array) -> Spec:
        values: list[Array] = []
        for step in self.steps:
            given = _gathered(step.operands, parents, values)
            values.append(FUNCTIONS[step.function](given, step.options))
        found = [_gathered((operand,), parents, values)[0] for _, operand in self.parameters]
        named = dict(zip((name for name, _ in self.parameters), found, strict=True))
        return self.kind(**named, **dict(self.settings))


def _gathered(
    operands: tuple[Operand, ...], parents: Mapping[str, Array], values: list[Array]
) -> list[Array]:
    """The operands as arrays; constants as those of the framework and dtype of the others."""
    out: list[Array] = []
    for operand in operands:
        if isinstance(operand, str):
            out.append(parents[operand])
        else:
            out.append(operand.array() if isinstance(operand, Constant) else values[operand])
    like = next(
        (x for x, o in zip(out, operands, strict=True) if not isinstance(o, Constant)), None
    )
    if like is None or "float" not in ops.dtype_name(like):
        return out
    return [ops.asarray(x, like=like) if isinstance(x, np.ndarray) and x.ndim else x for x in out]


def _arranged(x: Array, options: tuple[int, ...]) -> Array:
    """Event axes in another order: `options` are their number, then for each new axis its old one.

    A new axis of size 1 has -1 there; old ones of size 1 that are not named are left out.
    """
    rank, order = options[0], options[1:]
    shape = ops.shape(x)
    lead = len(shape) - rank
    kept = [axis for axis in order if axis >= 0]
    rest = [axis for axis in range(rank) if axis not in kept]
    if kept != sorted(kept):
        x = ops.transpose(x, (*range(lead), *(lead + axis for axis in (*kept, *rest))))
    sizes = [shape[lead + axis] if axis >= 0 else 1 for axis in order]
    target = (*shape[:lead], *sizes)
    return x if ops.shape(x) == target else ops.reshape(x, target)


def _spread(x: Array, options: tuple[int, ...]) -> Array:
    """An event axis of size 1 repeated: `options` are the axis, from the right, and its size."""
    axis, size = options
    shape = list(ops.shape(x))
    shape[axis] = size
    return ops.broadcast_to(x, shape)


def _slice(x: Array, options: tuple[int, ...]) -> Array:
    axis, start, stop, stride = options
    after = (slice(None),) * (-axis - 1)
    return x[(..., slice(start, stop, stride), *after)]


def _concat(xs: list[Array], options: tuple[int, ...]) -> Array:
    (axis,) = options
    rank = max(len(ops.shape(x)) for x in xs)
    shapes = [(*(1,) * (rank - len(ops.shape(x))), *ops.shape(x)) for x in xs]
    apart = [(*s[: rank + axis], 1, *s[rank + axis + 1 :]) for s in shapes]
    common = np.broadcast_shapes(*apart)
    return ops.concat(
        [
            ops.broadcast_to(x, (*common[: rank + axis], s[axis], *common[rank + axis + 1 :]))
            for x, s in zip(xs, shapes, strict=True)
        ],
        axis,
    )


def _selected(x: Array, index: Array, options: tuple[int, ...]) -> Array:
    """Entries of the last axis of `x` by an index for each row and each other event axis."""
    (count,) = options
    return ops.sum(ops.one_hot(index, count, like=x) * x, -1)


def _power(x: Array, exponent: int) -> Array:
    out = ops.ones_like(x)
    for _ in range(abs(exponent)):
        out = out * x
    return out if exponent >= 0 else 1.0 / out


def _sign(x: Array) -> Array:
    one = ops.ones_like(x)
    return ops.where(x > 0, one, ops.where(x < 0, -one, ops.zeros_like(x)))


def _elementwise(function: Callable[..., Array]) -> Callable[[list[Array], tuple[int, ...]], Array]:
    return lambda xs, _: function(*xs)


def _of_one(
    function: Callable[[Array, tuple[int, ...]], Array],
) -> Callable[[list[Array], tuple[int, ...]], Array]:
    return lambda xs, options: function(xs[0], options)


FUNCTIONS: dict[str, Callable[[list[Array], tuple[int, ...]], Array]] = {
    **{
        name: _elementwise(getattr(ops, name))
        for name in ("exp", "log", "log1p", "expm1", "sqrt", "abs", "sin", "cos", "sinh", "cosh")
    },
    **{
        name: _elementwise(getattr(ops, name))
        for name in ("tanh", "sigmoid", "softplus", "lgamma", "digamma", "erf", "arcsinh")
    },
    "minimum": _elementwise(ops.minimum),
    "maximum": _elementwise(ops.maximum),
    "where": _elementwise(ops.where),
    "stop_gradient": _elementwise(ops.stop_gradient),
    "add": _elementwise(lambda a, b: a + b),
    "subtract": _elementwise(lambda a, b: a - b),
    "multiply": _elementwise(lambda a, b: a * b),
    "divide": _elementwise(lambda a, b: a / b),
    "power": _elementwise(lambda a, b: a**b),
    "negative": _elementwise(lambda a: -a),
    "sign": _elementwise(_sign),
    "less": _elementwise(lambda a, b: a < b),
    "less_equal": _elementwise(lambda a, b: a <= b),
    "greater": _elementwise(lambda a, b: a > b),
    "greater_equal": _elementwise(lambda a, b: a >= b),
    "equal": _elementwise(lambda a, b: (a <= b) & (a >= b)),
    "not_equal": _elementwise(lambda a, b: (a < b) | (a > b)),
    "both": _elementwise(lambda a, b: a & b),
    "either": _elementwise(lambda a, b: a | b),
    "finite": _elementwise(lambda a: ops.abs(a) < np.inf),
    "whole_power": _of_one(lambda x, options: _power(x, options[0])),
    "sum": _of_one(lambda x, options: ops.sum(x, options)),
    "max": _of_one(lambda x, options: ops.max(x, options)),
    "cumsum": _of_one(lambda x, options: ops.cumsum(x, options[0])),
    "arrange": _of_one(_arranged),
    "spread": _of_one(_spread),
    "slice": _of_one(_slice),
    "concat": _concat,
    "select": lambda xs, options: _selected(xs[0], xs[1], options),
    "cholesky": _elementwise(ops.cholesky),
}
