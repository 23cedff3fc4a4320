"""The model's log density against the fully grounded graph: explicit loops, no alignment."""

from __future__ import annotations

import numpy as np
import pytest
from grounded import Grounded, log_prob
from small_models import MODELS, bound, rng

from pavi import Covariate, Data, Latent, Observed, Plate, PlateGraph, dist, ops
from pavi.data import BoundData
from pavi.model import (
    aligned_parents,
    log_terms,
    observed_value,
    pointwise_terms,
    row_weights,
    with_lead,
)
from pavi.subsampling import full_batch


def counts() -> BoundData:
    """Three likelihoods that are not Gaussian, a Dirichlet and a vector latent, missing counts."""
    graph = PlateGraph(
        [Plate("site"), Plate("visit", within="site"), Plate("species")],
        [
            Covariate("effort", plates="visit"),
            Covariate("trials", plates=("visit", "species"), event=2),
            Covariate("offset"),
            Latent("rate", dist.Gamma(2.0, 3.0), plates="species"),
            Latent("shape", lambda rate: dist.Gamma(1.0 + rate, 2.0), plates="species", event=2),
            Latent("level", lambda offset: dist.Normal(offset, 1.0), plates=("site", "species")),
            Latent(
                "curve",
                lambda level: dist.MultivariateNormal(level, np.array([[1.0, 0.0], [0.3, 0.8]])),
                plates=("site", "species"),
                event=2,
            ),
            Observed(
                "seen",
                lambda level, rate, effort: dist.Poisson(rate=rate * effort * ops.exp(level)),
                plates=("visit", "species"),
            ),
            Observed(
                "ripe",
                lambda curve, shape, trials: dist.Binomial(trials, logits=curve + shape),
                plates=("visit", "species"),
                event=2,
            ),
            Observed("wet", lambda level: dist.Bernoulli(logits=level), plates=("site", "species")),
        ],
    )
    random = rng(0)
    seen = random.poisson(2.0, size=(5, 2)).astype(float)
    seen[1, 0] = np.nan
    trials = random.integers(1, 9, size=(5, 2, 2))
    ripe = np.asarray(random.binomial(trials, 0.4), float)
    ripe[2, 1, 0] = ripe[4, 0] = np.nan
    values = {
        "effort": random.uniform(0.5, 2.0, size=5),
        "trials": trials,
        "offset": np.array(0.3),
        "seen": seen,
        "ripe": ripe,
        "wet": random.integers(2, size=(3, 2)),
    }
    return Data(values, {"visit": {"site": np.array([2, 0, 0, 1, 2])}}).bind(graph)


def latents(data: BoundData, draws: int, seed: int) -> dict[str, np.ndarray]:
    random = rng(seed)
    out = {}
    for variable in data.graph.latents:
        shape = (draws, *Grounded(data).shape(variable.name))
        value = random.normal(size=shape)
        positive = np.all(data.graph.probe[variable.name].support.contains(np.array(-1.0)) == 0)
        out[variable.name] = np.exp(value) if positive else value
    return out


