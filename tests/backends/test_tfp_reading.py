"""Details of joint distributions, held against TFP's own densities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow_probability")

import tensorflow as tf
import tensorflow_probability as tfp

from pavi import PaviError
from pavi.backends.tfp.model import make_joint_log_prob
from pavi.backends.tfp.portable import read_joint_distribution
from pavi.subsampling import full_batch

tfb, tfd = tfp.bijectors, tfp.distributions
ROWS = {"row": {"y": 0}}
Y = np.linspace(-2.0, 2.0, 6)


def joint_of(likelihood: Callable[[Any, Any, Any], Any], dtype: type = np.float32) -> Any:
    """A model of two numbers `t` and `u` and of three `v`, of which the likelihood is given."""
    zero, wide = dtype(0.0), dtype(2.0)

    @tfd.JointDistributionCoroutineAutoBatched
    def joint() -> Any:
        t = yield tfd.Normal(zero, wide, name="t")
        u = yield tfd.Normal(zero, wide, name="u")
        v = yield tfd.Sample(tfd.Normal(zero, wide), 3, name="v")
        yield likelihood(t, u, v)

    return joint


def assert_read(joint: Any, plates: Any = ROWS, dtype: str = "float32", **observed: Any) -> None:
    """Holds the graph's density at three draws against the joint distribution's."""
    target = joint.experimental_pin(**observed)
    read = read_joint_distribution(target, plates=plates)
    density = make_joint_log_prob(read.graph, full_batch(read.data.bind(read.graph), dtype))
    names = [name for name in read.names if name not in read.observed]
    for seed in range(3):
        value = target.sample_unpinned(seed=(seed, 1))
        parts = zip(names, target._model_flatten(value), strict=True)
        mine = density({n: read.layouts[n].to_variable(x) for n, x in parts})
        np.testing.assert_allclose(mine, target.unnormalized_log_prob(value), rtol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_truths_are_numbers(dtype: str) -> None:
    def likelihood(t: Any, u: Any, v: Any) -> Any:
        def number(truth: Any) -> Any:
            return tf.cast(truth, dtype)

        ordered = v[:, tf.newaxis] > v
        loc = [
            number(t > 0.0) + number(u > 0.0),
            1.0 - number(t > 0.0) * u,
            -number((t > 0.0) & (u > 0.0) | (t < -1.0)),
            number(tf.reduce_sum(tf.cast(ordered, tf.int32))),
            tf.where(tf.cast(t, tf.bool), u, t),
            tf.where(tf.equal(t > 0.0, u > 0.0), t, u),
        ]
        return tfd.Normal(tf.stack(loc), tf.cast(0.5, dtype), name="y")

    assert_read(joint_of(likelihood, getattr(np, dtype)), {}, dtype, y=Y.astype(dtype))


def test_truths_and_integers_that_are_observed() -> None:
    @tfd.JointDistributionCoroutineAutoBatched
    def joint() -> Any:
        t = yield tfd.Normal(0.0, 1.0, name="t")
        truth = yield tfd.Sample(tfd.Bernoulli(logits=t, dtype=tf.bool), 6, name="truth")
        count = yield tfd.Sample(tfd.Poisson(log_rate=t), 6, name="count")
        code = yield tfd.Sample(tfd.Categorical(logits=[0.0, 1.0, 2.0]), 6, name="code")
        loc = tf.where(truth, t, 1.0) + tf.cast(truth, tf.float32) * tf.cast(code, tf.float32)
        yield tfd.Normal(loc + t * tf.sqrt(count), 1.0, name="y")

    given = {"truth": Y > 0.0, "count": np.arange(6, dtype=np.float32), "code": np.arange(6) % 3}
    rows = {"row": dict.fromkeys(("truth", "count", "code", "y"), 0)}
    assert_read(joint, rows, **given, y=Y.astype(np.float32))


def test_a_vector_chooses_among_rows() -> None:
    def likelihood(t: Any, u: Any, v: Any) -> Any:
        a, b = t * tf.eye(3), u * (v[:, tf.newaxis] - v)
        return tfd.Normal(tf.raw_ops.Select(condition=v > 0.0, x=a, y=b), 1.0, name="y")

    assert_read(joint_of(likelihood), {}, y=np.zeros((3, 3), np.float32))


STEPS = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(
    "law",
    [
        lambda t, u: tfb.Shift(STEPS)(tfd.Sample(tfd.Normal(t, 1.0), 6)),
        lambda t, u: tfb.Shift(u * STEPS)(
            tfb.Scale(STEPS - 9.0)(tfd.Sample(tfb.Scale(2.0)(tfd.StudentT(t**2 + 1.0, t, 1.0)), 6))
        ),
        lambda t, u: tfb.Shift(STEPS)(tfd.MultivariateNormalDiag(t * STEPS, 1.0 + STEPS)),
        lambda t, u: tfb.Shift(u * STEPS)(tfd.Cauchy(t, 1.0)),
    ],
    ids=["sample", "scales", "vector", "repeated"],
)
def test_maps_that_differ_along_repetitions(law: Callable[[Any, Any], Any]) -> None:
    joint = joint_of(lambda t, u, v: law(t, u).copy(name="y"))
    assert_read(joint, y=Y.astype(np.float32))


def test_a_law_is_told_by_more_than_its_name() -> None:
    class Normal(tfd.Normal):
        """Another law of the same name."""

        def _log_prob(self, x: Any) -> Any:
            return 2.0 * super()._log_prob(x)

    joint = joint_of(lambda t, u, v: Normal(t * tf.ones(6), 1.0, name="y"))
    with pytest.raises(PaviError, match=r"'y'.*Normal of module .*test_tfp_reading is no law"):
        read_joint_distribution(joint, plates=ROWS, observations={"y": Y})


@pytest.mark.parametrize(
    ("likelihood", "words"),
    [
        (lambda t: tf.cast(tf.cast(t, tf.int32), tf.float32), "Cast.*from float32 to int32"),
        (
            lambda t: tf.cast(tf.reduce_mean(tf.cast(t > Y.astype("f"), tf.int32)), tf.float32),
            "Mean",
        ),
    ],
)
def test_what_rounds_is_refused(likelihood: Callable[[Any], Any], words: str) -> None:
    joint = joint_of(lambda t, u, v: tfd.Sample(tfd.Normal(likelihood(t), 1.0), 6, name="y"))
    with pytest.raises(PaviError, match=f"'y'.*{words}"):
        read_joint_distribution(joint, plates=ROWS, observations={"y": Y})
