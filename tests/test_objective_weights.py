"""Bounds with importance weights: those of grounded groups, unbiased, and in their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from grounded import Grounded, Setup, log_prob
from hypothesis import given
from hypothesis import strategies as st
from small_models import MODELS, bound, rng
from test_objective import FAMILIES, all_batches, data_of
from varied_models import long_vectors

import pavi
from pavi import Family, Latent, Observed, Plate, PlateGraph, dist, objective
from pavi.batch import Batch
from pavi.grouping import grouping
from pavi.lowering import lower
from pavi.objective import Objective
from pavi.subsampling import gather

DRAWS = 3


def noise_of(setup: Setup, asked: Objective, samples: int = 1, seed: int = 4) -> dict[str, Any]:
    """Noise as of a step that sees all data."""
    drawn = rng(seed)
    sizes = setup.bound.sizes
    return objective.base_noise(setup.plan, samples, sizes, lambda n: drawn.normal(size=n), asked)


def estimates(
    setup: Setup, asked: Objective, batch: Batch, noise: dict[str, Any], **options: Any
) -> np.ndarray:
    rows, own = setup.on(batch, setup.tables, 0), setup.on(batch, noise, 1)
    return objective.estimates(
        setup.plan, asked, log_prob, setup.params, rows, own, batch, **options
    )


def bound_of(ratio: np.ndarray, alpha: float) -> np.ndarray:
    """log mean exp of `[K, ...]`, to a power."""
    return np.log(np.mean(np.exp((1.0 - alpha) * ratio), 0)) / (1.0 - alpha)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
@pytest.mark.parametrize("family", ["auto", "deep set", "spline"])
@pytest.mark.parametrize("model", [m for m in MODELS if m != "dense rows, missing"])
def test_local_weights_are_those_of_each_grounded_group(
    model: str, family: str, alpha: float, samples: int
) -> None:
    setup = Setup(data_of(model), FAMILIES[family], spread=0.2, seed=3)
    groups = grouping(setup.plan)
    if not groups.groups:
        pytest.skip("no plate whose elements are independent given the rest")
    asked = Objective("local", DRAWS, alpha)
    noise = noise_of(setup, asked, samples)
    found = estimates(setup, asked, setup.batch, noise)
    # Grounded: all latents of every draw, each ground term put to the group that owns it.
    count = samples * DRAWS
    full = {k: np.broadcast_to(v, (count, *v.shape[1:])) for k, v in noise.items()}
    draw = setup.sample(full)
    ground, sizes = Grounded(setup.bound), setup.bound.sizes
    local = {g.plate: np.zeros((count, sizes[g.plate])) for g in groups.groups}
    rest = np.zeros(count)

    def put(plates: tuple[str, ...], element: tuple[int, ...], term: np.ndarray) -> None:
        for plate, ratio in local.items():
            for own, place in zip(plates, element, strict=True):
                owner = ground.owner(own, place, plate)
                if owner is not None:
                    ratio[:, owner] += term
                    return
        rest[:] += term

    for variable in (*setup.plan.graph.latents, *setup.plan.graph.observed):
        for element, term in ground.terms(variable.name, draw.values).items():
            put(variable.plates, element, term)
    for block in setup.plan.blocks:
        for element in np.ndindex(*(sizes[p] for p in block.axes)):
            put(block.axes, element, -draw.log_prob[block.name][(slice(None), *element)])
    expected = rest.reshape(samples, DRAWS)[:, 0]
    for ratio in local.values():
        each = ratio.reshape(samples, DRAWS, -1)
        expected = expected + bound_of(np.moveaxis(each, 1, 0), alpha).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        ("county", {"county": 2}),
        ("three levels, centred", {"batch": 2}),
        ("intercept and slope", {"group": 2}),
        ("county, missing", {"county": 3}),
        ("dependent within", {"group": 2}),
    ],
)
def test_local_weights_are_unbiased_over_batches_of_groups(
    model: str, batch: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, asked = data_of(model), Objective("local", DRAWS)
    setup = Setup(data, Family(hidden=2), batch, spread=0.2, seed=1)
    noise = noise_of(setup, objective.resolved(asked, setup.plan))
    full = estimates(setup, asked, setup.batch, noise)
    mean = sum(
        probability * estimates(setup, asked, gather(data.graph, setup.batch, selection), noise)
        for probability, selection in all_batches(data, batch, monkeypatch)
    )
    np.testing.assert_allclose(mean, full, rtol=1e-9)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("family", ["auto", "mean field"])
def test_global_weights_are_those_of_the_elbo_s_draws(model: str, family: str) -> None:
    """And the bounds stand in their order: the ELBO, then those of lower and lower alpha."""
    setup = Setup(bound(model), FAMILIES[family], spread=0.2, seed=3)
    noise = noise_of(setup, Objective("global", DRAWS), 2)
    ratio = estimates(setup, objective.ELBO, setup.batch, noise).reshape(2, DRAWS)
    values = [ratio.mean(1)]
    for alpha in (0.8, 0.3, 0.0):
        found = estimates(setup, Objective("global", DRAWS, alpha), setup.batch, noise)
        np.testing.assert_allclose(found, bound_of((ratio - 30.0).T, alpha) + 30.0, rtol=1e-8)
        values.append(found)
    assert (np.diff(values, axis=0) >= -1e-9).all()


@given(st.integers(2, 6), st.floats(0.0, 0.99))
def test_equal_ratios_make_the_bound_exact_at_any_order(draws: int, alpha: float) -> None:
    """Of a conjugate model the groups' posterior is exact: weights have nothing to add."""
    setup = Setup(bound("county"), Family(flow="none"))
    asked = Objective("local", draws, alpha)
    noise = noise_of(setup, asked)
    one = {k: v[:1] for k, v in noise.items()}
    np.testing.assert_allclose(
        estimates(setup, asked, setup.batch, noise),
        estimates(setup, objective.ELBO, setup.batch, one),
        rtol=1e-9,
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("family", ["auto", "deep set", "spline"])
def test_draws_of_groups_share_the_one_draw_of_the_rest(model: str, family: str) -> None:
    """Noise `[1, ...]` outside the groups gives what the same noise repeated gives."""
    setup = Setup(data_of(model), FAMILIES[family], spread=0.2, seed=3)
    asked = Objective("local", DRAWS)
    noise = noise_of(setup, asked)
    full = {k: np.broadcast_to(v, (DRAWS, *v.shape[1:])) for k, v in noise.items()}
    mine, repeated = setup.sample(noise), setup.sample(full)
    for name, value in repeated.values.items():
        same = np.broadcast_to(mine.values[name], value.shape)
        np.testing.assert_allclose(same, value, rtol=1e-9, atol=1e-12)
    for name, value in repeated.log_prob.items():
        np.testing.assert_allclose(np.broadcast_to(mine.log_prob[name], value.shape), value)


# --- which objective ----------------------------------------------------------------------------


def test_local_weights_are_for_gaussians_that_are_not_learned() -> None:
    graph, data = long_vectors()
    sizes = data.bind(graph).sizes
    assert objective.resolved("auto", lower(graph, Family(), sizes)) == Objective("local", 8)
    whole = lower(graph, Family(), sizes, {"group": 2})
    assert objective.resolved("auto", whole) == Objective("local", 8)
    # Of some rows of a group nobody can weigh draws of it.
    assert objective.resolved("auto", lower(graph, Family(), sizes, {"row": 5})) == objective.ELBO
    county = bound("county")
    assert objective.resolved("auto", lower(county.graph, Family(), county.sizes)) == objective.ELBO


@pytest.mark.parametrize(
    ("asked", "batch", "words"),
    [
        ("locals", {}, ["objective='locals'", "'auto'", "pavi.Objective"]),
        (3, {}, ["objective=3"]),
        ("local", {"county": 2, "home": 3}, ["'county'", "some of 'y' only", "leave 'home' out"]),
        ("global", {"county": 2}, ["batch={'county': 2}", "part of the data", "'local'"]),
    ],
)
def test_an_objective_that_cannot_be_says_why(
    asked: Any, batch: dict[str, int], words: list[str]
) -> None:
    data = bound("county")
    plan = lower(data.graph, Family(), data.sizes, batch)
    with pytest.raises(pavi.PaviError) as error:
        objective.resolved(asked, plan)
    for word in words:
        assert word in str(error.value)


def test_a_model_without_groups_has_no_local_weights() -> None:
    graph = PlateGraph(
        [Plate("row")],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Observed("y", lambda mu: dist.Normal(mu, 1.0), plates="row"),
        ],
    )
    with pytest.raises(pavi.PaviError, match="no plate has latents"):
        objective.resolved("local", lower(graph, Family(), {"row": 3}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "each"}, ["weights='each'", "'local'"]),
        ({"weights": "local", "draws": 1}, ["draws=1", "2 or more"]),
        ({"weights": "none", "draws": 4}, ["draws=4", "no weights"]),
        ({"weights": "local", "draws": 2.5}, ["draws=2.5"]),
        ({"weights": "global", "draws": 4, "alpha": 1.0}, ["alpha=1.0", "[0, 1)"]),
        ({"weights": "global", "draws": 4, "alpha": "0"}, ["alpha='0'"]),
    ],
)
def test_a_number_out_of_its_range_is_an_error(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(pavi.PaviError) as error:
        Objective(**options)
    for word in words:
        assert word in str(error.value)


def test_every_objective_trains(backend: str) -> None:
    """A short fit of each is within 0.15 sd of the ELBO's, all of a nearly Gaussian posterior."""
    graph, data = MODELS["county"]()
    options: Any = {"backend": backend, "num_particles": 4, "progress": False}
    plain = pavi.fit(graph, data, objective="elbo", **options)
    mean, sd = plain.mean(20_000), plain.sd(20_000)
    options |= {"steps": 2000, "learning_rate": 0.01}
    for asked in ("local", Objective("global", 8, 0.5)):
        found = pavi.fit(graph, data, objective=asked, **options).mean(20_000)
        for name in ("mu", "slope"):
            assert (np.abs(found[name] - mean[name]) < 0.15 * sd[name]).all(), (asked, name)
