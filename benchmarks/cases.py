"""Fits the shared reference cases with default settings and holds them against their answers.

    python benchmarks/cases.py --cases FOLDER --check
    python benchmarks/cases.py --cases FOLDER --backend numpyro tfp --only first
    python benchmarks/cases.py --cases FOLDER --only pastes_nested3 --batch batch=4

`FOLDER` holds one folder for each case, with `data.*`, `reference.json`, `draws.npz` and `logp.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from case_models import CASES, Case, Values, read
from record import keep

import pavi

NUM_DRAWS, ELBO_DRAWS, CHECK_DRAWS = 20_000, 1000, 8


def reference(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "reference.json").read_text())


def compare(folder: Path, draws: Values, tolerance: float) -> dict[str, Any]:
    """Mean error in reference sd and sd ratio of each quantity of the reference, summarised."""
    answers = reference(folder)
    rows: list[tuple[str, float, float]] = []
    for quantity, answer in answers["parameters"].items():
        name, _, index = quantity.partition("[")
        place = tuple(int(i) - answers["index_base"] for i in re.findall(r"\d+", index))
        values = np.asarray(draws[name], np.float64)[(slice(None), *place)]
        error = abs(values.mean() - answer["mean"]) / answer["sd"]
        rows.append((quantity, float(error), float(values.std(ddof=1) / answer["sd"])))

    def within(error: float, ratio: float, limit: float) -> bool:
        return error <= limit and 1.0 - limit <= ratio <= 1.0 / (1.0 - limit)

    worst = sorted(rows, key=lambda r: max(r[1], abs(np.log(r[2]))), reverse=True)
    return {
        "quantities": len(rows),
        "mean_error": max(row[1] for row in rows),
        "sd_ratio": [min(row[2] for row in rows), max(row[2] for row in rows)],
        "inside_0.10": float(np.mean([within(e, r, 0.10) for _, e, r in rows])),
        "inside_0.15": float(np.mean([within(e, r, 0.15) for _, e, r in rows])),
        "kept": all(within(e, r, tolerance) for _, e, r in rows),
        "worst": [[q, round(e, 3), round(r, 3)] for q, e, r in worst[:4]],
    }


def fit(name: str, case: Case, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One case on one backend: `args.backend` is a single name here."""
    graph, data = case.build(read(folder))
    posterior = pavi.fit(
        graph,
        data,
        backend=args.backend,
        batch=dict(args.batch),
        steps=args.steps,
        seed=args.seed,
        progress=False,
    )
    draws = posterior.sample(NUM_DRAWS, seed=args.seed + 1)
    elbo, error = posterior.elbo(ELBO_DRAWS)
    return {
        "case": name,
        "backend": args.backend,
        "batch": dict(args.batch),
        **compare(folder, {**draws, **case.derived(draws)}, case.tolerance),
        "tolerance": case.tolerance,
        "elbo": elbo,
        "elbo_error": error,
        "seconds": posterior.seconds,
        "steps": int(posterior.history.step[-1]),
        "converged": posterior.converged,
        "verdict": posterior.verdict,
    }


HEADER = (
    "case                                backend  kept  mean err  sd ratio       in .10  in .15"
    "  ELBO (error)             s  steps  converged"
)


def line(row: dict[str, Any]) -> str:
    low, high = row["sd_ratio"]
    elbo = f"{row['elbo']:.2f} ({row['elbo_error']:.2g})"
    return (
        f"{row['case']:35s} {row['backend']:8s} {'yes' if row['kept'] else 'NO':4s} "
        f"{row['mean_error']:9.3f}  {low:.3f} - {high:.3f}  {row['inside_0.10']:6.1%}  "
        f"{row['inside_0.15']:6.1%}  {elbo:20s} {row['seconds']:5.0f} {row['steps']:6d}  "
        f"{row['converged']}"
    )


