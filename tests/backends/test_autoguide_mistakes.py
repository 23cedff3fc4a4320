"""What AutoPAVI says to a model or to arguments that it cannot take, in NumPyro's manner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import pavi
from pavi.errors import GraphError, PaviWarning
from pavi.family import Family

pytest.importorskip("numpyro")

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as npd
import optax
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import SVI, Predictive, Trace_ELBO, initialization

from pavi.backends.numpyro import AutoPAVI

PLAIN = Family(flow="none", encoding="free")
KEY = jax.random.key(0)
Y = jnp.arange(8.0)


def effects(y: Any, size: int = 8, part: int | None = None) -> None:
    mu = numpyro.sample("mu", npd.Normal(0.0, 1.0))
    with numpyro.plate("group", size, subsample_size=part) as rows:
        theta = numpyro.sample("theta", npd.Normal(mu, 1.0))
        numpyro.sample("y", npd.Normal(theta, 1.0), obs=y[rows])


def empty(y: Any) -> None:
    numpyro.sample("y", npd.Normal(0.0, 1.0), obs=y)


def sphere(y: Any) -> None:
    x = numpyro.sample("x", npd.Normal(0.0, 1.0).expand([2]).to_event(1))
    direction = numpyro.sample("direction", npd.ProjectedNormal(x))
    numpyro.sample("y", npd.Normal(direction, 1.0).to_event(1), obs=y[:2])


def discrete(y: Any) -> None:
    p = numpyro.sample("p", npd.Beta(2.0, 2.0))
    z = numpyro.sample("z", npd.Bernoulli(p))
    numpyro.sample("y", npd.Normal(z, 1.0).expand([8]).to_event(1), obs=y)


def wide_data(y: Any) -> None:
    mu = numpyro.sample("mu", npd.Normal(0.0, 1.0))
    with numpyro.plate("home", 5):
        numpyro.sample("y", npd.Normal(mu, 1.0), obs=y)


def wide_parameter(y: Any) -> None:
    mu = numpyro.sample("mu", npd.Normal(0.0, 1.0))
    with numpyro.plate("home", 5):
        numpyro.sample("y", npd.Normal(mu, y + 1.0), obs=y)


def unnamed(y: Any) -> None:
    with numpyro.plate(None, 8):
        numpyro.sample("theta", npd.Normal(0.0, 1.0))


def bounded(y: Any) -> None:
    top = numpyro.sample("top", npd.ImproperUniform(constraints.greater_than(y.max()), (), ()))
    numpyro.sample("y", npd.Uniform(-1.0, top).expand([8]).to_event(1), obs=y)


@pytest.fixture(scope="module")
def prepared() -> tuple[AutoPAVI, dict[str, Any]]:
    """A guide that has seen `effects`, and its params."""
    guide = AutoPAVI(effects, family=PLAIN)

    def params(key: Any) -> dict[str, Any]:
        trace = handlers.trace(handlers.seed(guide, key)).get_trace(Y)
        return {n: s["value"] for n, s in trace.items() if s["type"] == "param"}

    return guide, dict(jax.jit(params)(KEY))


MISTAKES = {
    "no latents": (empty, RuntimeError, r"found no latent variables; Use an empty guide"),
    "no bijector": (sphere, ValueError, r"site 'direction'.*ProjectedNormalReparam"),
    "data of another size": (
        wide_data,
        ValueError,
        r"value of the site 'y' has the shape \(8,\).*'home' \(size 5, dim -1\).*obs=y\[rows\]",
    ),
    "parameters of another size": (
        wide_parameter,
        ValueError,
        r"distribution of the site 'y' has the shape \(8,\).*'home' \(size 5.*size of the data",
    ),
    "no name": (unnamed, ValueError, r"plate None has no name.*numpyro\.plate\('a name', 8\)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_models_that_cannot_be(mistake: str) -> None:
    model, error, said = MISTAKES[mistake]
    with pytest.raises(error, match=said):
        handlers.seed(AutoPAVI(model), KEY)(Y)


@pytest.mark.parametrize("start", ["feasible", "median", "sample", "uniform"])
def test_discrete_latents_have_a_remedy(start: str) -> None:
    strategy = getattr(initialization, f"init_to_{start}")
    guide = AutoPAVI(discrete, init_loc_fn=strategy)
    said = r"cannot handle discrete latent site 'z'.*config_enumerate.*TraceEnum_ELBO"
    with pytest.raises(ValueError, match=said):
        handlers.seed(guide, KEY)(Y)


@pytest.mark.parametrize(("size", "dim"), [(10, -2), (5, -1)])
@pytest.mark.parametrize("observed", [False, True])
def test_a_plate_is_one(size: int, dim: int, observed: bool) -> None:
    """As NumPyro's guides have it for latents."""

    def model() -> None:
        with numpyro.plate("a", 10, dim=-1):
            numpyro.sample("x", npd.Normal(0, 1))
        with numpyro.plate("a", size, dim=dim):
            numpyro.sample("y", npd.Normal(0, 1), obs=0.0 if observed else None)

    said = r"plate 'a' has inconsistent dim or size.*site 'x'.*site 'y'.*a name of its own"
    with pytest.raises(AssertionError, match=said):
        handlers.seed(AutoPAVI(model), KEY)()
    with pytest.raises(GraphError, match=said):
        pavi.PlateGraph.from_numpyro(model)


