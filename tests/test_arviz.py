"""What ArviZ is given: dimensions and coordinates by name, densities point by point, data."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import arviz as az
import numpy as np
import pytest
from dist.oracle import log_prob
from numpy.testing import assert_allclose, assert_array_equal
from numpy_backend import install, random_posterior
from scipy import special, stats
from small_models import MODELS
from varied_models import CASES, Case

import pavi
from pavi import Data, Family, Latent, Observed, Plate, PlateGraph, Posterior, dist
from pavi.model import pointwise_terms

PLAIN = Family(hidden=4, encoding_size=3, flow="none")
NAMES = np.array(["a", "b", "c", "d", "e"])


@pytest.fixture(autouse=True)
def numpy_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def county(model: str = "county") -> Posterior:
    """Groups of 3, 1, 0, 2 and 5 homes, with labels."""
    graph, data = MODELS[model]()
    given = Data(data.values, data.members, data.sizes, {"county": NAMES})
    return random_posterior(Case(lambda: (graph, given), PLAIN))


def test_plates_are_dimensions_with_their_labels() -> None:
    posterior = county()
    tree = posterior.to_arviz(20, seed=3, predictive=True)
    effect = tree["posterior"]["effect"]
    assert effect.dims == ("chain", "draw", "county")
    assert_array_equal(effect["county"], NAMES)
    assert_array_equal(effect.values[0], posterior.sample(20, seed=3)["effect"])
    assert tree["posterior"]["mu"].dims == ("chain", "draw")
    assert tree["log_prior"]["effect"].dims == ("chain", "draw", "county")
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "home")
    assert_array_equal(
        tree["posterior_predictive"]["y"].values[0], posterior.predict(20, seed=3)["y"]
    )
    assert_array_equal(tree["observed_data"]["y"], posterior.data.values["y"])
    constants = tree["constant_data"]
    assert_array_equal(constants["floor"], posterior.data.values["floor"])
    assert constants["county_of_home"].dims == ("home",)
    assert_array_equal(constants["county_of_home"], posterior.data.members["home"]["county"])
    assert "not fitted" in tree["posterior"].attrs["verdict"]


@pytest.mark.parametrize("name", ["nested, missing", "dense", "simplex", "cholesky"])
def test_densities_are_those_of_numpy(name: str) -> None:
    posterior = random_posterior(CASES[name])
    graph, batch = posterior.graph, posterior._fitted.full
    tree = posterior.to_arviz(5)
    terms = pointwise_terms(graph, log_prob, posterior.sample(5), batch)
    for latent in graph.latents:
        value = tree["posterior"][latent.name]
        event = tuple(f"{latent.name}_dim_{i}" for i in range(len(latent.event)))
        assert value.dims == ("chain", "draw", *latent.plates, *event)
        shape = value.shape[1 : 2 + len(latent.plates)]
        found = tree["log_prior"][latent.name].values[0]
        assert_allclose(found, np.broadcast_to(terms[latent.name], shape), rtol=1e-9, atol=1e-9)
    for observed in graph.observed:
        mask = batch.masks.get(observed.name)
        term = terms[observed.name]
        present = np.ones(term.shape[1:], bool)
        if mask is not None:
            present = mask.reshape(*term.shape[1:], -1).any(-1)
        if not present.all():
            term = term[:, present]
        assert_allclose(tree["log_likelihood"][observed.name].values[0], term, rtol=1e-9)
    both = {k: tree["sample_stats"][k].values[0] for k in ("log_p", "log_q")}
    total = sum(term.reshape(len(term), -1).sum(1) for term in terms.values())
    assert_allclose(both["log_p"], total, rtol=1e-9)
    assert_allclose(both["log_q"], posterior.log_prob(posterior.sample(5)), rtol=1e-9)


def test_the_ratio_of_densities_averages_to_the_elbo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pavi.fitted._MAX_CHUNK", 30)
    posterior = county()
    stats = posterior.to_arviz(100, seed=2, log_likelihood=False)["sample_stats"]
    value, _ = posterior.elbo(100, seed=2)
    assert_allclose(float((stats["log_p"] - stats["log_q"]).mean()), value, rtol=1e-12)


def test_missing_outcomes_have_no_likelihood() -> None:
    posterior = county("county, missing")
    tree = posterior.to_arviz(50)
    mask = posterior.data.masks["y"]
    assert mask is not None
    y = tree["log_likelihood"]["y"]
    assert y.dims == ("chain", "draw", "y_present")
    assert_array_equal(y["y_present"], np.flatnonzero(mask))
    assert np.isfinite(y).all()
    assert_array_equal(np.isnan(tree["observed_data"]["y"]), ~mask)
    assert "elpd_loo" in str(az.loo(tree))


def test_missing_outcomes_on_two_plates_are_told_by_both() -> None:
    graph = PlateGraph(
        [Plate("row"), Plate("column")],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Observed("y", lambda mu: dist.Normal(mu, 1.0), plates=("row", "column"), event=2),
        ],
    )
    y = np.zeros((2, 3, 2))
    y[0, 1], y[1, 2, 0] = np.nan, np.nan
    given = Data({"y": y}, coords={"row": ["p", "q"]})
    posterior = random_posterior(Case(lambda: (graph, given), PLAIN))
    found = posterior.to_arviz(4)["log_likelihood"]["y"]
    assert found.dims == ("chain", "draw", "y_present")
    assert found["y_present_row"].values.tolist() == ["p", "p", "q", "q", "q"]
    assert found["y_present_column"].values.tolist() == [0, 2, 0, 1, 2]
    mu = posterior.sample(4)["mu"]
    # of an event that is there in part the rest counts
    one = stats.norm.logpdf(0.0, mu)
    assert_allclose(found.values[0], one[:, None] * [2, 2, 2, 2, 1], rtol=1e-9)


def test_a_plate_with_the_name_of_the_draws() -> None:
    graph = PlateGraph(
        [Plate("draw")],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Observed("y", lambda mu: dist.Normal(mu, 1.0), plates="draw"),
        ],
    )
    posterior = random_posterior(Case(lambda: (graph, Data({"y": np.zeros(3)})), PLAIN))
    tree = posterior.to_arviz(4)
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "draw_plate")
    assert tree["observed_data"]["y"].dims == ("draw_plate",)


def test_leave_one_out_of_an_approximate_posterior() -> None:
    """With weights log p - log q the estimate is that of the exact posterior."""
    graph = PlateGraph(
        [Plate("row")],
        [
            Latent("mu", dist.Normal(0.0, 10.0)),
            Observed("y", lambda mu: dist.Normal(mu, 1.0), plates="row"),
        ],
    )
    y = np.random.default_rng(0).normal(size=12)
    posterior = random_posterior(Case(lambda: (graph, Data({"y": y})), PLAIN))
    tree = posterior.to_arviz(4000)
    log_p, log_q = (tree["sample_stats"][n].values[0] for n in ("log_p", "log_q"))
    pointwise = tree["log_likelihood"]["y"].values[0]
    exact = 0.0
    for i in range(len(y)):
        rest = np.delete(y, i)
        precision = len(rest) + 0.01
        exact += stats.norm.logpdf(y[i], rest.sum() / precision, np.sqrt(1 + 1 / precision))
    assert_allclose(leave_one_out(pointwise, log_p - log_q), exact, atol=0.05)
    # this guide is far off, as its draws alone would not tell
    assert leave_one_out(pointwise, np.zeros(4000)) < exact - 50.0


def leave_one_out(pointwise: np.ndarray, log_ratio: np.ndarray) -> float:
    """Sum of the log predictive densities of each outcome given the others."""
    weights = log_ratio[:, None] - pointwise
    weights = weights - special.logsumexp(weights, axis=0)
    return float(special.logsumexp(weights + pointwise, axis=0).sum())


def test_arviz_s_own_functions_take_it() -> None:
    tree = county().to_arviz(200)
    summary = az.summary(tree, var_names=["effect", "mu"])
    assert list(summary.index) == [*(f"effect[{name}]" for name in NAMES), "mu"]
    assert "elpd_loo" in str(az.loo(tree))


def test_from_1_0_on_it_is_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    xarray = pytest.importorskip("xarray")
    monkeypatch.setitem(sys.modules, "arviz", SimpleNamespace(__version__="1.0.0"))
    tree = county().to_arviz(3)
    assert isinstance(tree, xarray.DataTree)
    assert set(tree.children) == {
        *("posterior", "log_prior", "sample_stats", "log_likelihood"),
        *("observed_data", "constant_data"),
    }
    assert tree["posterior"]["effect"].dims == ("chain", "draw", "county")


def test_without_arviz_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(pavi.BackendError, match=r"ArviZ.*pavi-vi\[arviz\]"):
        county().to_arviz(3)
