"""Surrogate posteriors of users' own joint distributions, held against TFP's densities and fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow_probability")

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from tfp_models import EFFECTS, MODELS, Model, schools_named

from pavi.backends.tfp import (
    build_pavi_surrogate_posterior,
    build_pavi_surrogate_posterior_stateless,
)
from pavi.backends.tfp.model import make_joint_log_prob
from pavi.backends.tfp.portable import read_joint_distribution
from pavi.subsampling import full_batch

tfd = tfp.distributions


def pinned(model: Model) -> Any:
    """The model with data drawn from itself."""
    drawn = model.joint.sample(seed=(3, 4))
    parts = dict(
        zip(model.joint._flat_resolve_names(), model.joint._model_flatten(drawn), strict=True)
    )
    return model.joint.experimental_pin(**{name: parts[name] for name in model.observed})


@pytest.mark.parametrize("name", MODELS)
def test_density_of_the_graph_is_the_joint_distributions(name: str) -> None:
    model = MODELS[name]()
    target = pinned(model)
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


def built(name: str, **options: Any) -> tuple[Any, Any]:
    """A pinned model and its surrogate."""
    model = MODELS[name]()
    target = pinned(model)
    return target, build_pavi_surrogate_posterior(
        target, plates=model.plates, seed=(0, 1), **options
    )


@pytest.mark.parametrize("name", MODELS)
def test_surrogate_is_structured_as_the_unobserved_parts(name: str) -> None:
    target, surrogate = built(name)
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
    assert all(g is not None for g in gradients)
    again = surrogate.sample((2, 3), seed=(1, 2))
    for a, b in zip(tf.nest.flatten(draws), tf.nest.flatten(again), strict=True):
        np.testing.assert_array_equal(a, b)
    single = surrogate.sample(seed=5)
    assert surrogate.log_prob(single).shape == ()
    copied = surrogate.copy()
    assert {id(v) for v in copied.variables} == {id(v) for v in surrogate.variables}


def schools(dtype: type = np.float32) -> tuple[Model, Any]:
    """Eight schools with their data."""
    model = schools_named(dtype)
    return model, model.joint.experimental_pin(y=EFFECTS.astype(dtype))


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


@pytest.mark.parametrize("way", ["eager", "tf.function", "jit_compile"])
def test_fits_however_it_is_run(way: str) -> None:
    model, target = schools()
    surrogate = build_pavi_surrogate_posterior(target, plates=model.plates, seed=1)
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
            jit_compile=way == "jit_compile" or None,
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
    init_fn, apply_fn = build_pavi_surrogate_posterior_stateless(target, plates=model.plates)
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
    model, target = schools()
    surrogate = build_pavi_surrogate_posterior(target, plates=model.plates, seed=1)
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
        build_pavi_surrogate_posterior(target, plates=model.plates, seed=seed) for seed in (1, 2)
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
    loaded = restored.sample(tf.constant([1, 2]))
    for key, drawn in value.items():
        np.testing.assert_allclose(loaded[key], drawn, rtol=1e-6)


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
