"""Masked autoregressive flow (MAF, arXiv 1705.07057) with affine or spline transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pavi import ops
from pavi.bijectors.base import Array, Bijector, ParameterSpec, Params, linear
from pavi.bijectors.conditioner import (
    check_hidden,
    conditioner,
    conditioner_specs,
    first_terms,
)
from pavi.bijectors.spline import (
    check_bins,
    num_parameters,
    rational_quadratic_spline,
    unpacked,
)
from pavi.errors import FamilyError

# The affine transformer's log scale stays within +-LOG_SCALE_BOUND, so that float32 holds it.
LOG_SCALE_BOUND = 5.0


@dataclass(frozen=True)
class MaskedAutoregressive(Bijector):
    """Map `y_i = f(x_i; y_<i, context)`, f an affine map or a monotone spline.

    This is the direction of the masked autoregressive flow: a density, by the inverse, is one pass
    of a masked network (MADE, arXiv 1502.03509). `Inverse` of it is the inverse autoregressive flow
    (IAF, arXiv 1606.04934), whose draws are that one pass.

    Forward goes through the dimensions one by one, yet does no more arithmetic than the inverse:
    hidden units are sorted by degree (a unit of degree m sees y_1 .. y_m and the context), so that
    each step computes the units that the newest dimension unlocked and the output columns of its
    own dimension. A linear path from the inputs to the outputs stands beside the network. The last
    layers start at zero: the map starts as the identity. `reverse=True` takes the dimensions from
    the last to the first.
    """

    hidden: tuple[int, ...] = (32,)
    transformer: Literal["spline", "affine"] = "spline"
    bins: int = 8
    bound: float = 5.0
    reverse: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_hidden(self.hidden)
        if self.transformer not in ("spline", "affine"):
            raise FamilyError(
                f"Expected transformer 'spline' or 'affine'; got {self.transformer!r}."
            )
        check_bins(self.bins, self.bound)

    @property
    def label(self) -> str:
        return f"MaskedAutoregressive[{self.transformer}]"

    @property
    def outputs(self) -> int:
        """Raw parameters of the transformer of one dimension."""
        return num_parameters(self.bins) if self.transformer == "spline" else 2

    @property
    def has_network(self) -> bool:
        return self.size > 1 or self.context_size > 0

    def degrees(self, width: int) -> np.ndarray:
        """Sorted degrees of the units of a hidden layer, spread evenly."""
        # Degree 0 exists where there is a context to see.
        lowest = 0 if self.context_size else 1
        return lowest + np.arange(width) * (self.size - lowest) // width

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        # The last dimension is nobody's input.
        width = self.size * self.outputs
        return conditioner_specs(self.size - 1, self.context_size, self.hidden, width)

    def _forward(self, params: Params, x: Array, context: Any) -> tuple[Array, Array]:
        batch = _batch_shape(x, context)
        x = ops.broadcast_to(x[..., ::-1] if self.reverse else x, (*batch, self.size))
        network = _Sequential(self, params, context)
        columns: list[Array] = []
        log_dets: list[Array] = []
        for i in range(self.size):
            y_i, log_det = self._transform(x[..., i], network.outputs(i), inverse=False)
            network.append(y_i)
            columns.append(y_i)
            log_dets.append(ops.broadcast_to(log_det, batch))
        y = ops.stack(columns[::-1] if self.reverse else columns, -1)
        return y, ops.sum(ops.stack(log_dets, -1), -1)

    def _inverse(self, params: Params, y: Array, context: Any) -> tuple[Array, Array]:
        batch = _batch_shape(y, context)
        y = ops.broadcast_to(y[..., ::-1] if self.reverse else y, (*batch, self.size))
        raw = ops.broadcast_to(
            self._network(params, y, context), (*batch, self.size * self.outputs)
        )
        raw = ops.reshape(raw, (*batch, self.size, self.outputs))
        x, log_det = self._transform(y, raw, inverse=True)
        return (x[..., ::-1] if self.reverse else x), ops.sum(log_det, -1)

    def _transform(self, x: Array, raw: Array, *, inverse: bool) -> tuple[Array, Array]:
        """Maps x `[...]` with the raw parameters `[..., outputs]` of each element."""
        if self.transformer == "spline":
            parts = unpacked(raw, self.bins)
            return rational_quadratic_spline(x, *parts, self.bound, inverse)
        loc = raw[..., 0]
        log_scale = LOG_SCALE_BOUND * ops.tanh(raw[..., 1] / LOG_SCALE_BOUND)
        if inverse:
            return (x - loc) * ops.exp(-log_scale), -log_scale
        return loc + ops.exp(log_scale) * x, log_scale

    def _network(self, params: Params, y: Array, context: Any) -> Array:
        """The masked network in one pass: y `[..., size]` to `[..., size * outputs]`."""
        degrees = [np.arange(1, self.size), *(self.degrees(width) for width in self.hidden)]
        outputs = np.repeat(np.arange(self.size), self.outputs)
        ways = {"input/weight": (degrees[0], degrees[1]), "skip/weight": (degrees[0], outputs)}
        ways |= {
            f"hidden{i}/weight": (degrees[i], degrees[i + 1]) for i in range(1, len(self.hidden))
        }
        ways["output/weight"] = (degrees[-1], outputs)
        own = {
            name: _masked(value, *ways[name]) if name in ways else value
            for name, value in params.items()
        }
        return conditioner(own, y[..., :-1], context)


class _Sequential:
    """The same network while y becomes known, one dimension after the other; no unit twice."""

    def __init__(self, flow: MaskedAutoregressive, params: Params, context: Any) -> None:
        self._params = params
        self._base, self._skip = first_terms(params, context)
        self._degrees = [flow.degrees(width) for width in flow.hidden] if flow.has_network else []
        self._units: list[Array | None] = [None] * len(self._degrees)
        self._count = flow.outputs
        self._y: Array | None = None

    def append(self, y_i: Array) -> None:
        """Takes the next dimension of y, `[...]`."""
        self._y = _join(self._y, ops.expand_dims(y_i, -1))

    def outputs(self, i: int) -> Array:
        """Raw parameters `[..., outputs]` of dimension i, once y_0 .. y_{i-1} were appended."""
        columns = slice(i * self._count, (i + 1) * self._count)
        raw = self._skip[..., columns]
        if self._y is not None:
            raw = raw + linear(self._y, self._params["skip/weight"][:i, columns])
        below = self._y
        for layer, degrees in enumerate(self._degrees):
            # The units of degree i, the only ones that dimension i is the first to see.
            start, stop = (int(end) for end in np.searchsorted(degrees, [i, i + 1]))
            if start < stop:
                new = ops.tanh(self._sum(layer, below, slice(start, stop)))
                self._units[layer] = _join(self._units[layer], new)
            below = self._units[layer]
        return raw if below is None else raw + self._product("output/weight", below, columns)

    def _sum(self, layer: int, below: Array | None, units: slice) -> Array:
        """What enters `units` of a layer, from the units known of the layer below."""
        if layer == 0:
            base = self._base[..., units]
            return base if below is None else base + self._product("input/weight", below, units)
        bias = self._params[f"hidden{layer}/bias"][units]
        return bias + self._product(f"hidden{layer}/weight", below, units)

    def _product(self, name: str, known: Array, columns: slice) -> Array:
        # Sorted degrees: what is known is the first rows, and the mask is one on this block.
        return linear(known, self._params[name][: ops.shape(known)[-1], columns])


def _masked(weight: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """Cuts the weights that lead from a degree to a lower one."""
    return ops.where(rows[:, None] <= columns, weight, 0.0)


def _join(known: Array | None, new: Array) -> Array:
    """Appends `[..., m]` to the last axis of `[..., n]`, leading axes broadcast."""
    if known is None:
        return new
    batch = np.broadcast_shapes(ops.shape(known)[:-1], ops.shape(new)[:-1])
    wide = [ops.broadcast_to(part, (*batch, ops.shape(part)[-1])) for part in (known, new)]
    return ops.concat(wide, -1)


def _batch_shape(x: Array, context: Any) -> tuple[int, ...]:
    if context is None:
        return ops.shape(x)[:-1]
    return np.broadcast_shapes(ops.shape(x)[:-1], ops.shape(context)[:-1])
