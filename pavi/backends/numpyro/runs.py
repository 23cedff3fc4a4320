"""One run of a NumPyro model without drawing, and what its plates and its data disagree about."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from math import prod
from traceback import walk_tb
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.primitives import Messenger

Model = Callable[..., Any]


class Placeholders(Messenger):  # type: ignore[misc]
    """Gives latents a value of their support, and plates their first rows, without drawing."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["value"] is not None or msg["type"] not in ("sample", "plate"):
            return
        if msg["type"] == "plate":
            size, part = msg["args"]
            msg["value"] = jnp.arange(size if part is None else part)
            return
        fn, shape = msg["fn"], msg["kwargs"].get("sample_shape", ())
        if msg["is_observed"] or fn.support.is_discrete:
            return
        try:
            transform = biject_to(fn.support)
        except NotImplementedError:
            return
        free = transform.inverse_shape((*shape, *fn.shape()))
        # No zeros, at which scales and powers of latents are none
        near = 0.1 + 0.01 * (np.arange(prod(free)) % 10)
        msg["value"] = transform(jnp.asarray(near.reshape(free), jnp.result_type(float)))


def run(
    model: Model, args: Sequence[Any], kwargs: Mapping[str, Any], data: Mapping[str, Any]
) -> Any:
    """The trace of one run with some sites' values, hidden from whoever else listens.

    Raises:
        ValueError: a site's own shape, or that of its observed value, is not one of its plates; a
            plate has no name.
    """
    with handlers.block(), warnings.catch_warnings():
        # Plates are given other rows than they ask for where the whole of them is wanted.
        warnings.filterwarnings("ignore", "subsample_size does not match")
        filled = handlers.substitute(
            Placeholders(handlers.seed(model, rng_seed=0)), data=dict(data)
        )
        try:
            trace = handlers.trace(filled).get_trace(*args, **kwargs)
        except ValueError as error:
            misplaced = _misplaced(error)
            if misplaced is None:
                raise
            raise ValueError(misplaced) from error
    for name, site in trace.items():
        if not isinstance(name, str):
            size = site["args"][0] if site["type"] == "plate" else ""
            raise ValueError(
                f"The {site['type']} {name!r} has no name: write numpyro.{site['type']}"
                f"('a name', {size or '...'})."
            )
        if site["type"] == "sample" and site["is_observed"]:
            try:
                batch_shape(site)
            except ValueError as error:
                shape = jnp.shape(site["value"])
                said = _disagreement(name, site["cond_indep_stack"], "value", shape)
                raise ValueError(said) from error
    return trace


def array_arguments(model: Model, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The model's arrays by the names of its arguments, those in dictionaries by their keys."""
    while isinstance(model, Messenger):
        model = model.fn
    try:
        bound = inspect.signature(model).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        bound = dict(kwargs)
    arrays: dict[str, Any] = {}
    for name, value in bound.items():
        items = value.items() if isinstance(value, dict) else [(name, value)]
        arrays |= {k: v for k, v in items if isinstance(k, str) and getattr(v, "ndim", 0) > 0}
    return arrays


def batch_shape(site: Mapping[str, Any]) -> tuple[int, ...]:
    """The copies of a site: those of its distribution, and of an observed value that has more."""
    fn = site["fn"]
    if not site["is_observed"]:
        return tuple(fn.batch_shape)
    shape = jnp.shape(site["value"])
    return jnp.broadcast_shapes(fn.batch_shape, shape[: max(0, len(shape) - fn.event_dim)])


def _misplaced(error: Exception) -> str | None:
    """What a plate that could not take a distribution says: NumPyro's error has not the site."""
    for frame, _ in walk_tb(error.__traceback__):
        msg = frame.f_locals.get("msg")
        if frame.f_code.co_name == "process_message" and isinstance(msg, dict):
            frames = msg.get("cond_indep_stack")
            if msg.get("type") == "sample" and frames:
                given = msg["fn"].batch_shape
                return _disagreement(msg["name"], frames, "distribution", given)
    return None


def _disagreement(name: str, frames: Sequence[Any], what: str, shape: tuple[int, ...]) -> str:
    plates = ", ".join(
        f"{frame.name!r} (size {frame.size}, dim {frame.dim})"
        for frame in sorted(frames, key=lambda frame: frame.dim)
    )
    return (
        f"The {what} of the site {name!r} has the shape {shape}, which its plates do not agree "
        f"with: {plates or 'it lies on none'}. Give the plate the size of the data, and index "
        f"data by the rows of a subsampled plate, as in `with numpyro.plate(...) as rows: "
        f"numpyro.sample(..., obs=y[rows])`."
    )


def inconsistent(trace: Mapping[str, Any]) -> str | None:
    """What is wrong with a name that stands for two plates; None where each has its own."""
    first: dict[str, tuple[str, Any]] = {}
    for name, site in trace.items():
        for frame in site["cond_indep_stack"] if site["type"] == "sample" else ():
            other, before = first.setdefault(frame.name, (name, frame))
            if before != frame:
                return (
                    f"The plate {frame.name!r} has inconsistent dim or size: {before.dim} and "
                    f"{before.size} at the site {other!r}, {frame.dim} and {frame.size} at the "
                    f"site {name!r}. Give each plate a name of its own."
                )
    return None
