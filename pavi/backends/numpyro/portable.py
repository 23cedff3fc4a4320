"""A NumPyro model as a portable plate graph with its data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from numpyro.distributions import constraints

from pavi import dist
from pavi.backends.numpyro.axes import Axes, UnreadableError
from pavi.backends.numpyro.covariates import Covariates
from pavi.backends.numpyro.emission import Emitter, event_axes, event_of
from pavi.backends.numpyro.runs import array_arguments, inconsistent, run
from pavi.backends.numpyro.specs import stripped, support_of
from pavi.backends.numpyro.tracing import Reading, Site, coupled, read
from pavi.backends.numpyro.values import Known
from pavi.data import Data
from pavi.errors import GraphError, PaviWarning
from pavi.graph import Covariate, Latent, Observed, Plate, PlateGraph

Array = Any
Random = Latent | Observed
_NONE: Mapping[str, str] = MappingProxyType({})
# Largest plate whose elements may become those of one vector.
_COUPLED_LIMIT = 256


@dataclass(frozen=True)
class Portable:
    """A graph, and how its data are found in one run of the model.

    Attributes:
        graph: the graph.
        reading: the run.
        arrays: the values of covariates and observed variables, `[*plates, *event]`.
        members: positions of the owners, by plate and owner.
        masks: which draws of the observed variables count.
        scales: the factors of their log densities, other than their plates'.
        unread: what could not be read, and why, by site.
        coupled: plates of the model that are none of the graph's, as the model brings their
            elements together: the elements are an axis of events.
    """

    graph: PlateGraph
    reading: Reading
    arrays: dict[str, Callable[[], Array]]
    members: dict[tuple[str, str], Known]
    masks: dict[str, Callable[[], Array]]
    scales: dict[str, Callable[[], Array]]
    unread: dict[str, str]
    coupled: frozenset[str] = frozenset()

    @property
    def sizes(self) -> dict[str, int]:
        """Full sizes of the graph's plates."""
        return {plate: self.reading.sizes[plate] for plate in self.graph.plates}


def portable(
    reading: Reading,
    names: Mapping[str, Any] | None = None,
    unread: Mapping[str, str] = _NONE,
    together: frozenset[str] = frozenset(),
) -> Portable:
    """The graph of a reading.

    Args:
        reading: the reading.
        names: arrays to name covariates by.
        unread: sites that are not to be read, and why.
        together: plates whose elements are an axis of events.
    """
    found, brought = _portable(coupled(reading, together), names, unread)
    sizes, seen = reading.sizes, reading.indices
    # A plate that is subsampled has no axis of its own length.
    more = {p for p in brought if sizes[p] <= _COUPLED_LIMIT and len(seen[p]) == sizes[p]}
    if more:
        return portable(reading, names, unread, together | more)
    return replace(found, coupled=together)


def _portable(
    reading: Reading, names: Mapping[str, Any] | None, given: Mapping[str, str]
) -> tuple[Portable, set[str]]:
    """The graph of a reading, and the plates whose elements it brings together."""
    axes = Axes(reading)
    plates = {plate for site in reading.sites.values() for plate, _ in site.plates}
    covariates = Covariates(_namer(names or {}), {*reading.sites, *plates})
    unread: dict[str, str] = {}
    brought: set[str] = set()
    variables: dict[str, Random] = {}
    for name, site in reading.sites.items():
        if site.kind == "enumerated":
            continue
        try:
            if name in given:
                raise UnreadableError(given[name])
            _check_counted(reading, site)
            variables[name] = _variable(reading, axes, covariates, site)
        except UnreadableError as error:
            unread[name] = str(error)
            if error.coupled is not None:
                brought.add(error.coupled)
            if site.kind == "latent":
                variables[name] = _unknown(site)
    members = {pair: known for pair, known in axes.members.items() if known is not None}
    for variable in variables.values():
        members = {**_of_single_owners(reading, variables, variable), **members}
    graph = _graph(reading, members, covariates, variables, unread)
    arrays = {c.name: covariates.arrays[c.name] for c in graph.covariates}
    rows: list[dict[str, Callable[[], Array]]] = []
    for values in (reading.observed, reading.masks, reading.scales):
        named = {o.name: values.get(o.name) for o in graph.observed}
        rows.append(
            {n: _rows(v, reading.sites[n]) for n, v in named.items() if isinstance(v, Known)}
        )
    arrays |= rows[0]
    kept = {
        (plate, owner): known
        for (plate, owner), known in members.items()
        if plate in graph.plates and owner in graph.plates[plate].within
    }
    return Portable(graph, reading, arrays, kept, rows[1], rows[2], unread), brought


