"""What a model computes on its arguments: draws compiled for it are stale where that changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pavi.backends.numpyro.identity import program
from pavi.backends.numpyro.runs import Model, run

Array = Any


def computed(
    model: Model, args: Sequence[Any], kwargs: Mapping[str, Any], rows: Mapping[str, Array]
) -> Hashable | None:
    """Equal where a model computes the same of the same data, wherever these data come from.

    They may be its arguments, or whatever objects it reads besides, which change behind its back.

    Args:
        model: the model.
        args: its arguments.
        kwargs: its named arguments.
        rows: the rows of its plates.

    Returns:
        None where something in it is of a program that is being traced.
    """
    form: list[Hashable] = []

    def densities() -> list[Array]:
        arrays: list[Array] = []
        for name, site in run(model, args, kwargs, rows).items():
            frames = [(f.name, f.dim, f.size) for f in site.get("cond_indep_stack", ())]
            form.append((name, site["type"], bool(site.get("is_observed")), tuple(frames)))
            if site["type"] == "sample":
                scale = 1.0 if site["scale"] is None else site["scale"]
                arrays += [site["value"], site["fn"].log_prob(site["value"]), scale]
            elif site["type"] in ("deterministic", "param", "mutable", "plate"):
                arrays += jax.tree.leaves(site["value"])
            if site["type"] == "plate":
                arrays.append(site["args"][0])
        return [jnp.asarray(array) for array in arrays]

    closed = jax.make_jaxpr(densities)()
    if any(isinstance(const, jax.core.Tracer) for const in closed.consts):
        return None
    return (tuple(form), program(closed.jaxpr, closed.consts))


class Kept:
    """One compiled function, kept for as long as its key is asked for."""

    def __init__(self) -> None:
        self._last: tuple[Hashable, Callable[..., Any]] | None = None

    def of(
        self, key: Hashable | None, make: Callable[[], Callable[..., Any]]
    ) -> Callable[..., Any]:
        """The function of a key; one without a key is made anew."""
        last = self._last
        if key is not None and last is not None and last[0] == key:
            return last[1]
        function = make()
        if key is not None:
            self._last = (key, function)
        return function
