"""What cannot be read of a joint distribution is said: the part, the plate and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow_probability")

import tensorflow as tf
import tensorflow_probability as tfp
from tfp_models import EFFECTS, schools_named

from pavi import Family, PaviError
from pavi.backends.tfp import build_pavi_surrogate_posterior as build
from pavi.backends.tfp import build_pavi_surrogate_posterior_stateless as build_stateless

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
    for unnamed in ("", None):
        with refused("name", "plate", "(in quotes|identifier)"):
            schools({unnamed: {"theta": 0, "y": 0}})
    with refused("plates is None", "their axes", "'y': 0"):
        schools(None)
    with refused("'school'", "names part 'theta' twice", "axes 0 and 0", "name it once"):
        schools({"school": {"theta": 0, 2: 0, "y": 0}})
    with refused("name 'theta'", "plate", "latent", "Rename"):
        schools({"theta": {"theta": 0, "y": 0}})

    @tfd.JointDistributionCoroutineAutoBatched
    def joint() -> Any:
        yield tfd.Sample(tfd.Normal(0.0, 1.0), 4, name="a")
        yield tfd.Sample(tfd.Normal(0.0, 1.0), 5, name="b")

    with refused("'row'", "4 elements on part 'a'", "axis 0 of part 'b'", "has 5"):
        build(joint, plates={"row": {"a": 0, "b": 0}})


def test_axes_that_run_along_two_plates() -> None:
    with refused("'y'", "size 8", "plate 'school'", "plate 'row'", "tf.gather"):
        schools({"school": {"theta": 0}, "row": {"y": 0}})


def test_observed_values_that_are_no_numbers() -> None:
    with refused("part 'y' is NaN in 1 places", r"\(2,\)", "from_tfp"):
        schools({"school": {"theta": 0, "y": 0}}, y=np.where(np.arange(8) == 2, np.nan, EFFECTS))


def test_parts() -> None:
    with refused("All parts", "log_sd, avg, theta, y", "Leave those out"):
        schools({"school": {"theta": 0, "y": 0}}, avg=0.0, log_sd=1.0, theta=EFFECTS, y=EFFECTS)
    with refused("no such part", "'z'"):
        schools({"school": {"theta": 0, "y": 0}}, z=EFFECTS)
    with refused("'y'", r"shape \(3,\)", r"wanted \(8,\)"):
        schools({"school": {"theta": 0, "y": 0}}, y=EFFECTS[:3])
    for letters in (list("abcdefgh"), EFFECTS * 1j):
        with refused(r"observations\['y'\]", "dtype", "numbers", "Convert"):
            schools({"school": {"theta": 0, "y": 0}}, y=letters)
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

    inner = tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0)])
    with refused("'a'", "joint distribution of its own", "yield from"):
        build(tfd.JointDistributionNamed({"a": inner}), plates={})
    with refused("no parts", "nothing to infer"):
        build(tfd.JointDistributionCoroutine(lambda: iter(())), plates={})


def test_a_count_that_is_none() -> None:
    target = tfd.JointDistributionSequentialAutoBatched(
        [tfd.Normal(0.0, 1.0, name="rate"), lambda rate: tfd.Sample(tfd.Poisson(log_rate=rate), 3)]
    )
    with refused("0.5 at index 1", "support of Poisson", "plate|row", "Correct"):
        build(target, plates={"row": {1: 0}}, observations={1: np.array([1.0, 0.5, 2.0])})


def test_supports_that_move() -> None:
    moving = of_rows(lambda t: tfd.Uniform(-1.0, tf.exp(t), name="y"))
    with refused("'y'", "support depends on", "theta", "'high'", "fixed support"):
        build(moving, plates=ROWS)

    @tfd.JointDistributionCoroutine
    def branching() -> Any:
        u = yield tfd.JointDistributionCoroutine.Root(tfd.Normal(0.0, 1.0, name="u"))
        yield tfd.Normal(u, 1.0, name="y") if u > 0.0 else tfd.HalfNormal(1.0, name="y")

    with refused("value of a part", "support", "tf.where"):
        build(branching, plates={}, observations={"y": 1.0})

    @tfd.JointDistributionCoroutineAutoBatched
    def bounded() -> Any:
        top = yield tfd.Sample(tfd.Exponential(1.0), 4, name="top")
        share = yield tfd.Uniform(0.0, top, name="share")
        yield tfd.Normal(share, 1.0, name="y")

    # A latent's may move, with what is observed or with latents.
    tops = np.array([0.1, 1.0, 2.0, 5.0], np.float32)
    surrogate = build(
        bounded,
        plates={"row": {"top": 0, "share": 0, "y": 0}},
        observations={"top": tops, "y": np.ones(4, np.float32)},
    )
    share = surrogate.sample(100, seed=(1, 2)).share.numpy()
    assert (share > 0.0).all()
    assert (share < tops).all()


WITH_ROWS = Family(encoding="encoder+free")


def test_weights_of_another_model(tmp_path: Path) -> None:
    model = schools_named()
    more = np.ones(10, np.float32)

    @tfd.JointDistributionCoroutineAutoBatched
    def larger() -> Any:
        theta = yield tfd.Sample(tfd.Normal(0.0, 1.0), 10, name="theta")
        yield tfd.Normal(theta, 1.0, name="y")

    def both(make: Callable[..., Any]) -> tuple[Any, Any]:
        first = make(
            model.joint, plates=model.plates, observations={"y": EFFECTS}, family=WITH_ROWS
        )
        return first, make(larger, plates=model.plates, observations={"y": more}, family=WITH_ROWS)

    ours, theirs = both(build)
    path = tf.train.Checkpoint(surrogate=theirs).write(str(tmp_path / "weights"))
    # the host's own error, with the names that the variables have here
    with pytest.raises(ValueError, match=r"shape \(11, 2\)[\s\S]*\(9, 2\)[\s\S]*pavi/school/table"):
        tf.train.Checkpoint(surrogate=ours).read(path).assert_consumed()
    (_, apply_fn), (other_init, _) = both(build_stateless)
    with refused("apply_fn", r"parameters, wanted \d+", "school/table", "init_fn"):
        apply_fn(other_init((1, 2)))
    init_fn, _ = build_stateless(
        model.joint, plates=model.plates, observations={"y": EFFECTS}, family=WITH_ROWS
    )
    values = init_fn((1, 2))
    with refused("'globals/flow/0/input/weight'", r"\(3, 3\)", r"wanted \(1, 32\)", "init_fn"):
        apply_fn(tf.zeros([3, 3]), *values[1:])


def test_values_of_another_model() -> None:
    surrogate = schools({"school": {"theta": 0, "y": 0}})
    with pytest.raises(ValueError, match=r"'theta' has a value of shape \(7,\), wanted .* 8"):
        surrogate.log_prob({"avg": 0.0, "log_sd": 1.0, "theta": tf.zeros(7)})


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
    "law in another form": (
        lambda t: tfd.Deterministic(t, name="y"),
        ("'y'", "Deterministic is no law", "distributions of its children"),
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