def from_numpyro(model: Any, *args: Any, **kwargs: Any) -> tuple[PlateGraph, Data]:
    """The graph and the data of a model; see `PlateGraph.from_numpyro`."""
    first = run(model, args, kwargs, {})
    repeated = inconsistent(first)
    if repeated:
        raise GraphError(repeated)
    plates = {n: s for n, s in first.items() if s["type"] == "plate"}
    # A plate that the model subsamples is seen whole.
    whole = {name: jax.numpy.arange(site["args"][0]) for name, site in plates.items()}
    reading = read(model, args, kwargs, whole)
    found = portable(reading, array_arguments(model, args, kwargs))
    reading = found.reading
    enumerated = [n for n, site in reading.sites.items() if site.kind == "enumerated"]
    if enumerated:
        raise GraphError(
            f"The site {reading.sites[enumerated[0]].site!r} is a discrete latent. Sum it out of "
            f"the model, as MixtureSameFamily does, or use pavi.backends.numpyro.AutoPAVI with "
            f"config_enumerate."
        )
    for name, scale in reading.scales.items():
        factors = np.asarray(scale.value).ravel() if isinstance(scale, Known) else np.zeros(0)
        if not factors.size or np.any(np.abs(factors - 1.0) > 1e-6):
            by = f"{factors[np.abs(factors - 1.0).argmax()]:.6g}" if factors.size else "latents"
            raise GraphError(
                f"The log density of the site {reading.sites[name].site!r} is scaled by {by}, "
                f"which no plate graph can say. Take handlers.scale off the model, or use "
                f"pavi.backends.numpyro.AutoPAVI."
            )
    for name, why in found.unread.items():
        site = reading.sites[name]
        raise GraphError(
            f"The site {site.site!r} on the plates {_plates(site)} is a {_kind(site)} that no "
            f"plate graph can say: {why.rstrip('.')}. Write the graph by "
            f"hand, or use pavi.backends.numpyro.AutoPAVI, which needs less."
        )
    values = {name: np.asarray(array()) for name, array in found.arrays.items()}
    for name, mask in found.masks.items():
        present = np.asarray(mask())
        value = values[name].astype(np.result_type(values[name], np.float32))
        present = present.reshape(present.shape + (1,) * (value.ndim - present.ndim))
        values[name] = np.where(present, value, np.nan)
    members: dict[str, dict[str, np.ndarray]] = {}
    for (plate, owner), known in found.members.items():
        members.setdefault(plate, {})[owner] = np.asarray(known.value)
    data = Data(values, members, found.sizes)
    data.bind(found.graph)
    return found.graph, data


def _check_counted(reading: Reading, site: Site) -> None:
    """Raises where what counts of a site's log density cannot be said."""
    for values, what in (
        (reading.masks, "mask"),
        (reading.scales, "scale"),
        (reading.observed, "observed value"),
    ):
        if not isinstance(values.get(site.name), Known | None):
            raise UnreadableError(f"its {what} depends on latents")
    mask = reading.masks.get(site.name)
    if site.kind != "latent" or not isinstance(mask, Known):
        return
    if not mask.concrete or not np.all(np.asarray(mask.value)):
        raise UnreadableError("it is a latent whose log density is masked (handlers.mask)")


def _variable(reading: Reading, axes: Axes, covariates: Covariates, site: Site) -> Random:
    parts = reading.parts[site.name]
    if parts is None:
        raise UnreadableError(f"pavi.dist has no counterpart of {_kind(site)}")
    expression = Emitter(reading, axes, covariates, site).expression(parts)
    kind = Latent if site.kind == "latent" else Observed
    plain = expression if expression.parents else expression()
    return kind(site.name, plain, plates=_plates(site), event=event_of(site))


def _of_single_owners(
    reading: Reading, variables: Mapping[str, Random], variable: Random
) -> dict[tuple[str, str], Known]:
    """The memberships of a variable's rows in plates of one element, which no index has to tell."""
    out: dict[tuple[str, str], Known] = {}
    for parent in variable.parents:
        for plate in variables[parent].plates if parent in variables else ():
            if plate in variable.plates or not variable.plates:
                continue
            if len(reading.indices[plate]) == 1:
                child = variable.plates[-1]
                rows = len(reading.indices[child])
                out[child, plate] = Known((rows,), partial(np.zeros, rows, np.int32))
    return out


def _plates(site: Site) -> tuple[str, ...]:
    return tuple(plate for plate, _ in site.plates)


