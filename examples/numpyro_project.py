"""A NumPyro project with `AutoPAVI` in it: stock SVI on a subsampled model, then NUTS as a check.

Run it with `python examples/numpyro_project.py`, and with `--guide stock` for NumPyro's AutoNormal;
`--guide both` fits the two and prints them side by side.

Pupils lie in classes, classes in schools. With s a school, c its class and n a pupil,

    mean ~ Normal(0, 1)    school_scale, class_scale, noise_scale ~ HalfNormal(1)
    school_s ~ Normal(mean, school_scale)
    class_sc ~ Normal(school_s, class_scale)
    score_scn ~ Normal(class_sc, noise_scale)

Each step of SVI sees some of the schools. NUTS sees all of them.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from pavi.backends.numpyro import AutoPAVI

GLOBALS = ("mean", "school_scale", "class_scale", "noise_scale")


def model(scores: Any, batch: int | None = None) -> None:
    """Scores `[schools, classes, pupils]`, of which a step sees `batch` schools."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    school_scale = numpyro.sample("school_scale", dist.HalfNormal(1.0))
    class_scale = numpyro.sample("class_scale", dist.HalfNormal(1.0))
    noise_scale = numpyro.sample("noise_scale", dist.HalfNormal(1.0))
    schools, classes, pupils = scores.shape
    with numpyro.plate("schools", schools, subsample_size=batch, dim=-3) as rows:
        school = numpyro.sample("school", dist.Normal(mean, school_scale))
        with numpyro.plate("classes", classes, dim=-2):
            of_class = numpyro.sample("class", dist.Normal(school, class_scale))
            with numpyro.plate("pupils", pupils, dim=-1):
                numpyro.sample("score", dist.Normal(of_class, noise_scale), obs=scores[rows])


def simulate(schools: int, classes: int, pupils: int, seed: int) -> np.ndarray:
    """Scores drawn from the model, with the scales 0.5, 0.3 and 1."""
    rng = np.random.default_rng(seed)
    school = 0.3 + 0.5 * rng.normal(size=(schools, 1, 1))
    of_class = school + 0.3 * rng.normal(size=(schools, classes, 1))
    return np.asarray(of_class + rng.normal(size=(schools, classes, pupils)), np.float32)


def fit(name: str, scores: Any, batch: int, steps: int) -> dict[str, np.ndarray]:
    """Posterior draws by SVI with a guide of either kind."""
    guide = AutoPAVI(model) if name == "pavi" else AutoNormal(model)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, steps))
    svi = SVI(model, guide, optimizer, Trace_ELBO(num_particles=2))
    start = time.perf_counter()
    result = svi.run(jax.random.key(0), steps, scores, batch, progress_bar=False)
    print(f"{name}: {steps} steps of {batch} schools in {time.perf_counter() - start:.1f} s")
    draws = guide.sample_posterior(
        jax.random.key(1), result.params, scores, batch, sample_shape=(2000,)
    )
    return {site: np.asarray(value) for site, value in draws.items()}


def check(scores: Any, samples: int) -> dict[str, np.ndarray]:
    """Posterior draws by NUTS on the same model."""
    mcmc = MCMC(NUTS(model), num_warmup=samples, num_samples=samples, progress_bar=False)
    mcmc.run(jax.random.key(2), scores)
    return {site: np.asarray(value) for site, value in mcmc.get_samples().items()}


def table(answers: dict[str, dict[str, np.ndarray]]) -> str:
    """Mean and standard deviation of the globals and of the first schools, a column a method."""
    lines = [" " * 14 + "".join(f"{name:>18}" for name in answers)]
    rows = [(site, site, ()) for site in GLOBALS]
    rows += [(f"school {s}", "school", (s, 0, 0)) for s in range(3)]
    for label, site, place in rows:
        cells = ""
        for draws in answers.values():
            column = draws[site][(slice(None), *place)]
            cells += f"{column.mean():>10.3f} ({column.std():.3f})"
        lines.append(f"{label:<14}{cells}")
    return "\n".join(lines)


def main() -> None:
    """Fits the guides asked for, checks them, and prints all answers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--guide", choices=("pavi", "stock", "both"), default="pavi")
    parser.add_argument("--schools", type=int, default=100)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=1000, help="draws of NUTS; 0 leaves it out")
    given = parser.parse_args()
    scores = jnp.asarray(simulate(given.schools, 4, 10, seed=0))
    names = ("pavi", "stock") if given.guide == "both" else (given.guide,)
    answers = {name: fit(name, scores, given.batch, given.steps) for name in names}
    if given.samples:
        answers["NUTS"] = check(scores, given.samples)
    print(table(answers))


if __name__ == "__main__":
    main()
