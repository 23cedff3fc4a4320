"""Estimates of groups from their own data alone, beside closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from complaints import data_error
from numpy.testing import assert_allclose, assert_array_equal
from small_models import MODELS, rng
from varied_models import poisson

from pavi import Data, Latent, Observed, Plate, PlateGraph, dist
from pavi.data import BoundData
from pavi.no_pooling import group_sizes, no_pooling, outcome_of

Arrays = dict[str, np.ndarray]


def bound(name: str) -> BoundData:
    graph, data = MODELS[name]()
    return data.bind(graph)


def means(data: BoundData) -> Arrays:
    """Any values of the latents; positive, so that scales may have them."""
    generator = rng(60)
    return {
        v.name: 0.3 + generator.random((*(data.sizes[p] for p in v.plates), *v.event))
        for v in data.graph.latents
    }


def per_group(member: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(member, values, size)


def test_of_a_normal_outcome_it_is_the_mean_of_what_is_left() -> None:
    data = bound("county, missing")
    at, member = means(data), data.members["home"]["county"]
    mask, y = data.masks["y"], data.values["y"]
    assert mask is not None
    count = per_group(member, mask, 5)
    left = per_group(member, mask * (y - at["slope"] * data.values["floor"]), 5)
    found = no_pooling(data, at, "effect", "y")
    assert_array_equal(found.size, count)
    assert_array_equal(np.isnan(found.estimate), count == 0)
    assert (count == 0).sum() == 2
    assert_allclose(found.estimate[count > 0], (left / np.maximum(count, 1))[count > 0])


def test_of_a_slope_it_is_the_regression_through_what_is_left() -> None:
    data = bound("intercept and slope")
    at, member = means(data), data.members["obs"]["group"]
    t, y = data.values["t"], data.values["y"]
    left = y - at["intercept"][member] - 0.5 * at["mu"]
    expected = per_group(member, t * left, 3) / per_group(member, t**2, 3)
    assert_allclose(no_pooling(data, at, "slope", "y").estimate, expected, rtol=1e-6)


def test_of_one_component_the_others_stay_and_missing_parts_are_left_out() -> None:
    data = bound("vector events")
    at, member = means(data), data.members["obs"]["group"]
    x, mask = data.values["x"], data.masks["y"]
    assert mask is not None
    others = np.delete(np.einsum("nek,nk->nek", x, at["theta"][member]), 1, axis=2).sum(2)
    left = data.values["y"] - others - at["level"][member][:, None]
    top, bottom = ((mask * x[..., 1] * part).sum(1) for part in (left, x[..., 1]))
    found = no_pooling(data, at, "theta", "y", (1,))
    expected = per_group(member, top, 3) / per_group(member, bottom, 3)
    assert_allclose(found.estimate, expected, rtol=1e-6)
    assert_array_equal(found.size, per_group(member, mask.any(1), 3))


@pytest.mark.parametrize("name", ["crossed, dense", "region over crossed", "crossed, rows"])
def test_where_plates_cross_each_side_pools_over_the_other(name: str) -> None:
    data = bound(name)
    variable = {"crossed, dense": "sample_effect", "region over crossed": "site_effect"}.get(
        name, "ability"
    )
    at, y = means(data), data.values["y"]
    mask = np.ones_like(y) if data.masks["y"] is None else data.masks["y"]
    if name == "crossed, rows":
        members, x = data.members["rating"], data.values["x"]
        skill = at["skill"][members["lecturer"]]
        left = y - at["trend"][members["student"]] * x - skill[:, 0] + x * skill[:, 1]
        expected = per_group(members["student"], left, 3) / np.bincount(members["student"])
    elif name == "crossed, dense":
        left = mask * (y - at["mu"] - at["dish_effect"][:, None])
        expected = left.sum(0) / mask.sum(0)
    else:
        expected = (y - at["mu"] - at["year_effect"]).mean(1)
    found = no_pooling(data, at, variable, "y")
    assert_allclose(found.estimate, expected, rtol=1e-6)
    assert found.size.sum() == mask.sum()


def test_of_counts_it_is_the_log_of_their_mean() -> None:
    graph, given = poisson()
    y = np.array(given.values["y"])
    member = given.members["obs"]["group"]
    y[member == 1] = 0.0
    data = Data({"y": y}, given.members, given.sizes).bind(graph)
    present = np.isfinite(y)
    found = no_pooling(data, means(data), "effect", "y")
    expected = [np.log(y[present & (member == group)].mean()) for group in (0, 2)]
    assert_allclose(found.estimate[[0, 2]], expected, rtol=1e-5)
    # Zeros alone, and no data at all, have no estimate; their sizes differ.
    assert np.isnan(found.estimate[[1, 3]]).all()
    assert_array_equal(found.size, np.bincount(member[present], minlength=4))


def test_an_effect_without_an_outcome_of_its_own() -> None:
    graph, _ = MODELS["three levels, centred"]()
    data_error(lambda: outcome_of(graph, "effect", None), "'effect'", "raw=", "sizes=")
    graph, _ = MODELS["intercept and slope"]()
    data_error(lambda: outcome_of(graph, "slope", None), "'y'", "'survey'", "outcome='y'")
    data_error(lambda: outcome_of(graph, "slope", "surve"), "Did you mean 'survey'?")
    assert outcome_of(graph, "slope", "survey") == "survey"
    assert outcome_of(graph, "intercept", None) == "y"


def test_a_likelihood_without_a_score() -> None:
    graph = PlateGraph(
        [Plate("group")],
        [
            Latent("mu", dist.Normal(0.0, 1.0), plates="group", event=2),
            Observed(
                "y", lambda mu: dist.MultivariateNormal(mu, np.eye(2)), plates="group", event=2
            ),
        ],
    )
    data = Data({"y": np.zeros((3, 2))}).bind(graph)
    at = {"mu": np.zeros((3, 2))}
    data_error(lambda: no_pooling(data, at, "mu", "y", (0,)), "MultivariateNormal", "raw=")
    assert_array_equal(group_sizes(data, "mu", "y"), [1, 1, 1])
