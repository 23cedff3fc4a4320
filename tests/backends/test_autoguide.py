"""AutoPAVI in NumPyro's own inference: its contract, held against NumPyro's guides."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from pavi.family import Family

pytest.importorskip("numpyro")

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as npd
from numpyro import handlers, optim
from numpyro.distributions import constraints
from numpyro.infer import (
    SVI,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from numpyro.infer.autoguide import AutoDelta, AutoGuideList
from numpyro_models import EFFECTS, KEY, PLAIN, RNG, effects, fitted, initial

from pavi.backends.numpyro import AutoPAVI

ENCODER = Family(flow="none", encoding="encoder", joint_limit=0)
SCHOOLS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools(J: int, sigma: Any, y: Any = None) -> None:
    """As in NumPyro's documentation, with the priors of the reference posterior."""
    mu = numpyro.sample("mu", npd.Normal(0, 10))
    log_tau = numpyro.sample("log_tau", npd.Normal(5, 1))
    with numpyro.plate("J", J):
        theta = numpyro.sample("theta", npd.Normal(mu, jnp.exp(log_tau)))
        numpyro.sample("obs", npd.Normal(theta, sigma), obs=y)


def evidence_of(y: np.ndarray) -> float:
    """Log evidence of `effects`: any two values have the covariance 1, each the variance 3."""
    covariance = np.ones((len(y), len(y))) + 2.0 * np.eye(len(y))
    _, log_det = np.linalg.slogdet(2.0 * np.pi * covariance)
    return float(-0.5 * (log_det + y @ np.linalg.solve(covariance, y)))


@pytest.fixture(scope="module")
def conjugate() -> tuple[AutoPAVI, dict[str, Any]]:
    """A guide of `effects`, fitted: its posterior is a Gaussian of this family."""
    guide = AutoPAVI(effects, family=PLAIN)
    return guide, fitted(guide, 400, EFFECTS).params


def test_eight_schools_reaches_the_reference() -> None:
    guide = AutoPAVI(eight_schools)
    result = fitted(guide, 2000, 8, ERRORS, SCHOOLS, elbo=Trace_ELBO(num_particles=8))
    draws = guide.sample_posterior(jax.random.key(1), result.params, sample_shape=(2000,))
    # The mean and sd of Stan, from inference_gym's eight schools
    wanted = {
        "mu": (5.777, 5.453),
        "log_tau": (2.452, 0.512),
        "theta": (np.array([14.812, 7.171, 2.597, 6.587, 1.831]), None),
    }
    for name, sd in (("mu", 5.453), ("log_tau", 0.512)):
        assert abs(float(draws[name].mean()) - wanted[name][0]) < 0.15 * sd
        assert 0.85 < float(draws[name].std()) / sd < 1.15
    sds = np.array([10.747, 7.855, 10.497, 8.398, 7.492])
    theta = np.asarray(draws["theta"])[:, :5]
    assert np.all(np.abs(theta.mean(0) - wanted["theta"][0]) < 0.15 * sds)
    assert np.all(np.abs(theta.std(0) / sds - 1.0) < 0.15)
    quantiles = guide.quantiles(result.params, [0.1, 0.9])
    assert quantiles["theta"].shape == (2, 8)
    median = guide.median(result.params)
    assert {n: v.shape for n, v in median.items()} == {"mu": (), "log_tau": (), "theta": (8,)}
    assert np.all(quantiles["theta"][0] < median["theta"])


@pytest.mark.parametrize(
    "elbo", [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO, RenyiELBO], ids=lambda e: e.__name__
)
def test_every_elbo_reaches_the_evidence(
    conjugate: tuple[AutoPAVI, dict[str, Any]], elbo: Any
) -> None:
    guide, params = conjugate
    svi = SVI(effects, guide, optim.Adam(1e-3), elbo(num_particles=500))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = svi.run(
            jax.random.key(6), 2, EFFECTS, progress_bar=False, init_params=dict(params)
        )
    assert np.all(np.abs(result.losses + evidence_of(EFFECTS)) < 0.05)


def test_draws_and_quantiles_are_of_the_posterior(
    conjugate: tuple[AutoPAVI, dict[str, Any]],
) -> None:
    guide, params = conjugate
    # p(mu | y): precision 1 + 8/2, mean sum(y)/2 over it
    exact = npd.Normal(EFFECTS.sum() / 10.0, 5.0**-0.5)
    found = guide.quantiles(params, [0.2, 0.5, 0.8])["mu"]
    wanted = exact.icdf(jnp.array([0.2, 0.5, 0.8]))
    # Quantiles of 2000 draws: their errors are at most 1.43 sd / sqrt(2000)
    np.testing.assert_allclose(found, wanted, atol=4.0 * 1.43 * 5.0**-0.5 / 2000**0.5 + 0.02)
    keys = jax.random.split(KEY, 3)
    many = jax.jit(jax.vmap(lambda key: guide.sample_posterior(key, params)))(keys)
    for i, key in enumerate(keys):
        for name, value in guide.sample_posterior(key, params).items():
            np.testing.assert_allclose(many[name][i], value, rtol=2e-4, atol=1e-5)


