"""The contenders of `scaling.py`: pavi, and the guides that NumPyro and TFP bring themselves.

Each is a generator that takes some steps whenever it is asked for its next item: a function that
evaluates the guide's gap as it then is. So whoever asks can time the steps alone.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from example_model import effects

import pavi
from pavi.backends.base import get_adapter
from pavi.posterior import Posterior
from pavi.schedule import CHUNK

OBSERVATIONS, BATCH = 50, 100
# Steps of a peer between two looks at its gap: few, so that it need not wait for the next one.
PEER_STEPS = 25
# Adam's rates for the peers: constant, or falling from one to another while the data are passed
# over ten times, in a thousand steps at least. Constant ones above 0.01 tremble too much for 0.01
# nats per latent.
Rate = float | tuple[float, float] | None
RATES: tuple[Rate, ...] = ((0.1, 0.001), (0.03, 0.001), 0.01, 0.003)
FALL_PASSES, FALL_STEPS = 10, 1000
# A deep flow of thousands of dimensions blows up at the higher ones.
FLOW_RATES: tuple[Rate, ...] = ((0.0005, 0.00002), 0.0003, 0.0001, 0.001)
# What training holds for each parameter: itself and Adam's two moments, before and after a step,
# the gradient, and what lies between.
COPIES = 10

Gap = Callable[[], float]
Trace = Iterator[Gap]


class Evidence:
    """The exact log evidence of the data, and the gap of a guide to it, per latent."""

    def __init__(self, x: np.ndarray) -> None:
        x = np.float64(x)
        self._log_evidence = effects.exact(x).log_evidence
        self._sum, self._square = x.sum(1), float(np.square(x).sum())
        self._count, self._size = x.size, x.shape[1]
        self.latents = (x.shape[0] + 1) * x.shape[2]
        # The more latents, the less their mean scatters from draw to draw.
        self.draws = 20 if len(x) <= 10**4 else 4

    def of_elbo(self, elbo: float) -> float:
        """From an ELBO."""
        return (self._log_evidence - elbo) / self.latents

    def of_moments(
        self, mu: np.ndarray, mu_sd: np.ndarray, theta: np.ndarray, theta_sd: np.ndarray
    ) -> float:
        """Of independent Gaussians, in closed form: `[2]`, `[2]`, `[G, 2]`, `[G, 2]`."""
        mu, mu_sd, theta, theta_sd = (np.float64(a) for a in (mu, mu_sd, theta, theta_sd))
        half = 0.5 * np.log(2 * np.pi)
        second = theta**2 + theta_sd**2
        likelihood = -half * self._count - 0.5 * (
            self._square - 2 * (theta * self._sum).sum() + self._size * second.sum()
        )
        prior = -half * self.latents - 0.5 * (
            (mu**2 + mu_sd**2).sum() + ((theta - mu) ** 2 + theta_sd**2 + mu_sd**2).sum()
        )
        entropy = (half + 0.5) * self.latents + np.log(mu_sd).sum() + np.log(theta_sd).sum()
        return self.of_elbo(float(likelihood + prior + entropy))


def run_pavi(backend: str, x: np.ndarray, _: Rate, evidence: Evidence) -> Trace:
    """`pavi`, a hundred groups a step, all else by default, as `fit` runs it."""
    trainer = pavi.Trainer(
        effects.graph(), pavi.Data({"x": x}), backend=backend, batch={"group": BATCH}
    )
    run = trainer.run(10**6)

    def gap() -> float:
        weights, tables = run.fitted(averaged=False)
        posterior = Posterior(trainer.plan, trainer.data, backend, weights, tables)
        return evidence.of_elbo(posterior.elbo(max(evidence.draws, 8))[0])

    try:
        while True:
            run.advance()
            yield gap
    finally:
        run.close()


def fall(groups: int, batch: int | None) -> int:
    """Steps in which a rate falls."""
    return max(FALL_STEPS, FALL_PASSES * groups // (batch or groups))


def run_numpyro(kind: str, share: str, x: np.ndarray, rate: Any, evidence: Evidence) -> Trace:
    """A guide of NumPyro's in stock SVI, many steps a call.

    Args:
        kind: `"normal"`, `"low_rank"` or `"iaf"`.
        share: `"whole"`, or the groups of a step: `"batch"` (a hundred) or `"tenth"`.
        x: the data.
        rate: Adam's.
        evidence: of the data.
    """
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as npd
    import optax
    from numpyro.infer import SVI, Trace_ELBO, autoguide

    groups = len(x)
    batch = {"whole": None, "batch": BATCH, "tenth": groups // 10}[share]

    def model(x: Any) -> None:
        mu = numpyro.sample("mu", npd.Normal(jnp.zeros(2), 1.0).to_event(1))
        with numpyro.plate("group", groups, subsample_size=batch) as index:
            own = x if batch is None else x[index]
            theta = numpyro.sample("theta", npd.Normal(mu, 1.0).to_event(1))
            numpyro.sample("x", npd.Normal(theta[:, None], 1.0).to_event(2), obs=own)

    def plates(_: Any) -> Any:
        return numpyro.plate("group", groups, subsample_size=batch)

    if kind == "normal":
        guide = autoguide.AutoNormal(model, create_plates=plates if batch else None)
    elif kind == "low_rank":
        guide = autoguide.AutoLowRankMultivariateNormal(model)
    else:
        guide = autoguide.AutoIAFNormal(model)
    if isinstance(rate, tuple):
        rate = optax.cosine_decay_schedule(rate[0], fall(groups, batch), rate[1] / rate[0])
    svi = SVI(model, guide, numpyro.optim.Adam(rate), Trace_ELBO())
    x = jnp.asarray(x, jnp.float32)
    # Compiled as a whole: its many small operations would take longer one by one.
    state = jax.jit(svi.init)(jax.random.key(0), x)

    @jax.jit
    def steps(state: Any, x: Any) -> Any:
        return jax.lax.scan(lambda s, _: svi.update(s, x), state, None, PEER_STEPS)[0]

    @jax.jit
    def loss(key: Any, state: Any, x: Any) -> Any:
        return svi.evaluate(state._replace(rng_key=key), x)

    def closed_gap() -> float:
        params = jax.tree.map(np.asarray, svi.get_params(state))
        names = ("mu_auto_loc", "mu_auto_scale", "theta_auto_loc", "theta_auto_scale")
        return evidence.of_moments(*(params[name] for name in names))

    def drawn_gap() -> float:
        keys = jax.random.split(jax.random.key(1), evidence.draws)
        return evidence.of_elbo(-float(np.mean([loss(key, state, x) for key in keys])))

    while True:
        state = jax.block_until_ready(steps(state, x))
        yield closed_gap if kind == "normal" else drawn_gap


def run_tfp(kind: str, x: np.ndarray, rate: Any, evidence: Evidence) -> Trace:
    """TFP's own surrogates (`asvi`, or mean-field `affine`) in `fit_surrogate_posterior`."""
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tf_keras

    # `fit_surrogate_posterior` maps over its draws in a loop, and there is one.
    warnings.filterwarnings("ignore", message=".*stateless sampling")
    tfd, groups = tfp.distributions, len(x)

    @tfd.JointDistributionCoroutineAutoBatched
    def model() -> Any:
        mu = yield tfd.Sample(tfd.Normal(0.0, 1.0), 2, name="mu")
        theta = yield tfd.Independent(
            tfd.Normal(tf.broadcast_to(mu, (groups, 2)), 1.0), 2, name="theta"
        )
        mean = tf.broadcast_to(theta[:, None], (groups, OBSERVATIONS, 2))
        yield tfd.Independent(tfd.Normal(mean, 1.0), 3, name="x")

    x = tf.constant(x, tf.float32)
    pinned = model.experimental_pin(x=x)
    if kind == "asvi":
        surrogate = tfp.experimental.vi.build_asvi_surrogate_posterior(pinned)
    else:
        surrogate = tfp.experimental.vi.build_affine_surrogate_posterior(
            pinned.event_shape, operators="diag"
        )
    if isinstance(rate, tuple):
        rate = tf_keras.optimizers.schedules.CosineDecay(
            rate[0], fall(groups, None), rate[1] / rate[0]
        )
    optimizer = tf_keras.optimizers.Adam(rate, jit_compile=False)
    optimizer.build(surrogate.trainable_variables)

    @tf.function(jit_compile=True)
    def steps() -> Any:
        return tfp.vi.fit_surrogate_posterior(
            pinned.unnormalized_log_prob, surrogate, optimizer, PEER_STEPS
        )

    @tf.function(jit_compile=True)
    def elbo() -> Any:
        draw, log_q = surrogate.experimental_sample_and_log_prob(1)
        return pinned.unnormalized_log_prob(draw) - log_q

    def gap() -> float:
        return evidence.of_elbo(float(np.mean([elbo().numpy() for _ in range(evidence.draws)])))

    while True:
        steps()[-1].numpy()
        yield gap


