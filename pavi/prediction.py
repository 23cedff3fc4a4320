"""Posterior predictive draws: of the data's own rows, of new members, of new groups.

Latents of the groups that the fit knows are drawn from the posterior, those of new groups from
their prior given the draws of all that is coarser, and what is observed given both. All noise is
drawn on the host, so that either backend gives the same predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from pavi import elements
from pavi.ancestral import copies_of, drawn_given
from pavi.backends.base import Arrays
from pavi.batch import Batch
from pavi.binding import BoundData
from pavi.data import Data
from pavi.dist.bounded import Flat
from pavi.errors import DataError, did_you_mean
from pavi.fitted import Fitted, check_draws
from pavi.graph import PlateGraph, Random
from pavi.matching import Relation, known_elements
from pavi.noise import Noise
from pavi.subsampling import full_batch

Places = dict[str, np.ndarray]


class Request(NamedTuple):
    """What is to be predicted; `Posterior.predict` describes it."""

    num_samples: int
    data: Data | None = None
    groups: Mapping[str, Relation] | None = None
    latents: Mapping[str, Any] | None = None
    variables: Sequence[str] | None = None
    seed: int = 0


def predict(fitted: Fitted, request: Request) -> Arrays:
    """Draws `{name: [num_samples, *plates, *event]}`; see `Posterior.predict`."""
    graph = fitted.plan.graph
    names = _names(graph, request.variables)
    data, places = _target(fitted, request)
    batch = fitted.full if data is fitted.data else full_batch(data, fitted.dtype)
    unseen = {latent.name: ~_seen(latent, places) for latent in graph.latents}
    drawn: list[Random] = [v for v in graph.latents if unseen[v.name].any()]
    for latent in drawn:
        _check_proper(graph, latent, places)
    drawn += [v for v in graph.observed if v.name in names]
    _check_parents(graph, data, drawn)
    copies = {v.name: copies_of(graph, v, "prediction") for v in drawn}
    numbers = sum(c.dimension * prod(data.sizes[p] for p in c.axes) for c in copies.values())
    numbers += sum(prod((*(data.sizes[p] for p in v.plates), *v.event)) for v in graph.latents)
    check_draws(request.num_samples, request.seed)
    noise = Noise(list(copies.values()), data.sizes, batch.indices, int(request.seed))
    out: Arrays = {}
    start = 0
    for values in _latents(fitted, request, data, places, numbers):
        count = len(next(iter(values.values())))
        eps = noise.draw(count)
        known = batch
        for variable in (v for v in graph.variables.values() if isinstance(v, Random)):
            name = variable.name
            if name in copies:
                own = eps[copies[name].name]
                value = drawn_given(graph, variable, values, known, own, "predict")
                if variable.kind == "latent":
                    values[name] = np.where(unseen[name], value, values[name])
                else:
                    known = known._replace(values={**known.values, name: value})
            if name in names:
                value = values[name] if variable.kind == "latent" else known.values[name]
                if not start:
                    dtype = np.int64 if graph.probe[name].discrete else fitted.dtype
                    out[name] = np.empty((request.num_samples, *value.shape[1:]), dtype)
                out[name][start : start + count] = value
        start += count
    return {name: out[name] for name in names}


def _names(graph: PlateGraph, variables: Sequence[str] | None) -> list[str]:
    """The variables to return."""
    observed = [variable.name for variable in graph.observed]
    known = [*observed, *(latent.name for latent in graph.latents)]
    if variables is None:
        return observed
    if isinstance(variables, str):
        raise DataError(f"predict: variables={variables!r}: expected a list of names.")
    for name in variables:
        if name not in known:
            raise DataError(
                f"predict: {name!r} is no observed variable or latent of this graph."
                f"{did_you_mean(name, known)}"
            )
    return list(variables)


def _target(fitted: Fitted, request: Request) -> tuple[BoundData, Places]:
    """The data to predict, and which of their elements the fit knows."""
    if request.data is None:
        if request.groups:
            raise DataError(
                f"predict: groups={request.groups!r} without data: the groups of the fit's own "
                f"data are known. Give data with the rows to predict, or leave groups out."
            )
        sizes = fitted.data.sizes
        return fitted.data, {p: np.arange(n) for p, n in sizes.items()}
    if not isinstance(request.data, Data):
        raise DataError(
            f"predict: data is a {type(request.data).__name__}, wanted a pavi.Data: the rows to "
            f"predict, with their covariates and members. Outcomes may be left out."
        )
    bound = request.data.bind(fitted.plan.graph, need_outcomes=False)
    return bound, known_elements(fitted.data, bound, request.groups or {})


def _seen(latent: Random, places: Places) -> np.ndarray:
    """Which copies of a latent the fit knows, `[*plates, *event (of size 1)]`."""
    seen = np.ones((1,) * latent.rank, bool)
    for axis, plate in enumerate(latent.plates):
        seen = seen & np.expand_dims(
            places[plate] >= 0, [i for i in range(latent.rank) if i != axis]
        )
    return seen


def _check_proper(graph: PlateGraph, latent: Random, places: Places) -> None:
    if isinstance(graph.probe[latent.name], Flat):
        plate = next(p for p in latent.plates if (places[p] < 0).any())
        raise DataError(
            f"predict: {latent.place} has the improper prior dist.Flat, from which nothing can be "
            f"drawn for the new elements of plate {plate!r}. Give it a proper prior, or predict "
            f"for known groups alone."
        )


def _check_parents(graph: PlateGraph, data: BoundData, drawn: Sequence[Random]) -> None:
    """What is observed and a parent must have values, or be drawn too."""
    names = [variable.name for variable in drawn]
    for variable in drawn:
        for parent in variable.parents:
            if parent not in names and data.masks.get(parent) is not None:
                raise DataError(
                    f"predict: {variable.name!r} depends on the observed {parent!r}, of which the "
                    f"data have no values {graph.variables[parent].axes}. Add them, or predict "
                    f"both: variables=[{parent!r}, {variable.name!r}]."
                )


def _latents(
    fitted: Fitted, request: Request, data: BoundData, places: Places, numbers: int
) -> Iterator[Arrays]:
    """Draws of the latents at the elements of `data`, some at a time; of new ones any numbers.

    Beside each draw, as many `numbers` are held.
    """
    graph = fitted.plan.graph
    own = data is fitted.data
    batch = fitted.full if own else _part(fitted, places)
    if request.latents is None:
        at = {p: _rows_at(batch.indices[p], index) for p, index in places.items()}
        draws = fitted.draws(request.num_samples, request.seed, batch, beside=numbers)
    else:
        at = {p: np.maximum(index, 0) for p, index in places.items()}
        draws = _given(fitted, request, numbers)
    for values in draws:
        if own:
            yield values
        else:
            yield {v.name: _taken(v, values[v.name], places, at) for v in graph.latents}


def _given(fitted: Fitted, request: Request, numbers: int) -> Iterator[Arrays]:
    """The draws that were given, some at a time."""
    given = fitted.checked(request.latents or {}, "predict: latents")
    held = len(next(iter(given.values())))
    if held != request.num_samples:
        raise DataError(
            f"predict: latents holds {held} draws, but num_samples={request.num_samples}. Give as "
            f"many as there are."
        )
    chunk = fitted.chunk(held, fitted.full, beside=numbers)
    for start in range(0, held, chunk):
        yield {name: value[start : start + chunk] for name, value in given.items()}


def _taken(latent: Random, value: np.ndarray, places: Places, at: Places) -> np.ndarray:
    """A latent's draws at other elements of its plates."""
    if any((places[plate] < 0).all() for plate in latent.plates):
        return np.zeros((len(value), *(len(at[p]) for p in latent.plates), *latent.event))
    return elements.taken(value, latent.plates, at)


def _rows_at(indices: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The row of a batch at which each known element is; 0 for the others."""
    out = np.zeros(len(places), np.int64)
    known = places >= 0
    out[known] = elements.places(indices, places[known])
    return out


def _part(fitted: Fitted, places: Places) -> Batch:
    """A batch of the fit's data that holds the known elements."""
    part: Places = {}
    for plate, index in places.items():
        known = np.unique(index[index >= 0])
        if len(known) < fitted.data.sizes[plate]:
            part[plate] = known if len(known) else np.zeros(1, np.int64)
    try:
        return fitted.part(part)
    except DataError:
        # Rows that belong to several of these elements cannot be parted.
        return fitted.full
