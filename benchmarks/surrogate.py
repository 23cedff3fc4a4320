"""The TFP surrogate in TFP's own loop, beside the surrogates that TFP brings, on one model.

    python benchmarks/surrogate.py
    python benchmarks/surrogate.py --cases FOLDER

Each contender is fitted by `tfp.vi.fit_surrogate_posterior` inside one compiled function of `CHUNK`
steps. The contenders take turns and medians are compared, so that what else the machine does falls
on all of them alike. Then each is fitted anew by the same optimizer and as many steps, once for
each of several rates, and the best ELBO counts. `FOLDER` is that of the shared reference cases:
`gym_radon_minnesota`, written as a TFP user writes it, is fitted and held against its answers.
"""

from __future__ import annotations

import argparse
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from case_models import read
from cases import NUM_DRAWS, compare
from record import keep

from pavi.backends.tfp import build_pavi_surrogate_posterior

tfd, tfe = tfp.distributions, tfp.experimental.vi

CHUNK = 100
OBSERVATIONS = 10
# The highest and the lowest rate of each fit; it falls from one to the other as a cosine.
RATES = (0.3, 0.1, 0.03, 0.01, 0.003)
FALL = 0.01
EVALUATIONS, DRAWS = 50, 8
CASE = "gym_radon_minnesota"
Plates = dict[str, dict[Any, int]]


def random_effects(groups: int, layout: str) -> tuple[Any, Plates]:
    """Groups of `OBSERVATIONS` rows, pinned: a matrix, or a column of rows with their groups."""
    rng = np.random.default_rng(0)
    effect = 0.3 + 0.5 * rng.standard_normal((groups, 1))
    y = np.float32(effect + rng.standard_normal((groups, OBSERVATIONS)))
    group = np.repeat(np.arange(groups), OBSERVATIONS)

    # Scales are log-normal: the rules of `asvi` for HalfNormal do not compile under XLA.
    @tfd.JointDistributionCoroutineAutoBatched
    def model() -> Iterator[Any]:
        mean = yield tfd.Normal(0.0, 1.0, name="mean")
        scale = yield tfd.LogNormal(-1.0, 1.0, name="scale")
        noise = yield tfd.LogNormal(0.0, 1.0, name="noise")
        theta = yield tfd.Sample(tfd.Normal(mean, scale), groups, name="theta")
        if layout == "matrix":
            loc = theta[..., tf.newaxis] * tf.ones(OBSERVATIONS)
        else:
            loc = tf.gather(theta, group, axis=-1)
        yield tfd.Normal(loc, noise, name="y")

    if layout == "matrix":
        return model.experimental_pin(y=y), {"group": {"theta": 0, "y": 0}, "row": {"y": 1}}
    return model.experimental_pin(y=y.ravel()), {"group": {"theta": 0}, "row": {"y": 0}}


def radon(d: dict[str, Any]) -> tuple[Any, Plates]:
    """The reference case, its parts by the names of the reference."""
    county = d["county"]
    columns = (d["log_uranium"], d["floor"], np.asarray(d["floor_by_county"])[county])
    features = np.column_stack(columns).astype(np.float32)

    @tfd.JointDistributionCoroutineAutoBatched
    def model() -> Iterator[Any]:
        centre = yield tfd.Normal(0.0, 1.0, name="county_effect_mean")
        spread = yield tfd.HalfNormal(1.0, name="county_effect_scale")
        noise = yield tfd.HalfNormal(1.0, name="log_radon_scale")
        weight = yield tfd.Sample(tfd.Normal(0.0, 1.0), 3, name="weight")
        effect = yield tfd.Sample(
            tfd.Normal(centre, spread), int(county.max()) + 1, name="county_effect"
        )
        mean = tf.linalg.matvec(features, weight) + tf.gather(effect, county, axis=-1)
        yield tfd.Normal(mean, noise, name="log_radon")

    target = model.experimental_pin(log_radon=np.float32(d["log_radon"]))
    return target, {"county": {"county_effect": 0}, "home": {"log_radon": 0}}