def _none(_: int) -> int:
    return 0


def _low_rank(latents: int) -> int:
    return latents * (2 + round(latents**0.5))


def _iaf(latents: int) -> int:
    # Three networks, each with two hidden layers as wide as the latents and two outputs.
    return 3 * 4 * latents**2


@dataclass(frozen=True)
class Contender:
    """A guide and how it is run.

    Attributes:
        start: begins a run, given data, rate and evidence.
        steps: how many it takes at a time.
        host: the framework it needs.
        rates: Adam's, to try; None is pavi's own.
        dense: parameters besides a few for each latent, by the number of latents.
        least: groups below which it is the same as another contender.
    """

    start: Callable[[np.ndarray, Any, Evidence], Trace]
    steps: int
    host: str
    rates: tuple[Rate, ...]
    dense: Callable[[int], int] = _none
    least: int = 1

    def gigabytes(self, groups: int) -> float:
        """Rough memory of a training step, in float32."""
        latents = 2 * (groups + 1)
        data = 4 * 2 * groups * OBSERVATIONS
        return 4e-9 * (data + COPIES * (2 * latents + self.dense(latents)))

    def fits(self, groups: int) -> bool:
        """Whether that is within most of this machine's memory."""
        present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return self.gigabytes(groups) < 0.8e-9 * present


