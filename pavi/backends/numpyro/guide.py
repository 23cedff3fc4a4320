"""A plan as a NumPyro guide; read beside `backends/tfp/guide.py`.

The mathematics is `pavi.guide`'s. Here weights become `numpyro.param`, the base noise becomes
auxiliary sites, and each latent a `Delta` that carries its part of log q, as in NumPyro's own
guides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as npd

from pavi.backends.numpyro.model import Layout, as_arrays
from pavi.batch import Batch
from pavi.guide import sample, standard_normal
from pavi.plan import BlockPlan, GuidePlan
from pavi.tables import rows_of

Array = Any


def make_guide(
    plan: GuidePlan,
    initial_weights: Mapping[str, np.ndarray],
    initial_tables: Mapping[str, np.ndarray],
    *,
    prefix: str = "pavi",
) -> Callable[[Batch], dict[str, Array]]:
    """The plan as a guide for `make_model(plan.graph)`.

    Args:
        plan: the plan.
        initial_weights: `{"block/...": array}`, the initial values of the params
            `"{prefix}/block/..."`.
        initial_tables: `{block: [copies + 1, columns]}`, those of the params
            `"{prefix}/block/table"`.
        prefix: begins the names of params and of auxiliary sites. The noise of a block is the
            auxiliary site `"{prefix}/block"`.

    Returns:
        `guide(batch)`, which samples every latent and returns the sites' values by name.
    """
    layout = Layout.of(plan.graph)

    def guide(batch: Batch) -> dict[str, Array]:
        sites = GuideSites(layout, f"{prefix}/", [v.name for v in plan.graph.latents])
        return sites.sample(plan, initial_weights, initial_tables, as_arrays(batch))

    return guide


class GuideSites:
    """The sites and params of one call of a guide.

    Args:
        layout: the plates' axes at a site.
        prefix: begins the names of params and of auxiliary sites.
        order: the latents in the order of their sites.
        pace: what a step of the weights that refine a shape counts for, beside those that find it.
            `pavi.fit` holds them until its place and scale are found; an optimizer of somebody's
            own knows one rate for all params, and they would spend themselves on the journey.
    """

    def __init__(
        self, layout: Layout, prefix: str, order: Iterable[str], pace: float = 1.0
    ) -> None:
        self._layout, self._prefix, self._order = layout, prefix, tuple(order)
        self._pace = pace

    def sample(
        self,
        plan: GuidePlan,
        initial_weights: Mapping[str, np.ndarray],
        initial_tables: Mapping[str, np.ndarray],
        batch: Batch,
    ) -> dict[str, Array]:
        """Samples every latent of a batch; returns the sites' values by name."""
        prefix, layout = self._prefix, self._layout
        weights = {k: _param(f"{prefix}{k}", v) for k, v in initial_weights.items()}
        fixed = {f"{b.name}/{k}" for b in plan.blocks for k, s in b.parameters if not s.trainable}
        for name in fixed & weights.keys():
            weights[name] = jax.lax.stop_gradient(weights[name])
        tables = {k: _param(f"{prefix}{k}/table", v) for k, v in initial_tables.items()}
        noise: dict[str, Array] = {}
        for block in plan.blocks:
            standard = npd.Normal().expand([block.dimension]).to_event(1)
            with layout.rows(block.axes, batch):
                auxiliary = {"is_auxiliary": True}
                eps = numpyro.sample(f"{prefix}{block.name}", standard, infer=auxiliary)
            noise[block.name] = layout.from_site(eps, block.axes, 1)
        slowed = plan.refining if self._pace != 1.0 else frozenset()
        start = {name: initial_weights[name] for name in slowed & initial_weights.keys()}
        given = (weights, start, tables, noise, batch)
        values, log_det = _evaluated(plan, self._pace, given)
        densities: dict[str, Array] = {}
        for block in plan.blocks:
            # log |d eps / d theta|: what the auxiliary sites have not counted of log q(theta)
            density = _per_copy(block, log_det[block.name], batch)
            # The block has one density; its first latent carries it.
            first, *others = (slot.name for slot in block.slots)
            densities |= {first: density, **dict.fromkeys(others, jnp.zeros_like(density))}
        sites: dict[str, Array] = {}
        for name in self._order:
            plates = plan.graph.variables[name].plates
            with layout.site_rows(name, plates, batch):
                site = layout.delta(plan.graph, name, values[name], densities[name])
                called = layout.site(name)
                sites[called] = numpyro.sample(called, site)
        return sites


def _evaluated(
    plan: GuidePlan, pace: float, given: Any
) -> tuple[dict[str, Array], dict[str, Array]]:
    """A draw of every latent, and the log determinant of each block, `[*axes]`.

    Numbers at hand go through NumPy: to compile for the one call of `SVI.init` takes far longer.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given)):
        return _drawn(plan, pace)(*given)
    dtype = jnp.result_type(float)
    out = _draw(plan, pace, *jax.tree.map(_host, given))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), out)


def _host(array: Array) -> np.ndarray:
    return np.asarray(array)


@lru_cache(maxsize=16)
def _drawn(plan: GuidePlan, pace: float) -> Callable[..., Any]:
    """`_draw` for a program that is being traced: traced once, however often it is called there."""
    return jax.jit(partial(_draw, plan, pace))


def _draw(
    plan: GuidePlan, pace: float, weights: Any, start: Any, tables: Any, noise: Any, batch: Batch
) -> Any:
    weights = dict(weights)
    for name, initial in start.items():
        weights[name] = initial + pace * (weights[name] - initial)
    # A table starts at zeros.
    rows = {
        name: row * pace if name in plan.refining else row
        for name, row in rows_of(plan, tables, batch).items()
    }
    draw = sample(plan, weights, rows, {name: eps[None] for name, eps in noise.items()}, batch)
    base = {name: standard_normal(eps) for name, eps in noise.items()}
    values = {name: value[0] for name, value in draw.values.items()}
    return values, {name: value[0] - base[name] for name, value in draw.log_prob.items()}


def _param(name: str, initial: np.ndarray) -> Array:
    # `Predictive` passes the values it is given through as they are, be they NumPy's.
    value = jnp.asarray(numpyro.param(name, initial))
    if value.shape != initial.shape:
        raise ValueError(
            f"The params are those of another guide: {name!r} has the shape {initial.shape} here, "
            f"given {value.shape}. Pass svi.get_params(state) of this guide."
        )
    return value


def _per_copy(block: BlockPlan, density: Array, batch: Batch) -> Array:
    """The density of each copy, `[*plates]`: a joint block's one number in equal parts."""
    if not block.joint:
        return density
    sizes = [batch.indices[plate].shape[0] for plate in block.plates]
    return jnp.broadcast_to(density / block.copies, sizes)