def test_subsampled_plates_have_an_unbiased_loss() -> None:
    """Three nested plates, two of them subsampled: batches' losses average to the whole."""
    sizes, y = (6, 4, 3), jnp.asarray(RNG.normal(size=(6, 4, 3)))

    def model(y: Any, parts: tuple[int, int]) -> None:
        mu = numpyro.sample("mu", npd.Normal(0.0, 1.0))
        with numpyro.plate("state", sizes[0], subsample_size=parts[0], dim=-3) as states:
            a = numpyro.sample("a", npd.Normal(mu, 1.0))
            with numpyro.plate("county", sizes[1], subsample_size=parts[1], dim=-2) as counties:
                b = numpyro.sample("b", npd.Normal(a, 0.5))
                with numpyro.plate("home", sizes[2], dim=-1):
                    obs = y[states][:, counties]
                    numpyro.sample("y", npd.Normal(b, 1.0), obs=obs)

    family = Family(encoding="free", flow="none")
    guide = AutoPAVI(model, family=family)
    noise = np.random.default_rng(1)
    params = {
        k: v + 0.1 * noise.normal(size=v.shape) * ("reference" not in k)
        for k, v in initial(guide, y, (2, 2)).items()
    }

    def losses(parts: tuple[int, int], count: int) -> np.ndarray:
        keys = jax.random.split(jax.random.key(3), count)
        loss = jax.vmap(lambda key: Trace_ELBO().loss(key, params, model, guide, y, parts))
        return np.asarray(jax.jit(loss)(keys))

    batches, whole = losses((2, 2), 20_000), losses(sizes[:2], 20_000)
    error = np.hypot(batches.std(), whole.std()) / np.sqrt(20_000)
    assert batches.std() > 1.5 * whole.std()
    assert abs(batches.mean() - whole.mean()) < 4.0 * error


def test_the_model_sees_the_guides_rows() -> None:
    guide = AutoPAVI(effects, family=PLAIN)
    for seed in range(2):
        seeded = handlers.seed(guide, jax.random.key(seed))
        trace = handlers.trace(seeded).get_trace(EFFECTS, 8, 3)
        assert trace["theta"]["value"].shape == (3,)
        rows = trace["group"]["value"]
        replayed = handlers.replay(handlers.seed(effects, jax.random.key(9)), trace)
        model_trace = handlers.trace(replayed).get_trace(EFFECTS, 8, 3)
        np.testing.assert_array_equal(model_trace["group"]["value"], rows)
    params = {n: s["value"] for n, s in trace.items() if s["type"] == "param"}
    draws = guide.sample_posterior(KEY, params, EFFECTS, 8, 3, sample_shape=(2,))
    assert draws["theta"].shape == (2, 8)


def test_arguments_may_be_a_batch_alone() -> None:
    """As in NumPyro's test of subsampling: rows by `create_plates`, and data of these rows only."""

    def plates(batch: Any, rows: Any, size: int) -> Any:
        with handlers.substitute(data={"data": rows}):
            return numpyro.plate("data", size, subsample_size=len(rows))

    def model(batch: Any, rows: Any, size: int) -> None:
        mu = numpyro.sample("mu", npd.Normal(0.0, 1.0))
        numpyro.deterministic("twice", 2.0 * mu)
        with plates(batch, rows, size):
            state = numpyro.sample("state", npd.Normal(mu, 1.0))
            numpyro.sample("obs", npd.Bernoulli(logits=state), obs=batch)

    guide = AutoPAVI(model, family=PLAIN, create_plates=plates)
    svi = SVI(model, guide, optim.Adam(0.02), Trace_ELBO())
    data, rows = jnp.arange(12) % 2, jnp.arange(12)
    first = data[:4], rows[:4], 12
    state = jax.jit(lambda key: svi.init(key, *first))(KEY)
    update = jax.jit(svi.update, static_argnums=3)
    for start in (0, 4, 8):
        part = slice(start, start + 4)
        state, loss = update(state, data[part], rows[part], 12)
        assert np.isfinite(loss)
    params = svi.get_params(state)
    draws = guide.sample_posterior(KEY, params, data[4:8], rows[4:8], 12, sample_shape=(5,))
    assert {n: v.shape for n, v in draws.items()} == {"mu": (5,), "twice": (5,), "state": (5, 4)}


def test_sizes_may_change_with_an_encoder() -> None:
    guide = AutoPAVI(effects, family=ENCODER)
    params = initial(guide, EFFECTS)
    more = jnp.concatenate([EFFECTS, jnp.array([4.0, -4.0])])
    draws = guide.sample_posterior(KEY, params, more, 10, sample_shape=(1000,))
    assert draws["theta"].shape == (1000, 10)
    theta = np.asarray(draws["theta"].mean(0))
    assert theta[8] > 1.0 > -1.0 > theta[9]


