"""Time of one training step: pavi on both backends against a hand-written JAX loop.

    python benchmarks/step_time.py

All contenders take turns, one compiled call of `CHUNK` steps each, and medians are compared: what
else the machine does falls on all of them alike. The rows of a batch are gathered beforehand; in a
fit another thread gathers them while the steps are taken.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from example_model import effects
from hand_written import HandWritten, Inputs

import pavi
from pavi.backends.base import Rates, get_adapter
from pavi.backends.numpyro.compilation import compiled
from pavi.feed import Feed
from pavi.schedule import CHUNK
from pavi.tables import TableStore

Call = Callable[[], Any]
LEARNING_RATE = 1e-4
# By default nothing is learned of a conditional that is exact, and there is little to compare.
FAMILY = pavi.Family(overrides={"theta": {"encoding": "encoder+free"}})


def pavi_call(groups: int, batch: int | None, backend: str, path: bool) -> tuple[Call, int]:
    """One call of the program that `pavi.fit` runs, and its number of draws a step."""
    trainer = pavi.Trainer(
        effects.graph(),
        effects.data(groups),
        backend=None,
        family=FAMILY,
        batch={"group": batch} if batch else None,
    )
    settings = trainer._settings
    feed = Feed(trainer.plan, trainer.data, trainer._sampler, settings.dtype)
    tables = TableStore(trainer.plan, settings.dtype)
    program = get_adapter(backend).program(trainer.plan, settings)
    program.initialise(feed.resident, trainer.initial(), 0)
    ones = np.ones(CHUNK)
    rates = Rates(learning=LEARNING_RATE * ones, averaging=0.01 * ones, refine=ones)
    call, rows = feed.draw(0, CHUNK)

    def run() -> None:
        given = {name: tables.take(name, index) for name, index in rows.items()}
        _, moved = program.run(call, given, rates, path=path)
        for name, index in rows.items():
            tables.put(name, index, moved[name])

    return run, settings.num_particles


def hand_call(groups: int, batch: int | None, particles: int, path: bool, options: bool) -> Call:
    """One call of the hand-written loop."""
    x = effects.simulate(groups, 50, 0)
    loop = HandWritten(x, batch, particles, path=path, compile_=compiled if options else jax.jit)
    rng = np.random.default_rng(0)
    index = None
    if batch:
        drawn = [rng.choice(groups, batch, replace=False) for _ in range(CHUNK)]
        index = np.stack(drawn).astype(np.int32)
    ones = np.ones(CHUNK, np.float32)
    inputs = Inputs(index, LEARNING_RATE * ones, 0.01 * ones)
    return lambda: loop.run(jax.tree.map(jnp.asarray, inputs))


def measure(groups: int, batch: int | None, repeats: int, backends: list[str]) -> dict[str, Any]:
    """Medians of microseconds a step of each contender, and the ratios asked for."""
    calls: dict[str, Call] = {}
    particles = 1
    for backend in backends:
        for kind, path in (("path", True), ("total", False)):
            calls[f"{backend} {kind}"], particles = pavi_call(groups, batch, backend, path)
    for kind in ("path", "total"):
        for name, options in (("hand", True), ("hand, plain jit", False)):
            calls[f"{name} {kind}"] = hand_call(groups, batch, particles, kind == "path", options)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    rng = np.random.default_rng(0)
    for _ in range(repeats):
        for name in rng.permutation(list(calls)):
            start = time.perf_counter()
            calls[name]()
            times[name].append((time.perf_counter() - start) / CHUNK * 1e6)
    medians = {name: float(np.median(value)) for name, value in times.items()}
    ratios: dict[str, float] = {}
    for kind in ("path", "total"):
        ratios[f"pavi / hand, {kind}"] = medians[f"numpyro {kind}"] / medians[f"hand {kind}"]
        ratios[f"pavi / hand, plain jit, {kind}"] = (
            medians[f"numpyro {kind}"] / medians[f"hand, plain jit {kind}"]
        )
        if "tfp" in backends:
            ratios[f"tfp / numpyro, {kind}"] = medians[f"tfp {kind}"] / medians[f"numpyro {kind}"]
    return {
        "groups": groups,
        "batch": batch,
        "particles": particles,
        "repeats": repeats,
        "microseconds": {name: round(value, 1) for name, value in medians.items()},
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--groups", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--backend", nargs="+", default=["numpyro", "tfp"])
    parser.add_argument("--results", type=Path, help="JSON file to write")
    args = parser.parse_args()
    out = []
    for groups in args.groups:
        for batch in (None, 100) if groups > 100 else (None,):
            row = measure(groups, batch, args.repeats, args.backend)
            out.append(row)
            print(
                f"G = {groups}, {'all' if batch is None else batch} groups a step, "
                f"{row['particles']} draws"
            )
            for name, value in row["microseconds"].items():
                print(f"  {name:32s} {value:8.1f} us")
            for name, value in row["ratios"].items():
                print(f"  {name:32s} {value:8.3f}", flush=True)
    if args.results:
        args.results.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