def test_bounds_that_depend_on_data() -> None:
    guide = AutoPAVI(bounded, family=PLAIN)
    svi = SVI(bounded, guide, optax.adam(0.1), Trace_ELBO())
    said = r"site 'top' .*ImproperUniform.*support GreaterThan is not one of fixed numbers.*Uniform"
    with pytest.raises(GraphError, match=said):
        jax.jit(svi.init)(KEY, Y)


def test_free_tables_need_their_sizes(prepared: tuple[AutoPAVI, dict[str, Any]]) -> None:
    guide, params = prepared
    said = r"plate 'group' has the size 10, and had 8.*sites \['theta'\].*encoding='encoder'"
    with pytest.raises(ValueError, match=said):
        guide.sample_posterior(KEY, params, jnp.zeros(10), 10)


@pytest.mark.parametrize(
    "call",
    [
        lambda guide, params: guide.sample_posterior(KEY, params, Y),
        lambda guide, params: guide.median(params),
        lambda guide, params: guide.quantiles(params, [0.5]),
    ],
    ids=["sample_posterior", "median", "quantiles"],
)
def test_a_guide_before_its_model(
    prepared: tuple[AutoPAVI, dict[str, Any]], call: Callable[..., Any]
) -> None:
    _, params = prepared
    with pytest.raises(RuntimeError, match=r"has not seen its model yet.*svi\.init"):
        call(AutoPAVI(effects, family=PLAIN), params)


def test_params_of_another_model(prepared: tuple[AutoPAVI, dict[str, Any]]) -> None:
    guide, params = prepared
    with pytest.raises(ValueError, match=r"params are those of another guide.*svi\.get_params"):
        guide.median({"auto_mu_loc": 0.0})
    other = {name: jnp.zeros((3, *jnp.shape(value))) for name, value in params.items()}
    with pytest.raises(ValueError, match=r"params are those of another guide: 'auto_.*given \(3,"):
        Predictive(effects, guide=guide, params=other, num_samples=2)(KEY, Y)


def test_names_in_encode() -> None:
    def model(x: Any, y: Any) -> None:
        effects(y)

    with pytest.raises(ValueError, match=r"'w' is no observed site.*\['y'\].*\['x', 'y'\]"):
        handlers.seed(AutoPAVI(model, encode=["w"]), KEY)(Y, Y)
    said = r"argument 'x' has the shape \(5,\), which fits none of the plates.*\{'group': 8\}"
    with pytest.raises(ValueError, match=said):
        handlers.seed(AutoPAVI(model, encode=["x"]), KEY)(jnp.ones(5), Y)


def test_data_are_needed_where_they_were_subsampled() -> None:
    def model(y: Any = None) -> None:
        mu = numpyro.sample("mu", npd.Normal(0.0, 1.0))
        with numpyro.plate("row", 8, subsample_size=4) as rows:
            numpyro.sample("y", npd.Normal(mu, 1.0), obs=None if y is None else y[rows])

    guide = AutoPAVI(model, family=PLAIN)
    jax.jit(lambda key: handlers.seed(guide, key)(Y))(KEY)
    with pytest.raises(ValueError, match=r"site 'y' has no observed value.*sample_posterior"):
        handlers.seed(guide, KEY)()


def test_what_cannot_be_read_is_named() -> None:
    def model(y: Any) -> None:
        a = numpyro.sample("a", npd.Normal(0.0, 1.0).expand([3]).to_event(1))
        b = numpyro.sample("b", npd.Normal(jnp.sort(a)[0], 1.0))
        noise = jax.random.normal(KEY, ())
        c = numpyro.sample("c", npd.Normal(b + noise, 1.0))
        numpyro.sample("y", npd.VonMises(c, 1.0), obs=y)

    guide = AutoPAVI(model, family=PLAIN)
    with pytest.warns(PaviWarning) as caught:
        jax.jit(lambda key: handlers.seed(guide, key)(jnp.zeros(2)))(KEY)
    said = " ".join(str(warning.message) for warning in caught)
    assert "site 'b'" in said
    assert "'sort" in said
    assert "VonMises" in said
    assert "site 'c'" not in said