def test_the_encoder_sees_arguments_of_the_model() -> None:
    """An array that flows into no observed site moves the draws only where `encode` names it."""

    def model(x: Any, y: Any, part: int | None = None) -> None:
        mu = numpyro.sample("mu", npd.Normal(0.0, 1.0))
        with numpyro.plate("group", 8, subsample_size=part) as rows:
            theta = numpyro.sample("theta", npd.Normal(mu, 1.0))
            numpyro.sample("y", npd.Normal(theta, 1.0), obs=y[rows])

    deep = Family(flow="none", encoding="encoder", encoder="deep_set", joint_limit=0)
    x = jnp.asarray(RNG.normal(size=(8, 3)))
    for encode, moves in ((["y"], False), (["y", "x"], True)):
        guide = AutoPAVI(model, family=deep, encode=encode)
        handlers.seed(guide, KEY)(x, EFFECTS, 4)
        one, other = (
            handlers.seed(guide, KEY)(given, EFFECTS, 4)["theta"] for given in (x, x + 3.0)
        )
        assert one.shape == (4,)
        assert bool(np.any(np.abs(one - other) > 1e-4)) == moves


def test_beta_bernoulli_in_double_precision() -> None:
    """NumPyro's own test of its guides, with its tolerance."""
    data = np.array([[1.0] * 8 + [0.0] * 2, [1.0] * 4 + [0.0] * 6]).T

    def model(data: Any) -> None:
        f = numpyro.sample("beta", npd.Beta(jnp.ones(2), jnp.ones(2)).to_event())
        with numpyro.plate("N", 10):
            numpyro.sample("obs", npd.Bernoulli(f).to_event(1), obs=data)

    with jax.enable_x64(True):
        guide = AutoPAVI(model, family=PLAIN)
        svi = SVI(model, guide, optim.Adam(0.02), Trace_ELBO(num_particles=4))
        data = jnp.asarray(data)
        state = jax.jit(lambda key: svi.init(key, data))(KEY)
        params = svi.run(KEY, 600, data, progress_bar=False, init_state=state).params
        assert {str(v.dtype) for v in params.values()} == {"float64"}
        draws = guide.sample_posterior(KEY, params, sample_shape=(2000,))
        assert str(draws["beta"].dtype) == "float64"
        np.testing.assert_allclose(draws["beta"].mean(0), (data.sum(0) + 1) / 12, atol=0.03)
        assert guide.quantiles(params, [0.2, 0.5, 0.8])["beta"].shape == (3, 2)
        predictive = Predictive(model, posterior_samples=draws)
        assert predictive(KEY, None)["obs"].shape == (2000, 10, 2)
        # posterior predictions, without the data that were fitted
        predictive = Predictive(model, guide=guide, params=params, num_samples=11)
        assert predictive(KEY, None)["obs"].shape == (11, 10, 2)


def test_predictions_for_other_arguments() -> None:
    def model(y: Any = None) -> None:
        mu = numpyro.sample("mu", npd.Normal(0, 5))
        sigma = numpyro.param("sigma", 1.0, constraint=constraints.positive)
        with numpyro.plate("N", len(y)):
            y = numpyro.sample("y", npd.Normal(mu, sigma).expand((len(y),)), obs=y)
        numpyro.deterministic("z", (y - mu) / sigma)

    y = 2.0 + 3.0 * jax.random.normal(KEY, (60,))
    guide = AutoPAVI(model, family=PLAIN)
    params = fitted(guide, 300, y[:40]).params
    assert abs(float(params["sigma"]) - np.std(y[:40])) < 0.2
    draws = guide.sample_posterior(KEY, params, sample_shape=(100,))
    found = Predictive(model, draws, params=params)(KEY, y[40:])
    assert found["y"].shape == found["z"].shape == (100, 20)
    wanted = (found["y"] - draws["mu"][:, None]) / params["sigma"]
    np.testing.assert_allclose(found["z"], wanted, atol=1e-4)


def test_a_part_of_a_list_of_guides() -> None:
    def model(y: Any) -> None:
        a = numpyro.sample("a", npd.Normal(0.0, 1.0))
        b = numpyro.sample("b", npd.Normal(0.0, 1.0))
        numpyro.sample("y", npd.Normal(a + b, 1.0), obs=y)

    guide = AutoGuideList(model)
    seeded = handlers.seed(model, 1)
    guide.append(AutoPAVI(handlers.block(seeded, hide=["b"]), family=PLAIN))
    guide.append(AutoDelta(handlers.block(seeded, hide=["a"])))
    params = fitted(guide, 5, 1.0).params
    assert guide.sample_posterior(KEY, params, 1.0).keys() == {"a", "b"}
    assert guide.median(params).keys() == {"a", "b"}