def _on_the_line(build: Callable[..., Any], target: Any, **options: Any) -> Any:
    """A surrogate of independent numbers of the real line, mapped to the supports."""
    links = target.experimental_default_event_space_bijector()
    return build(event_shape=target.event_shape, bijector=links, seed=(0, 1), **options)


BUILDERS: dict[str, Callable[[Any, Plates], Any]] = {
    "pavi": lambda t, plates: build_pavi_surrogate_posterior(t, plates=plates, seed=(0, 1)),
    "asvi": lambda t, _: tfe.build_asvi_surrogate_posterior(t, seed=(0, 1)),
    "affine": lambda t, _: _on_the_line(
        partial(tfe.build_affine_surrogate_posterior, operators="diag"), t
    ),
    "factored": lambda t, _: _on_the_line(tfe.build_factored_surrogate_posterior, t),
}


@dataclass
class Contender:
    """A surrogate with its optimizer, in one compiled function of `CHUNK` steps.

    Args:
        target: the pinned joint distribution.
        surrogate: the surrogate.
        samples: draws a step.
        xla: whether the function is compiled by XLA.
    """

    target: Any
    surrogate: Any
    samples: int
    xla: bool

    def __post_init__(self) -> None:
        self._optimizer = tf_keras.optimizers.Adam(0.01, jit_compile=False)
        self._optimizer.build(self.surrogate.trainable_variables)
        self._state = (*self.surrogate.trainable_variables, *self._optimizer.variables)
        self._start = [variable.numpy() for variable in self._state]
        self._steps = tf.function(self._fit, jit_compile=self.xla)
        self._terms = tf.function(self._elbo_terms, jit_compile=self.xla)

    def _fit(self, seed: Any) -> Any:
        return tfp.vi.fit_surrogate_posterior(
            self.target.unnormalized_log_prob,
            self.surrogate,
            self._optimizer,
            CHUNK,
            sample_size=self.samples,
            seed=seed,
        )

    def _elbo_terms(self, seed: Any) -> Any:
        draws, log_q = self.surrogate.experimental_sample_and_log_prob(DRAWS, seed=seed)
        return self.target.unnormalized_log_prob(draws) - log_q

    @property
    def size(self) -> int:
        """Number of trained numbers."""
        return sum(math.prod(v.shape) for v in self.surrogate.trainable_variables)

    def advance(self, call: int) -> float:
        """Takes `CHUNK` steps; returns the seconds that they took."""
        start = time.perf_counter()
        self._steps(tf.constant([1, call])).numpy()
        return time.perf_counter() - start

    def fit(self, rate: float, steps: int) -> None:
        """Starts anew and takes `steps` steps."""
        for variable, value in zip(self._state, self._start, strict=True):
            variable.assign(value)
        calls = steps // CHUNK
        for call in range(calls):
            cosine = 0.5 * (1.0 + math.cos(math.pi * call / calls))
            self._optimizer.learning_rate.assign(rate * (FALL + (1.0 - FALL) * cosine))
            self.advance(call)

    def elbo(self) -> tuple[float, float]:
        """The ELBO and its standard error."""
        terms = [self._terms(tf.constant([2, i])).numpy() for i in range(EVALUATIONS)]
        drawn = np.concatenate(terms).astype(np.float64)
        return float(drawn.mean()), float(drawn.std(ddof=1) / math.sqrt(drawn.size))


