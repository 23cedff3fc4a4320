"""Time to a given quality against the number of groups, beside the hosts' own guides.

    python benchmarks/scaling.py --groups 1000 10000 100000

Gaussian random effects, G groups x 50 observations x 2 dimensions, whose evidence is known. A
contender's time is wall-clock from data in memory, compilation included, until the gap between the
log evidence and its ELBO is below `--quality` nats per latent; the gap is evaluated off the clock.
Contenders that do not get there within `--limit` seconds are reported as such, with their gap.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from example_model import effects

import pavi
from pavi.posterior import Posterior

OBSERVATIONS, BATCH, STEPS = 50, 100, 250
# Seconds on the clock, and what is needed to evaluate the guide.
Trace = Iterator[tuple[float, Any]]


class Gap:
    """The gap per latent of a factorised Gaussian guide, in closed form.

    E_q log p - E_q log q, with q = prod N(m, s^2), against the exact evidence.
    """

    def __init__(self, x: np.ndarray) -> None:
        self._log_evidence = effects.exact(x).log_evidence
        self._sum, self._square = x.sum(1), float(np.square(x).sum())
        self._count = x.shape[0] * x.shape[1] * x.shape[2]
        self._size = x.shape[1]
        self.latents = (x.shape[0] + 1) * x.shape[2]

    def of_elbo(self, elbo: float) -> float:
        """From an ELBO."""
        return (self._log_evidence - elbo) / self.latents

    def of_moments(
        self, mu: np.ndarray, mu_sd: np.ndarray, theta: np.ndarray, theta_sd: np.ndarray
    ) -> float:
        """From means and standard deviations `[2]`, `[2]`, `[G, 2]`, `[G, 2]`."""
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


def run_pavi(x: np.ndarray, backend: str, gap: Gap) -> Trace:
    """`pavi`, a hundred groups a step, default family."""
    start, off = time.perf_counter(), 0.0
    trainer = pavi.Trainer(
        effects.graph(), pavi.Data({"x": x}), backend=backend, batch={"group": BATCH}
    )
    run = trainer.run(10**6)
    try:
        while True:
            run.advance()
            seconds = time.perf_counter() - start - off
            pause = time.perf_counter()
            weights, tables = run.fitted(averaged=False)
            posterior = Posterior(trainer.plan, trainer.data, backend, weights, tables)
            draws = 200 if len(x) <= 10**4 else 8
            found = gap.of_elbo(posterior.elbo(draws)[0])
            off += time.perf_counter() - pause
            yield seconds, found
    finally:
        run.close()


def run_auto_normal(x: np.ndarray, batch: int | None, rate: float, gap: Gap) -> Trace:
    """NumPyro's AutoNormal in stock SVI, many steps a call."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as npd
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    groups = len(x)

    def model(x: Any) -> None:
        mu = numpyro.sample("mu", npd.Normal(jnp.zeros(2), 1.0).to_event(1))
        with numpyro.plate("group", groups, subsample_size=batch) as index:
            own = x if batch is None else x[index]
            theta = numpyro.sample("theta", npd.Normal(mu, 1.0).to_event(1))
            numpyro.sample("x", npd.Normal(theta[:, None], 1.0).to_event(2), obs=own)

    def plates(_: Any) -> Any:
        return numpyro.plate("group", groups, subsample_size=batch)

    start, off = time.perf_counter(), 0.0
    guide = AutoNormal(model, create_plates=plates if batch else None)
    svi = SVI(model, guide, numpyro.optim.Adam(rate), Trace_ELBO())
    x = jnp.asarray(x, jnp.float32)
    state = svi.init(jax.random.key(0), x)

    @jax.jit
    def steps(state: Any, x: Any) -> Any:
        return jax.lax.scan(lambda s, _: svi.update(s, x), state, None, STEPS)[0]

    while True:
        state = steps(state, x)
        params = jax.tree.map(np.asarray, svi.get_params(state))
        seconds = time.perf_counter() - start - off
        pause = time.perf_counter()
        names = ("mu_auto_loc", "mu_auto_scale", "theta_auto_loc", "theta_auto_scale")
        found = gap.of_moments(*(params[name] for name in names))
        off += time.perf_counter() - pause
        yield seconds, found


