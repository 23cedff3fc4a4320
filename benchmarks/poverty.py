"""A hierarchical logistic regression of 2.1 million latents, with known truth.

    python benchmarks/poverty.py
    python benchmarks/poverty.py --backend tfp
    python benchmarks/poverty.py --contender autonormal

Rows i of groups g, each with 20 covariates; an intercept and 20 slopes per group, around population
values, with two unknown scales:

    y_i ~ Bernoulli(sigmoid(a_g(i) + x_i' b_g(i)))    a_g ~ N(mu, s_a^2)    b_g ~ N(beta, s_b^2)

At full size 10^6 rows, 10^5 groups, 2.1 million latents. Reported: wall-clock from data in memory
to the posterior's mean and sd of every latent, in a Zarr store or, of the contender, in memory; how
many of the true effects lie within 1.645 sd of the mean; and the scales beside the truth.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from record import keep

import pavi
from pavi import Covariate, Data, Latent, Observed, Plate, PlateGraph, dist, ops

COVARIATES = 20
TRUTH = {"intercept_scale": 0.8, "slope_scale": 0.3}
EFFECTS = ("group_intercept", "group_slopes")
# Half the width of a 90 % interval of a Gaussian, in standard deviations.
Z90 = 1.6449


def graph() -> PlateGraph:
    """The plate graph; group sizes come with the data."""
    return PlateGraph(
        [Plate("group"), Plate("row", within="group")],
        [
            Covariate("x", plates="row", event=(COVARIATES,)),
            Latent("intercept", dist.Normal(0.0, 2.0)),
            Latent("slopes", dist.Normal(0.0, 2.0), event=(COVARIATES,)),
            Latent("intercept_scale", dist.HalfNormal(1.0)),
            Latent("slope_scale", dist.HalfNormal(1.0)),
            Latent(
                "group_intercept",
                lambda intercept, intercept_scale: dist.Normal(intercept, intercept_scale),
                plates="group",
            ),
            Latent(
                "group_slopes",
                lambda slopes, slope_scale: dist.Normal(slopes, slope_scale),
                plates="group",
                event=(COVARIATES,),
            ),
            Observed(
                "y",
                lambda group_intercept, group_slopes, x: dist.Bernoulli(
                    logits=group_intercept + ops.sum(group_slopes * x, -1)
                ),
                plates="row",
            ),
        ],
    )


def simulate(groups: int, rows: int, seed: int) -> tuple[Data, dict[str, np.ndarray]]:
    """Data and the latents behind them; group sizes vary as a multinomial's."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {name: np.float64(value) for name, value in TRUTH.items()}
    truth["intercept"] = np.float64(-0.5)
    truth["slopes"] = rng.normal(0.0, 0.5, COVARIATES)
    shape = (groups, COVARIATES)
    truth["group_intercept"] = truth["intercept"] + TRUTH["intercept_scale"] * rng.normal(
        size=groups
    )
    truth["group_slopes"] = truth["slopes"] + TRUTH["slope_scale"] * rng.normal(size=shape)
    group = np.sort(rng.integers(groups, size=rows))
    x = rng.normal(size=(rows, COVARIATES)).astype(np.float32)
    logits = truth["group_intercept"][group] + np.sum(truth["group_slopes"][group] * x, -1)
    y = rng.uniform(size=rows) < 1.0 / (1.0 + np.exp(-logits))
    data = Data(
        {"x": x, "y": y.astype(np.float32)},
        members={"row": {"group": group}},
        sizes={"group": groups},
    )
    return data, truth