def _unknown(site: Site) -> Latent:
    """A latent of which the support is known alone."""
    support = support_of(site.fn.support)
    if support is None:
        raise GraphError(
            f"The site {site.site!r} on the plates {_plates(site)} is a {_kind(site)}, which "
            f"cannot be read, and its support {_said(site.fn.support)} is not one of fixed "
            f"numbers. Write it as a Uniform or a TruncatedNormal, whose bounds may depend on data "
            f"and latents, or as a deterministic site of one with a fixed support."
        )
    return Latent(site.name, dist.Flat(support), plates=_plates(site), event=event_of(site))


def _kind(site: Site) -> str:
    """The class of a site's distribution, without what NumPyro wraps around it."""
    return type(stripped(site.fn)[0]).__name__


def _said(constraint: Any) -> str:
    """A constraint by its kind: its bounds may be of a program that is being traced."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return type(constraint).__name__.lstrip("_")


def _graph(
    reading: Reading,
    members: Mapping[tuple[str, str], Known],
    covariates: Covariates,
    variables: dict[str, Random],
    unread: dict[str, str],
) -> PlateGraph:
    """The graph of the variables; one that does not fit is left out, or loses its parents."""
    try:
        return _built(members, covariates, list(variables.values()))
    except GraphError:
        accepted: list[Random] = []
    for name, variable in variables.items():
        try:
            _built(members, covariates, [*accepted, variable])
        except GraphError as error:
            unread[name] = str(error)
            if variable.kind == "observed":
                continue
            variable = _unknown(reading.sites[name])
        accepted.append(variable)
    return _built(members, covariates, accepted)


def _built(
    members: Mapping[tuple[str, str], Known], covariates: Covariates, variables: Sequence[Random]
) -> PlateGraph:
    used = {parent for variable in variables for parent in variable.parents}
    known: list[Covariate] = [c for c in covariates.variables.values() if c.name in used]
    plates: dict[str, None] = {}
    for variable in (*variables, *known):
        plates |= dict.fromkeys(variable.plates)
    within = {plate: tuple(o for p, o in members if p == plate and o in plates) for plate in plates}
    return PlateGraph([Plate(p, within=within[p]) for p in plates], [*known, *variables])


def _rows(known: Known, site: Site) -> Callable[[], Array]:
    """A site's array as `[*plates, *event]`."""
    return lambda: to_rows(known.value, site)


def to_rows(value: Array, site: Site) -> Array:
    """`[*batch shape, *event]` (or without the event) as `[*plates, *event]`."""
    rank = len(site.batch_shape)
    inside = [rank + dim for _, dim in site.plates]
    events = [a for a in event_axes(site) if a < np.ndim(value)]
    rest = [a for a in range(np.ndim(value)) if a not in (*inside, *events)]
    moved = value.transpose((*inside, *events, *rest))
    return moved.reshape(moved.shape[: len(inside) + len(events)])


def _namer(arrays: Mapping[str, Any]) -> Callable[[Known], str | None]:
    """Names an array as the argument that it equals."""

    def name(known: Known) -> str | None:
        if not known.concrete:
            return None
        value = np.asarray(known.value)
        for key, array in arrays.items():
            if np.asarray(array).dtype.kind not in "biuf":
                continue
            if np.size(array) == value.size and np.allclose(np.ravel(array), value.ravel()):
                return key if key.isidentifier() else None
        return None

    return name


def check_indices(found: Portable) -> None:
    """Raises where an index picks elements that a plate has not: JAX takes the last one instead."""
    for (plate, owner), known in found.members.items():
        count = len(found.reading.indices[owner])
        if not known.concrete:
            continue
        position = np.asarray(known.value)
        wrong = np.flatnonzero((position < 0) | (position >= count))
        if wrong.size:
            raise ValueError(
                f"An index of the plate {plate!r} picks the element {position[wrong[0]]} of the "
                f"plate {owner!r} at row {wrong[0]}, but {owner!r} has {count} elements, counted "
                f"from 0. Mend the index."
            )


def warn_unread(found: Portable) -> None:
    """Says what could not be read, and what it is taken for."""
    for plate in sorted(found.coupled):
        warnings.warn(
            f"The model brings the elements of the plate {plate!r} together (it sums over them, or "
            f"picks some): AutoPAVI draws them as one vector, and not as copies of one latent.",
            PaviWarning,
            stacklevel=2,
        )
    for name, why in found.unread.items():
        site = found.reading.sites[name]
        lost = (
            "it is given a prior of mean 0 and standard deviation 1 on the unconstrained scale in "
            "the guide, and no parents"
            if site.kind == "latent"
            else "it is left out of the evidence that the guide's encoder sees"
        )
        warnings.warn(
            f"AutoPAVI cannot read the distribution of the site {site.site!r} on the plates "
            f"{_plates(site)}: {why.rstrip('.')}; {lost}. The model itself is unchanged.",
            PaviWarning,
            stacklevel=2,
        )