def _numpyro(
    kind: str,
    share: str,
    rates: tuple[Rate, ...] = RATES,
    dense: Callable[[int], int] = _none,
    least: int = 1,
) -> Contender:
    return Contender(partial(run_numpyro, kind, share), PEER_STEPS, "numpyro", rates, dense, least)


CONTENDERS = {
    "pavi, numpyro": Contender(partial(run_pavi, "numpyro"), CHUNK, "numpyro", (None,)),
    "pavi, tfp": Contender(partial(run_pavi, "tfp"), CHUNK, "tfp", (None,)),
    "NumPyro AutoNormal, whole": _numpyro("normal", "whole"),
    "NumPyro AutoNormal, tenth": _numpyro("normal", "tenth", least=10 * BATCH + 1),
    "NumPyro AutoNormal, batch": _numpyro("normal", "batch"),
    "NumPyro AutoLowRank": _numpyro("low_rank", "whole", dense=_low_rank),
    "NumPyro AutoIAF": _numpyro("iaf", "whole", FLOW_RATES, _iaf),
    "TFP asvi": Contender(partial(run_tfp, "asvi"), PEER_STEPS, "tfp", RATES),
    "TFP affine, diagonal": Contender(partial(run_tfp, "affine"), PEER_STEPS, "tfp", RATES),
}


def awaken(host: str) -> None:
    """Imports a framework and has it do something, so that no contender pays for that."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    get_adapter(host)
    if host == "numpyro":
        import jax.numpy as jnp
        from numpyro.infer import autoguide  # noqa: F401

        (jnp.zeros(2) + 1.0).block_until_ready()
    else:
        import tensorflow as tf
        import tensorflow_probability as tfp
        import tf_keras

        # Both load their parts when these are first named.
        _ = tf_keras.optimizers.Adam, tfp.experimental.vi.build_asvi_surrogate_posterior
        tf.function(lambda x: x + 1.0, jit_compile=True)(tf.zeros(2)).numpy()