def posterior(options: argparse.Namespace, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours: mean and sd of every latent, and the record."""
    fitted = pavi.fit(
        graph(),
        data,
        backend=options.backend,
        batch={"group": options.batch},
        steps=options.steps if options.steps == "auto" else int(options.steps),
        learning_rate=options.learning_rate,
        objective=options.objective,
        seed=options.seed,
        progress=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        # Effects are Gaussian given the population's latents: so few draws of these are enough.
        path = fitted.export(
            Path(folder) / "posterior.zarr",
            statistics=("mean", "sd"),
            num_samples=options.draws,
            progress=False,
        )
        stop = time.perf_counter()
        store = xarray.open_zarr(path).load()
    out = {name: (store[f"{name}_mean"].values, store[f"{name}_sd"].values) for name in EFFECTS}
    drawn = fitted.sample(400, variables=list(TRUTH), plates={"group": [0]})
    out |= {name: (drawn[name].mean(), drawn[name].std()) for name in TRUTH}
    record = {"fit": fitted.seconds, "converged": fitted.converged, "verdict": fitted.verdict}
    return out, record | {"stop": stop}


def autonormal(options: argparse.Namespace, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
    """NumPyro's AutoNormal in batches of groups, as its users would write the model."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as npd
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    group = np.asarray(data.members["row"]["group"])
    groups, most = int(group.max()) + 1, int(np.bincount(group).max())
    place = np.arange(len(group)) - np.searchsorted(group, group)
    x = np.zeros((groups, most, COVARIATES), np.float32)
    y, seen = np.zeros((groups, most), np.float32), np.zeros((groups, most), bool)
    x[group, place], y[group, place] = data.values["x"], data.values["y"]
    seen[group, place] = True
    x, y, seen = map(jnp.asarray, (x, y, seen))

    def model() -> None:
        intercept = numpyro.sample("intercept", npd.Normal(0.0, 2.0))
        slopes = numpyro.sample("slopes", npd.Normal(0.0, 2.0).expand([COVARIATES]).to_event(1))
        s_a = numpyro.sample("intercept_scale", npd.HalfNormal(1.0))
        s_b = numpyro.sample("slope_scale", npd.HalfNormal(1.0))
        with numpyro.plate("group", groups, subsample_size=options.batch, dim=-1) as index:
            a = numpyro.sample("group_intercept", npd.Normal(intercept, s_a))
            b = numpyro.sample("group_slopes", npd.Normal(slopes, s_b[..., None]).to_event(1))
            logits = a[:, None] + jnp.sum(b[:, None, :] * x[index], -1)
            law = npd.Bernoulli(logits=logits).mask(seen[index]).to_event(1)
            numpyro.sample("y", law, obs=y[index])

    guide = AutoNormal(model)
    svi = SVI(model, guide, numpyro.optim.Adam(options.learning_rate), Trace_ELBO())
    state = svi.init(jax.random.key(options.seed))
    advance = jax.jit(lambda s: jax.lax.fori_loop(0, 100, lambda _, t: svi.update(t)[0], s))
    start = time.perf_counter()
    for _ in range(int(options.steps) // 100):
        state = advance(state)
    params = jax.tree.map(np.asarray, svi.get_params(state))
    fit = time.perf_counter() - start
    out = {n: (params[f"{n}_auto_loc"], params[f"{n}_auto_scale"]) for n in EFFECTS}
    rng = np.random.default_rng(0)
    for name in TRUTH:
        noise = params[f"{name}_auto_scale"] * rng.normal(size=4000)
        drawn = np.exp(params[f"{name}_auto_loc"] + noise)
        out[name] = (drawn.mean(), drawn.std())
    return out, {"fit": fit, "stop": time.perf_counter()}


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """One fit and what came of it."""
    data, truth = simulate(options.groups, options.rows, options.seed)
    start = time.perf_counter()
    made = posterior if options.contender == "pavi" else autonormal
    found, record = made(options, data)
    stop = record.pop("stop")
    row = {**record, "seconds": stop - start}
    for name in EFFECTS:
        mean, sd = found[name]
        row[f"{name}_covered"] = float((np.abs(mean - truth[name]) < Z90 * sd).mean())
    for name, true in TRUTH.items():
        mean, sd = found[name]
        row[name], row[f"{name}_sd"], row[f"{name}_off"] = (
            float(mean),
            float(sd),
            float(mean / true - 1.0),
        )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contender", choices=("pavi", "autonormal"), default="pavi")
    parser.add_argument("--backend", choices=("numpyro", "tfp"), default="numpyro")
    parser.add_argument("--groups", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", default="4000", help="a number, or auto")
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--objective", default="auto")
    parser.add_argument("--draws", type=int, default=2, help="of the population's latents")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="a file that the record is added to")
    options = parser.parse_args()
    row = measured(options)
    asked = {k: v for k, v in vars(options).items() if k != "results"}
    for name, value in row.items():
        print(f"{name:24} {value:.3f}" if isinstance(value, float) else f"{name:24} {value}")
    keep(asked | row, options.results)


if __name__ == "__main__":
    main()
