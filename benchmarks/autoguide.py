"""AutoPAVI in stock SVI beside AutoNormal: time of a step by number of groups; a reference case.

    python benchmarks/autoguide.py
    python benchmarks/autoguide.py --groups --cases FOLDER

A step sees `--batch` groups, and a compiled call takes `STEPS` of them; the contenders take turns,
and medians are compared. NumPyro draws the rows of a subsampled plate at a cost that grows with the
plate, whatever the guide: "rows" is the time of that alone, and "own" what is left of AutoPAVI's.
With `--cases`, AutoPAVI fits radon in Minnesota, written as users of NumPyro write it, and is held
against the reference in `FOLDER/gym_radon_minnesota`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as npd
import optax
from case_models import read
from cases import NUM_DRAWS, compare
from numpyro import handlers
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from record import keep

import pavi
from pavi.backends.numpyro import AutoPAVI

STEPS, OBSERVATIONS = 200, 10
ENCODER = pavi.Family(encoding="encoder", joint_limit=0)
CASE = "gym_radon_minnesota"


def effects(x: Any, batch: int) -> None:
    """Gaussian random effects, `x` being `[groups, OBSERVATIONS]`."""
    mu = numpyro.sample("mu", npd.Normal(0.0, 1.0))
    with numpyro.plate("group", len(x), subsample_size=batch, dim=-2) as rows:
        theta = numpyro.sample("theta", npd.Normal(mu, 1.0))
        with numpyro.plate("observation", OBSERVATIONS, dim=-1):
            numpyro.sample("x", npd.Normal(theta, 1.0), obs=x[rows])


def training(guide: Any, x: Any, batch: int) -> Callable[[], Any]:
    """A function that takes `STEPS` steps of SVI, going on where it was."""
    svi = SVI(effects, guide, optax.adam(1e-3), Trace_ELBO())
    state = jax.jit(svi.init, static_argnums=2)(jax.random.key(0), x, batch)

    def steps(state: Any, x: Any) -> Any:
        return jax.lax.scan(lambda s, _: svi.update(s, x, batch), state, None, STEPS)

    program = jax.jit(steps, donate_argnums=0).lower(state, x).compile()

    def call() -> None:
        nonlocal state
        state, losses = program(state, x)
        jax.block_until_ready(losses)

    return call


def drawing(groups: int, batch: int) -> Callable[[], Any]:
    """A function that draws the rows of `STEPS` steps, and nothing else."""

    def rows(key: Any) -> Any:
        with handlers.block(), handlers.seed(rng_seed=key):
            return numpyro.plate("group", groups, subsample_size=batch)._indices

    draw = jax.jit(lambda keys: jax.lax.map(rows, keys))
    keys = jax.random.split(jax.random.key(0), STEPS)
    return lambda: jax.block_until_ready(draw(keys))


def measure(groups: int, batch: int, repeats: int) -> dict[str, Any]:
    """Medians of microseconds a step."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(groups, 1)) + rng.normal(size=(groups, OBSERVATIONS))
    x = jnp.asarray(x, jnp.float32)

    def plates(x: Any, batch: int) -> Any:
        return numpyro.plate("group", len(x), subsample_size=batch, dim=-2)

    calls = {
        "pavi": training(AutoPAVI(effects, family=ENCODER), x, batch),
        "normal": training(AutoNormal(effects, create_plates=plates), x, batch),
        "rows": drawing(groups, batch),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name in rng.permutation(list(calls)):
            start = time.perf_counter()
            calls[name]()
            times[name].append((time.perf_counter() - start) / STEPS * 1e6)
    medians = {name: float(np.median(value)) for name, value in times.items()}
    least = {name: float(np.min(value)) for name, value in times.items()}
    return {
        "groups": groups,
        "batch": batch,
        "repeats": repeats,
        "microseconds": {name: round(value, 1) for name, value in medians.items()},
        "least": {name: round(value, 1) for name, value in least.items()},
        "ratio": round(medians["pavi"] / medians["normal"], 3),
        "own": round(least["pavi"] - least["rows"], 1),
    }


def radon(
    county: Any, floor: Any, log_uranium: Any, floor_by_county: Any, log_radon: Any = None
) -> None:
    """Homes in counties, as `inference_gym` has the model."""
    mean = numpyro.sample("county_effect_mean", npd.Normal(0.0, 1.0))
    scale = numpyro.sample("county_effect_scale", npd.HalfNormal(1.0))
    noise = numpyro.sample("log_radon_scale", npd.HalfNormal(1.0))
    weight = numpyro.sample("weight", npd.Normal(0.0, 1.0).expand([3]).to_event(1))
    with numpyro.plate("counties", len(floor_by_county)):
        effect = numpyro.sample("county_effect", npd.Normal(mean, scale))
    predictor = weight[0] * log_uranium + weight[1] * floor
    predictor = predictor + weight[2] * floor_by_county[county] + effect[county]
    with numpyro.plate("homes", len(county)):
        numpyro.sample("log_radon", npd.Normal(predictor, noise), obs=log_radon)


def reference_case(folder: Path, steps: int, particles: int) -> dict[str, Any]:
    """AutoPAVI with its default family, in stock SVI, against the reference."""
    raw = read(folder)
    names = ("county", "floor", "log_uranium", "floor_by_county", "log_radon")
    given = [jnp.asarray(raw[name]) for name in names]
    guide = AutoPAVI(radon)
    rate = optax.cosine_decay_schedule(0.02, steps)
    svi = SVI(radon, guide, optax.adam(rate), Trace_ELBO(num_particles=particles))
    start = time.perf_counter()
    result = svi.run(jax.random.key(0), steps, *given, progress_bar=False)
    seconds = time.perf_counter() - start
    draws = guide.sample_posterior(
        jax.random.key(1), result.params, *given, sample_shape=(NUM_DRAWS,)
    )
    found = compare(folder, {name: np.asarray(value) for name, value in draws.items()}, 0.15)
    return {"case": CASE, "steps": steps, "particles": particles, "seconds": seconds, **found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--groups", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cases", type=Path, help="folder of the reference cases")
    parser.add_argument("--steps", type=int, default=3000, help="steps of the reference case")
    parser.add_argument("--particles", type=int, default=8, help="draws a step of it")
    parser.add_argument("--results", type=Path, help="JSON lines to append to")
    args = parser.parse_args()
    if args.groups:
        print("microseconds a step, medians     AutoPAVI  AutoNormal   ratio    rows     own")
    for groups in args.groups:
        row = measure(groups, args.batch, args.repeats)
        micro = row["microseconds"]
        print(
            f"{groups:9d} groups, {args.batch} a step     {micro['pavi']:10.0f}  "
            f"{micro['normal']:10.0f}  {row['ratio']:6.3f}  {micro['rows']:6.0f}  "
            f"{row['own']:6.0f}",
            flush=True,
        )
        keep(row, args.results)
    if args.cases:
        row = reference_case(args.cases / CASE, args.steps, args.particles)
        low, high = row["sd_ratio"]
        print(
            f"{CASE}: {row['quantities']} quantities, mean off by {row['mean_error']:.3f} sd at "
            f"most, sd ratio {low:.3f} - {high:.3f}, {row['seconds']:.0f} s; worst {row['worst']}"
        )
        keep(row, args.results)


if __name__ == "__main__":
    main()