@pytest.mark.parametrize("model", [*MODELS, "counts"])
def test_terms_are_those_of_the_ground_copies_and_their_sum(model: str) -> None:
    data = counts() if model == "counts" else bound(model)
    values = latents(data, 3, seed=1)
    batch = full_batch(data, "float64")
    terms = log_terms(data.graph, log_prob, values, batch)
    pointwise = pointwise_terms(data.graph, log_prob, values, batch)
    grounded = Grounded(data)
    assert set(terms) == {v.name for v in (*data.graph.latents, *data.graph.observed)}
    for name, term in terms.items():
        assert term.shape == (3,)
        copies = grounded.terms(name, values)
        np.testing.assert_allclose(term, sum(copies.values()), rtol=1e-11, atol=1e-11)
        sizes = tuple(data.sizes[plate] for plate in data.graph.variables[name].plates)
        assert pointwise[name].shape[1:] == sizes
        for element, copy in copies.items():
            found = pointwise[name][:, *element]
            np.testing.assert_allclose(found, copy[: len(found)], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("model", ["county, missing", "crossed, dense", "counts"])
def test_weights_multiply_the_ground_copies(model: str) -> None:
    """A variable on several plates has the product of their rows' weights."""
    data = counts() if model == "counts" else bound(model)
    values = latents(data, 2, seed=2)
    weights = {p: rng(3).uniform(0.0, 3.0, size=size) for p, size in data.sizes.items()}
    batch = full_batch(data, "float64")._replace(weights=weights)
    terms = log_terms(data.graph, log_prob, values, batch)
    grounded = Grounded(data)
    for name, term in terms.items():
        plates = data.graph.variables[name].plates
        expected = np.zeros(2)
        for element, ground in grounded.terms(name, values).items():
            weight = [weights[p][i] for p, i in zip(plates, element, strict=True)]
            expected = expected + np.prod(weight) * ground
        np.testing.assert_allclose(term, expected, rtol=1e-11, atol=1e-11)


def test_a_missing_value_is_left_out_whatever_stands_in_for_it() -> None:
    data = bound("vector events")
    values = latents(data, 2, seed=4)
    batch = full_batch(data, "float64")
    before = log_terms(data.graph, log_prob, values, batch)["y"]
    y = batch.values["y"] + 7.0 * (1.0 - batch.masks["y"])
    after = log_terms(data.graph, log_prob, values, batch._replace(values={**batch.values, "y": y}))
    np.testing.assert_allclose(after["y"], before, rtol=1e-12)


def test_row_weights_without_importance_are_presence() -> None:
    data = bound("county, missing")
    weights = {"county": np.array([2.5, 2.5, 0.0, 2.5, 0.0]), "home": np.arange(11.0)}
    batch = full_batch(data, "float64")._replace(weights=weights)
    np.testing.assert_array_equal(
        row_weights(data.graph, "effect", batch, importance=False), [1, 1, 0, 1, 0]
    )
    mask = batch.masks["y"]
    np.testing.assert_array_equal(row_weights(data.graph, "y", batch), np.arange(11.0) * mask)
    np.testing.assert_array_equal(
        row_weights(data.graph, "y", batch, importance=False), (np.arange(11) > 0) * mask
    )
    assert row_weights(data.graph, "mu", batch) is None


def test_row_weights_of_events_with_missing_elements() -> None:
    data = bound("vector events")
    batch = full_batch(data, "float64")
    np.testing.assert_array_equal(row_weights(data.graph, "y", batch), batch.masks["y"])
    assert row_weights(data.graph, "y", batch).shape == (7, 2)


@pytest.mark.parametrize("lead", [1, 2])
def test_aligned_parents_have_lead_plates_and_event(lead: int) -> None:
    data = counts()
    values = {k: v[(None,) * (lead - 1)] for k, v in latents(data, 3, seed=5).items()}
    batch = full_batch(data, "float64")
    parents = aligned_parents(data.graph, "ripe", values, batch, lead)
    assert {name: np.ndim(value) for name, value in parents.items()} == dict.fromkeys(
        ("curve", "shape", "trials"), lead + 3
    )
    assert parents["curve"].shape[lead:] == (5, 2, 2)
    assert parents["shape"].shape[lead:] == (1, 2, 2)
    assert parents["trials"].shape == (1,) * lead + (5, 2, 2)
    # A scalar parent of a variable with an event gets singleton axes for it.
    (level,) = aligned_parents(data.graph, "curve", values, batch, lead).values()
    assert level.shape[lead:] == (3, 2, 1)
    assert observed_value(data.graph, "ripe", batch, lead).shape == (1,) * lead + (5, 2, 2)


def test_with_lead_adds_axes_in_front() -> None:
    assert with_lead(np.zeros((2, 3)), 2, 2).shape == (1, 1, 2, 3)
    assert with_lead(np.zeros((4, 2, 3)), 2, 2).shape == (1, 4, 2, 3)
    assert with_lead(np.zeros((4, 2, 3)), 1, 2).shape == (4, 2, 3)
