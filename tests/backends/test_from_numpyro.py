"""Plate graphs read from NumPyro models: the same density, plate by plate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pavi
from pavi.model import log_terms
from pavi.subsampling import full_batch

pytest.importorskip("numpyro")

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as npd
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

RNG = np.random.default_rng(0)
COUNTY = np.array([0, 0, 1, 2, 2, 2, 3])
STATE = np.array([0, 0, 1, 1])
X = RNG.normal(size=(7, 3))
Y = RNG.normal(size=7)
GRID = RNG.normal(size=(5, 4))


def nested(county: Any, y: Any) -> None:
    mu = numpyro.sample("mu", npd.Normal(0.0, 2.0))
    tau = numpyro.sample("tau", npd.HalfNormal(1.0))
    with numpyro.plate("county", 4):
        theta = numpyro.sample("theta", npd.Normal(mu, tau))
    with numpyro.plate("home", 7):
        numpyro.sample("y", npd.Normal(theta[county], 0.5), obs=y)


def three_levels(state: Any, county: Any, y: Any) -> None:
    with numpyro.plate("state", 2):
        a = numpyro.sample("a", npd.Normal(0.0, 1.0))
    with numpyro.plate("county", 4):
        b = numpyro.sample("b", npd.Normal(a[state], 1.0))
    with numpyro.plate("home", 7):
        mean = b[county] + a[state[county]]
        numpyro.sample("y", npd.StudentT(4.0, mean, 0.5), obs=y)


def crossed(y: Any) -> None:
    with numpyro.plate("student", 4):
        ability = numpyro.sample("ability", npd.Normal(0.0, 1.0))
    with numpyro.plate("item", 3):
        hard = numpyro.sample("hard", npd.Gamma(2.0, 1.0))
    with numpyro.plate("answer", 7):
        logits = ability[COUNTY] - hard[np.arange(7) % 3]
        numpyro.sample("y", npd.Bernoulli(logits=logits), obs=(y > 0).astype(int))


def dense(y: Any) -> None:
    scale = numpyro.sample("scale", npd.LogNormal(0.0, 1.0))
    rows, columns = numpyro.plate("row", 5, dim=-2), numpyro.plate("column", 4, dim=-1)
    with rows:
        a = numpyro.sample("a", npd.Normal(0.0, scale))
    with columns:
        b = numpyro.sample("b", npd.Exponential(2.0))
    with rows, columns:
        both = numpyro.sample("both", npd.Normal(a * b, 1.0))
        numpyro.sample("y", npd.Laplace(both + jnp.sqrt(b), 0.5), obs=y)


def regression(x: Any, y: Any) -> None:
    beta = numpyro.sample("beta", npd.Normal(0.0, jnp.array([1.0, 2.0, 3.0])).to_event(1))
    first = numpyro.sample("first", npd.Normal(jnp.sum(beta), 1.0).expand([2]).to_event(1))
    weights = jnp.concatenate([first, beta[1:2]])
    with numpyro.plate("row", 7):
        mean = x @ beta + jnp.where(x[:, 0] > 0, x @ weights, beta[0])
        both = jnp.stack([beta[2], first[0]])
        numpyro.sample("y", npd.Normal(mean, jax.nn.softplus(jnp.sum(both))), obs=y)


def random_slopes(x: Any, county: Any, y: Any) -> None:
    scale = numpyro.sample("scale", npd.HalfCauchy(1.0).expand([3]).to_event(1))
    factor = numpyro.sample("factor", npd.LKJCholesky(3, 2.0))
    mean = numpyro.sample("mean", npd.Normal(0.0, 1.0).expand([3]).to_event(1))
    with numpyro.plate("county", 4):
        tril = jnp.diag(scale) @ factor
        slope = numpyro.sample("slope", npd.MultivariateNormal(mean, scale_tril=tril))
    with numpyro.plate("home", 7):
        predictor = jnp.sum(slope[county] * x, -1)
        numpyro.sample("y", npd.Normal(predictor, 1.0), obs=y)


def category_effect(y: Any) -> None:
    effect = numpyro.sample("effect", npd.Normal(0.0, 1.0).expand([4]))
    share = numpyro.sample("share", npd.Dirichlet(jnp.ones(4)))
    with numpyro.plate("row", 7):
        numpyro.sample("y", npd.Normal(effect[COUNTY] + share[COUNTY], 1.0), obs=y)


def counts(y: Any) -> None:
    with numpyro.plate("group", 4):
        rate = numpyro.sample("rate", npd.Gamma(2.0, 2.0))
        low = numpyro.sample("low", npd.Uniform(-rate, rate))
    with numpyro.plate("row", 7):
        n = jnp.abs(jnp.round(3.0 * y)).astype(int)
        numpyro.sample("n", npd.NegativeBinomial2(rate[COUNTY], 2.0), obs=n)
        numpyro.sample("k", npd.Binomial(9, logits=low[COUNTY]), obs=n)
        numpyro.sample("p", npd.Poisson(jnp.exp(low[COUNTY])), obs=n)


def transformed(y: Any) -> None:
    mu, tau = numpyro.sample("mu", npd.Normal(0, 1)), numpyro.sample("tau", npd.HalfNormal(1))
    config = {"theta": TransformReparam(), "phi": LocScaleReparam(0.0)}
    with numpyro.plate("J", 7), handlers.reparam(config=config):
        affine = npd.transforms.AffineTransform(mu, tau)
        theta = numpyro.sample("theta", npd.TransformedDistribution(npd.Normal(0, 1), affine))
        phi = numpyro.sample("phi", npd.Normal(theta, tau))
        numpyro.sample("y", npd.Normal(phi, 1.0), obs=y)


def elements_of_events(x: Any, county: Any, y: Any) -> None:
    """Slopes picked together with the rows' county, the usual way to write them."""
    with numpyro.plate("county", 4):
        b = numpyro.sample("b", npd.Normal(0.0, 1.0).expand([2, 3]).to_event(2))
    with numpyro.plate("home", 7):
        line = b[county, 0, 1] + b[county, 1, -1] * x[:, 0] + b[county, :, 2].sum(-1)
        of_columns = b[county, 0, np.arange(7) % 3] + b[county, 1][:, 0]
        numpyro.sample("y", npd.Normal(line + of_columns, 1.0), obs=y)


