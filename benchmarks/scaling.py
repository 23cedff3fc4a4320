"""Time to a given quality, and of a step, against the number of groups, beside the hosts' guides.

    python benchmarks/scaling.py --results scaling.jsonl --plot scaling.png

Gaussian random effects, G groups x 50 observations x 2 dimensions, whose evidence is known. A
contender's time is wall-clock from data in memory, compilation included and imports not, until the
gap between the log evidence and its ELBO is below `--quality` nats per latent (at its best every
family here comes within 0.001). The gap is evaluated off the clock, whenever the clock has gone on
by 2%. Every run has a process of its own.

pavi runs as it comes. Its peers are given several rates for Adam, constant ones and falling ones,
of which the best is reported: each has a quarter of `--limit`, but not longer than the best before
it took; if none arrives, the one whose pace promises most starts anew with all of `--limit`.

`--from-results FILE` prints the table and draws the plot again, without running anything.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from contenders import CONTENDERS, OBSERVATIONS, Contender, Evidence, Rate, Trace, awaken
from example_model import effects
from record import keep

# The gap is evaluated when the clock has gone on by this share.
LOOK = 0.02
# Share of the limit that each of several rates is given.
TRIAL = 0.25
# Calls after the first one that the time of a step is taken from, at least.
STEADY = 5
Row = dict[str, Any]


def race(trace: Trace, steps: int, quality: float, limit: float) -> Row:
    """Follows a contender until its gap is small enough or its time is up."""
    calls: list[float] = []
    looks: list[tuple[float, float]] = []
    seconds, due = 0.0, 0.0

    def call() -> Any:
        start = time.perf_counter()
        gap = next(trace)
        calls.append(time.perf_counter() - start)
        return gap

    while True:
        gap = call()
        seconds += calls[-1]
        if seconds < min(due, limit):
            continue
        due = (1.0 + LOOK) * seconds
        looks.append((seconds, gap()))
        # A guide that is no longer finite stays so.
        if not looks[-1][1] > quality or seconds >= limit:
            break
    row = {
        "reached": bool(looks[-1][1] <= quality and seconds <= limit),
        "seconds": round(seconds, 3),
        "first_call": round(calls[0], 3),
        "steps": len(calls) * steps,
        "gap": looks[-1][1],
        "promise": promise(looks, limit / TRIAL),
    }
    # What is compiled in the background may slow the first few.
    while len(calls) <= STEADY and (len(calls) < 2 or seconds < limit):
        call()
        seconds += calls[-1]
    row["step"] = float(np.median(calls[1:][-max(STEADY, len(calls) // 2) :])) / steps
    return row


def promise(looks: list[tuple[float, float]], limit: float) -> float:
    """The log gap at a limit, if the pace of the latter half of the time so far is kept up."""
    end, gap = looks[-1]
    middle, before = next(look for look in looks if look[0] >= end / 2)
    if not (math.isfinite(gap) and math.isfinite(before)) or min(gap, before) <= 0:
        return math.inf if not gap <= 0 else -math.inf
    pace = math.log(gap / before) / (end - middle) if end > middle else 0.0
    return math.log(gap) + pace * max(limit - end, 0.0)


def run(name: str, groups: int, rate: Rate, quality: float, limit: float) -> Row:
    """One contender at one rate, in this process."""
    contender = CONTENDERS[name]
    x = effects.simulate(groups, OBSERVATIONS, 0).astype(np.float32)
    evidence = Evidence(x)
    awaken(contender.host)
    trace = contender.start(x, rate, evidence)
    try:
        return {"rate": rate} | race(trace, contender.steps, quality, limit)
    finally:
        trace.close()  # type: ignore[attr-defined]


def run_apart(name: str, groups: int, rate: Rate, quality: float, limit: float) -> Row:
    """The same in a process of its own, which may run out of memory without ending the study."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(run, name, groups, rate, quality, limit).result()
        except BrokenProcessPool:
            failed = {"rate": rate, "reached": False, "failed": True, "seconds": math.nan}
            return (
                failed
                | dict.fromkeys(("first_call", "step", "gap"), math.nan)
                | {
                    "steps": 0,
                    "promise": math.inf,
                }
            )


def best(name: str, contender: Contender, groups: int, quality: float, limit: float) -> Row:
    """A contender at the rate that suits it best."""
    if not contender.fits(groups):
        return {"reached": False, "gigabytes": round(contender.gigabytes(groups), 1)}
    trials: list[Row] = []
    share = TRIAL * limit if len(contender.rates) > 1 else limit
    for rate in contender.rates:
        trials.append(run_apart(name, groups, rate, quality, share))
        if trials[-1]["reached"]:
            share = trials[-1]["seconds"]
    arrived = [trial for trial in trials if trial["reached"]]
    if arrived:
        row = min(arrived, key=lambda trial: trial["seconds"])
    elif len(trials) == 1:
        row = trials[0]
    else:
        rate = min(trials, key=lambda trial: trial["promise"])["rate"]
        row = run_apart(name, groups, rate, quality, limit)
    kept = ("rate", "reached", "seconds", "steps", "gap")
    shown = {key: value for key, value in row.items() if key != "promise"}
    return shown | {"trials": [{key: trial[key] for key in kept} for trial in trials]}


