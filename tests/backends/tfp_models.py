"""Joint distributions as TFP's users write them, with the plates of their parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors
tfd = tfp.distributions
Root = tfd.JointDistributionCoroutine.Root

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], np.float32)
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], np.float32)
COUNTY = np.array([0, 0, 1, 1, 1, 3, 3, 2, 4, 4, 4])
STATE = np.array([0, 0, 1, 1, 2])
rng = np.random.default_rng(0)
X = rng.normal(size=(11, 3)).astype(np.float32)
URANIUM = rng.normal(size=5).astype(np.float32)
FLOOR = rng.integers(0, 2, 11)


class Model(NamedTuple):
    """A joint distribution, its plates, and the names of its observed parts."""

    joint: Any
    plates: dict[str, dict[Any, int]]
    observed: tuple[str, ...] = ("y",)


def schools_named(dtype: type = np.float32) -> Model:
    """Eight schools as a dict."""
    errors = ERRORS.astype(dtype)
    joint = tfd.JointDistributionNamed(
        {
            "avg": tfd.Normal(dtype(0.0), dtype(10.0)),
            "log_sd": tfd.Normal(dtype(5.0), dtype(1.0)),
            "theta": lambda avg, log_sd: tfd.Sample(tfd.Normal(avg, tf.exp(log_sd)), 8),
            "y": lambda theta: tfd.Independent(tfd.Normal(theta, errors), 1),
        }
    )
    return Model(joint, {"school": {"theta": 0, "y": 0}})


def schools_sequential() -> Model:
    """Eight schools as TFP's tutorial writes it."""
    joint = tfd.JointDistributionSequential(
        [
            tfd.Normal(loc=0.0, scale=10.0, name="avg_effect"),
            tfd.Normal(loc=5.0, scale=1.0, name="avg_stddev"),
            tfd.Independent(
                tfd.Normal(loc=tf.zeros(8), scale=tf.ones(8), name="school_effects_standard"),
                reinterpreted_batch_ndims=1,
            ),
            lambda school_effects_standard, avg_stddev, avg_effect: tfd.Independent(
                tfd.Normal(
                    loc=avg_effect[..., tf.newaxis]
                    + tf.exp(avg_stddev[..., tf.newaxis]) * school_effects_standard,
                    scale=ERRORS,
                ),
                reinterpreted_batch_ndims=1,
                name="treatment_effects",
            ),
        ]
    )
    return Model(joint, {"school": {2: 0, 3: -1}}, ("treatment_effects",))


def schools_coroutine() -> Model:
    """Eight schools as a generator."""

    @tfd.JointDistributionCoroutine
    def joint() -> Any:
        avg = yield Root(tfd.Normal(0.0, 10.0, name="avg"))
        log_sd = yield Root(tfd.Normal(5.0, 1.0, name="log_sd"))
        theta = yield tfd.Sample(tfd.Normal(avg, tf.exp(log_sd)), 8, name="theta")
        yield tfd.Independent(tfd.Normal(theta, ERRORS), 1, name="y")

    return Model(joint, {"school": {"theta": 0, "y": 0}})


def schools_batched() -> Model:
    """Eight schools with automatic batches."""

    @tfd.JointDistributionCoroutineAutoBatched
    def joint() -> Any:
        avg = yield tfd.Normal(0.0, 10.0, name="avg")
        log_sd = yield tfd.Normal(5.0, 1.0, name="log_sd")
        theta = yield tfd.Normal(avg * tf.ones(8), tf.exp(log_sd), name="theta")
        yield tfd.Normal(theta, ERRORS, name="y")

    return Model(joint, {"school": {"theta": 0, "y": 0}})


