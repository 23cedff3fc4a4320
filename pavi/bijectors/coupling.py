"""Coupling layer of rational-quadratic splines (Durkan et al. 2019, arXiv 1906.04032)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pavi import ops
from pavi.bijectors.base import Array, Bijector, ParameterSpec, Params
from pavi.bijectors.conditioner import check_hidden, conditioner, conditioner_specs
from pavi.bijectors.spline import (
    check_bins,
    num_parameters,
    rational_quadratic_spline,
    unpacked,
)


@dataclass(frozen=True)
class SplineCoupling(Bijector):
    """Map `y_a = x_a`, `y_b = f(x_b; x_a, context)`, f an increasing spline of each element.

    `x_a` is the first `size // 2` dimensions, with `reverse=True` the last ones, so that two layers
    move every dimension. The splines' parameters come from a tanh network of `x_a` and the context,
    beside which a linear path stands; its last layers start at zero, so that the map starts as the
    identity. Forward and inverse are one pass each. Of a vector of size 1 there is no `x_a`: its
    spline depends on the context alone.
    """

    hidden: tuple[int, ...] = (32,)
    bins: int = 8
    bound: float = 5.0
    reverse: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_hidden(self.hidden)
        check_bins(self.bins, self.bound)

    @property
    def seen(self) -> int:
        """Dimensions that are left as they are, and that the others are given."""
        return self.size // 2

    @property
    def moved(self) -> int:
        return self.size - self.seen

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        width = self.moved * num_parameters(self.bins)
        return conditioner_specs(self.seen, self.context_size, self.hidden, width)

    def _forward(self, params: Params, x: Array, context: Any) -> tuple[Array, Array]:
        return self._map(params, x, context, inverse=False)

    def _inverse(self, params: Params, y: Array, context: Any) -> tuple[Array, Array]:
        return self._map(params, y, context, inverse=True)

    def _map(self, params: Params, x: Array, context: Any, inverse: bool) -> tuple[Array, Array]:
        """Either way: the half that is seen is the same on both sides."""
        x = x[..., ::-1] if self.reverse else x
        kept, x_b = x[..., : self.seen], x[..., self.seen :]
        raw = conditioner(params, kept, context)
        raw = ops.reshape(raw, (*ops.shape(raw)[:-1], self.moved, num_parameters(self.bins)))
        parts = unpacked(raw, self.bins)
        y_b, log_det = rational_quadratic_spline(x_b, *parts, self.bound, inverse)
        kept = ops.broadcast_to(kept, (*ops.shape(y_b)[:-1], self.seen))
        y = ops.concat([kept, y_b], -1)
        return (y[..., ::-1] if self.reverse else y), ops.sum(log_det, -1)
