"""What cannot be read of a joint distribution is said: the part, the plate and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow_probability")

import tensorflow as tf
import tensorflow_probability as tfp
from tfp_models import EFFECTS, schools_named

from pavi import PaviError
from pavi.backends.tfp import build_pavi_surrogate_posterior as build

tfd = tfp.distributions


def of_rows(distribution: Callable[[Any], Any]) -> Any:
    """A model of 4 rows, of which the likelihood is given; pinned."""

    @tfd.JointDistributionCoroutineAutoBatched
    def joint() -> Any:
        theta = yield tfd.Sample(tfd.Normal(0.0, 1.0), 4, name="theta")
        yield distribution(theta)

    shape = joint.event_shape[-1]
    return joint.experimental_pin(y=np.ones(shape, np.float32))


ROWS = {"row": {"theta": 0, "y": 0}}


def schools(plates: Any, **observations: Any) -> Any:
    """Eight schools with other plates."""
    given = observations or {"y": EFFECTS}
    return build(schools_named().joint, plates=plates, observations=given)


def refused(*words: str) -> Any:
    """Expects an error whose message has all of these words."""
    pattern = "".join(f"(?=[\\s\\S]*{word})" for word in words)
    return pytest.raises(PaviError, match=pattern)


def test_plates() -> None:
    with refused("'school'", "'theta'", "axis 1", r"shape \(8,\)", "from -1 to 0"):
        schools({"school": {"theta": 1, "y": 0}})
    with refused("'avg'", "numbers, without axes", "Leave it out"):
        schools({"school": {"avg": 0}})
    with refused("no part 'thetas'", "theta"):
        schools({"school": {"thetas": 0}})
    with refused("'theta'", "'school'", "'pupil'", "tf.gather"):
        schools({"school": {"theta": 0}, "pupil": {"theta": 0, "y": 0}})
    with refused("wanted the axis of each part", "'school'"):
        schools({"school": 0})

    @tfd.JointDistributionCoroutineAutoBatched
    def joint() -> Any:
        yield tfd.Sample(tfd.Normal(0.0, 1.0), 4, name="a")
        yield tfd.Sample(tfd.Normal(0.0, 1.0), 5, name="b")

    with refused("'row'", "4 elements on part 'a'", "axis 0 of part 'b'", "has 5"):
        build(joint, plates={"row": {"a": 0, "b": 0}})


def test_axes_that_run_along_two_plates() -> None:
    with refused("'y'", "size 8", "plate 'school'", "plate 'row'", "tf.gather"):
        schools({"school": {"theta": 0}, "row": {"y": 0}})


def test_parts() -> None:
    with refused("All parts", "log_sd, avg, theta, y", "Leave those out"):
        schools({"school": {"theta": 0, "y": 0}}, avg=0.0, log_sd=1.0, theta=EFFECTS, y=EFFECTS)
    with refused("no such part", "'z'"):
        schools({"school": {"theta": 0, "y": 0}}, z=EFFECTS)
    with refused("'y'", r"shape \(3,\)", r"wanted \(8,\)"):
        schools({"school": {"theta": 0, "y": 0}}, y=EFFECTS[:3])
    with refused("JointDistribution", "Normal"):
        build(tfd.Normal(0.0, 1.0), plates={})

    @tfd.JointDistributionCoroutineAutoBatched
    def discrete() -> Any:
        k = yield tfd.Bernoulli(probs=0.5, name="k")
        yield tfd.Normal(tf.cast(k, tf.float32), 1.0, name="y")

    with refused("'k'", "discrete", "Mixture"):
        build(discrete.experimental_pin(y=1.0), plates={})

    batches = tfd.JointDistributionNamed({"a": tfd.Normal(tf.zeros(3), 1.0)})
    with refused("'a'", "batch shape", "tfd.Independent"):
        build(batches, plates={"row": {"a": 0}})


LIKELIHOODS: dict[str, tuple[Callable[[Any], Any], tuple[str, ...]]] = {
    "operation": (
        lambda t: tfd.Normal(tf.math.bessel_i0e(t), 1.0, name="y"),
        ("'y'", "BesselI0e", "pavi cannot read", "tf.gather"),
    ),
    "sum over a plate": (
        lambda t: tfd.Normal(tf.reduce_sum(t) * tf.ones(4), 1.0, name="y"),
        ("'y'", "takes a sum over plate 'row'", "leave it out of `plates`"),
    ),
    "element of a plate": (
        lambda t: tfd.Normal(t[0] * tf.ones(4), 1.0, name="y"),
        ("'y'", "takes one element of plate 'row'"),
    ),
    "reversed plate": (
        lambda t: tfd.Normal(tf.gather(t, [3, 2, 1, 0], axis=-1), 1.0, name="y"),
        ("'y'", "takes elements of plate 'row'", "on plate 'row' itself"),
    ),
    "slice of a plate": (
        lambda t: tfd.Normal(t[..., ::-1], 1.0, name="y"),
        ("'y'", "StridedSlice", "takes elements of plate 'row'"),
    ),
    "tile": (
        lambda t: tfd.Normal(tf.tile(t, [2])[:4], 1.0, name="y"),
        ("'y'", "Tile", "pavi cannot read"),
    ),
    "reshape": (
        lambda t: tfd.Normal(tf.reshape(tf.reshape(t, [2, 2]) + 1.0, [4]), 1.0, name="y"),
        ("'y'", "Reshape", r"from \(4,\) to \(2, 2\)", "tf.newaxis"),
    ),
    "law": (
        lambda t: tfd.Gumbel(t, 1.0, name="y"),
        ("'y'", "Gumbel is no law of pavi.dist"),
    ),
    "transformed law": (
        lambda t: tfd.TransformedDistribution(
            tfd.Normal(t, 1.0), tfp.bijectors.Softplus(), name="y"
        ),
        ("'y'", "Softplus"),
    ),
    "event of a draw": (
        lambda t: tfd.MultivariateNormalTriL(t, tf.eye(4), name="y"),
        ("'y'", "plate 'row'", "event axis of MultivariateNormal"),
    ),
    "random numbers": (
        lambda t: tfd.Normal(t + tf.random.stateless_normal([4], [1, 2]), 1.0, name="y"),
        ("'y'", "random numbers of its own"),
    ),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods(name: str) -> None:
    distribution, words = LIKELIHOODS[name]
    with refused(*words):
        build(of_rows(distribution), plates=ROWS)


def test_indices() -> None:
    index, other = np.array([0, 0, 1, 2, 3, 3]), np.array([1, 2, 3, 0, 1, 2])
    target = of_rows(lambda t: tfd.Normal(tf.gather(t, index, axis=-1), 1.0, name="y"))
    with refused("'y'", "takes elements of plate 'row'", "on no plate", "`plates`"):
        build(target, plates={"row": {"theta": 0}})
    twice = of_rows(lambda t: tfd.Normal(tf.gather(t, index) - tf.gather(t, other), 1.0, name="y"))
    with refused("'y'", "plate 'game'", "'row'", "two different indices"):
        build(twice, plates={"row": {"theta": 0}, "game": {"y": 0}})


def test_variables_are_not_fixed_silently() -> None:
    shift = tf.Variable(1.0)
    target = of_rows(lambda t: tfd.Normal(t + shift, 1.0, name="y"))
    with refused("'y'", "tf.Variable", "numpy"):
        build(target, plates=ROWS)