def run_tfp(x: np.ndarray, kind: str, rate: float, gap: Gap) -> Trace:
    """TFP's own surrogates (`asvi`, or mean-field `affine`) in `fit_surrogate_posterior`."""
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tf_keras

    tfd, groups = tfp.distributions, len(x)
    start, off = time.perf_counter(), 0.0

    @tfd.JointDistributionCoroutineAutoBatched
    def model() -> Any:
        mu = yield tfd.Sample(tfd.Normal(0.0, 1.0), 2, name="mu")
        theta = yield tfd.Independent(
            tfd.Normal(tf.broadcast_to(mu, (groups, 2)), 1.0), 2, name="theta"
        )
        yield tfd.Independent(
            tfd.Normal(tf.repeat(theta[:, None], OBSERVATIONS, 1), 1.0), 3, name="x"
        )

    x = tf.constant(x, tf.float32)
    pinned = model.experimental_pin(x=x)
    if kind == "asvi":
        surrogate = tfp.experimental.vi.build_asvi_surrogate_posterior(pinned)
    else:
        surrogate = tfp.experimental.vi.build_affine_surrogate_posterior(
            pinned.event_shape, operators="diag"
        )
    optimizer = tf_keras.optimizers.Adam(rate, jit_compile=False)

    @tf.function(jit_compile=True)
    def steps() -> Any:
        return tfp.vi.fit_surrogate_posterior(
            pinned.unnormalized_log_prob, surrogate, optimizer, STEPS
        )

    while True:
        steps()
        seconds = time.perf_counter() - start - off
        pause = time.perf_counter()
        draws, log_q = surrogate.experimental_sample_and_log_prob(20 if groups <= 10**4 else 4)
        log_p = pinned.unnormalized_log_prob(draws)
        found = gap.of_elbo(float(np.mean(log_p - log_q)))
        off += time.perf_counter() - pause
        yield seconds, found


def contenders(rate: float) -> dict[str, Callable[[np.ndarray, Gap], Trace]]:
    """By name."""
    return {
        "pavi, numpyro": lambda x, gap: run_pavi(x, "numpyro", gap),
        "pavi, tfp": lambda x, gap: run_pavi(x, "tfp", gap),
        "NumPyro AutoNormal, whole": lambda x, gap: run_auto_normal(x, None, rate, gap),
        "NumPyro AutoNormal, batch": lambda x, gap: run_auto_normal(x, BATCH, rate, gap),
        "TFP asvi": lambda x, gap: run_tfp(x, "asvi", rate, gap),
        "TFP affine, diagonal": lambda x, gap: run_tfp(x, "affine", rate, gap),
    }


def race(trace: Trace, quality: float, limit: float) -> dict[str, Any]:
    """Follows a contender until its gap is small enough or its time is up."""
    calls, least = 0, np.inf
    for seconds, gap in trace:
        calls, least = calls + 1, min(least, gap)
        if gap <= quality or seconds > limit:
            return {
                "seconds": round(seconds, 2),
                "steps": calls * STEPS,
                "gap": float(gap),
                "reached": bool(gap <= quality),
            }
    raise AssertionError("a contender never ends by itself")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--groups", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--only", nargs="+", help="words in the contenders' names")
    parser.add_argument("--quality", type=float, default=0.01, help="nats per latent")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds")
    parser.add_argument("--rate", type=float, default=0.03, help="Adam's, for the hosts' guides")
    parser.add_argument("--results", type=Path, help="JSON lines to append to")
    args = parser.parse_args()
    print(f"{'contender':28s} {'groups':>10s} {'seconds':>9s} {'steps':>8s} {'gap':>9s}  reached")
    for groups in args.groups:
        x = effects.simulate(groups, OBSERVATIONS, 0).astype(np.float32)
        gap = Gap(np.float64(x))
        for name, start in contenders(args.rate).items():
            if args.only and not any(word in name for word in args.only):
                continue
            trace = start(x, gap)
            row = race(trace, args.quality, args.limit)
            trace.close()  # type: ignore[attr-defined]
            print(
                f"{name:28s} {groups:10,d} {row['seconds']:9.1f} {row['steps']:8,d} "
                f"{row['gap']:9.4f}  {row['reached']}",
                flush=True,
            )
            if args.results:
                with args.results.open("a") as file:
                    file.write(json.dumps({"contender": name, "groups": groups, **row}) + "\n")


if __name__ == "__main__":
    main()
