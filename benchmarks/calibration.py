"""Simulation-based calibration: ranks of the truth, over data sets drawn from the prior.

    python benchmarks/calibration.py --backend numpyro
    python benchmarks/calibration.py --models logistic lkj --datasets 500 --reports
    python benchmarks/calibration.py --models lkj --family mean_field

Models with ragged groups, of 1 to 12 rows each; the posterior is what `pavi.fit` gives by default,
or with a family that is too small for the model, which is to be found out.
"Uniform" says whether the ranks of all quantities of a model together are uniform at the 5 % level
(p-values of the simultaneous ECDF test, adjusted by Holm's method), "outside" how many quantities
leave the 95 % envelope by themselves. Coverage is that of 90 % intervals: the least and the most of
any quantity, and that of all copies of the latents in groups.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from record import keep

import pavi
from pavi import Covariate, Latent, Observed, Plate, PlateGraph, dist, ops
from pavi.backends.base import BACKENDS

# Rows of each group: 24 groups, 124 rows.
ROWS = np.tile([1, 2, 3, 5, 8, 12], 4)
MEMBERS = {"row": {"group": np.repeat(np.arange(len(ROWS)), ROWS)}}
PLATES = (Plate("group"), Plate("row", within="group"))


class Model(NamedTuple):
    """A graph, and the covariates that are not standard normal."""

    graph: PlateGraph
    covariates: dict[str, Any] | None = None


def random_effects() -> Model:
    """Gaussian random effects with both scales unknown."""
    return Model(
        PlateGraph(
            PLATES,
            [
                Latent("mean", dist.Normal(0.0, 1.0)),
                Latent("scale", dist.HalfNormal(1.0)),
                Latent("noise", dist.HalfNormal(1.0)),
                Latent("effect", lambda mean, scale: dist.Normal(mean, scale), plates="group"),
                Observed("y", lambda effect, noise: dist.Normal(effect, noise), plates="row"),
            ],
        )
    )


def logistic() -> Model:
    """Hierarchical logistic regression: an intercept for each group, one slope."""
    return Model(
        PlateGraph(
            PLATES,
            [
                Covariate("x", plates="row"),
                Latent("mean", dist.Normal(0.0, 1.0)),
                Latent("slope", dist.Normal(0.0, 1.0)),
                Latent("scale", dist.HalfNormal(1.0)),
                Latent("effect", lambda mean, scale: dist.Normal(mean, scale), plates="group"),
                Observed(
                    "y",
                    lambda effect, slope, x: dist.Bernoulli(logits=effect + slope * x),
                    plates="row",
                ),
            ],
        )
    )


def poisson() -> Model:
    """Hierarchical counts with an exposure."""
    exposure = np.random.default_rng(0).gamma(4.0, 0.5, ROWS.sum())
    return Model(
        PlateGraph(
            PLATES,
            [
                Covariate("exposure", plates="row"),
                Latent("mean", dist.Normal(0.0, 1.0)),
                Latent("scale", dist.HalfNormal(1.0)),
                Latent("effect", lambda mean, scale: dist.Normal(mean, scale), plates="group"),
                Observed(
                    "y",
                    lambda effect, exposure: dist.Poisson(exposure * ops.exp(effect)),
                    plates="row",
                ),
            ],
        ),
        {"exposure": exposure},
    )


def lkj() -> Model:
    """Intercepts and slopes of groups, correlated."""
    return Model(
        PlateGraph(
            PLATES,
            [
                Covariate("x", plates="row"),
                Latent("mean", dist.Normal(0.0, 1.0), event=(2,)),
                Latent("scales", dist.HalfNormal(1.0), event=(2,)),
                Latent("factor", dist.LKJCholesky(2, 2.0), event=(2, 2)),
                Latent("noise", dist.HalfNormal(1.0)),
                Latent(
                    "effect",
                    lambda mean, scales, factor: dist.MultivariateNormal(
                        mean, scale_tril=ops.expand_dims(scales, -1) * factor
                    ),
                    plates="group",
                    event=(2,),
                ),
                Observed(
                    "y",
                    lambda effect, noise, x: dist.Normal(
                        effect[..., 0] + effect[..., 1] * x, noise
                    ),
                    plates="row",
                ),
            ],
        )
    )


MODELS: dict[str, Callable[[], Model]] = {
    "random_effects": random_effects,
    "logistic": logistic,
    "poisson": poisson,
    "lkj": lkj,
}


FAMILIES = {
    "default": pavi.Family(),
    "mean_field": pavi.Family(structure="mean_field"),
    "encoder": pavi.Family(encoding="encoder"),
}


def calibrated(name: str, backend: str, args: argparse.Namespace) -> pavi.Calibration:
    """One model's calibration."""
    model = MODELS[name]()
    return pavi.calibrate(
        model.graph,
        {"group": len(ROWS)},
        members=MEMBERS,
        covariates=model.covariates,
        backend=backend,
        family=FAMILIES[args.family],
        datasets=args.datasets,
        draws=args.draws,
        steps=args.steps,
        # Latents of one name would have the same draws, and one chance be seen in all models.
        seed=args.seed + 1000 * list(MODELS).index(name),
        workers=args.workers,
        progress=False,
    )


