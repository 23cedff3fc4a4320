"""AutoPAVI in NumPyro's own inference: its contract, held against NumPyro's guides."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from pavi.errors import PaviWarning
from pavi.family import Family

pytest.importorskip("numpyro")

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as npd
import optax
from numpyro import handlers
from numpyro.infer import (
    SVI,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.reparam import LocScaleReparam

from pavi.backends.numpyro import AutoPAVI

PLAIN = Family(flow="none")
ENCODER = Family(flow="none", encoding="encoder", joint_limit=0)
RNG = np.random.default_rng(0)
EFFECTS = jnp.asarray(RNG.normal(size=8) + RNG.normal(size=8))
SCHOOLS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def effects(y: Any, size: int = 8, part: int | None = None) -> None:
    mu = numpyro.sample("mu", npd.Normal(0.0, 1.0))
    with numpyro.plate("group", size, subsample_size=part) as rows:
        theta = numpyro.sample("theta", npd.Normal(mu, 1.0))
        numpyro.sample("y", npd.Normal(theta, 1.0), obs=None if y is None else y[rows])


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


def fitted(guide: AutoPAVI, steps: int, *args: Any, elbo: Any = None) -> Any:
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, steps))
    svi = SVI(guide.model, guide, optimizer, elbo or Trace_ELBO(num_particles=4))
    return svi.run(jax.random.key(0), steps, *args, progress_bar=False)


def test_eight_schools_reaches_the_reference() -> None:
    guide = AutoPAVI(eight_schools)
    result = fitted(guide, 2000, 8, ERRORS, SCHOOLS, elbo=Trace_ELBO(num_particles=8))
    draws = guide.sample_posterior(jax.random.key(1), result.params, sample_shape=(4000,))
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
    # posterior predictions, without the data that were fitted
    predictive = Predictive(eight_schools, guide=guide, params=result.params, num_samples=5)
    assert predictive(jax.random.key(2), 8, ERRORS)["obs"].shape == (5, 8)


@pytest.mark.parametrize(
    "elbo", [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO, RenyiELBO], ids=lambda e: e.__name__
)
def test_every_elbo_reaches_the_evidence(elbo: Any) -> None:
    guide = AutoPAVI(effects, family=PLAIN)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = fitted(guide, 400, EFFECTS, elbo=elbo(num_particles=4))
    loss = elbo(num_particles=500).loss(jax.random.key(6), result.params, effects, guide, EFFECTS)
    assert abs(float(loss) + evidence_of(EFFECTS)) < 0.05


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
    svi = SVI(model, guide, optax.adam(1e-2), Trace_ELBO())
    params = svi.get_params(svi.init(jax.random.key(0), y, (2, 2)))
    noise = np.random.default_rng(1)
    params = {
        k: v + 0.1 * noise.normal(size=v.shape) * ("reference" not in k) for k, v in params.items()
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
    for seed in range(3):
        seeded = handlers.seed(guide, jax.random.key(seed))
        trace = handlers.trace(seeded).get_trace(EFFECTS, 8, 3)
        assert trace["theta"]["value"].shape == (3,)
        rows = trace["group"]["value"]
        replayed = handlers.replay(handlers.seed(effects, jax.random.key(9)), trace)
        model_trace = handlers.trace(replayed).get_trace(EFFECTS, 8, 3)
        np.testing.assert_array_equal(model_trace["group"]["value"], rows)
    params = {n: s["value"] for n, s in trace.items() if s["type"] == "param"}
    draws = guide.sample_posterior(jax.random.key(0), params, EFFECTS, 8, 3, sample_shape=(2,))
    assert draws["theta"].shape == (2, 8)


def test_reparametrised_sites_and_deterministic_ones() -> None:
    model = handlers.reparam(effects, config={"theta": LocScaleReparam(0.0)})
    guide, stock = AutoPAVI(model, family=PLAIN), AutoNormal(model)
    ours = fitted(guide, 300, EFFECTS).params
    theirs = SVI(model, stock, optax.adam(0.01), Trace_ELBO())
    theirs = theirs.get_params(theirs.init(jax.random.key(0), EFFECTS))
    draws = guide.sample_posterior(jax.random.key(1), ours, sample_shape=(2000,))
    wanted = stock.sample_posterior(jax.random.key(1), theirs, sample_shape=(2000,))
    assert {n: v.shape for n, v in draws.items()} == {n: v.shape for n, v in wanted.items()}
    # E[mu | y] = n mean(y) / (n + 2) for unit variances on two levels
    assert abs(float(draws["mu"].mean()) - EFFECTS.sum() / 10.0) < 0.1


def test_sizes_may_change_with_an_encoder() -> None:
    guide = AutoPAVI(effects, family=ENCODER)
    params = fitted(guide, 300, EFFECTS).params
    more = jnp.concatenate([EFFECTS, jnp.array([4.0, -4.0])])
    draws = guide.sample_posterior(jax.random.key(0), params, more, 10, sample_shape=(1000,))
    assert draws["theta"].shape == (1000, 10)
    theta = np.asarray(draws["theta"].mean(0))
    assert theta[8] > 1.0 > -1.0 > theta[9]


def test_free_tables_need_their_sizes() -> None:
    guide = AutoPAVI(effects, family=PLAIN)
    params = fitted(guide, 2, EFFECTS).params
    with pytest.raises(ValueError, match="plate 'group' has the size 10, and had 8"):
        guide.sample_posterior(jax.random.key(0), params, jnp.zeros(10), 10)


def test_double_precision() -> None:
    with jax.enable_x64(True):
        guide = AutoPAVI(effects, family=PLAIN)
        params = fitted(guide, 5, EFFECTS).params
        assert {str(v.dtype) for v in params.values()} == {"float64"}
        draws = guide.sample_posterior(jax.random.key(0), params)
        assert str(draws["theta"].dtype) == "float64"


def test_supports_shapes_and_names_are_autonormals() -> None:
    def model(y: Any) -> None:
        numpyro.sample("flat", npd.ImproperUniform(npd.constraints.positive, (), (2,)))
        cut = npd.ImproperUniform(npd.constraints.ordered_vector, (), (3,))
        numpyro.sample("cut", cut)
        low = numpyro.sample("layer.low", npd.Uniform(-3.0, -1.0))
        with numpyro.plate("outer", 3, dim=-2):
            share = numpyro.sample("share", npd.Dirichlet(jnp.ones(4)))
            with numpyro.plate("inner", 2, dim=-1):
                numpyro.sample("between", npd.Uniform(low, 1.0))
        numpyro.sample("y", npd.Normal(share[..., 0].sum(), 1.0), obs=y)

    guide, stock = AutoPAVI(model, family=PLAIN), AutoNormal(model)
    shapes = []
    for own in (guide, stock):
        svi = SVI(model, own, optax.adam(0.01), Trace_ELBO())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PaviWarning)
            params = svi.get_params(svi.init(jax.random.key(0), 1.0))
        draws = own.sample_posterior(jax.random.key(1), params, sample_shape=(4,))
        shapes.append({name: value.shape for name, value in draws.items()})
        assert np.all(draws["between"] > draws["layer.low"].reshape(4, 1, 1))
    assert shapes[0] == shapes[1]


def test_what_cannot_be_read_is_named() -> None:
    def model(y: Any) -> None:
        a = numpyro.sample("a", npd.Normal(0.0, 1.0).expand([3]).to_event(1))
        b = numpyro.sample("b", npd.Normal(jnp.sort(a)[0], 1.0))
        numpyro.sample("y", npd.VonMises(b, 1.0), obs=y)

    guide = AutoPAVI(model, family=PLAIN)
    svi = SVI(model, guide, optax.adam(0.01), Trace_ELBO())
    with pytest.warns(PaviWarning) as caught:
        svi.init(jax.random.key(0), jnp.zeros(2))
    said = " ".join(str(warning.message) for warning in caught)
    assert "site 'b'" in said
    assert "'sort" in said
    assert "VonMises" in said


def test_bad_input() -> None:
    def discrete() -> None:
        numpyro.sample("z", npd.Bernoulli(0.5))
        numpyro.sample("x", npd.Normal(0.0, 1.0))

    def empty(y: Any) -> None:
        numpyro.sample("y", npd.Normal(0.0, 1.0), obs=y)

    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"discrete latent site 'z'.*config_enumerate"):
        handlers.seed(AutoPAVI(discrete), key)()
    with pytest.raises(RuntimeError, match="found no latent variables"):
        handlers.seed(AutoPAVI(empty), key)(1.0)
    guide = AutoPAVI(effects, family=PLAIN)
    with pytest.raises(RuntimeError, match=r"has not seen its model yet.*svi\.init"):
        guide.sample_posterior(key, {}, EFFECTS)
    handlers.seed(guide, key)(EFFECTS)
    with pytest.raises(ValueError, match="params are those of another guide"):
        guide.median({"auto_mu_loc": 0.0})
    with pytest.raises(ValueError, match="'w' is no observed site"):
        handlers.seed(AutoPAVI(effects, encode=["w"]), key)(EFFECTS)


def test_start_is_where_it_is_told() -> None:
    start = numpyro.infer.init_to_value(values={"mu": 7.0})
    guide = AutoPAVI(effects, family=PLAIN, init_loc_fn=start)
    svi = SVI(effects, guide, optax.adam(0.01), Trace_ELBO())
    params = svi.get_params(svi.init(jax.random.key(0), EFFECTS))
    draws = guide.sample_posterior(jax.random.key(1), params, sample_shape=(200,))
    assert abs(float(draws["mu"].mean()) - 7.0) < 0.2


def test_enumerated_sites_are_left_to_the_elbo() -> None:
    def model(y: Any) -> None:
        mean = numpyro.sample("mean", npd.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("n", 4):
            kind = numpyro.sample("kind", npd.Bernoulli(0.5), infer={"enumerate": "parallel"})
            numpyro.sample("y", npd.Normal(mean[kind], 1.0), obs=y)

    guide = handlers.seed(AutoPAVI(model, family=PLAIN), jax.random.key(0))
    with pytest.warns(PaviWarning, match="site 'y' .* left out of the evidence"):
        sites = guide(jnp.arange(4.0))
    assert {name: value.shape for name, value in sites.items()} == {"mean": (2,)}
