"""What one call of a model's guide sees: the rows of its plates, and the form of its sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as npd

from pavi.backends.numpyro.emission import event_axes
from pavi.backends.numpyro.model import Layout
from pavi.backends.numpyro.portable import Portable
from pavi.backends.numpyro.tracing import Site
from pavi.batch import Batch
from pavi.graph import PlateGraph

Array = Any


@dataclass(frozen=True)
class ModelLayout(Layout):
    """Where plates lie at the sites of somebody's model.

    Attributes:
        plates: the plates of one call, which scale and subsample.
        sites: the model's sites.
    """

    plates: Mapping[str, numpyro.plate]
    sites: Mapping[str, Site]

    @contextmanager
    def rows(self, plates: Sequence[str], batch: Batch) -> Iterator[None]:
        """Opens the plates of a site."""
        with ExitStack() as stack:
            for plate in plates:
                stack.enter_context(self.plates[plate])
            yield

    def site_rows(
        self, name: str, plates: Sequence[str], batch: Batch
    ) -> AbstractContextManager[None]:
        """As `rows`; the model has the site in more plates than the graph where it couples them."""
        return self.rows((*plates, *self.sites[name].coupled), batch)

    def site(self, name: str) -> str:
        return self.sites[name].site

    def delta(self, graph: PlateGraph, name: str, value: Array, density: Array) -> npd.Delta:
        """A site as the model has it: `value` is `[*plates, *event]`, `density` `[*plates]`."""
        site = self.sites[name]
        rank = len(site.batch_shape)
        inside = [rank + dim for _, dim in site.plates]
        order = [*inside, *event_axes(site)]
        full = jnp.transpose(value, np.argsort(order).tolist()).reshape(
            site.batch_shape + site.event_shape
        )
        copies = [s if a in inside else 1 for a, s in enumerate(site.batch_shape)]
        per_copy = jnp.transpose(density, np.argsort(inside).tolist()).reshape(copies)
        # An axis of copies that is no plate's has the density in equal parts.
        share = per_copy * (prod(copies) / prod(site.batch_shape))
        log_density = jnp.broadcast_to(share, site.batch_shape)
        return npd.Delta(full, log_density=log_density, event_dim=len(site.event_shape))


def default_dtype() -> Any:
    """JAX's default floating dtype at present."""
    return np.dtype(jnp.result_type(float))


def batch_of(found: Portable) -> Batch:
    """The rows that one call sees."""
    graph, reading = found.graph, found.reading
    dtype = jnp.result_type(float)
    masks: dict[str, Array] = {}
    for observed in graph.observed:
        name = observed.name
        if name not in found.masks and name not in found.scales:
            continue
        event = observed.event[: len(observed.event) - graph.probe[name].event_rank]
        rows = [len(reading.indices[p]) for p in observed.plates]
        mask = jnp.ones((*rows, *event), dtype)
        for factors in (found.masks, found.scales):
            if name in factors:
                factor = jnp.asarray(factors[name](), dtype)
                mask *= factor.reshape(factor.shape + (1,) * (mask.ndim - factor.ndim))
        masks[name] = mask
    members: dict[str, Array] = {}
    for plate in graph.plates:
        for owner in graph.owners(plate):
            path = graph.path(plate, owner)
            position = jnp.asarray(found.members[path[0], path[1]].value, jnp.int32)
            for middle, above in pairwise(path[1:]):
                position = jnp.asarray(found.members[middle, above].value, jnp.int32)[position]
            members[f"{plate}/{owner}"] = position
    sizes = found.sizes
    counts = {p: len(reading.indices[p]) for p in graph.plates}
    return Batch(
        values={name: jnp.asarray(array(), dtype) for name, array in found.arrays.items()},
        masks=masks,
        members=members,
        indices={p: jnp.asarray(reading.indices[p], jnp.int32) for p in graph.plates},
        weights={p: jnp.full(counts[p], sizes[p] / counts[p], dtype) for p in graph.plates},
    )