def record(
    name: str, backend: str, family: str, found: pavi.Calibration, seconds: float
) -> dict[str, Any]:
    """What is kept of a calibration."""
    return {
        "model": name,
        "backend": backend,
        "family": family,
        "datasets": found.num_datasets,
        "draws": found.num_draws,
        "uniform": found.uniform,
        "converged": int(found.converged.sum()),
        "seconds": seconds,
        "seconds_each": float(np.median(found.seconds)),
        "quantities": [
            {
                "name": q.name,
                "p": q.p,
                "adjusted": q.adjusted,
                "held": q.held,
                "bias": q.bias,
                "width": q.width,
                "coverage": {str(level): rate for level, rate in q.coverage.items()},
            }
            for q in found.quantities
        ],
        "by_size": {
            latent: [(c.fewest, c.most, c.copies, c.coverage[0.9]) for c in found.by_size(latent)]
            for latent in found.rows
        },
    }


def line(row: dict[str, Any]) -> str:
    """One line of the table."""
    quantities = row["quantities"]
    worst = min(quantities, key=lambda q: q["p"])
    cover = [q["coverage"]["0.9"][0] for q in quantities]
    groups = [q["coverage"]["0.9"] for q in quantities if q["name"].split("[")[0] in row["by_size"]]
    local = ", ".join(f"{value:.3f}+-{error:.3f}" for value, error in groups)
    outside = sum(not q["held"] for q in quantities)
    return (
        f"{row['model']:15s} {row['backend']:8s} {row['datasets']:5d} {len(quantities):3d} "
        f"{'yes' if row['uniform'] else 'NO':>8s} {outside:8d} {worst['p']:9.2g} "
        f"{worst['adjusted']:9.2g}  {worst['name']:10s} {min(cover):.2f} - {max(cover):.2f}  "
        f"{local:28s} {row['converged']:5d} {row['seconds_each']:7.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--backend", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--family", default="default", choices=list(FAMILIES))
    parser.add_argument("--datasets", type=int, default=200)
    parser.add_argument("--draws", type=int, default=999)
    parser.add_argument("--steps", default="auto", type=lambda s: s if s == "auto" else int(s))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="fits at once")
    parser.add_argument("--reports", action="store_true", help="print each report, too")
    parser.add_argument("--results", type=Path, help="JSON lines to append to")
    args = parser.parse_args()
    print(
        f"{'model':15s} {'backend':8s} {'sets':>5s} {'q':>3s} {'uniform':>8s} {'outside':>8s} "
        f"{'worst p':>9s} {'adjusted':>9s}  {'of':10s} {'90 % cover':11s}  {'of groups':28s} "
        f"{'conv.':>5s} {'s each':>7s}",
        flush=True,
    )
    for name in args.models:
        for backend in args.backend:
            start = time.perf_counter()
            found = calibrated(name, backend, args)
            row = record(name, backend, args.family, found, time.perf_counter() - start)
            print(line(row), flush=True)
            if args.reports:
                print(found, flush=True)
            keep(row, args.results)


if __name__ == "__main__":
    main()