def owners_of_one(y: Any) -> None:
    """Plates of one element, which an index picks for all rows, or which rows broadcast."""
    with numpyro.plate("study", 1):
        a = numpyro.sample("a", npd.Normal(0.0, 1.0))
    with numpyro.plate("site", 1):
        b = numpyro.sample("b", npd.Normal(a, 1.0))
    with numpyro.plate("row", 7):
        numpyro.sample("y", npd.Normal(a + b[np.zeros(7, int)], 1.0), obs=y)


def row_of_many(y: Any) -> None:
    with numpyro.plate("group", 4):
        a = numpyro.sample("a", npd.Normal(0.0, 1.0))
    with numpyro.plate("row", 1):
        numpyro.sample("y", npd.Normal(a[np.array([2])], 1.0), obs=y[:1])


def coefficients(x: Any, y: Any) -> None:
    """A plate of coefficients, over which a product sums."""
    scale = numpyro.sample("scale", npd.HalfCauchy(1.0))
    with numpyro.plate("column", 3):
        local = numpyro.sample("local", npd.HalfCauchy(1.0))
        beta = numpyro.sample("beta", npd.Normal(0.0, local * scale))
    with numpyro.plate("row", 7):
        numpyro.sample("y", npd.Normal(x @ beta, 1.0), obs=y)


def pairs(y: Any) -> None:
    """Two elements of one plate for each row."""
    with numpyro.plate("team", 4):
        skill = numpyro.sample("skill", npd.Normal(0.0, 1.0))
    with numpyro.plate("game", 7):
        logits = skill[COUNTY] - skill[np.arange(7) % 3]
        numpyro.sample("y", npd.Bernoulli(logits=logits), obs=(y > 0).astype(int))


def walk(y: Any) -> None:
    scale = numpyro.sample("scale", npd.HalfNormal(1.0))
    with numpyro.plate("time", 7):
        step = numpyro.sample("step", npd.Normal(0.0, 1.0))
        numpyro.sample("y", npd.Normal(scale * jnp.cumsum(step), 1.0), obs=y)