def check(name: str, case: Case, folder: Path) -> float:
    """Spread of the graph's log density minus `logp.py`'s over a few reference draws."""
    from pavi.backends.numpyro.distributions import log_prob
    from pavi.backends.numpyro.precision import precision
    from pavi.model import log_terms
    from pavi.subsampling import full_batch

    raw = read(folder)
    graph, data = case.build(raw)
    spec = importlib.util.spec_from_file_location("logp", folder / "logp.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = [latent.name for latent in graph.latents]
    points = {k: v for k, v in _points(folder).items() if k in names}
    with precision("float64"):
        terms = log_terms(graph, log_prob, points, full_batch(data.bind(graph), "float64"))
        ours = sum(np.asarray(term, np.float64) for term in terms.values())
    theirs = [module.logp({k: v[i] for k, v in points.items()}, raw) for i in range(len(ours))]
    difference = ours - np.array(theirs, np.float64)
    return float(np.ptp(difference) / max(1.0, np.abs(ours).max()))


def _points(folder: Path) -> dict[str, np.ndarray]:
    """A few joint draws; where none are stored, points scattered by the reference's moments."""
    if (folder / "draws.npz").exists():
        with np.load(folder / "draws.npz") as stored:
            return {name: np.float64(stored[name][:CHECK_DRAWS]) for name in stored.files}
    answers, rng = reference(folder), np.random.default_rng(0)
    columns: dict[str, list[np.ndarray]] = {}
    for quantity, answer in answers["parameters"].items():
        drawn = answer["mean"] + answer["sd"] * rng.standard_normal(CHECK_DRAWS)
        columns.setdefault(quantity, []).append(drawn)
    out: dict[str, list[np.ndarray]] = {}
    for quantity, column in columns.items():
        out.setdefault(quantity.partition("[")[0], []).extend(column)
    return {k: v[0] if k in columns else np.stack(v, -1) for k, v in out.items()}


def reduced(text: str) -> tuple[str, int]:
    """A plate and how many of its elements a step sees, from `plate=size`."""
    plate, _, size = text.partition("=")
    return plate, int(size)


def chosen(only: list[str]) -> list[str]:
    names: list[str] = []
    for word in only:
        if word == "all":
            names += CASES
        elif word in ("first", "other"):
            names += [name for name, case in CASES.items() if case.first == (word == "first")]
        elif word in CASES:
            names.append(word)
        else:
            raise SystemExit(f"No case {word!r}; there are {', '.join(CASES)}, first, other, all.")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=Path, required=True, help="folder of the cases")
    parser.add_argument("--only", nargs="+", default=["all"], help="names, first, other or all")
    parser.add_argument("--backend", nargs="+", default=["numpyro"], choices=pavi_backends())
    parser.add_argument("--steps", default="auto", type=lambda s: s if s == "auto" else int(s))
    parser.add_argument("--batch", nargs="+", default=[], type=reduced, help="plate=size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="hold the graphs against logp.py only")
    parser.add_argument("--results", type=Path, help="JSON lines to append to")
    args = parser.parse_args()
    if args.check:
        wrong = 0
        for name in chosen(args.only):
            spread = check(name, CASES[name], args.cases / name)
            wrong += spread > 1e-9
            print(f"{name:35s} {'same' if spread <= 1e-9 else 'DIFFERS'}  {spread:.1e}")
        sys.exit(wrong > 0)
    print(HEADER, flush=True)
    for backend in args.backend:
        for name in chosen(args.only):
            own = argparse.Namespace(**{**vars(args), "backend": backend})
            row = fit(name, CASES[name], args.cases / name, own)
            print(line(row), flush=True)
            print("   ", *(f"{q} {e} x{r}" for q, e, r in row["worst"]), sep="  ", flush=True)
            keep(row, args.results)


def pavi_backends() -> tuple[str, ...]:
    from pavi.backends.base import BACKENDS

    return BACKENDS


if __name__ == "__main__":
    main()
