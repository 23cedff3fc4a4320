"""Surrogate posteriors of users' own joint distributions, held against TFP's densities and fits."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow_probability")

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from tfp_models import EFFECTS, MODELS, READ, Model, schools_named

from pavi import Family
from pavi.backends.tfp import (
    build_pavi_surrogate_posterior,
    build_pavi_surrogate_posterior_stateless,
)
from pavi.backends.tfp.model import make_joint_log_prob
from pavi.backends.tfp.portable import read_joint_distribution
from pavi.subsampling import full_batch

tfb, tfd = tfp.bijectors, tfp.distributions

# A spline of the globals takes long to compile, and is not what these tests are about.
AFFINE = Family(flow="affine")


@cache
def pinned(name: str) -> tuple[Model, Any]:
    """A model, and it with data drawn from itself."""
    model = READ[name]()
    drawn = model.joint.sample(seed=(3, 4))
    parts = dict(
        zip(model.joint._flat_resolve_names(), model.joint._model_flatten(drawn), strict=True)
    )
    return model, model.joint.experimental_pin(**{part: parts[part] for part in model.observed})


@pytest.mark.parametrize("name", READ)
def test_density_of_the_graph_is_the_joint_distributions(name: str) -> None:
    model, target = pinned(name)
    read = read_joint_distribution(target, plates=model.plates)
    bound = read.data.bind(read.graph)
    mine = make_joint_log_prob(read.graph, full_batch(bound, "float32"))
    flat, wanted = [], []
    for seed in range(3):
        value = target.sample_unpinned(seed=(seed, 1))
        names = [n for n in read.names if n not in read.observed]
        parts = zip(names, target._model_flatten(value), strict=True)
        latents = {n: read.layouts[n].to_variable(x) for n, x in parts}
        flat.append(mine(latents))
        wanted.append(target.unnormalized_log_prob(value))
    np.testing.assert_allclose(flat, wanted, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("name", MODELS)
def test_surrogate_is_structured_as_the_unobserved_parts(name: str) -> None:
    model, target = pinned(name)
    surrogate = build_pavi_surrogate_posterior(target, plates=model.plates, seed=(0, 1))
    assert isinstance(surrogate, tfd.JointDistribution)
    tf.nest.assert_same_structure(surrogate.dtype, target.dtype)
    assert type(surrogate.dtype) is type(target.dtype)
    assert tf.nest.flatten(surrogate.dtype) == tf.nest.flatten(target.dtype)
    assert str(surrogate.event_shape) == str(target.event_shape)
    with tf.GradientTape() as tape:
        draws, log_q = surrogate.experimental_sample_and_log_prob((2, 3), seed=(1, 2))
        loss = tf.reduce_mean(log_q - target.unnormalized_log_prob(draws))
    assert log_q.shape == (2, 3)
    np.testing.assert_allclose(surrogate.log_prob(draws), log_q, rtol=1e-3, atol=1e-3)
    gradients = tape.gradient(loss, surrogate.trainable_variables)
    assert all(np.isfinite(g).all() for g in gradients)
    again = surrogate.sample((2, 3), seed=(1, 2))
    for a, b in zip(tf.nest.flatten(draws), tf.nest.flatten(again), strict=True):
        np.testing.assert_array_equal(a, b)
    single = surrogate.sample(seed=5)
    with tf.GradientTape() as tape:
        density = surrogate.log_prob(single)
    assert density.shape == ()
    gradients = tape.gradient(density, surrogate.trainable_variables)
    assert all(g is not None for g in gradients)
    copied = surrogate.copy()
    assert {id(v) for v in copied.variables} == {id(v) for v in surrogate.variables}


def schools(dtype: type = np.float32) -> tuple[Model, Any]:
    """Eight schools with their data."""
    model = schools_named(dtype)
    return model, model.joint.experimental_pin(y=EFFECTS.astype(dtype))


@cache
def affine_schools() -> tuple[Model, Any, Any]:
    """Eight schools with a surrogate that is quick to compile, for tests that leave it alone."""
    model, target = schools()
    surrogate = build_pavi_surrogate_posterior(
        target, plates=model.plates, family=AFFINE, seed=(1, 2)
    )
    return model, target, surrogate


def adam(steps: int) -> Any:
    return tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(0.05, steps))


def test_stock_fit_reaches_the_reference_posterior() -> None:
    model, target = schools()
    surrogate = build_pavi_surrogate_posterior(target, plates=model.plates, seed=1)
    losses = tfp.vi.fit_surrogate_posterior(
        target.unnormalized_log_prob,
        surrogate,
        optimizer=adam(1000),
        num_steps=1000,
        sample_size=16,
        jit_compile=True,
        seed=(1, 2),
    )
    assert np.isfinite(losses).all()
    draws = surrogate.sample(20_000, seed=(0, 1))
    columns = np.column_stack([draws["avg"], draws["log_sd"], draws["theta"]])
    # Stan's posterior, from inference_gym 0.0.5: avg, log_sd, theta
    mean = [5.777, 2.452, 14.812, 7.171, 2.597, 6.587, 1.831, 3.378, 12.783, 7.995]
    sd = [5.453, 0.512, 10.747, 7.855, 10.497, 8.398, 7.492, 8.467, 8.163, 10.770]
    np.testing.assert_array_less(np.abs(columns.mean(0) - mean) / sd, 0.15)
    np.testing.assert_array_less(np.abs(columns.std(0) / sd - 1.0), 0.15)


# Compiled by XLA: the two fits to known posteriors.
@pytest.mark.parametrize("way", ["eager", "tf.function"])
def test_fits_however_it_is_run(way: str) -> None:
    model, target = schools()
    surrogate = build_pavi_surrogate_posterior(
        target, plates=model.plates, family=AFFINE, seed=(1, 2)
    )
    before = [v.numpy() for v in surrogate.trainable_variables]
    optimizer = tf_keras.optimizers.Adam(0.01)
    optimizer.build(surrogate.trainable_variables)

    def fit() -> Any:
        return tfp.vi.fit_surrogate_posterior(
            target.unnormalized_log_prob,
            surrogate,
            optimizer=optimizer,
            num_steps=3,
            sample_size=2,
            seed=(1, 2),
        )

    if way == "eager":
        tf.config.run_functions_eagerly(True)
    try:
        losses = tf.function(fit, autograph=False)() if way == "tf.function" else fit()
    finally:
        tf.config.run_functions_eagerly(False)
    assert np.isfinite(losses).all()
    for start, variable in zip(before, surrogate.trainable_variables, strict=True):
        assert not np.array_equal(start, variable)


def test_a_conjugate_models_posterior_is_exact() -> None:
    scales, y = np.array([0.5, 1.0, 2.0]), np.array([[1.0, 2.0], [-1.0, 0.0], [3.0, -2.0]])

    model = tfd.JointDistributionSequentialAutoBatched(
        [
            tfd.Normal(0.0, 2.0, name="centre"),
            lambda centre: tfd.Sample(tfd.Normal(centre, 1.0), 3, name="theta"),
            lambda theta: tfd.Normal(
                theta[..., tf.newaxis] * tf.ones(2), np.float32(scales[:, None]), name="y"
            ),
        ]
    )
    target = model.experimental_pin(y=y.astype(np.float32))
    surrogate = build_pavi_surrogate_posterior(
        target, plates={"group": {"theta": 0, "y": 0}}, family=AFFINE, seed=(1, 2)
    )
    tfp.vi.fit_surrogate_posterior(
        target.unnormalized_log_prob,
        surrogate,
        optimizer=adam(4000),
        num_steps=4000,
        sample_size=16,
        seed=(3, 4),
        jit_compile=True,
    )
    # prior precision of (centre, theta), then that of the two rows of each group
    precision = np.diag([0.25 + 3.0, *(1.0 + 2.0 / scales**2)])
    precision[0, 1:] = precision[1:, 0] = -1.0
    covariance = np.linalg.inv(precision)
    mean = covariance @ np.array([0.0, *(y.sum(1) / scales**2)])
    centre, theta = surrogate.sample(20_000, seed=(5, 6))
    draws = np.column_stack([centre, theta])
    sd = np.sqrt(np.diag(covariance))
    # 0.03 is 4 standard errors of the mean of 20,000 draws
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean) / sd, 0.03)
    found = np.cov(draws.T)
    np.testing.assert_allclose(found / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.05)


def test_bijectors_apply_on_top() -> None:
    _, _, surrogate = affine_schools()
    by_name = tfb.JointMap({"avg": tfb.Identity(), "log_sd": tfb.Exp(), "theta": tfb.Shift(1.0)})
    as_list = tfb.Restructure([0, 1, 2], {"avg": 0, "log_sd": 1, "theta": 2})
    moved = tfb.Chain([as_list, by_name])(surrogate)
    assert len(moved.trainable_variables) == len(surrogate.trainable_variables)
    (avg, sd, theta), log_q = moved.experimental_sample_and_log_prob((2, 3), seed=(1, 2))
    assert theta.shape == (2, 3, 8)
    own = surrogate.log_prob({"avg": avg, "log_sd": tf.math.log(sd), "theta": theta - 1.0})
    np.testing.assert_allclose(log_q, own - tf.math.log(sd), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(moved.log_prob([avg, sd, theta]), log_q, rtol=1e-4, atol=1e-4)


def test_integer_seeds_are_as_for_stock_surrogates() -> None:
    _, target, surrogate = affine_schools()
    stock = tfp.experimental.vi.build_factored_surrogate_posterior(
        event_shape=target.event_shape, seed=(1, 2)
    )
    for one in (surrogate, stock):
        drawn = []
        for _ in range(2):
            tf.random.set_seed(1)
            drawn += [one.sample(seed=5)["avg"].numpy(), one.sample(seed=5)["avg"].numpy()]
        # An integer is TensorFlow's operation seed: it repeats from `tf.random.set_seed` on.
        assert drawn[:2] == drawn[2:]
        assert drawn[0] != drawn[1]


def test_float64_and_another_dtype_than_the_models() -> None:
    model, target = schools(np.float64)
    surrogate = build_pavi_surrogate_posterior(target, plates=model.plates, seed=1)
    draws, log_q = surrogate.experimental_sample_and_log_prob(3, seed=(1, 2))
    assert {x.dtype for x in draws.values()} == {tf.float64}
    np.testing.assert_allclose(surrogate.log_prob(draws), log_q, rtol=1e-9)
    assert target.unnormalized_log_prob(draws).dtype == tf.float64
    model, target = schools()
    wide = build_pavi_surrogate_posterior(target, plates=model.plates, dtype=tf.float64)
    assert wide.sample(seed=1)["theta"].dtype == tf.float64


def test_stateless_gives_the_numbers_of_the_stateful_one() -> None:
    model, target = schools()
    init_fn, apply_fn = build_pavi_surrogate_posterior_stateless(target, plates=model.plates)
    surrogate = build_pavi_surrogate_posterior(target, plates=model.plates, seed=(5, 6))
    parameters = init_fn((5, 6))
    for mine, variable in zip(parameters, surrogate.trainable_variables, strict=False):
        assert mine.dtype == variable.dtype
    assert len(parameters) == len(surrogate.trainable_variables)
    for one in (apply_fn(*parameters), apply_fn(parameters)):
        assert not one.variables
        pairs = [q.experimental_sample_and_log_prob(4, seed=(1, 2)) for q in (one, surrogate)]
        (mine, my_log_q), (theirs, their_log_q) = pairs
        for key in mine:
            np.testing.assert_array_equal(mine[key], theirs[key])
        np.testing.assert_array_equal(my_log_q, their_log_q)
    other = init_fn((6, 5))
    assert any(not np.array_equal(a, b) for a, b in zip(other, parameters, strict=True))


class GradientDescent:
    """An optimizer of pure functions, as `minimize_stateless` takes one."""

    def init(self, parameters: Any) -> tuple[()]:
        return ()

    def update(self, gradients: Any, state: Any, parameters: Any = None) -> Any:
        return tf.nest.map_structure(lambda g: -0.01 * g, gradients), state


def test_stateless_fit() -> None:
    model, target = schools()
    init_fn, apply_fn = build_pavi_surrogate_posterior_stateless(
        target, plates=model.plates, family=AFFINE
    )
    fitted, losses = tfp.vi.fit_surrogate_posterior_stateless(
        target.unnormalized_log_prob,
        build_surrogate_posterior_fn=apply_fn,
        initial_parameters=init_fn((1, 2)),
        optimizer=GradientDescent(),
        num_steps=20,
        sample_size=8,
        seed=(3, 4),
    )
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert apply_fn(fitted).sample(seed=1)["theta"].shape == (8,)


def test_variational_loss_and_named_values() -> None:
    _, target, surrogate = affine_schools()
    loss = tfp.vi.monte_carlo_variational_loss(
        target.unnormalized_log_prob,
        surrogate,
        sample_size=100,
        importance_sample_size=2,
        seed=(1, 2),
    )
    assert np.isfinite(loss)
    draws = surrogate.sample(3, seed=1)
    np.testing.assert_array_equal(surrogate.log_prob(**draws), surrogate.log_prob(draws))


def test_checkpoint_and_saved_model(tmp_path: Path) -> None:
    model, target = schools()
    first, second = (
        build_pavi_surrogate_posterior(target, plates=model.plates, family=AFFINE, seed=(0, seed))
        for seed in (1, 2)
    )
    for variable in first.trainable_variables:
        variable.assign_add(0.1 * tf.ones_like(variable))
    path = tf.train.Checkpoint(surrogate=first).write(str(tmp_path / "weights"))
    value = first.sample(3, seed=(1, 2))
    assert not np.array_equal(second.log_prob(value), first.log_prob(value))
    tf.train.Checkpoint(surrogate=second).read(path).assert_consumed()
    np.testing.assert_array_equal(second.log_prob(value), first.log_prob(value))
    module = tf.Module()
    module.surrogate = first
    module.sample = tf.function(
        lambda seed: first.sample(3, seed=seed), input_signature=[tf.TensorSpec([2], tf.int32)]
    )
    tf.saved_model.save(module, str(tmp_path / "saved"))
    restored = tf.saved_model.load(str(tmp_path / "saved"))
    wanted, loaded = (m.sample(tf.constant([1, 2])) for m in (module, restored))
    for key, drawn in wanted.items():
        np.testing.assert_array_equal(loaded[key], drawn)


def test_observations_stand_for_pins() -> None:
    model, target = schools()
    seed = (1, 2)
    wanted = build_pavi_surrogate_posterior(target, plates=model.plates, seed=seed).sample(
        seed=seed
    )
    for observations in ({"y": EFFECTS}, {3: EFFECTS}):
        surrogate = build_pavi_surrogate_posterior(
            model.joint, plates=model.plates, observations=observations, seed=seed
        )
        for key, value in surrogate.sample(seed=seed).items():
            np.testing.assert_array_equal(value, wanted[key])
    prior = build_pavi_surrogate_posterior(model.joint, plates=model.plates, seed=1)
    assert sorted(prior.sample(seed=1)) == ["avg", "log_sd", "theta", "y"]