def sums_within(y: Any) -> None:
    """A dense plate that is summed over, inside of one that is not."""
    with numpyro.plate("group", 4, dim=-2):
        mean = numpyro.sample("mean", npd.Normal(0.0, 1.0))
        with numpyro.plate("part", 3, dim=-1):
            part = numpyro.sample("part_", npd.Gamma(2.0, jnp.exp(mean)))
    with numpyro.plate("row", 7):
        numpyro.sample("y", npd.Normal(jnp.sum(part, -1)[COUNTY], 1.0), obs=y)


def owners_that_disagree(y: Any) -> None:
    """Rows in another state than their county: no membership, but a pick."""
    with numpyro.plate("state", 2):
        a = numpyro.sample("a", npd.Normal(0.0, 1.0))
    with numpyro.plate("county", 4):
        b = numpyro.sample("b", npd.Normal(a[STATE], 1.0))
    with numpyro.plate("home", 7):
        numpyro.sample("y", npd.Normal(b[COUNTY] + a[np.arange(7) % 2], 1.0), obs=y)


def by_position(y: Any) -> None:
    with numpyro.plate("unit", 7):
        theta = numpyro.sample("theta", npd.Normal(0.0, 1.0))
    with numpyro.plate("data", 7):
        numpyro.sample("y", npd.Normal(theta, 1.0), obs=y)


def plateless(x: Any, y: Any) -> None:
    """Values of more axes than their distributions have, and of fewer."""
    mu = numpyro.sample("mu", npd.Normal(0.0, 1.0))
    numpyro.sample("y", npd.Normal(mu * x[:, 0], 1.0), obs=y)
    numpyro.sample("z", npd.Normal(mu, 1.0), obs=y)
    with numpyro.plate("row", 7):
        numpyro.sample("v", npd.Normal(mu, 1.0), obs=0.5)


MODELS: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "nested": (nested, (COUNTY, Y)),
    "three_levels": (three_levels, (STATE, COUNTY, Y)),
    "crossed": (crossed, (Y,)),
    "dense": (dense, (GRID,)),
    "regression": (regression, (X, Y)),
    "random_slopes": (random_slopes, (X, COUNTY, Y)),
    "category_effect": (category_effect, (Y,)),
    "counts": (counts, (Y,)),
    "transformed": (transformed, (Y,)),
    "by_position": (by_position, (Y,)),
    "owners_that_disagree": (owners_that_disagree, (Y,)),
    "coefficients": (coefficients, (X, Y)),
    "pairs": (pairs, (Y,)),
    "walk": (walk, (Y,)),
    "sums_within": (sums_within, (Y,)),
    "elements_of_events": (elements_of_events, (X, COUNTY, Y)),
    "owners_of_one": (owners_of_one, (Y,)),
    "row_of_many": (row_of_many, (Y,)),
    "plateless": (plateless, (X, Y)),
}


def site_values(model: Callable[..., None], args: tuple[Any, ...]) -> dict[str, Any]:
    trace = handlers.trace(handlers.seed(model, jax.random.key(3))).get_trace(*args)
    return {n: s["value"] for n, s in trace.items() if s["type"] == "sample"}


@pytest.mark.parametrize("name", MODELS)
def test_density_is_the_models(name: str) -> None:
    from pavi.backends.numpyro.distributions import log_prob
    from pavi.backends.numpyro.portable import portable, to_rows
    from pavi.backends.numpyro.tracing import read

    model, args = MODELS[name]
    graph, data = pavi.PlateGraph.from_numpyro(model, *args)
    drawn = site_values(model, args)
    sites = portable(read(model, args, {})).reading.sites
    values = {
        v.name: to_rows(jnp.asarray(drawn[v.name]), sites[v.name])[None] for v in graph.latents
    }
    terms = log_terms(graph, log_prob, values, full_batch(data.bind(graph), "float32"))
    trace = handlers.trace(
        handlers.substitute(handlers.seed(model, jax.random.key(0)), data=drawn)
    ).get_trace(*args)
    wanted = {
        n: s["fn"].log_prob(s["value"]).sum() for n, s in trace.items() if s["type"] == "sample"
    }
    assert terms.keys() == wanted.keys()
    for site, term in terms.items():
        np.testing.assert_allclose(term[0], wanted[site], rtol=1e-4, atol=1e-4, err_msg=site)


