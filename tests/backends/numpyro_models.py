"""A NumPyro model with a posterior in closed form, and how tests fit guides."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as npd
import optax
from numpyro import handlers
from numpyro.infer import SVI, Trace_ELBO

from pavi.backends.numpyro import AutoPAVI
from pavi.family import Family

PLAIN = Family(flow="none")
RNG = np.random.default_rng(0)
EFFECTS = jnp.asarray(RNG.normal(size=8) + RNG.normal(size=8))
KEY = jax.random.key(0)


def effects(y: Any, size: int = 8, part: int | None = None) -> None:
    mu = numpyro.sample("mu", npd.Normal(0.0, 1.0))
    with numpyro.plate("group", size, subsample_size=part) as rows:
        theta = numpyro.sample("theta", npd.Normal(mu, 1.0))
        numpyro.sample("y", npd.Normal(theta, 1.0), obs=None if y is None else y[rows])


def fitted(guide: AutoPAVI, steps: int, *args: Any, elbo: Any = None) -> Any:
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, steps))
    svi = SVI(guide.model, guide, optimizer, elbo or Trace_ELBO(num_particles=4))
    # As a whole: the many small operations of NumPyro's take longer to compile one by one.
    state = jax.jit(lambda key: svi.init(key, *args))(KEY)
    return svi.run(KEY, steps, *args, progress_bar=False, init_state=state)


def initial(guide: Any, *args: Any) -> dict[str, Any]:
    """The params of a guide before its first step."""

    def params(key: Any) -> dict[str, Any]:
        trace = handlers.trace(handlers.seed(guide, key)).get_trace(*args)
        return {n: s["value"] for n, s in trace.items() if s["type"] == "param"}

    return dict(jax.jit(params)(KEY))
