"""A plan as a NumPyro guide; read beside `backends/tfp/guide.py`.

The mathematics is `pavi.guide`'s. Here weights become `numpyro.param`, the base noise becomes
auxiliary sites, and each latent a `Delta` that carries its part of log q, as in NumPyro's own
guides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as npd

from pavi.backends.numpyro.model import Layout, as_arrays
from pavi.batch import Batch
from pavi.guide import sample
from pavi.plan import BlockPlan, GuidePlan
from pavi.tables import table_rows

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
    """

    def __init__(self, layout: Layout, prefix: str, order: Iterable[str]) -> None:
        self._layout, self._prefix, self._order = layout, prefix, tuple(order)

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
        rows: dict[str, Array] = {}
        for name, initial in initial_tables.items():
            table = _param(f"{prefix}{name}/table", initial)
            shape = [batch.indices[plate].shape[0] for plate in plan.block(name).axes]
            rows[name] = jnp.reshape(table[table_rows(plan, name, batch)], (*shape, -1))
        noise: dict[str, Array] = {}
        base_log_prob: dict[str, Array] = {}
        for block in plan.blocks:
            standard = npd.Normal().expand([block.dimension]).to_event(1)
            with layout.rows(block.axes, batch):
                auxiliary = {"is_auxiliary": True}
                eps = numpyro.sample(f"{prefix}{block.name}", standard, infer=auxiliary)
            eps = layout.from_site(eps, block.axes, 1)
            noise[block.name], base_log_prob[block.name] = eps[None], standard.log_prob(eps)
        values, log_prob = _drawn(plan)(weights, rows, noise, batch)
        densities: dict[str, Array] = {}
        for block in plan.blocks:
            # log |d eps / d theta|: what the auxiliary sites have not counted of log q(theta)
            density = log_prob[block.name][0] - base_log_prob[block.name]
            density = _per_copy(block, density, batch)
            # The block has one density; its first latent carries it.
            first, *others = (slot.name for slot in block.slots)
            densities |= {first: density, **dict.fromkeys(others, jnp.zeros_like(density))}
        sites: dict[str, Array] = {}
        for name in self._order:
            plates = plan.graph.variables[name].plates
            with layout.rows(plates, batch):
                site = layout.delta(plan.graph, name, values[name][0], densities[name])
                called = layout.site(name)
                sites[called] = numpyro.sample(called, site)
        return sites


@lru_cache(maxsize=16)
def _drawn(plan: GuidePlan) -> Callable[..., Any]:
    """Draws of a plan with their log density; compiled, for who calls a guide step by step."""

    def drawn(weights: Any, rows: Any, noise: Any, batch: Batch) -> Any:
        draw = sample(plan, weights, rows, noise, batch)
        return draw.values, draw.log_prob

    return jax.jit(drawn)


def _param(name: str, initial: np.ndarray) -> Array:
    # `Predictive` passes the values it is given through as they are, be they NumPy's.
    return jnp.asarray(numpyro.param(name, initial))


def _per_copy(block: BlockPlan, density: Array, batch: Batch) -> Array:
    """The density of each copy, `[*plates]`: a joint block's one number in equal parts."""
    if not block.joint:
        return density
    sizes = [batch.indices[plate].shape[0] for plate in block.plates]
    return jnp.broadcast_to(density / block.copies, sizes)