def test_what_no_graph_can_say_is_an_error() -> None:
    def sorted_effects(y: Any) -> None:
        a = numpyro.sample("a", npd.Normal(0.0, 1.0).expand([3]).to_event(1))
        numpyro.sample("b", npd.Normal(jnp.sort(a)[0], 1.0))
        numpyro.sample("y", npd.Normal(0.0, 1.0), obs=y)

    with pytest.raises(pavi.GraphError, match=r"site 'b' .* 'sort"):
        pavi.PlateGraph.from_numpyro(sorted_effects, 1.0)
    with pytest.raises(pavi.GraphError, match=r"site '\w+' is scaled by 2"):
        pavi.PlateGraph.from_numpyro(handlers.scale(by_position, 2.0), Y)


def test_memberships_and_names() -> None:
    graph, data = pavi.PlateGraph.from_numpyro(three_levels, STATE, COUNTY, Y)
    assert graph.plates["home"].within == ("state", "county")
    assert graph.plates["county"].within == ("state",)
    np.testing.assert_array_equal(data.members["home"]["county"], COUNTY)
    np.testing.assert_array_equal(data.members["home"]["state"], STATE[COUNTY])
    graph, data = pavi.PlateGraph.from_numpyro(regression, X, Y)
    assert {c.name for c in graph.covariates} >= {"x"}
    again, _ = pavi.PlateGraph.from_numpyro(regression, X, Y)
    assert again.fingerprint() == graph.fingerprint()


def test_constant_indices_are_no_data() -> None:
    graph, data = pavi.PlateGraph.from_numpyro(elements_of_events, X, COUNTY, Y)
    for covariate in graph.covariates:
        assert np.unique(np.asarray(data.values[covariate.name])).size > 1


def test_an_index_out_of_range_is_an_error() -> None:
    with pytest.raises(pavi.DataError, match=r"plate 'home' in 'county' is out of range: 4"):
        pavi.PlateGraph.from_numpyro(nested, COUNTY + 1, Y)
    with pytest.raises(pavi.DataError, match=r"plate 'home' in 'county' is out of range: 4"):
        pavi.PlateGraph.from_numpyro(three_levels, jnp.asarray(STATE), COUNTY + 1, Y)


def test_one_row_is_read_as_many_are() -> None:
    """Indices of a single row, and those of a program that is traced, have no numbers to tell."""

    from pavi.backends.numpyro.portable import portable
    from pavi.backends.numpyro.tracing import read

    def model(group: Any, y: Any, part: int | None = None) -> None:
        with numpyro.plate("group", 2):
            b = numpyro.sample("b", npd.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("row", 4, subsample_size=part) as rows:
            mean = b[group[rows], 0] + b[group[rows], 1] * 2.0
            numpyro.sample("y", npd.Normal(mean, 1.0), obs=y[rows])

    seen: list[str] = []

    def fingerprint(group: Any, part: int | None = None) -> str:
        found = portable(
            read(model, (group, jnp.asarray(Y), part), {}, {"row": jnp.arange(part or 4)})
        )
        seen.append(found.graph.fingerprint())
        return seen[-1]

    group = jnp.array([0, 1, 1, 0])
    whole = fingerprint(group)
    assert fingerprint(group, 1) == whole
    jax.jit(lambda g: fingerprint(g, 1) and fingerprint(g) and 0)(group)
    assert seen == [whole] * 4


def test_elements_that_a_model_brings_together_are_events() -> None:
    events = {
        "coefficients": ("beta", ((), (3,))),
        "pairs": ("skill", ((), (4,))),
        "walk": ("step", ((), (7,))),
        "sums_within": ("part_", (("group",), (3,))),
        "owners_that_disagree": ("a", ((), (2,))),
    }
    for name, (latent, shape) in events.items():
        model, args = MODELS[name]
        graph, _ = pavi.PlateGraph.from_numpyro(model, *args)
        assert (graph.variables[latent].plates, graph.variables[latent].event) == shape
