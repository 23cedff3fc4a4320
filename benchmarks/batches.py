"""Posteriors fitted from batches against exact ones, on data that would show a bias.

    python benchmarks/batches.py --backend numpyro tfp

Gaussian models with known scales, so that the posterior of all latents is a linear system:

- ragged: 200 groups of 1 to 5,000 rows, sorted by group; large groups lie far from small ones.
- both: the same, where a step sees some groups and some rows of each.
- sorted: one slope on a covariate by which the rows are sorted, rows alone in batches.
- crossed: 60 x 40 elements, a third of their pairs observed, one side in batches.

Each is fitted whole and from batches, at default settings. Errors are the worst over all latents:
of means in exact standard deviations, of standard deviations as ratios.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from record import keep

import pavi
from pavi import Covariate, Data, Latent, Observed, Plate, PlateGraph, dist

DRAWS = 20_000


class Problem(NamedTuple):
    """A model, its data, what a step sees, and the exact posterior of its latents."""

    graph: PlateGraph
    data: Data
    batch: dict[str, int]
    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]


def exact(
    design: np.ndarray, y: np.ndarray, noise: float, precision: np.ndarray, names: dict[str, int]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Mean and sd of x ~ N(0, precision^-1), y ~ N(design x, noise^2), cut into named parts."""
    total = precision + design.T @ design / noise**2
    covariance = np.linalg.inv(total)
    mean, sd = covariance @ (design.T @ y) / noise**2, np.sqrt(np.diag(covariance))
    ends = np.cumsum(list(names.values()))[:-1]
    parts = (dict(zip(names, np.split(x, ends), strict=True)) for x in (mean, sd))
    return next(parts), next(parts)


def ragged(seed: int, batch: dict[str, int]) -> Problem:
    """Groups of 1 to 5,000 rows."""
    rng = np.random.default_rng(seed)
    sizes = np.geomspace(1, 5000, 200).round().astype(int)
    theta = np.linspace(-2.0, 2.0, len(sizes)) + 0.3 * rng.normal(size=len(sizes))
    group = np.repeat(np.arange(len(sizes)), sizes)
    y = theta[group] + 2.0 * rng.normal(size=len(group))
    graph = PlateGraph(
        [Plate("group"), Plate("row", within="group")],
        [
            Latent("mu", dist.Normal(0.0, 3.0)),
            Latent("theta", lambda mu: dist.Normal(mu, 1.0), plates="group"),
            Observed("y", lambda theta: dist.Normal(theta, 2.0), plates="row"),
        ],
    )
    # The rows of a group are as good as their mean.
    count = len(sizes)
    precision = np.eye(1 + count)
    precision[0, 0] = 3.0**-2 + count
    precision[0, 1:] = precision[1:, 0] = -1.0
    design = np.hstack([np.zeros((count, 1)), np.diag(np.sqrt(sizes))])
    means = np.bincount(group, y) / sizes
    answer = exact(design, np.sqrt(sizes) * means, 2.0, precision, {"mu": 1, "theta": count})
    return Problem(graph, Data({"y": y}, members={"row": {"group": group}}), batch, *answer)


def in_order(seed: int) -> Problem:
    """Rows sorted by their covariate."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.normal(size=20_000))
    y = 0.5 - 1.5 * x + rng.normal(size=len(x))
    graph = PlateGraph(
        [Plate("row")],
        [
            Covariate("x", plates="row"),
            Latent("level", dist.Normal(0.0, 2.0)),
            Latent("slope", dist.Normal(0.0, 2.0)),
            Observed(
                "y", lambda level, slope, x: dist.Normal(level + slope * x, 1.0), plates="row"
            ),
        ],
    )
    design = np.stack([np.ones_like(x), x], 1)
    answer = exact(design, y, 1.0, np.eye(2) / 4.0, {"level": 1, "slope": 1})
    return Problem(graph, Data({"y": y, "x": x}), {"row": 500}, *answer)


def crossed(seed: int) -> Problem:
    """Pairs of elements of two plates, sorted by the first."""
    rng = np.random.default_rng(seed)
    first, second = np.nonzero(rng.uniform(size=(60, 40)) < 1 / 3)
    effects = rng.normal(size=60), rng.normal(size=40)
    y = effects[0][first] + effects[1][second] + rng.normal(size=len(first))
    graph = PlateGraph(
        [Plate("a"), Plate("b"), Plate("pair", within=("a", "b"))],
        [
            Latent("u", dist.Normal(0.0, 1.0), plates="a"),
            Latent("v", dist.Normal(0.0, 1.0), plates="b"),
            Observed("y", lambda u, v: dist.Normal(u + v, 1.0), plates="pair"),
        ],
    )
    design = np.hstack([np.eye(60)[first], np.eye(40)[second]])
    answer = exact(design, y, 1.0, np.eye(100), {"u": 60, "v": 40})
    members = {"pair": {"a": first, "b": second}}
    return Problem(graph, Data({"y": y}, members=members), {"a": 15}, *answer)


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "ragged": lambda seed: ragged(seed, {"group": 20}),
    "both": lambda seed: ragged(seed, {"group": 20, "row": 25}),
    "sorted": in_order,
    "crossed": crossed,
}


def study(name: str, backend: str, whole: bool, seed: int) -> dict[str, Any]:
    """One fit, held against the exact answer."""
    problem = PROBLEMS[name](seed)
    batch = None if whole else problem.batch
    posterior = pavi.fit(
        problem.graph, problem.data, backend=backend, batch=batch, seed=seed, progress=False
    )
    draws = posterior.sample(DRAWS, seed=seed + 1)
    errors, ratios = [], []
    for latent, mean in problem.mean.items():
        own, sd = draws[latent].reshape(DRAWS, -1).astype(np.float64), problem.sd[latent]
        errors.append(np.abs(own.mean(0) - mean) / sd)
        ratios.append(own.std(0, ddof=1) / sd)
    error, ratio = np.concatenate(errors), np.concatenate(ratios)
    return {
        "data": name,
        "backend": backend,
        "batch": dict(batch or {}),
        "latents": len(error),
        "mean_error": float(error.max()),
        "sd_ratio": [float(ratio.min()), float(ratio.max())],
        "steps": int(posterior.history.step[-1]),
        "seconds": posterior.seconds,
        "converged": posterior.converged,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backend", nargs="+", default=["numpyro"], choices=("numpyro", "tfp"))
    parser.add_argument("--only", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="JSON lines to append to")
    args = parser.parse_args()
    print(
        "data     backend  batch                     latents  mean err  sd ratio       steps      s"
    )
    for backend in args.backend:
        for name in args.only:
            for whole in (True, False):
                row = study(name, backend, whole, args.seed)
                seen = ", ".join(f"{p}={n}" for p, n in row["batch"].items()) or "all"
                low, high = row["sd_ratio"]
                end = "" if row["converged"] else "not converged"
                print(
                    f"{name:8s} {backend:8s} {seen:25s} {row['latents']:7d}  "
                    f"{row['mean_error']:8.3f}  {low:.3f} - {high:.3f}  {row['steps']:6d}  "
                    f"{row['seconds']:5.0f}  {end}",
                    flush=True,
                )
                keep(row, args.results)


if __name__ == "__main__":
    main()