def mixed_effects() -> Model:
    """Homes in counties in states, intercepts and slopes; covariates of homes and of counties."""

    @tfd.JointDistributionCoroutineAutoBatched
    def joint() -> Any:
        weights = yield tfd.Sample(tfd.Normal(0.0, 1.0), 3, name="weights")
        by_floor = yield tfd.Sample(tfd.Normal(0.0, 2.0), 2, name="by_floor")
        scale = yield tfd.HalfNormal(1.0, name="scale")
        state = yield tfd.Sample(tfd.Laplace(0.0, 1.0), 3, name="state")
        county = yield tfd.Normal(
            tf.gather(state, STATE) + 0.3 * URANIUM, scale[..., tf.newaxis], name="county"
        )
        slope = yield tfd.MultivariateNormalDiag(tf.zeros([5, 2]), scale * tf.ones(2), name="slope")
        noise = yield tfd.Gamma(2.0, 1.0, name="noise")
        linear = tf.linalg.matvec(X, weights) + tf.gather(county, COUNTY, axis=-1)
        linear += tf.reduce_sum(tf.gather(slope, COUNTY) * X[:, :2], -1)
        linear += tf.gather(by_floor, FLOOR) - tf.gather(URANIUM, COUNTY)
        yield tfd.StudentT(5.0, linear, tf.sqrt(noise), name="y")

    plates = {"states": {"state": 0}, "counties": {"county": 0, "slope": 0}, "homes": {"y": 0}}
    return Model(joint, plates)


def crossed() -> Model:
    """Answers of students to items, with correlated guesses and slips of each item."""
    student, item = rng.integers(0, 6, 20), rng.integers(0, 4, 20)

    @tfd.JointDistributionCoroutineAutoBatched
    def joint() -> Any:
        corr = yield tfd.CholeskyLKJ(2, 2.0, name="corr")
        sd = yield tfd.Sample(tfd.LogNormal(0.0, 1.0), 2, name="sd")
        item_effects = yield tfd.Sample(
            tfd.MultivariateNormalTriL(tf.zeros(2), sd[..., tf.newaxis] * corr),
            4,
            name="item_effects",
        )
        ability = yield tfd.Sample(tfd.Normal(0.0, 1.0), 6, name="ability")
        easiness, slope = item_effects[..., 0], tf.exp(0.5 * item_effects[..., 1])
        logits = tf.gather(slope, item) * tf.gather(ability, student) + tf.gather(easiness, item)
        yield tfd.Bernoulli(logits=logits, name="y")

    plates = {"item": {"item_effects": 0}, "student": {"ability": 0}, "answer": {"y": 0}}
    return Model(joint, plates)


def dense() -> Model:
    """A matrix of counts with the second axis's plate first, and topics in simplices."""

    @tfd.JointDistributionCoroutine
    def joint() -> Any:
        rate = yield Root(tfd.Sample(tfd.Exponential(1.0), [5], name="rate"))
        share = yield Root(tfd.Sample(tfd.Dirichlet(tf.ones(3)), [4], name="share"))
        level = yield Root(tfd.Sample(tfd.Normal(0.0, 1.0), [3, 1], name="level"))
        mean = tf.einsum("...sk,...ko->...s", share, level)
        log_rate = tf.math.log(rate)[..., tf.newaxis] + mean[..., tf.newaxis, :]
        yield tfd.Independent(tfd.Poisson(log_rate=log_rate), 2, name="y")

    plates = {"document": {"share": 0, "y": -1}, "word": {"rate": 0, "y": 0}}
    return Model(joint, plates)


def events_first() -> Model:
    """Parts whose events stand before their plate, stacked and joined parameters."""

    @tfd.JointDistributionCoroutineAutoBatched
    def joint() -> Any:
        a = yield tfd.Normal(0.0, 1.0, name="a")
        b = yield tfd.Sample(tfd.Normal(0.0, 1.0), 2, name="b")
        scale = yield tfd.Sample(tfd.InverseGamma(3.0, 2.0), 3, name="scale")
        loc = tf.concat([tf.stack([a, a**2])[:1], tf.nn.softmax(b)], 0)
        theta = yield tfd.Normal(
            loc[:, tf.newaxis] * tf.ones([3, 7]), scale[:, tf.newaxis], name="theta"
        )
        mean = tf.reduce_logsumexp(theta, 0) + tf.reduce_mean(theta[1:], axis=0)
        yield tfd.Normal(tf.transpose(mean[tf.newaxis]), tf.nn.softplus(a) + 0.1, name="y")

    return Model(joint, {"row": {"theta": 1, "y": 0}})


