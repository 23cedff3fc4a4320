"""Peak memory and time of an export, by number of latents.

    python benchmarks/export.py
    python benchmarks/export.py --latents 100000 10000000 --statistics mean sd quantiles

Each export runs in a process of its own, whose peak resident memory is the kernel's figure. The
model is a dense one of subjects by items, its data a memory map, its guide encoded from the data;
weights are those that a fit starts from, as to the cost of an export all weights are alike.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import pavi
from pavi import dist

ITEMS = 1000


def graph() -> pavi.PlateGraph:
    return pavi.PlateGraph(
        plates=[pavi.Plate("subject"), pavi.Plate("item")],
        variables=[
            pavi.Latent("mu", dist.Normal(0.0, 1.0)),
            pavi.Latent("scale", dist.HalfNormal(1.0)),
            pavi.Latent("effect", lambda mu: dist.Normal(mu, 1.0), plates="subject"),
            pavi.Latent(
                "z",
                lambda effect, scale: dist.Normal(effect, scale),
                plates=("subject", "item"),
            ),
            pavi.Observed("y", lambda z: dist.Normal(z, 1.0), plates=("subject", "item")),
        ],
    )


def measured(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """One export in this process."""
    shape = (max(options.latents[0] // ITEMS, 1), ITEMS)
    path = folder / "y.npy"
    y = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for start in range(0, shape[0], 100):
        y[start : start + 100] = np.random.default_rng(start).normal(
            size=y[start : start + 100].shape
        )
    del y
    data = pavi.Data({"y": np.load(path, mmap_mode="r")})
    trainer = pavi.Trainer(
        graph(),
        data,
        family=pavi.Family(residual_limit=0),
        backend=options.backend,
        batch={"subject": min(10, shape[0])},
    )
    posterior = pavi.Posterior(
        trainer.plan, trainer.data, options.backend, trainer.initial(), {}, "float32"
    )
    started = time.perf_counter()
    posterior.export(
        folder / "store",
        statistics=options.statistics,
        num_samples=options.num_samples,
        draws=options.draws,
        memory=options.memory << 20,
        progress=False,
    )
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    written = sum(file.stat().st_size for file in (folder / "store").rglob("*")) / 2**20
    return {"latents": trainer.plan.num_latents, "peak": peak, "seconds": seconds, "MB": written}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--latents", type=int, nargs="+", default=[100_000, 10_000_000])
    parser.add_argument("--statistics", nargs="*", default=["mean", "sd", "quantiles"])
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=0)
    parser.add_argument("--memory", type=int, default=256, help="MiB")
    parser.add_argument("--backend", default="numpyro")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measured(options, Path(folder))))
        return
    print("| latents | peak resident MiB | more than the first | seconds | MiB written |")
    print("|---|---|---|---|---|")
    first = None
    for latents in options.latents:
        arguments = [a for a in sys.argv[1:] if a != "--one"]
        command = [sys.executable, __file__, *arguments, "--latents", str(latents), "--one"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            sys.exit(run.stderr)
        found = json.loads(run.stdout.splitlines()[-1])
        first = found["peak"] if first is None else first
        print(
            f"| {found['latents']:,} | {found['peak']:,.0f} | {found['peak'] - first:+,.0f} | "
            f"{found['seconds']:,.1f} | {found['MB']:,.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
