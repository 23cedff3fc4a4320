"""A plate graph as a NumPyro model; read beside `backends/tfp/model.py`.

NumPyro gives each plate a batch axis of its own, counted from the right, and a site keeps an axis
of size 1 for a plate to its right that it is not in. `Layout` moves arrays between that form and
the graph's `[*plates, *event]`; the two differ only beside dense variables on several plates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as npd
from numpyro import handlers

from pavi import dist
from pavi.alignment import product
from pavi.backends.numpyro.distributions import CONSTRAINTS, build
from pavi.batch import Batch
from pavi.data import Data
from pavi.graph import PlateGraph
from pavi.model import aligned_parents
from pavi.subsampling import full_batch

Array = Any


@dataclass(frozen=True)
class Layout:
    """Where each plate's axis lies at a NumPyro site.

    Args:
        dims: a negative axis for each plate; plates of one variable have different ones.
    """

    dims: Mapping[str, int]

    @classmethod
    def of(cls, graph: PlateGraph) -> Layout:
        """The axes nearest to the right that keep the plates of every variable apart."""
        together = [v.plates for v in (*graph.latents, *graph.observed)]
        dims: dict[str, int] = {}
        # Largest first, from the right: a variable on all plates of its kind keeps its axes' order.
        for plates in sorted(together, key=len, reverse=True):
            for plate in reversed(plates):
                if plate not in dims:
                    taken = {dims.get(q) for others in together if plate in others for q in others}
                    dims[plate] = next(dim for dim in count(-1, -1) if dim not in taken)
        return cls(dims)

    def batch_shape(self, plates: Sequence[str], sizes: Sequence[int]) -> tuple[int, ...]:
        """The batch shape of a site in plates of the given sizes."""
        shape = [1] * max((-self.dims[plate] for plate in plates), default=0)
        for plate, size in zip(plates, sizes, strict=True):
            shape[self.dims[plate]] = size
        return tuple(shape)

    def to_site(self, value: Array, plates: Sequence[str]) -> Array:
        """`[*plates (size or 1), *event]` as a site has it, `[*batch shape, *event]`."""
        sizes, event = jnp.shape(value)[: len(plates)], jnp.shape(value)[len(plates) :]
        order = sorted(range(len(plates)), key=lambda axis: self.dims[plates[axis]])
        moved = jnp.transpose(value, (*order, *range(len(plates), jnp.ndim(value))))
        return jnp.reshape(moved, (*self.batch_shape(plates, sizes), *event))

    def from_site(self, value: Array, plates: Sequence[str], event_rank: int) -> Array:
        """The inverse of `to_site`: a site's value as `[*plates, *event]`."""
        shape = jnp.shape(value)
        batch_rank = len(shape) - event_rank
        axes = [batch_rank + self.dims[plate] for plate in plates]
        rest = [axis for axis in range(batch_rank) if axis not in axes]
        moved = jnp.transpose(value, (*rest, *axes, *range(batch_rank, len(shape))))
        return jnp.reshape(moved, jnp.shape(moved)[len(rest) :])

    def site(self, name: str) -> str:
        """The name of a variable's site."""
        return name

    def delta(self, graph: PlateGraph, name: str, value: Array, density: Array) -> npd.Delta:
        """A guide's site of a latent: values `[*plates, *event]`, part of log q `[*plates]`."""
        variable = graph.variables[name]
        return npd.Delta(
            self.to_site(value, variable.plates),
            log_density=self.to_site(density, variable.plates),
            event_dim=len(variable.event),
        )

    @contextmanager
    def rows(self, plates: Sequence[str], batch: Batch) -> Iterator[None]:
        """Opens the plates of a site, on the rows of the batch.

        A row stands for `batch.weights` rows, the N / N^r of the paper's eq. 8, and one of padding
        for none. The weights say so for every layout, which a plate's own factor size /
        subsample_size cannot: rows that follow a drawn owner are padded, and weighted by it.
        """
        with ExitStack() as stack:
            for plate in plates:
                size = jnp.shape(batch.indices[plate])[0]
                stack.enter_context(numpyro.plate(plate, size, dim=self.dims[plate]))
            weights = product(batch.weights, plates)
            if weights is not None:
                weights = self.to_site(weights, plates)
                present = weights > 0
                stack.enter_context(handlers.scale(scale=jnp.where(present, weights, 1)))
                stack.enter_context(handlers.mask(mask=present))
            yield

    def site_rows(
        self, name: str, plates: Sequence[str], batch: Batch
    ) -> AbstractContextManager[None]:
        """Opens the plates that a variable's site lies in."""
        return self.rows(plates, batch)


def make_model(graph: PlateGraph) -> Callable[[Batch], None]:
    """The graph as a NumPyro model of a full or a reduced batch.

    Its sites are the latents and the observed variables by name. An observed variable that is left
    out of `batch.values` is drawn, so that `Predictive` gives posterior predictions.

    Args:
        graph: the model's template.

    Returns:
        `model(batch)`, for SVI with the guide of `make_guide`, MCMC, `Predictive`, or NumPyro's own
        guides.
    """
    layout = Layout.of(graph)

    def model(batch: Batch) -> None:
        batch = as_arrays(batch)
        values: dict[str, Array] = {}
        for variable in (v for v in graph.variables.values() if v.kind != "covariate"):
            name, plates = variable.name, variable.plates
            observed = batch.values.get(name) if variable.kind == "observed" else None
            obs = None if observed is None else layout.to_site(observed, plates)
            site = _site(graph, name, values, batch, layout)
            with layout.rows(plates, batch):
                drawn = numpyro.sample(name, site, obs=obs)
            value = layout.from_site(drawn, plates, len(variable.event))
            if variable.kind == "latent":
                values[name] = value
            else:
                batch = batch._replace(values={**batch.values, name: value})

    return model


def bound_model(graph: PlateGraph, data: Data, dtype: str) -> Callable[[], None]:
    """The graph on data; see `PlateGraph.to_numpyro_model`."""
    return partial(make_model(graph), full_batch(data.bind(graph), dtype))


def as_arrays(batch: Batch) -> Batch:
    """The batch as JAX arrays, in JAX's default precision."""
    out: Batch = jax.tree.map(jnp.asarray, batch)
    return out


def _site(
    graph: PlateGraph, name: str, values: Mapping[str, Array], batch: Batch, layout: Layout
) -> npd.Distribution:
    """The distribution of a variable's site, of batch shape that of its plates."""
    variable = graph.variables[name]
    plates, event = variable.plates, variable.event
    parents = aligned_parents(graph, name, values, batch, lead=0)
    spec = graph.spec(name, {k: layout.to_site(v, plates) for k, v in parents.items()})
    sizes = [batch.indices[plate].shape[0] for plate in plates]
    split = len(event) - spec.event_rank
    shape = (*layout.batch_shape(plates, sizes), *event[:split])
    if isinstance(spec, dist.Flat):
        support = CONSTRAINTS[type(spec.support)](spec.support)
        site = npd.ImproperUniform(support, shape, event[split:])
    else:
        floating = [*batch.values.values(), *batch.weights.values()]
        site = build(spec, floating[0].dtype if floating else float).expand(shape)
    mask = batch.masks.get(name)
    if mask is not None and name in batch.values:
        mask = layout.to_site(mask > 0, plates)
        missing = len(shape) - jnp.ndim(mask)
        site = site.mask(jnp.broadcast_to(jnp.reshape(mask, (*mask.shape, *(1,) * missing)), shape))
    return site.to_event(split)
