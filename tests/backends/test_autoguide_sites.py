"""AutoPAVI on the kinds of sites that models have: their supports, masks, and other forms."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from pavi.errors import PaviWarning

pytest.importorskip("numpyro")

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as npd
from jax.example_libraries.stax import Dense
from numpyro import handlers, optim
from numpyro.contrib.funsor import config_enumerate
from numpyro.distributions import constraints, transforms
from numpyro.infer import (
    SVI,
    Trace_ELBO,
    TraceEnum_ELBO,
    initialization,
)
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.reparam import LocScaleReparam, TransformReparam
from numpyro_models import EFFECTS, KEY, PLAIN, effects, fitted, initial

from pavi.backends.numpyro import AutoPAVI


def test_reparametrised_sites_and_deterministic_ones() -> None:
    model = handlers.reparam(effects, config={"theta": LocScaleReparam(0.0)})
    guide, stock = AutoPAVI(model, family=PLAIN), AutoNormal(model)
    ours = fitted(guide, 300, EFFECTS).params
    draws = guide.sample_posterior(jax.random.key(1), ours, sample_shape=(2000,))
    wanted = stock.sample_posterior(KEY, initial(stock, EFFECTS), sample_shape=(2000,))
    assert {n: v.shape for n, v in draws.items()} == {n: v.shape for n, v in wanted.items()}
    # E[mu | y] = n mean(y) / (n + 2) for unit variances on two levels
    assert abs(float(draws["mu"].mean()) - EFFECTS.sum() / 10.0) < 0.1


def test_dynamic_supports() -> None:
    """As NumPyro's test has it: a support that hangs on a latent, and one of fixed bounds."""
    data = 0.9 + 0.1 * jax.random.normal(KEY, (100,))

    def scaled(data: Any) -> None:
        alpha = numpyro.sample("alpha", npd.Uniform(0, 1))
        inside = npd.TransformedDistribution(
            npd.Uniform(0, 1), transforms.AffineTransform(0, alpha)
        )
        with handlers.reparam(config={"loc": TransformReparam()}):
            loc = numpyro.sample("loc", inside)
        with numpyro.plate("N", len(data)):
            numpyro.sample("obs", npd.Normal(loc, 0.1), obs=data)

    def direct(data: Any) -> None:
        alpha = numpyro.sample("alpha", npd.Uniform(0, 1))
        loc = numpyro.sample("loc", npd.Uniform(0, alpha))
        with numpyro.plate("N", len(data)):
            numpyro.sample("obs", npd.Normal(loc, 0.1), obs=data)

    losses = []
    for model in (scaled, direct):
        guide = AutoPAVI(model, family=PLAIN)
        result = fitted(guide, 500, data)
        losses.append(float(result.losses[-100:].mean()))
        np.testing.assert_allclose(guide.median(result.params)["loc"], 0.9, rtol=0.05)
    # One posterior, written twice
    assert abs(losses[0] - losses[1]) < 0.2


def test_masks_and_scales_count_in_the_evidence() -> None:
    present = np.array([True, True, False, True, True, True, False, True])

    def model(y: Any) -> None:
        mu = numpyro.sample("mu", npd.Normal(0.0, 1.0))
        with numpyro.plate("group", 8):
            theta = numpyro.sample("theta", npd.Normal(mu, 1.0))
            with handlers.scale(scale=2.0), handlers.mask(mask=present):
                numpyro.sample("y", npd.Normal(theta, 1.0), obs=y)

    guide = AutoPAVI(model, family=PLAIN)
    draws = guide.sample_posterior(KEY, fitted(guide, 300, EFFECTS).params, sample_shape=(2000,))
    # Present values count twice: precision 2, after integrating theta 1 / (1 + 1/2)
    weight = 1.0 / 1.5 * present
    precision = 1.0 + weight.sum()
    mean, sd = float(weight @ EFFECTS / precision), float(precision**-0.5)
    assert abs(draws["mu"].mean() - mean) < 0.15 * sd
    assert abs(draws["mu"].std() / sd - 1.0) < 0.15
    own = 1.0 / (1.0 + 2.0 * present)
    wanted = own * (mean + 2.0 * present * np.asarray(EFFECTS))
    sds = np.sqrt(own + (own * sd) ** 2)
    np.testing.assert_array_less(np.abs(draws["theta"].mean(0) - wanted), 0.15 * sds)
    np.testing.assert_allclose(draws["theta"].std(0), sds, rtol=0.15)


