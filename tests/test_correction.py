"""Groups resampled given the other latents: right where the guide was put wrong, and whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from complaints import data_error
from numpy_backend import install, random_posterior
from small_models import MODELS
from test_diagnosis import COUNTS, NAMES, PLAIN, ROWS, effects
from varied_models import Case

from pavi import Data, Family, Latent, Observed, Plate, PlateGraph, dist
from pavi.conditional import Conditional
from pavi.grouping import grouping

FEW = 16


@pytest.fixture(autouse=True)
def numpy_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def test_resampling_finds_the_law_of_a_group_that_the_guide_has_wrong() -> None:
    """Standardised by their exact law, 4,000 draws have mean 0 and variance 1: 4.5 standard errors.

    The guide has them 0.6 standard deviations off, and 1.3 times too wide.
    """
    posterior = effects(family=ROWS)
    posterior.tables["group"][:-1] = [0.6, np.log(1.3)]
    y, member = posterior.data.values["y"], posterior.data.members["obs"]["group"]
    precision = 4.0 + COUNTS / 0.49

    def standardised(draws: dict[str, Any]) -> np.ndarray:
        centre = (
            4.0 * draws["mu"][:, None] + np.bincount(member, y, len(COUNTS)) / 0.49
        ) / precision
        return (draws["theta"] - centre) * np.sqrt(precision)

    wrong, right = (standardised(posterior.sample(4000, importance=k, seed=2)) for k in (0, 64))
    assert (np.abs(wrong.mean(0)) > 0.4).all()
    assert (wrong.var(0) > 1.5).all()
    np.testing.assert_allclose(right.mean(0), 0.0, atol=4.5 / np.sqrt(4000))
    np.testing.assert_allclose(right.var(0), 1.0, atol=4.5 * np.sqrt(2.0 / 4000))


@pytest.mark.parametrize(
    "model", ["three levels, additive", "region over crossed", "crossed, rows"]
)
def test_all_that_lies_in_a_group_comes_from_one_of_its_draws(model: str) -> None:
    """And what lies outside is that of all of them."""
    posterior = random_posterior(Case(MODELS[model], Family(flow="none", hidden=4)))
    data, plan = posterior.data, posterior.plan
    groups = grouping(plan)
    found = posterior.sample(3, importance=FEW, seed=5)
    every = {g.plate: np.arange(data.sizes[g.plate]) for g in groups.groups}
    parts = list(Conditional(posterior._fitted, groups, every).draw(3, FEW, 5))
    drawn = {
        n: np.concatenate([p.values[n] for p in parts]).reshape(3, FEW, *v.shape[1:])
        for n, v in found.items()
    }
    for name, value in found.items():
        plates = plan.graph.variables[name].plates
        plate = groups.of(plan, plates)
        if plate is None:
            np.testing.assert_array_equal(value, drawn[name][:, 0])
    for own in groups.groups:
        inside = {
            n: plan.graph.variables[n].plates
            for n in found
            if groups.of(plan, plan.graph.variables[n].plates) == own.plate
        }
        for element in range(data.sizes[own.plate]):
            for draw in range(3):
                same = np.ones(FEW, bool)
                for name, plates in inside.items():
                    at = tuple(
                        np.flatnonzero(
                            np.arange(data.sizes[p]) == element
                            if p == own.plate
                            else data.members[p][own.plate] == element
                        )
                        if own.plate in plan.graph.reach((p,))
                        else np.arange(data.sizes[p])
                        for p in plates
                    )
                    mine = found[name][draw][np.ix_(*at)]
                    candidates = np.stack([drawn[name][draw, k][np.ix_(*at)] for k in range(FEW)])
                    same &= (candidates == mine).reshape(FEW, -1).all(1)
                assert same.any()


def test_only_the_groups_asked_for_are_given_in_their_order() -> None:
    posterior = effects()
    draws = posterior.sample(5, importance=30, plates={"group": ["d", "b"]}, seed=3)
    assert draws["theta"].shape == (5, 2)
    whole = posterior.sample(5, importance=30, seed=3)
    np.testing.assert_array_equal(draws["mu"], whole["mu"])
    centre = posterior.sample(2000, seed=1)["theta"].mean(0)
    kept = [NAMES.tolist().index(name) for name in ("d", "b")]
    draws = posterior.sample(2000, importance=30, plates={"group": kept}, seed=3)
    np.testing.assert_allclose(draws["theta"].mean(0), centre[kept], atol=0.1)


def test_nothing_to_weigh_is_an_error() -> None:
    posterior = effects()
    data_error(lambda: posterior.sample(5, importance=1), "importance=1", "how many draws")
    inner = {"obs": [0]}
    data_error(
        lambda: posterior.sample(5, importance=30, plates=inner),
        "'obs'",
        "importance=30",
        "whole elements of 'group'",
    )
    mu = Latent("mu", dist.Normal(0.0, 1.0))
    seen = Observed("y", lambda mu: dist.Normal(mu, 1.0), plates="row")
    flat = Case(lambda: (PlateGraph([Plate("row")], [mu, seen]), Data({"y": np.zeros(3)})), PLAIN)
    data_error(lambda: random_posterior(flat).sample(5, importance=30), "no groups", "no plate")
