"""A TFP project: a linear mixed-effects model, fitted by TFP's own loop to a surrogate of pavi's.

Run it with `python examples/tfp_project.py`, or with `--guide pavi` or `--guide stock` for one of
the two surrogates alone: pavi's, or the one of `build_affine_surrogate_posterior`.

919 homes lie in 85 counties of Minnesota, 1 to 116 homes a county. With j the county of home n,

    intercept ~ Normal(0, 5)    weights ~ Normal(0, 1)    county_scale, noise_scale ~ HalfNormal(1)
    county_effect_j ~ Normal(0, county_scale)
    log_radon_n ~ Normal(intercept + weights . (log_uppm_j, floor_n) + county_effect_j, noise_scale)

All that is pavi's are the two lines that build its surrogate; see `data/ATTRIBUTION.md` for the
data.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from pavi.backends.tfp import build_pavi_surrogate_posterior

tfd = tfp.distributions

CSV = Path(__file__).parent / "data" / "radon.csv"


def target() -> Any:
    """Returns the joint distribution, pinned at the homes' radon."""
    homes = np.genfromtxt(CSV, delimiter=",", names=True)
    county = np.unique(homes["county"], return_inverse=True)[1]
    features = np.column_stack([homes["log_uppm"], homes["floor"]]).astype(np.float32)

    @tfd.JointDistributionCoroutineAutoBatched
    def model() -> Iterator[Any]:
        intercept = yield tfd.Normal(0.0, 5.0, name="intercept")
        weights = yield tfd.Sample(tfd.Normal(0.0, 1.0), 2, name="weights")
        county_scale = yield tfd.HalfNormal(1.0, name="county_scale")
        noise_scale = yield tfd.HalfNormal(1.0, name="noise_scale")
        effect = yield tfd.Sample(
            tfd.Normal(0.0, county_scale), int(county.max()) + 1, name="county_effect"
        )
        mean = intercept + tf.linalg.matvec(features, weights) + tf.gather(effect, county, axis=-1)
        yield tfd.Normal(mean, noise_scale, name="log_radon")

    return model.experimental_pin(log_radon=homes["log_radon"].astype(np.float32))


def pavi_surrogate(model: Any) -> Any:
    """Returns the plate-amortized surrogate: counties share one conditional density."""
    plates = {"county": {"county_effect": 0}, "home": {"log_radon": 0}}
    return build_pavi_surrogate_posterior(model, plates=plates, seed=(0, 1))


def stock_surrogate(model: Any) -> Any:
    """Returns TFP's surrogate: an independent Gaussian on the real line for each number."""
    return tfp.experimental.vi.build_affine_surrogate_posterior(
        event_shape=model.event_shape,
        operators="diag",
        bijector=model.experimental_default_event_space_bijector(),
        seed=(0, 1),
    )


SURROGATES: dict[str, Callable[[Any], Any]] = {"pavi": pavi_surrogate, "stock": stock_surrogate}


def fit(model: Any, surrogate: Any, steps: int) -> float:
    """Fits a surrogate by TFP's loop; returns the seconds it took."""
    schedule = tf_keras.optimizers.schedules.CosineDecay(0.05, steps)
    start = time.perf_counter()
    tfp.vi.fit_surrogate_posterior(
        model.unnormalized_log_prob,
        surrogate,
        optimizer=tf_keras.optimizers.Adam(schedule),
        num_steps=steps,
        sample_size=4,
        seed=(2, 3),
        jit_compile=True,
    )
    return time.perf_counter() - start


def summary(model: Any, surrogate: Any) -> dict[str, str]:
    """Posterior means and standard deviations, and the evidence lower bound, as text."""

    @tf.function(jit_compile=True)
    def draw(seed: Any) -> Any:
        draws, log_q = surrogate.experimental_sample_and_log_prob(500, seed=seed)
        return draws, model.unnormalized_log_prob(draws) - log_q

    parts, terms = zip(*(draw(tf.constant([5, i])) for i in range(8)), strict=True)
    elbo = np.concatenate(terms)
    out = {"ELBO": f"{elbo.mean():8.2f} +- {elbo.std() / np.sqrt(elbo.size):.2f}"}
    for name in parts[0]._fields:
        draws = np.concatenate([getattr(part, name) for part in parts])
        draws = draws.reshape(len(draws), -1)[:, :3]
        for i, column in enumerate(draws.T):
            label = f"{name}[{i}]" if draws.shape[1] > 1 else name
            out[label] = f"{column.mean():8.3f} +- {column.std():.3f}"
    return out


def main() -> None:
    """Fits the surrogates asked for and prints them side by side."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--guide", choices=[*SURROGATES, "both"], default="both")
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    chosen = list(SURROGATES) if arguments.guide == "both" else [arguments.guide]
    model = target()
    columns: dict[str, dict[str, str]] = {}
    for name in chosen:
        surrogate = SURROGATES[name](model)
        seconds = fit(model, surrogate, arguments.steps)
        columns[name] = {"seconds": f"{seconds:8.1f}", **summary(model, surrogate)}
    print(f"{'':18}" + "".join(f"{name:>24}" for name in chosen))
    for row in columns[chosen[0]]:
        print(f"{row:18}" + "".join(f"{columns[name][row]:>24}" for name in chosen))


if __name__ == "__main__":
    main()