def test_improper_sites_and_params_of_the_model() -> None:
    x = jax.random.normal(KEY, (20, 4))

    def model(x: Any, y: Any) -> None:
        network = numpyro.module("nn", Dense(1), (4,))
        least = numpyro.param("least", 0.5, constraint=constraints.greater_than(0.1))
        first = numpyro.sample("first", npd.ImproperUniform(constraints.real, (), ()))
        second = numpyro.sample("second", npd.ImproperUniform(constraints.real, (), ()))
        sigma = numpyro.sample("sigma", npd.ImproperUniform(constraints.positive, (), ()))
        mean = network(x).squeeze(-1) + first + second
        with numpyro.plate("N", len(y)):
            numpyro.sample("y", npd.Normal(mean, least + sigma), obs=y)

    guide = AutoPAVI(model, family=PLAIN)
    svi = SVI(model, guide, optim.Adam(0.01), Trace_ELBO(), x=x, y=x[:, 0])
    state = svi.init(KEY)
    before = svi.get_params(state)
    assert abs(float(before["least"]) - 0.5) < 1e-6
    state, losses = jax.lax.scan(lambda state, _: svi.update(state), state, jnp.zeros(300))
    after = svi.get_params(state)
    assert np.all(np.isfinite(losses))
    assert losses[-20:].mean() < losses[:20].mean()
    assert np.any(before["nn$params"][0] != after["nn$params"][0])


def test_supports_shapes_and_names_are_autonormals() -> None:
    def model(y: Any) -> None:
        numpyro.sample("flat", npd.ImproperUniform(constraints.positive, (), (2,)))
        numpyro.sample("cut", npd.ImproperUniform(constraints.ordered_vector, (), (3,)))
        numpyro.sample("tril", npd.ImproperUniform(constraints.lower_cholesky, (), (2, 2)))
        numpyro.sample("factor", npd.LKJCholesky(3, 2.0))
        low = numpyro.sample("layer.low", npd.Uniform(-3.0, -1.0))
        with numpyro.plate("outer", 3, dim=-2):
            share = numpyro.sample("share", npd.Dirichlet(jnp.ones(4)))
            with numpyro.plate("inner", 2, dim=-1):
                numpyro.sample("between", npd.Uniform(low, 1.0))
        numpyro.sample("y", npd.Normal(share[..., 0].sum(), 1.0), obs=y)

    guide, stock = AutoPAVI(model, family=PLAIN), AutoNormal(model)
    shapes = []
    supports = {
        "flat": constraints.positive,
        "cut": constraints.ordered_vector,
        "tril": constraints.lower_cholesky,
        "factor": constraints.corr_cholesky,
        "share": constraints.simplex,
    }
    for own in (guide, stock):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PaviWarning)
            draws = own.sample_posterior(KEY, initial(own, 1.0), sample_shape=(4,))
        shapes.append({name: value.shape for name, value in draws.items()})
        assert np.all(draws["between"] > draws["layer.low"].reshape(4, 1, 1))
        for name, support in supports.items():
            assert np.all(support(draws[name])), name
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("strategy", ["value", "uniform", "sample", "feasible", "mean"])
def test_start_is_where_autonormal_starts(strategy: str) -> None:
    start = getattr(initialization, f"init_to_{strategy}")
    start = start(values={"mu": 7.0}) if strategy == "value" else start
    guide = AutoPAVI(effects, family=PLAIN, init_loc_fn=start)
    stock = AutoNormal(effects, init_loc_fn=start)
    centre = handlers.substitute(guide, data={"auto_globals": jnp.zeros(1)})
    ours = handlers.seed(centre, KEY)(EFFECTS)
    handlers.seed(stock, KEY)(EFFECTS)
    np.testing.assert_allclose(ours["mu"], stock._init_locs["mu"], rtol=1e-4, atol=1e-5)
    if strategy == "value":
        assert abs(float(ours["mu"]) - 7.0) < 1e-4


def test_enumerated_sites_are_summed_by_the_elbo() -> None:
    y = jnp.array([-2.0, -2.2, 2.0, 2.5, 1.9])
    prior = jnp.array([-1.0, 1.0])

    @config_enumerate
    def model(y: Any) -> None:
        mean = numpyro.sample("mean", npd.Normal(prior, 1.0).to_event(1))
        with numpyro.plate("n", len(y)):
            kind = numpyro.sample("kind", npd.Bernoulli(0.5))
            numpyro.sample("y", npd.Normal(mean[kind], 1.0), obs=y)

    guide = AutoPAVI(model, family=PLAIN)
    with pytest.warns(PaviWarning, match="site 'y' .* left out of the evidence"):
        result = fitted(guide, 600, y, elbo=TraceEnum_ELBO(num_particles=8))
    draws = guide.sample_posterior(KEY, result.params, y, sample_shape=(2000,))
    assert {name: value.shape for name, value in draws.items()} == {"mean": (2000, 2)}
    # The posterior on a grid
    axis = np.linspace(-6.0, 6.0, 241)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
    density = npd.Normal(prior, 1.0).log_prob(grid).sum(-1)
    each = npd.Normal(grid[..., None, :], 1.0).log_prob(np.asarray(y)[:, None])
    density = np.exp(density + (jax.nn.logsumexp(each, -1) - np.log(2.0)).sum(-1))
    density /= density.sum()
    mean = (density[..., None] * grid).sum((0, 1))
    sd = np.sqrt((density[..., None] * (grid - mean) ** 2).sum((0, 1)))
    np.testing.assert_array_less(np.abs(draws["mean"].mean(0) - mean), 0.15 * sd)
    np.testing.assert_allclose(draws["mean"].std(0), sd, rtol=0.15)