def observations_of_kinds() -> Model:
    """Likelihoods of counts and categories, and a part given an observed one."""
    total = np.array([3.0, 5.0, 2.0, 8.0, 4.0], np.float32)

    @tfd.JointDistributionCoroutineAutoBatched
    def joint() -> Any:
        share = yield tfd.Beta(2.0, 3.0, name="share")
        low = yield tfd.Uniform(-1.0, 2.0, name="low")
        shape = yield tfd.Weibull(1.5, 2.0, name="shape")
        tail = yield tfd.HalfCauchy(0.0, 1.0, name="tail")
        cut = yield tfd.TruncatedNormal(0.5, 1.0, -1.0, 3.0, name="cut")
        groups = yield tfd.Sample(tfd.Logistic(0.0, 1.0), 5, name="groups")
        x = yield tfd.Binomial(total, logits=groups + low, name="x")
        yield tfd.NegativeBinomial(shape + 1.0, logits=0.1 * x + cut, name="y")
        yield tfd.Categorical(
            logits=tf.stack([groups, share + tf.zeros(5), tail * groups], -1), name="z"
        )

    plates = {"group": {"groups": 0, "x": 0, "y": 0, "z": 0}}
    return Model(joint, plates, ("x", "y", "z"))


def indexed() -> Model:
    """Elements, slices and gathers of every kind, and laws that are read in another form."""
    hot = np.eye(5, dtype=np.float32)[COUNTY]
    design = np.stack([np.ones(11, np.float32), X[:, 0]], -1)

    @tfd.JointDistributionCoroutineAutoBatched
    def joint() -> Any:
        df = yield tfd.Chi2(3.0, name="df")
        shift, scale = tf.unstack((yield tfd.Sample(tfd.Normal(0.0, 1.0), 2, name="pair")), axis=-1)
        cutpoints = tfb.Shift(1.0)(tfb.Scale(-2.0))(tfd.Sample(tfd.Normal(0.5, 1.0), 2))
        cuts = yield tfd.TransformedDistribution(cutpoints, tfb.Exp(), name="cuts")
        chol = yield tfd.CholeskyLKJ(2, 2.0, name="chol")
        operator = tf.linalg.LinearOperatorDiag(tf.exp(0.1 * cuts)).matmul(
            tf.linalg.LinearOperatorLowerTriangular(chol)
        )
        slopes = yield tfd.Sample(
            tfd.MultivariateNormalLinearOperator(tf.zeros(2), operator), 5, name="slopes"
        )
        groups = yield tfd.Sample(
            tfd.TransformedDistribution(
                tfd.StudentT(df + 2.0, 0.0, 1.0), tfb.Shift(shift)(tfb.Scale(tf.exp(scale)))
            ),
            5,
            name="groups",
        )
        low, high = tf.split(slopes, [1, 1], axis=-1)
        linear = tf.linalg.matvec(hot, groups + low[..., 0] * high[..., 0])
        linear += tf.gather_nd(slopes, np.stack([COUNTY, FLOOR], -1))
        of_home = tf.gather(slopes, COUNTY, axis=-2)
        linear += tf.gather(of_home, FLOOR, axis=-1, batch_dims=1)
        linear += tf.einsum("...nk,nk->...n", of_home, design)
        yield tfd.Normal(linear, 1.0, name="y")

    return Model(joint, {"county": {"slopes": 0, "groups": 0}, "home": {"y": 0}})


MODELS: dict[str, Callable[[], Model]] = {
    "named": schools_named,
    "sequential": schools_sequential,
    "coroutine": schools_coroutine,
    "batched": schools_batched,
    "mixed effects": mixed_effects,
    "crossed": crossed,
    "dense": dense,
    "events first": events_first,
    "kinds": observations_of_kinds,
}
# those whose density is held against TFP's, and no more
READ: dict[str, Callable[[], Model]] = {**MODELS, "indexed": indexed}
