"""Time of one training step against the number of groups, at a fixed batch of 100 of them.

    python benchmarks/cardinality.py

Everything that a fit does is timed, the gathering of rows and of the tables' rows on the host
included. All sizes take turns, one record of steps each: what else the machine does falls on
all of them alike; medians are compared with those of the smallest size.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from record import keep

import pavi
from pavi import Data, Family, Latent, Observed, Plate, PlateGraph, dist
from pavi.run import Run
from pavi.schedule import CHUNK

BATCH, OBSERVATIONS = 100, 5


def graph() -> PlateGraph:
    """Gaussian random effects in 2 dimensions, the observations of a group an array axis."""
    return PlateGraph(
        [Plate("group"), Plate("obs")],
        [
            Latent("mean", dist.Normal(0.0, 5.0), event=(2,)),
            Latent("scale", dist.HalfNormal(2.0)),
            Latent(
                "effect",
                lambda mean, scale: dist.Normal(mean, scale),
                plates="group",
                event=(2,),
            ),
            Observed(
                "x", lambda effect: dist.Normal(effect, 1.0), plates=("group", "obs"), event=(2,)
            ),
        ],
    )


def data(groups: int) -> Data:
    """Simulated in single precision."""
    rng = np.random.default_rng(0)
    effect = rng.standard_normal((groups, 1, 2), dtype=np.float32)
    noise = rng.standard_normal((groups, OBSERVATIONS, 2), dtype=np.float32)
    return Data({"x": effect + noise})


def run(groups: int, encoding: str, backend: str) -> Run:
    """A fit under way."""
    trainer = pavi.Trainer(
        graph(),
        data(groups),
        backend=backend,
        family=Family(encoding=encoding),  # type: ignore[arg-type]
        batch={"group": BATCH},
        num_particles=1,
    )
    return trainer.run(1_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--groups", type=int, nargs="+", default=[10**3, 10**5, 10**7])
    parser.add_argument("--encoding", nargs="+", default=["free", "encoder"])
    parser.add_argument("--backend", nargs="+", default=["numpyro", "tfp"])
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--results", type=Path, help="JSON lines to append to")
    args = parser.parse_args()
    print(f"{'backend':8s} {'encoding':9s} {'groups':>10s} {'us / step':>10s} {'ratio':>6s}")
    for backend in args.backend:
        for encoding in args.encoding:
            runs = {groups: run(groups, encoding, backend) for groups in args.groups}
            times: dict[int, list[float]] = {groups: [] for groups in runs}
            for repeat in range(args.repeats + 2):
                for groups, one in runs.items():
                    start = time.perf_counter()
                    one.advance()
                    if repeat >= 2:
                        times[groups].append((time.perf_counter() - start) / CHUNK * 1e6)
            for one in runs.values():
                one.close()
            least = float(np.median(times[min(runs)]))
            for groups, found in times.items():
                row = {
                    "backend": backend,
                    "encoding": encoding,
                    "groups": groups,
                    "microseconds": round(float(np.median(found)), 1),
                    "ratio": round(float(np.median(found)) / least, 3),
                }
                print(
                    f"{backend:8s} {encoding:9s} {groups:10,d} {row['microseconds']:10.1f} "
                    f"{row['ratio']:6.3f}",
                    flush=True,
                )
                keep(row, args.results)


if __name__ == "__main__":
    main()