def beside(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each contender and way of compilation, on the random effects."""
    target, plates = random_effects(args.groups, args.layout)
    found: dict[tuple[str, str], Contender] = {}
    for name in args.contenders:
        for compilation in args.compilation:
            own = Contender(
                target, BUILDERS[name](target, plates), args.samples, compilation == "xla"
            )
            own.advance(0)
            found[name, compilation] = own
    times: dict[tuple[str, str], list[float]] = {key: [] for key in found}
    rng = np.random.default_rng(0)
    for call in range(args.repeats):
        for i in rng.permutation(len(found)):
            key = list(found)[i]
            times[key].append(found[key].advance(call) / CHUNK)
    rows = []
    for (name, compilation), own in found.items():
        row = {
            "model": "random effects",
            "groups": args.groups,
            "layout": args.layout,
            "samples": args.samples,
            "surrogate": name,
            "compiled": compilation,
            "parameters": own.size,
            "milliseconds": 1e3 * float(np.median(times[name, compilation])),
        }
        # The numbers are the same however they are compiled.
        if args.steps and compilation == args.compilation[0]:
            elbos = {}
            for rate in RATES:
                own.fit(rate, args.steps)
                elbos[rate] = own.elbo()
            best = max((rate for rate in RATES if np.isfinite(elbos[rate][0])), key=elbos.get)
            row |= {"steps": args.steps, "rate": best, "elbos": elbos}
            row |= {"elbo": elbos[best][0], "elbo_error": elbos[best][1]}
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the table; times as ratios to those of `asvi` that is compiled alike."""
    base = {r["compiled"]: r["milliseconds"] for r in rows if r["surrogate"] == "asvi"}
    first = rows[0]
    print(
        f"{first['groups']} groups of {OBSERVATIONS}, {first['layout']}, {first['samples']} draws "
        f"a step\nsurrogate  compiled  parameters  ms a step  to asvi  rate   ELBO (error)"
    )
    for row in rows:
        ratio = row["milliseconds"] / base.get(row["compiled"], math.nan)
        elbo = f"{row['elbo']:.2f} ({row['elbo_error']:.2f})" if "elbo" in row else ""
        print(
            f"{row['surrogate']:9s}  {row['compiled']:8s}  {row['parameters']:10d}  "
            f"{row['milliseconds']:9.2f}  {ratio:7.2f}  {row.get('rate', ''):<5}  {elbo}",
            flush=True,
        )


def held_against(folder: Path, steps: int) -> dict[str, Any]:
    """The reference case by stock `fit_surrogate_posterior`."""
    target, plates = radon(read(folder))
    surrogate = build_pavi_surrogate_posterior(target, plates=plates, seed=(0, 1))
    schedule = tf_keras.optimizers.schedules.CosineDecay(0.05, steps)
    start = time.perf_counter()
    tfp.vi.fit_surrogate_posterior(
        target.unnormalized_log_prob,
        surrogate,
        optimizer=tf_keras.optimizers.Adam(schedule),
        num_steps=steps,
        sample_size=8,
        seed=(2, 3),
        jit_compile=True,
    )
    seconds = time.perf_counter() - start
    drawn = surrogate.sample(NUM_DRAWS, seed=(4, 5))._asdict()
    draws = {name: value.numpy() for name, value in drawn.items()}
    # The reference counts the weights as numbers of their own.
    draws |= {f"weight_{i}": draws["weight"][:, i] for i in range(3)}
    found = compare(folder, draws, 0.15)
    return {"model": folder.name, "steps": steps, "seconds": seconds, **found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--groups", type=int, default=10_000, help="0 for the case alone")
    parser.add_argument("--layout", choices=("matrix", "rows"), default="matrix")
    parser.add_argument("--contenders", nargs="+", choices=[*BUILDERS], default=[*BUILDERS])
    parser.add_argument("--compilation", nargs="+", choices=("xla", "graph"), default=["xla"])
    parser.add_argument("--samples", type=int, default=1, help="draws a step")
    parser.add_argument("--steps", type=int, default=2000, help="of a fit; 0 for the times alone")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cases", type=Path, help="folder of the reference cases")
    parser.add_argument("--results", type=Path, help="JSON lines to append to")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*stateless sampling")
    if args.groups:
        rows = beside(args)
        show(rows)
        for row in rows:
            keep(row, args.results)
    if args.cases:
        row = held_against(args.cases / CASE, args.steps or 2000)
        low, high = row["sd_ratio"]
        print(
            f"{CASE}: {row['quantities']} quantities, mean off by {row['mean_error']:.3f} sd, sd "
            f"ratios {low:.3f} - {high:.3f}, {'kept' if row['kept'] else 'NOT KEPT'}; "
            f"{row['steps']} steps, {row['seconds']:.0f} s"
        )
        keep(row, args.results)


if __name__ == "__main__":
    main()
