"""Gaussian random effects against their closed-form evidence: the KL gap per latent.

    python benchmarks/random_effects.py
    python benchmarks/random_effects.py --family free encoder deep_set --backend numpyro

G groups of 50 observations in 2 dimensions. The gap is (log evidence - ELBO) / number of latents:
the Kullback-Leibler divergence of the fitted posterior from the exact one, shared out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from example_model import effects
from record import keep

import pavi
from pavi.backends.base import BACKENDS

FAMILIES = {
    "default": pavi.Family(),
    "free": pavi.Family(encoding="free"),
    "encoder": pavi.Family(encoding="encoder"),
    "deep_set": pavi.Family(encoding="encoder", encoder="deep_set"),
}
ELBO_DRAWS = 1000


def fit(
    groups: int, batch: int | None, backend: str, family: str, args: argparse.Namespace
) -> dict[str, Any]:
    """One fit, and its gap."""
    posterior = pavi.fit(
        effects.graph(),
        effects.data(groups, seed=args.data_seed),
        backend=backend,
        family=FAMILIES[family],
        batch={"group": batch} if batch else None,
        steps=args.steps,
        seed=args.seed,
        progress=False,
    )
    x = np.asarray(posterior.data.values["x"], np.float64)
    elbo, error = posterior.elbo(ELBO_DRAWS)
    latents = posterior.plan.num_latents
    return {
        "groups": groups,
        "batch": batch,
        "backend": backend,
        "family": family,
        "gap": (effects.exact(x).log_evidence - elbo) / latents,
        "gap_error": error / latents,
        "seconds": posterior.seconds,
        "steps": int(posterior.history.step[-1]),
        "weights": posterior.num_weights,
        "converged": posterior.converged,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--groups", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--backend", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--family", nargs="+", default=["default"], choices=list(FAMILIES))
    parser.add_argument("--batch", type=int, default=100, help="groups a step of the small batch")
    parser.add_argument("--steps", default="auto", type=lambda s: s if s == "auto" else int(s))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="JSON lines to append to")
    args = parser.parse_args()
    print(
        f"{'family':9s} {'backend':8s} {'G':>6s} {'batch':>6s} {'gap / latent':>13s} {'error':>9s} "
        f"{'weights':>8s} {'s':>5s} {'steps':>6s}  converged",
        flush=True,
    )
    for family in args.family:
        for backend in args.backend:
            for groups in args.groups:
                for batch in (None, args.batch) if args.batch < groups else (None,):
                    row = fit(groups, batch, backend, family, args)
                    print(
                        f"{family:9s} {backend:8s} {groups:6d} {batch or 'all':>6} "
                        f"{row['gap']:13.6f} {row['gap_error']:9.6f} {row['weights']:8d} "
                        f"{row['seconds']:5.0f} {row['steps']:6d}  {row['converged']}",
                        flush=True,
                    )
                    keep(row, args.results)


if __name__ == "__main__":
    main()
