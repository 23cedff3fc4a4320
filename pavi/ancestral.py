"""Ancestral draws: one variable given the values of its parents, on the host."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

import numpy as np

from pavi.batch import Batch
from pavi.dist.draws import draw, noise_width
from pavi.errors import DataError
from pavi.graph import PlateGraph, Random
from pavi.model import evaluate_spec

# What is drawn as an integer must fit into one.
_LARGEST_COUNT = 2.0**62


class Copies(NamedTuple):
    """Copies of a variable, to draw noise for; a `noise.Source`."""

    name: str
    axes: tuple[str, ...]
    dimension: int


def copies_of(graph: PlateGraph, variable: Random, purpose: str) -> Copies:
    """The noise that a variable's draws take; `purpose` tells it from that of other draws."""
    width = noise_width(graph.probe[variable.name])
    return Copies(f"{purpose} of {variable.name}", variable.plates, prod(variable.event) * width)


def drawn_given(
    graph: PlateGraph,
    variable: Random,
    values: Mapping[str, np.ndarray],
    batch: Batch,
    noise: np.ndarray,
    caller: str,
) -> np.ndarray:
    """Draws of one variable given its parents, `[S, *plates, *event]`.

    Args:
        graph: the model.
        variable: a latent or an observed variable.
        values: the latents before it, `[S, *plates, *event]`.
        batch: data, with the observed variables before it.
        noise: standard normal, `[S, *plates, dimension]` of its `Copies`.
        caller: who asks, for the message.

    Raises:
        DataError: a parameter that is not finite, or beyond all counts.
    """
    plates = len(variable.plates)
    with np.errstate(over="ignore"):  # what is not finite is told below
        spec = evaluate_spec(graph, variable.name, values, batch, lead=1)
        shape = (*noise.shape[: 1 + plates], *variable.event, noise_width(spec))
        value = draw(spec, noise.reshape(shape))
    wrong = ~(np.abs(value) < (_LARGEST_COUNT if spec.discrete else np.inf))
    if wrong.any():
        sample, *where = (int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            f"{caller}: draw {sample} of {variable.place} is {value[(sample, *where)]} at element "
            f"{tuple(where)}: {type(spec).__name__} has a parameter there that is not finite or "
            f"beyond all counts, as where exp overflows. Give the latents above it tighter priors."
        )
    return value