HEADER = (
    f"{'contender':27s} {'groups':>10s} {'rate':>12s} {'seconds':>8s} {'first call':>10s} "
    f"{'steps':>7s} {'ms a step':>9s} {'gap':>9s}  reached"
)


def line(row: Row) -> str:
    """A row of the table."""
    start = f"{row['contender']:27s} {row['groups']:10,d}"
    if "gigabytes" in row:
        return f"{start} does not fit: about {row['gigabytes']:,.0f} GB"
    if row.get("failed"):
        return f"{start} ended by the system, most likely for its memory"
    rates = row["rate"] if isinstance(row["rate"], list | tuple) else [row["rate"]]
    rate = "own" if rates == [None] else " to ".join(f"{value:g}" for value in rates)
    return (
        f"{start} {rate:>12s} {row['seconds']:8.1f} {row['first_call']:10.1f} {row['steps']:7,d} "
        f"{1e3 * row['step']:9.3f} {row['gap']:9.4f}  {'yes' if row['reached'] else 'no'}"
    )


def summary(rows: list[Row]) -> list[str]:
    """How pavi compares with the best peer at each size, and its largest size with its smallest."""
    out = []
    own = sorted({r["contender"] for r in rows if r["contender"].startswith("pavi")})
    for name in own:
        times = {r["groups"]: r["seconds"] for r in rows if r["contender"] == name and r["reached"]}
        for groups, seconds in sorted(times.items()):
            peers = [r for r in rows if r["groups"] == groups and r["contender"] not in own]
            arrived = [r for r in peers if r["reached"]]
            if arrived:
                peer = min(arrived, key=lambda r: r["seconds"])
                out.append(
                    f"{name}, {groups:,} groups: {peer['seconds'] / seconds:.2f} times as fast as "
                    f"{peer['contender']}"
                )
            elif peers:
                out.append(f"{name}, {groups:,} groups: no peer arrived")
        if len(times) > 1:
            least, most = min(times), max(times)
            out.append(
                f"{name}, {most:,} groups: {times[most] / times[least]:.2f} times the seconds of "
                f"{least:,}"
            )
    return out


def plot(rows: list[Row], path: Path) -> None:
    """Seconds to quality and time of a step; open markers at the limit for who did not arrive."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    shown = [row for row in rows if "gigabytes" not in row and not row.get("failed")]
    for index, name in enumerate(dict.fromkeys(row["contender"] for row in shown)):
        own = sorted((r for r in shown if r["contender"] == name), key=lambda r: r["groups"])
        groups = [row["groups"] for row in own]
        seconds = [row["seconds"] if row["reached"] else row["limit"] for row in own]
        style: dict[str, Any] = {"color": f"C{index}", "marker": "osD^v<>PX*"[index % 10]}
        left.plot(groups, seconds, color=style["color"], lw=1)
        for row, x, y in zip(own, groups, seconds, strict=True):
            left.plot(x, y, **style, mfc=style["color"] if row["reached"] else "none")
        right.plot(groups, [1e3 * row["step"] for row in own], **style, lw=1, label=name)
    title = f"to {rows[-1]['quality']:g} nats per latent (open: not there at the limit)"
    left.set(title=title, ylabel="seconds")
    right.set(title="one step", ylabel="milliseconds")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="groups")
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def known(path: Path) -> list[Row]:
    """The rows of a file, the last of each contender and size."""
    rows = [json.loads(text) for text in path.read_text().splitlines() if text]
    return list({(row["groups"], row["contender"]): row for row in rows}.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--groups", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--only", nargs="+", help="words in the contenders' names")
    parser.add_argument("--quality", type=float, default=0.01, help="nats per latent")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds")
    parser.add_argument("--results", type=Path, help="JSON lines to append to")
    parser.add_argument("--plot", type=Path, help="picture to write")
    parser.add_argument("--from-results", type=Path, help="JSON lines to show, running nothing")
    args = parser.parse_args()
    rows: list[Row] = []
    print(HEADER)
    if args.from_results:
        rows = known(args.from_results)
        print(*map(line, rows), sep="\n")
    for groups in [] if args.from_results else args.groups:
        for name, contender in CONTENDERS.items():
            unasked = args.only and not any(word in name for word in args.only)
            if unasked or groups < contender.least:
                continue
            found = best(name, contender, groups, args.quality, args.limit)
            setting = {"quality": args.quality, "limit": args.limit, "cpus": os.cpu_count()}
            rows.append({"contender": name, "groups": groups, **found, **setting})
            print(line(rows[-1]), flush=True)
            keep(rows[-1], args.results)
            if args.plot:
                plot(rows, args.plot)
    print(*summary(rows), sep="\n")
    if args.plot and rows:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
