"""Posterior predictive draws: the fit's rows, new members of known groups, new groups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from complaints import data_error
from numpy.testing import assert_allclose, assert_array_equal
from numpy_backend import install, on_backend, random_posterior
from small_models import MODELS
from varied_models import CASES, Case

from pavi import Data, DataError, Family, Latent, Observed, Plate, PlateGraph, Posterior, dist

PLAIN = Family(hidden=4, encoding_size=3, flow="none")
NAMES = np.array(["a", "b", "c", "d", "e"])


@pytest.fixture(autouse=True)
def numpy_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def county(labels: bool = True, dtype: str = "float64") -> Posterior:
    """Groups of 3, 1, 0, 2 and 5 homes, with labels."""
    graph, data = MODELS["county"]()
    coords = {"county": NAMES} if labels else {}
    given = Data(data.values, data.members, data.sizes, coords)
    return random_posterior(Case(lambda: (graph, given), PLAIN), dtype)


def homes(counties: Any, member: Any, *, labels: bool = True, y: np.ndarray | None = None) -> Data:
    """Homes of other counties, on the floors 0, 1, 2 and so on."""
    values = {"floor": np.arange(float(len(member)))} | ({} if y is None else {"y": y})
    coords = {"county": np.array(list(counties))} if labels else {}
    return Data(values, {"home": {"county": member}}, {"county": len(counties)}, coords)


def expected(draws: dict[str, np.ndarray], effect: np.ndarray, floor: np.ndarray) -> np.ndarray:
    return effect + draws["slope"][:, None] * floor


# --- the fit's own rows -------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_every_likelihood_is_drawn_on_its_support(name: str) -> None:
    posterior = random_posterior(CASES[name], "float32")
    graph, sizes = posterior.graph, posterior.data.sizes
    drawn = posterior.predict(3)
    assert list(drawn) == [v.name for v in graph.observed]
    for observed in graph.observed:
        value, support = drawn[observed.name], graph.constant_support(observed.name)
        assert value.shape == (3, *(sizes[p] for p in observed.plates), *observed.event)
        assert value.dtype == (np.int64 if support.discrete else np.float32)
        assert support.contains(value.astype(float)).all()


def test_replications_have_the_mean_and_sd_of_the_model() -> None:
    posterior = county()
    count = 4000
    drawn = posterior.predict(count, variables=["y", "effect", "slope", "noise"])
    sampled = posterior.sample(count)
    for name in ("effect", "slope", "noise"):
        assert_array_equal(drawn[name], sampled[name])
    member, floor = posterior.data.members["home"]["county"], posterior.data.values["floor"]
    z = (drawn["y"] - expected(sampled, sampled["effect"][:, member], floor)) / (
        sampled["noise"][:, None]
    )
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / z.size)
    # each row and draw has noise of its own
    assert abs(np.corrcoef(z.T) - np.eye(z.shape[1])).max() < 4.5 / np.sqrt(count)


def test_missing_outcomes_are_imputed_and_others_replicated() -> None:
    posterior = random_posterior(CASES["nested, missing"])
    mask = posterior.data.masks["y"]
    assert mask is not None
    assert not mask.all()
    drawn = posterior.predict(50)["y"]
    assert np.isfinite(drawn).all()
    assert (drawn.std(0) > 0).all()


def test_the_same_seed_gives_the_same_draws_however_they_are_chunked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    posterior = county()
    new = homes(["c", "z"], [0, 1, 1])
    first = posterior.predict(7, data=new, groups={"county": "mixed"}, seed=3)["y"]
    assert (posterior.predict(7, data=new, groups={"county": "mixed"}, seed=4)["y"] != first).all()
    monkeypatch.setattr("pavi.fitted._MAX_CHUNK", 3)
    again = posterior.predict(7, data=new, groups={"county": "mixed"}, seed=3)["y"]
    assert_array_equal(again, first)


def test_draws_of_one_s_own_are_predicted_from() -> None:
    posterior = county()
    draws = posterior.sample(6, seed=1)
    assert_array_equal(
        posterior.predict(6, latents=draws, seed=1)["y"], posterior.predict(6, seed=1)["y"]
    )
    new = homes(["d", "z"], [0, 1])
    moved = {**draws, "effect": draws["effect"] + 100.0}
    by = {
        name: posterior.predict(6, data=new, groups={"county": "mixed"}, latents=given)["y"]
        for name, given in (("own", draws), ("moved", moved))
    }
    assert_allclose(by["moved"] - by["own"], [[100.0, 0.0]] * 6, atol=1e-9)


# --- new members and new groups -----------------------------------------------------------------


def test_new_members_of_known_groups_have_the_fitted_latents() -> None:
    posterior = county()
    sampled = posterior.sample(5)
    drawn = posterior.predict(
        5, data=homes(["e", "b"], [1, 0, 0]), variables=["effect", "noise", "slope", "y"]
    )
    assert_allclose(drawn["effect"], sampled["effect"][:, [4, 1]], rtol=1e-9)
    assert_allclose(drawn["noise"], sampled["noise"], rtol=1e-9)
    mean = expected(sampled, sampled["effect"][:, [1, 4, 4]], np.arange(3.0))
    assert (np.abs(drawn["y"] - mean) < 6 * sampled["noise"][:, None]).all()


def test_a_table_without_outcomes() -> None:
    posterior = county()
    table = {"floor": [0.0, 1.0, 2.0], "county": ["b", "e", "e"]}
    drawn = posterior.predict(5, data=Data.from_frame(table, posterior.graph))["y"]
    assert_allclose(drawn, posterior.predict(5, data=homes("be", [0, 1, 1]))["y"])
    with pytest.raises(DataError, match=r"no value for the observed variable 'y'.*\[home\]"):
        Data.from_frame(table, posterior.graph).bind(posterior.graph)
    data_error(lambda: Data.from_frame({"county": ["b"]}, posterior.graph), "no column 'floor'")


def test_the_fit_s_own_data_given_again_are_replicated_alike() -> None:
    posterior = county(labels=False)
    graph, data = MODELS["county"]()
    assert graph.fingerprint() == posterior.graph.fingerprint()
    again = posterior.predict(4, data=data)["y"]
    assert_allclose(again, posterior.predict(4)["y"], rtol=1e-9)
    # outcomes are not looked at
    other = Data({**data.values, "y": np.full(11, 1e6)}, data.members, data.sizes)
    assert_array_equal(posterior.predict(4, data=other)["y"], again)


def test_new_groups_are_drawn_from_the_prior_given_the_coarser_latents() -> None:
    posterior = county()
    count = 4000
    sampled = posterior.sample(count)
    drawn = posterior.predict(
        count,
        data=homes(["x", "c", "y"], [0, 1, 2, 2]),
        groups={"county": "mixed"},
        variables=["effect", "y"],
    )
    assert_allclose(drawn["effect"][:, 1], sampled["effect"][:, 2], rtol=1e-9)
    z = (drawn["effect"][:, [0, 2]] - sampled["mu"][:, None]) / sampled["county_scale"][:, None]
    assert_allclose(z.mean(0), 0.0, atol=4 / np.sqrt(count))
    assert_allclose(z.var(0), 1.0, atol=4 * np.sqrt(2 / count))
    assert abs(np.corrcoef(z.T)[0, 1]) < 4 / np.sqrt(count)
    mean = expected(sampled, drawn["effect"][:, [0, 1, 2, 2]], np.arange(4.0))
    z = (drawn["y"] - mean) / sampled["noise"][:, None]
    assert abs(np.corrcoef(z.T) - np.eye(4)).max() < 4.5 / np.sqrt(count)


@pytest.mark.parametrize("labels", [True, False])
def test_groups_that_are_all_new(labels: bool) -> None:
    posterior = county(labels)
    new = homes(["v", "w", "x", "y", "z"], [0, 4], labels=labels)
    drawn = posterior.predict(3, data=new, groups={"county": "new"}, variables=["effect"])["effect"]
    assert drawn.shape == (3, 5)
    assert not np.isclose(drawn, posterior.sample(3)["effect"]).any()


def test_new_groups_with_outcomes_are_encoded() -> None:
    case = Case(MODELS["county"], replace(PLAIN, encoding="encoder", joint_limit=0))
    posterior = random_posterior(case)
    y = np.array([9.0, 8.0, np.nan])
    encoded = posterior.encode(homes("xy", [0, 0, 1], y=y))
    draws = encoded.sample(3)
    drawn = encoded.predict(3, variables=["effect", "y"])
    assert_array_equal(drawn["effect"], draws["effect"])
    # without any outcome the data need not hold them
    absent = posterior.encode(homes("xy", [0, 0, 1]))
    missing = posterior.encode(homes("xy", [0, 0, 1], y=np.full(3, np.nan)))
    assert_array_equal(absent.predict(3)["y"], missing.predict(3)["y"])


def test_positions_say_which_group_is_which() -> None:
    posterior = county(labels=False)
    sampled = posterior.sample(4)["effect"]
    new = homes([0, 0, 0, 0], [3, 0], labels=False)
    drawn = posterior.predict(4, data=new, groups={"county": [3, -1, 3, 0]}, variables=["effect"])[
        "effect"
    ]
    assert_allclose(drawn[:, [0, 2, 3]], sampled[:, [3, 3, 0]], rtol=1e-9)
    assert not np.isclose(drawn[:, 1], sampled.T).any()


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("three levels, centred", {"batch": [2, 0], "cask": [5, 0, 2]}),
        ("three levels, centred", {"batch": [0], "cask": [3]}),
        ("crossed, rows", {"student": [2, 0], "lecturer": [4, 1]}),
        ("crossed, own effects, dense", {"row": [1], "column": [2, 0]}),
    ],
)
def test_known_groups_of_every_layout(model: str, part: dict[str, list[int]]) -> None:
    """Latents of the groups in `part`, and of one new element for each of their plates."""
    posterior = random_posterior(Case(MODELS[model], replace(PLAIN, encoding="free")))
    graph, old = posterior.graph, posterior.data
    sizes = {p: len(part[p]) + 1 if p in part else 4 for p in old.sizes}
    members: dict[str, dict[str, np.ndarray]] = {}
    for plate in graph.plates.values():
        for owner in plate.within:
            if plate.name in part:
                owners = old.members[plate.name][owner][part[plate.name]]
                place = [part[owner].index(i) for i in owners]
                index = [*place, len(part[owner])]
            else:
                index = [0, sizes[owner] - 1, 0, sizes[owner] - 1]
            members.setdefault(plate.name, {})[owner] = np.array(index)
    values = {v.name: np.ones((*(sizes[p] for p in v.plates), *v.event)) for v in graph.covariates}
    groups = {p: [*index, -1] for p, index in part.items()}
    grouped = {p for v in graph.latents for p in v.plates}
    groups |= {p: [-1] * sizes[p] for p in grouped - set(part)}
    names = [v.name for v in (*graph.latents, *graph.observed)]
    drawn = posterior.predict(3, data=Data(values, members, sizes), groups=groups, variables=names)
    sampled = posterior.sample(3)
    for latent in graph.latents:
        if not set(latent.plates) <= set(part):
            continue
        found, wanted = drawn[latent.name], sampled[latent.name]
        for axis, plate in enumerate(latent.plates):
            found = np.take(found, range(len(part[plate])), 1 + axis)
            wanted = np.take(wanted, part[plate], 1 + axis)
        assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
    assert all(np.isfinite(drawn[v.name]).all() for v in graph.observed)


def test_an_observed_parent_enters_as_drawn_or_as_it_is() -> None:
    graph = PlateGraph(
        [Plate("row")],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Observed("dose", lambda mu: dist.Normal(mu, 1e-3), plates="row"),
            Observed("y", lambda dose: dist.Normal(100.0 * dose, 1e-3), plates="row"),
        ],
    )
    fit = Data({"dose": np.arange(3.0), "y": np.zeros(3)})
    posterior = random_posterior(Case(lambda: (graph, fit), PLAIN))
    both = posterior.predict(4)
    assert_allclose(both["y"], 100.0 * both["dose"], atol=0.01)
    assert_allclose(posterior.predict(4, variables=["y"])["y"], [[0, 100, 200]] * 4, atol=0.01)
    absent = Data(sizes={"row": 2})
    assert_allclose(
        *(v * f for v, f in zip(posterior.predict(4, data=absent).values(), (100, 1), strict=True)),
        atol=0.01,
    )
    data_error(
        lambda: posterior.predict(4, data=absent, variables=["y"]),
        *("'y'", "'dose'", "[row]", "variables=['dose', 'y']"),
    )
    data_error(lambda: posterior.predict(4, data=Data({"y": np.zeros(2)})), "'dose'", "parent")


@pytest.mark.parametrize("level", [2000.0, 60.0])
def test_counts_beyond_all_numbers_are_refused(level: float) -> None:
    graph = PlateGraph(
        [Plate("row")],
        [
            Latent("level", dist.Normal(level, 1.0)),
            Observed("y", lambda level: dist.Poisson(log_rate=level), plates="row"),
        ],
    )
    posterior = random_posterior(Case(lambda: (graph, Data({"y": np.ones(2)})), PLAIN))
    data_error(lambda: posterior.predict(2), "'y'", "Poisson", "not finite", "tighter priors")


def test_an_improper_prior_has_no_new_groups() -> None:
    graph = PlateGraph(
        [Plate("group")],
        [
            Latent("level", dist.Flat(), plates="group"),
            Observed("y", lambda level: dist.Normal(level, 1.0), plates="group"),
        ],
    )
    posterior = random_posterior(Case(lambda: (graph, Data({"y": np.ones(2)})), PLAIN))
    assert posterior.predict(2, data=Data(sizes={"group": 2}))["y"].shape == (2, 2)
    data_error(
        lambda: posterior.predict(2, data=Data(sizes={"group": 2}), groups={"group": "new"}),
        *("'level'", "Flat", "'group'", "proper"),
    )


UNMATCHED = ("'county'", "2 elements in the data", "5 in the fit", "[0, 3, -1]", "'new'", "coords")


@pytest.mark.parametrize(
    ("labels", "arguments", "words"),
    [
        (False, {"data": homes([0, 0], [0, 1], labels=False)}, UNMATCHED),
        (False, {"data": homes("ab", [0, 1])}, (*UNMATCHED, "the fit have none")),
        (True, {"data": homes([0, 0], [0, 1], labels=False)}, (*UNMATCHED, "the data have none")),
        (
            False,
            {"data": homes([0, 0], [0, 1], labels=False), "groups": {"county": "mixed"}},
            UNMATCHED,
        ),
        (
            True,
            {"data": homes(["a", "x"], [0, 1])},
            ("1 of the 2", "'county'", "'x'", "fit's 5", "'mixed'", "encode"),
        ),
        (
            True,
            {"data": homes(["a", "x"], [0, 1]), "groups": {"county": "new"}},
            ("1 of the 2", "'county'", "'a'", "'mixed'"),
        ),
        (
            True,
            {"data": homes("ab", [0, 1]), "groups": {"county": "others"}},
            ("'others'", "'known'", "'new'", "'mixed'", "-1"),
        ),
        (
            True,
            {"data": homes("ab", [0, 1]), "groups": {"county": [0, 5]}},
            ("'county'", "0 to 5", "0 to 4", "-1"),
        ),
        (
            True,
            {"data": homes("ab", [0, 1]), "groups": {"county": [0]}},
            ("'county'", "(1,)", "(2,)", "-1"),
        ),
        (True, {"data": homes("ab", [0, 1]), "groups": {"count": "new"}}, ("no plate", "county")),
        (True, {"data": homes("ab", [0, 1]), "groups": {"home": "new"}}, ("'home'", "no latent")),
        (True, {"groups": {"county": "new"}}, ("without data",)),
        (True, {"data": {"floor": [1.0]}}, ("dict", "pavi.Data")),
        (True, {"variables": "y"}, ("'y'", "list")),
        (True, {"variables": ["floor"]}, ("'floor'", "no observed variable or latent")),
        (True, {"seed": 0.5}, ("seed", "integer")),
        (True, {"latents": {"mu": np.zeros(2)}}, ("'slope'", "missing")),
    ],
)
def test_mistakes_are_named(
    labels: bool, arguments: dict[str, Any], words: tuple[str, ...]
) -> None:
    posterior = county(labels)
    data_error(lambda: posterior.predict(2, **arguments), *words)


def test_the_number_of_draws_given_is_that_asked_for() -> None:
    posterior = county()
    draws = posterior.sample(3)
    data_error(lambda: posterior.predict(2, latents=draws), "3 draws", "num_samples=2")


def test_a_known_group_stays_with_its_owner() -> None:
    posterior = random_posterior(Case(MODELS["three levels, centred"], PLAIN))
    old = posterior.data.members["cask"]["batch"]
    members = {"cask": {"batch": (old + 1) % 3}, "test": {"cask": np.arange(6)}}
    data_error(
        lambda: posterior.predict(2, data=Data(members=members, sizes={"test": 6})),
        *("'cask'", "'batch'", f"element {old[0]}", "mixed"),
    )


# --- backends -----------------------------------------------------------------------------------


def test_a_backend_predicts_as_numpy(backend: str) -> None:
    posterior = random_posterior(CASES["poisson"], "float32")
    new = Data(
        members={"obs": {"group": np.array([0, 1, 1])}},
        sizes={"group": 2},
    )
    for arguments in ({}, {"data": new, "groups": {"group": [3, -1]}}):
        one, other = (
            p.predict(200, **arguments)["y"] for p in (posterior, on_backend(posterior, backend))
        )
        # A rate that is rounded otherwise gives another count where the noise is at a step.
        assert (one != other).mean() < 1e-3
        assert abs(one - other).max() <= 1
