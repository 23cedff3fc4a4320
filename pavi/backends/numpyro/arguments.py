"""Array arguments of a NumPyro model as what its encoder sees, beside the observed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import jax.numpy as jnp

from pavi.backends.numpyro.portable import Portable
from pavi.expression import Expression
from pavi.graph import Covariate, Observed, PlateGraph

Array = Any


def encoded(found: Portable, arrays: Mapping[str, Array]) -> Portable:
    """The graph with arrays as covariates of the observed sites, for a deep set to see.

    Args:
        found: a model.
        arrays: the arrays, each along the leading axes of plates, whole or as the call's rows.

    Raises:
        ValueError: an array lies along no plate of an observed site, or it cannot be told which.
    """
    graph, values = found.graph, dict(found.arrays)
    variables = dict(graph.variables)
    for name, array in arrays.items():
        plates = _plates(found, name, jnp.shape(array))
        called = name
        while called in variables or called in graph.plates:
            called = f"{called}_"
        event = jnp.shape(array)[len(plates) :]
        variables = {called: Covariate(called, plates=plates, event=event), **variables}
        values[called] = partial(_rows_of, found, array, plates)
        for observed in graph.observed:
            reached = {q for p in observed.plates for q in (p, *graph.owners(p))}
            own = variables[observed.name]
            expression = own.dist if isinstance(own, Observed) else None
            if reached.issuperset(plates) and isinstance(expression, Expression):
                seeing = replace(expression, parents=(*expression.parents, called))
                variables[observed.name] = Observed(
                    observed.name, seeing, plates=observed.plates, event=observed.event
                )
    extended = PlateGraph(list(graph.plates.values()), list(variables.values()))
    return replace(found, graph=extended, arrays=values)


def _plates(found: Portable, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The plates of the leading axes of an array."""
    graph, sizes = found.graph, found.sizes
    rows = {plate: len(found.reading.indices[plate]) for plate in graph.plates}
    candidates: dict[tuple[str, ...], None] = {}
    for observed in graph.observed:
        owners = [(q,) for p in observed.plates for q in graph.owners(p)]
        own = observed.plates
        chosen = [c for k in range(len(own), 0, -1) for c in combinations(own, k)]
        candidates |= dict.fromkeys((*chosen, *owners))
    fitting = [
        plates
        for plates in candidates
        if len(plates) <= len(shape)
        and all(n in (sizes[p], rows[p]) for p, n in zip(plates, shape, strict=False))
    ]
    fitting = [p for p in fitting if len(p) == max(map(len, fitting))]
    if len(fitting) == 1:
        return fitting[0]
    what = "more than one of" if fitting else "none of"
    raise ValueError(
        f"AutoPAVI(encode=...): the argument {name!r} has the shape {shape}, which fits {what} the "
        f"plates of the observed sites, of sizes {sizes} and {rows} rows in this call. Pass it "
        f"with a leading axis for each plate that it lies in, whole or as the rows of the call."
    )


def _rows_of(found: Portable, array: Array, plates: tuple[str, ...]) -> Array:
    """The rows of one call, `[*plates, *event]`."""
    out = jnp.asarray(array)
    for axis, plate in enumerate(plates):
        index = found.reading.indices[plate]
        if out.shape[axis] != len(index):
            out = jnp.take(out, index, axis)
    return out
