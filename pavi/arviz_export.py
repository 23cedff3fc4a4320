"""A posterior as ArviZ takes it: labelled draws, their densities point by point, data, predictions.

Plates are dimensions with the data's labels as coordinates; one called `draw` or `chain`, as the
dimensions of draws are, is `draw_plate` or `chain_plate`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from pavi.backends.base import Arrays
from pavi.errors import BackendError
from pavi.fitted import Fitted
from pavi.graph import Variable
from pavi.prediction import Request, predict

_SAMPLES = ("chain", "draw")


class _Labelled:
    """Datasets of a fit's variables.

    Args:
        fitted: the fit.
        attributes: attributes of each dataset.
    """

    def __init__(self, fitted: Fitted, attributes: Mapping[str, Any]) -> None:
        self._dataset: Callable[..., Any] = importlib.import_module("xarray").Dataset
        self._attributes = dict(attributes)
        data = fitted.data
        self.names = {p: f"{p}_plate" if p in _SAMPLES else p for p in data.sizes}
        self._labels = {p: data.coords.get(p, np.arange(n)) for p, n in data.sizes.items()}

    def dataset(
        self,
        arrays: Mapping[str, np.ndarray],
        variables: Iterable[Variable],
        *,
        draws: bool = True,
        event: bool = True,
        masks: Mapping[str, np.ndarray] | None = None,
    ) -> Any:
        """A dataset of arrays `[*plates, *event]`.

        Args:
            arrays: by name.
            variables: those in the dataset.
            draws: whether a chain of draws comes first.
            event: whether arrays have their event axes.
            masks: which elements to keep, `[*plates]`, where not all: these lie along one
                dimension, `<name>_present`; of a variable without plates there is then nothing.
        """
        out: dict[str, Any] = {}
        coords: dict[str, Any] = {}
        for variable in variables:
            name, value = variable.name, arrays[variable.name]
            dims = [self.names[plate] for plate in variable.plates]
            labels: dict[str, Any] = {self.names[p]: self._labels[p] for p in variable.plates}
            mask = None if masks is None else masks.get(name)
            if mask is not None and not mask.ndim:
                continue
            if mask is not None:
                present = f"{name}_present"
                index = np.nonzero(mask)
                kept = [self._labels[p][i] for p, i in zip(variable.plates, index, strict=True)]
                value, dims = np.stack([draw[index] for draw in value]), [present]
                if len(kept) == 1:
                    labels = {present: kept[0]}
                else:
                    own = (f"{present}_{dim}" for dim in labels)
                    labels = {n: (present, label) for n, label in zip(own, kept, strict=True)}
            if event:
                dims += [f"{name}_dim_{i}" for i in range(len(variable.event))]
                labels |= {f"{name}_dim_{i}": np.arange(n) for i, n in enumerate(variable.event)}
            if draws:
                dims, value = [*_SAMPLES, *dims], value[None]
                labels |= {"chain": np.arange(1), "draw": np.arange(value.shape[1])}
            out[name] = (dims, value)
            coords |= labels
        return self._dataset(out, coords, self._attributes)

    def sample_stats(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """A dataset of one number for each draw."""
        count = len(next(iter(arrays.values())))
        coords = {"chain": np.arange(1), "draw": np.arange(count)}
        out = {name: (_SAMPLES, value[None]) for name, value in arrays.items()}
        return self._dataset(out, coords, self._attributes)

    def constants(self, fitted: Fitted) -> Any:
        """Covariates, and the owner of each row by its position, `county_of_home`."""
        graph = fitted.plan.graph
        arrays = {v.name: _stored(fitted, v.name) for v in graph.covariates}
        out = self.dataset(arrays, graph.covariates, draws=False)
        members = {
            f"{owner}_of_{plate.name}": (self.names[plate.name], members[owner])
            for plate in graph.plates.values()
            for members in (fitted.data.members[plate.name],)
            for owner in plate.within
        }
        owned = [p for p in graph.plates if graph.plates[p].within]
        return out.assign(members).assign_coords({self.names[p]: self._labels[p] for p in owned})


def to_arviz(
    fitted: Fitted,
    num_samples: int,
    *,
    log_likelihood: bool,
    predictive: bool,
    seed: int,
    attributes: Mapping[str, Any],
) -> Any:
    """An `InferenceData`, or from ArviZ 1.0 on a `DataTree`; see `Posterior.to_arviz`."""
    arviz = _import_arviz()
    graph, label = fitted.plan.graph, _Labelled(fitted, attributes)
    kept = {v.name for v in (*graph.latents, *(graph.observed if log_likelihood else ()))}
    values, log_p, stats = _evaluated(fitted, num_samples, seed, kept)
    groups = {
        "posterior": label.dataset(values, graph.latents),
        "log_prior": label.dataset(log_p, graph.latents, event=False),
        "sample_stats": label.sample_stats(stats),
    }
    if log_likelihood:
        masks = {n: _any_event(m, len(graph.variables[n].plates)) for n, m in _masks(fitted)}
        partly = {name: mask for name, mask in masks.items() if not mask.all()}
        groups["log_likelihood"] = label.dataset(log_p, graph.observed, event=False, masks=partly)
    if predictive:
        request = Request(num_samples, latents=values, seed=seed)
        groups["posterior_predictive"] = label.dataset(predict(fitted, request), graph.observed)
    groups["observed_data"] = label.dataset(_outcomes(fitted), graph.observed, draws=False)
    constants = label.constants(fitted)
    if constants.data_vars:
        groups["constant_data"] = constants
    if hasattr(arviz, "InferenceData"):
        return arviz.InferenceData(**groups)
    tree = importlib.import_module("xarray").DataTree
    return tree.from_dict({f"/{name}": dataset for name, dataset in groups.items()})


def _evaluated(
    fitted: Fitted, num_samples: int, seed: int, kept: set[str]
) -> tuple[Arrays, Arrays, Arrays]:
    """Draws, the pointwise log densities of the variables in `kept`, and log p and log q."""
    batch = fitted.full
    rows = fitted.rows(batch)
    values: Arrays = {}
    log_p: Arrays = {}
    stats = {name: np.zeros(num_samples) for name in ("log_p", "log_q")}
    start = 0
    for noise, count in fitted.chunks(num_samples, seed, batch):
        terms = fitted.functions.terms(fitted.weights, rows, noise, batch)
        part = slice(start, start + count)
        pointwise = {name: term for name, term in terms.log_p.items() if name in kept}
        for out, found in ((values, terms.values), (log_p, pointwise)):
            for name, value in found.items():
                if not start:
                    out[name] = np.empty((num_samples, *value.shape[1:]), value.dtype)
                out[name][part] = value[:count]
        for name, summed in (("log_p", terms.log_p), ("log_q", terms.log_q)):
            for term in summed.values():
                stats[name][part] += term[:count].reshape(count, -1).sum(1, dtype=np.float64)
        start += count
    return values, log_p, stats


def _masks(fitted: Fitted) -> Iterable[tuple[str, np.ndarray]]:
    """Which draws of each observed variable with missing values are present."""
    return ((name, mask > 0) for name, mask in fitted.full.masks.items())


def _any_event(mask: np.ndarray, plates: int) -> np.ndarray:
    """Which elements have a part of their event, `[*plates]`."""
    return np.asarray(mask.any(axis=tuple(range(plates, mask.ndim))))


def _stored(fitted: Fitted, name: str) -> np.ndarray:
    """A covariate's or an observed variable's values, as given where they are in memory."""
    value = fitted.data.values.get(name)
    return np.asarray(fitted.full.values[name] if value is None else value)


def _outcomes(fitted: Fitted) -> Arrays:
    """What was observed, NaN where it is missing."""
    out = {v.name: _stored(fitted, v.name) for v in fitted.plan.graph.observed}
    for name, mask in _masks(fitted):
        out[name] = out[name].astype(np.float64)
        out[name][~mask] = np.nan
    return out


def _import_arviz() -> Any:
    try:
        return importlib.import_module("arviz")
    except ImportError as error:
        raise BackendError(
            f"to_arviz needs ArviZ, which cannot be imported: {error}. Install its extra, "
            "pip install 'pavi-vi[arviz]'."
        ) from error
