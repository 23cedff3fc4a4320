"""The plate graph: order, owners, alignment by name, placeholders, printing."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pavi
from pavi import dist, ops
from pavi.alignment import align
from pavi.graph import Covariate, Latent, Observed, Plate, PlateGraph

NORMAL = dist.Normal(0.0, 1.0)


def radon(scale: float = 5.0, sign: float = 1.0) -> PlateGraph:
    return PlateGraph(
        plates=[Plate("county"), Plate("home", within="county")],
        variables=[
            Covariate("floor", plates="home"),
            Latent("intercept", dist.Normal(0.0, scale)),
            Latent("county_scale", dist.HalfNormal(1.0)),
            Latent(
                "county_effect",
                lambda county_scale: dist.Normal(0.0, county_scale),
                plates="county",
            ),
            Observed(
                "log_radon",
                lambda intercept, county_effect, floor: dist.Normal(
                    intercept + county_effect + sign * floor, 1.0
                ),
                plates="home",
            ),
        ],
    )


def schools() -> list[Plate]:
    """Pupils in schools in authorities."""
    return [Plate("authority"), Plate("school", within="authority"), Plate("pupil", "school")]


def ratings(*extra: str) -> list[Plate]:
    """Ratings of films by users, both of which have a country."""
    return [
        Plate("country"),
        Plate("user", within="country"),
        Plate("film", within="country"),
        Plate("rating", within=("user", "film", *extra)),
    ]


# --- structure ----------------------------------------------------------------------------------


def test_variables_have_plates_events_parents_and_a_kind() -> None:
    graph = radon()
    observed = graph.variables["log_radon"]
    assert (observed.kind, observed.plates, observed.event) == ("observed", ("home",), ())
    assert observed.parents == ("intercept", "county_effect", "floor")
    assert [v.name for v in graph.latents] == ["intercept", "county_scale", "county_effect"]
    assert [v.name for v in graph.observed] == ["log_radon"]
    assert [v.name for v in graph.covariates] == ["floor"]
    assert graph.children("county_scale") == ("county_effect",)


def test_plates_and_events_may_be_given_as_one_name_and_one_size() -> None:
    x = Latent("x", dist.Normal(0.0, 1.0), plates="subject", event=3)
    assert x == Latent("x", dist.Normal(0.0, 1.0), plates=["subject"], event=[3])
    assert (x.plates, x.event, x.axes) == (("subject",), (3,), "[subject, 3]")


def test_every_variable_stands_behind_its_parents_else_as_declared() -> None:
    normal = dist.Normal(0.0, 1.0)
    variables = [
        Latent("d", lambda c, a: dist.Normal(c + a, 1.0)),
        Latent("b", normal),
        Latent("c", lambda a: dist.Normal(a, 1.0)),
        Latent("a", normal),
    ]
    assert list(PlateGraph([], variables).variables) == ["b", "a", "c", "d"]
    assert list(PlateGraph([], variables[1:][::-1]).variables) == ["a", "c", "b"]


def test_a_long_chain_of_variables_is_ordered_without_recursion() -> None:
    def step(k: int) -> Latent:
        arguments: dict[str, Any] = {}
        exec(f"def f(x{k}): return dist.Normal(x{k}, 1.0)", {"dist": dist}, arguments)
        return Latent(f"x{k + 1}", arguments["f"])

    chain = [step(k) for k in reversed(range(1500))]
    graph = PlateGraph([], [*chain, Latent("x0", dist.Normal(0.0, 1.0))])
    assert list(graph.variables) == [f"x{k}" for k in range(1501)]


def test_arguments_with_a_default_are_constants_not_parents() -> None:
    effects = [
        Latent(f"effect_{k}", lambda scale, k=k: dist.Normal(float(k), scale)) for k in range(3)
    ]
    graph = PlateGraph([], [Latent("scale", dist.HalfNormal(1.0)), *effects])
    assert graph.variables["effect_2"].parents == ("scale",)
    assert [graph.probe[f"effect_{k}"].parameters()["loc"] for k in range(3)] == [0.0, 1.0, 2.0]


def test_a_partial_function_has_the_parents_that_are_left() -> None:
    def around(loc: Any, scale: float) -> dist.Normal:
        return dist.Normal(loc, scale)

    assert Latent("x", partial(around, scale=2.0)).parents == ("loc",)


def test_a_graph_cannot_be_changed() -> None:
    graph = radon()
    with pytest.raises(pavi.GraphError, match="immutable"):
        graph.plates = {}  # type: ignore[misc, assignment]
    with pytest.raises(TypeError):
        graph.variables["x"] = Latent("x", dist.Normal(0.0, 1.0))  # type: ignore[index]
    assert copy.deepcopy(graph) is graph


# --- plates -------------------------------------------------------------------------------------


def test_owners_are_found_through_all_levels_nearest_first() -> None:
    graph = PlateGraph(schools(), [])
    assert graph.owners("pupil") == ("school", "authority")
    assert graph.owners("authority") == ()
    assert graph.path("pupil", "authority") == ("pupil", "school", "authority")
    assert graph.path("pupil", "school") == ("pupil", "school")


def test_an_owner_that_is_also_named_directly_has_the_short_path() -> None:
    plates = [*schools()[:2], Plate("pupil", within=("school", "authority"))]
    graph = PlateGraph(plates, [])
    assert graph.path("pupil", "authority") == ("pupil", "authority")
    assert graph.plates.indirect_path("pupil", "authority") == ("pupil", "school", "authority")


def test_an_owner_reached_in_two_ways_is_nobodys_unless_named() -> None:
    graph = PlateGraph(ratings(), [])
    assert graph.owners("rating") == ("user", "film")
    with pytest.raises(pavi.GraphError, match=r"'rating'.*'country'.*'user' and 'film'"):
        graph.path("rating", "country")
    assert PlateGraph(ratings("country"), []).owners("rating") == ("user", "film", "country")


def test_ways_that_meet_again_are_one_way() -> None:
    plates = [Plate("region"), Plate("authority", "region"), Plate("school", "authority")]
    pupil = Plate("pupil", within=("school", "authority"))
    assert PlateGraph([*plates, pupil], []).path("pupil", "region") == (
        *("pupil", "authority"),
        "region",
    )


# --- alignment ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [
        ((), ("pupil",), ()),
        (("pupil",), ("pupil",), (("pupil", "pupil"),)),
        (("school",), ("pupil",), (("school", "pupil"),)),
        (("authority",), ("pupil",), (("authority", "pupil"),)),
        (("item", "authority"), ("pupil", "item"), (("item", "item"), ("authority", "pupil"))),
    ],
)
def test_a_shared_plate_is_matched_and_an_owner_gathered(
    parent: tuple[str, ...], child: tuple[str, ...], expected: tuple[tuple[str, str], ...]
) -> None:
    assert PlateGraph([*schools(), Plate("item")], []).alignment(parent, child) == expected


def test_both_plates_of_a_dense_parent_may_be_owners_of_a_crossed_child() -> None:
    graph = PlateGraph(ratings(), [])
    assert graph.alignment(("user", "film"), ("rating",)) == (
        ("user", "rating"),
        ("film", "rating"),
    )


def test_alignment_by_two_plates_of_one_owner_is_ambiguous() -> None:
    graph = PlateGraph(ratings(), [])
    with pytest.raises(pavi.GraphError, match=r"ambiguous.*'user' and 'film'.*pavi\.Plate"):
        graph.alignment(("country",), ("user", "film"))


# --- placeholders -------------------------------------------------------------------------------


def test_probes_have_a_batch_axis_and_two_elements_a_plate() -> None:
    probe = radon().probe
    assert probe["intercept"] == dist.Normal(0.0, 5.0)
    assert np.shape(probe["county_effect"].parameters()["scale"])[1:] == (1,)
    assert np.shape(probe["log_radon"].parameters()["loc"])[1:] == (2,)


def test_placeholders_lie_in_the_supports_of_the_parents() -> None:
    seen: dict[str, np.ndarray] = {}

    def spy(**parents: np.ndarray) -> dist.Normal:
        seen.update({name: np.asarray(value) for name, value in parents.items()})
        return dist.Normal(0.0, 1.0)

    specs: dict[str, tuple[dist.Spec, tuple[int, ...]]] = {
        "real": (dist.Normal(0.0, 1.0), ()),
        "positive": (dist.Gamma(1.0, 1.0), ()),
        "unit": (dist.Beta(1.0, 1.0), ()),
        "interval": (dist.Uniform(5.0, 6.0), ()),
        "above": (dist.TruncatedNormal(0.0, 1.0, low=3.0), ()),
        "below": (dist.TruncatedNormal(0.0, 1.0, high=-3.0), ()),
        "simplex": (dist.Dirichlet(np.ones(4)), (4,)),
        "ordered": (dist.Flat(dist.ORDERED), (3,)),
        "correlation": (dist.LKJCholesky(3, 1.0), (3, 3)),
        "covariance": (dist.Flat(dist.LOWER_CHOLESKY), (2, 2)),
    }
    variables = [Latent(name, spec, event=event) for name, (spec, event) in specs.items()]
    for name, (spec, event) in specs.items():
        child = Latent("child", eval(f"lambda {name}: spy({name}={name})", {"spy": spy}), event=2)
        PlateGraph([], [*variables, child])
        assert seen[name].shape[1:] == (event or (1,))
        assert spec.support.contains(seen[name]).all()


def test_a_scalar_parent_of_a_vector_arrives_with_a_trailing_axis() -> None:
    graph = PlateGraph(
        [Plate("subject")],
        [
            Latent("scale", dist.HalfNormal(1.0)),
            Latent("loc", dist.Normal(0.0, 1.0), event=3),
            Latent("x", lambda loc, scale: dist.Normal(loc, scale), plates="subject", event=3),
        ],
    )
    assert np.shape(graph.probe["x"].parameters()["scale"])[1:] == (1, 1)
    assert np.shape(graph.probe["x"].parameters()["loc"])[1:] == (1, 3)


@pytest.mark.parametrize(
    ("spec", "event"),
    [
        (dist.Normal(np.zeros(3), 1.0), (3,)),
        (dist.Normal(0.0, 1.0), (4, 3)),
        (dist.Dirichlet(np.ones(3)), (3,)),
        (dist.Dirichlet(np.ones(3)), (5, 3)),
        (dist.MultivariateNormal(np.zeros(3), np.eye(3)), (3,)),
        (dist.MultivariateNormal(np.zeros(1), np.eye(3)), (3,)),
        (dist.LKJCholesky(3, 1.0), (3, 3)),
        (dist.Mixture(np.full(2, 0.5), (dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0))), ()),
        (dist.Mixture(np.full(2, 0.5), (dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0))), (4,)),
    ],
    ids=repr,
)
def test_an_event_that_fits_its_distribution(spec: dist.Spec, event: tuple[int, ...]) -> None:
    graph = PlateGraph([Plate("subject")], [Latent("x", spec, plates="subject", event=event)])
    assert graph.probe["x"] is spec


def test_categories_have_an_axis_of_their_own() -> None:
    graph = PlateGraph(
        [Plate("subject")],
        [
            Latent("cutpoints", dist.Flat(dist.ORDERED), event=4),
            Latent("logits", dist.Normal(0.0, 1.0), event=3),
            Observed(
                "grade",
                lambda cutpoints: dist.OrderedLogistic(0.0, cutpoints),
                plates="subject",
            ),
            Observed("kind", lambda logits: dist.Categorical(logits=logits), plates="subject"),
        ],
    )
    assert graph.probe["grade"].support == dist.IntegerInterval(0, 4)
    assert graph.constant_support("kind") == dist.IntegerInterval(0, 2)


def test_spec_evaluates_a_distribution_at_aligned_parents() -> None:
    spec = radon().spec(
        "log_radon",
        {"intercept": np.array([1.0]), "county_effect": np.zeros(4), "floor": np.arange(4.0)},
    )
    np.testing.assert_array_equal(spec.parameters()["loc"], [1.0, 2.0, 3.0, 4.0])
    assert radon().spec("intercept", {}) == dist.Normal(0.0, 5.0)


def test_a_bound_that_depends_on_parents_is_no_constant() -> None:
    graph = PlateGraph(
        [Plate("herd")],
        [
            Covariate("size", plates="herd"),
            Observed("cases", lambda size: dist.Binomial(size, probs=0.5), plates="herd"),
            Observed("five", dist.Binomial(5, probs=0.5), plates="herd"),
        ],
    )
    assert graph.constant_support("cases") == dist.IntegerInterval(0, np.inf)
    assert graph.constant_support("five") == dist.IntegerInterval(0, 5)


# --- print and fingerprint ----------------------------------------------------------------------


def test_printing_shows_the_template() -> None:
    lines = [
        "PlateGraph",
        "  plates",
        "    county",
        "      home",
        "  variables",
        "    covariate  floor          [home]",
        "    latent     intercept                Normal(loc=0.0, scale=5.0)",
        "    latent     county_scale             HalfNormal(scale=1.0)",
        "    latent     county_effect  [county]  Normal(loc=0.0, scale=...) given county_scale",
    ]
    given = "given intercept, county_effect, floor"
    lines.append(f"    observed   log_radon      [home]    Normal(loc=..., scale=1.0) {given}")
    assert str(radon()).splitlines() == lines


def test_printing_shows_events_and_crossed_plates() -> None:
    graph = PlateGraph(
        [Plate("user"), Plate("film"), Plate("rating", within=("user", "film"))],
        [Latent("taste", dist.Normal(0.0, 1.0), plates="user", event=(2,))],
    )
    assert "rating  (within user and film)" in str(graph)
    assert "latent  taste  [user]  event=(2,)  Normal(loc=0.0, scale=1.0)" in str(graph)


def test_the_fingerprint_tells_models_apart_and_not_their_writing() -> None:
    assert radon().fingerprint() == radon().fingerprint()
    others = [radon(scale=4.0), radon(sign=-1.0), PlateGraph(schools(), [])]
    assert len({g.fingerprint() for g in [radon(), *others]}) == 4


def regression(mean: Any, event: tuple[int, ...] = ()) -> PlateGraph:
    return PlateGraph(
        [Plate("row")],
        [
            Covariate("x", plates="row", event=event),
            Latent("a", NORMAL),
            Latent("b", NORMAL, event=event),
            Latent("share", dist.Dirichlet(np.ones(3)), event=(3,)),
            Latent("root", dist.LKJCholesky(2, 1.0), event=(2, 2)),
            Latent("top", dist.HalfNormal(1.0)),
            Latent("inside", lambda top: dist.Uniform(0.0, top)),
            Observed("y", mean, plates="row"),
        ],
    )


def test_the_fingerprint_tells_parents_and_their_elements_apart() -> None:
    written = [
        regression(lambda a, b, x: dist.Normal(a + b * x, 1.0)),
        regression(lambda a, b, x: dist.Normal(b + a * x, 1.0)),
        regression(lambda a, b, x: dist.Normal(a * b * x, 1.0)),
        regression(lambda a, b, x: dist.Normal(a + x, b)),
        regression(lambda a, b, x: dist.Normal(ops.sum(b * x, -1), 1.0), (2,)),
        regression(lambda a, b, x: dist.Normal(ops.sum(b * x[..., ::-1], -1), 1.0), (2,)),
        regression(lambda a, b, x, share: dist.Normal(share[..., 0] + a, 1.0)),
        regression(lambda a, b, x, share: dist.Normal(share[..., 1] + a, 1.0)),
        regression(lambda a, b, x, root: dist.Normal(a, root[..., 1, 0] + 2.0)),
        regression(lambda a, b, x, root: dist.Normal(a, root[..., 1, 1] + 2.0)),
        regression(lambda a, b, x, top, inside: dist.Normal(top, 1.0)),
        regression(lambda a, b, x, top, inside: dist.Normal(inside, 1.0)),
    ]
    assert len({graph.fingerprint() for graph in written}) == len(written)
    again = regression(lambda a, b, x: dist.Normal(x * b + a, 1.0))
    assert again.fingerprint() == written[0].fingerprint()


def test_a_function_of_whole_numbers_has_a_fingerprint() -> None:
    def table(x: Any) -> dist.Spec:
        if any(code != int(code) for code in np.ravel(x.tolist())):
            raise ValueError("wanted a code")
        return dist.Normal(x, 1.0)

    assert len({regression(table).fingerprint() for _ in range(2)}) == 1


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    program = """
from pavi import Latent, Observed, Plate, PlateGraph, dist
graph = PlateGraph([Plate("row")], [
    Latent("a", dist.Normal(0.0, 1.0)), Latent("b", dist.HalfNormal(1.0)),
    Observed("y", lambda a, b: dist.Normal(a, b), plates="row")])
print(graph.fingerprint())
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(found) == 1


# --- the law of alignment, against index arithmetic on the ground graph -------------------------


@given(
    st.permutations(["authority", "item", "task"]),
    st.sets(st.sampled_from(["authority", "school", "pupil", "item", "task"]), max_size=4),
    st.permutations(["pupil", "item", "task"]),
    st.integers(0, 2**32 - 1),
)
def test_a_child_sees_its_own_owners_value_of_every_parent(
    order: list[str], chosen: set[str], child: list[str], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sizes = {"authority": 2, "school": 3, "pupil": 5, "item": 4, "task": 3}
    graph = PlateGraph([*schools(), Plate("item"), Plate("task")], [])
    # a parent is on at most one level of the nest
    level = next((p for p in ("pupil", "school", "authority") if p in chosen), None)
    axis = {"authority": level}
    parent = [axis.get(p, p) for p in order if axis.get(p, p) in chosen]
    school_of, authority_of = rng.integers(0, 3, 5), rng.integers(0, 2, 3)
    owner_of = {"pupil": np.arange(5), "school": school_of, "authority": authority_of[school_of]}
    members = {f"pupil/{owner}": index for owner, index in owner_of.items()}
    value = rng.normal(size=(2, *(sizes[p] for p in parent), 2))  # [batch, *plates, event]

    recipe = graph.alignment(tuple(parent), tuple(child))
    seen = align(value, recipe, child, members, event_rank=1, child_event_rank=1)

    reached = {p for _, p in recipe}
    assert seen.shape == (2, *(sizes[p] if p in reached else 1 for p in child), 2)
    seen = np.broadcast_to(seen, (2, *(sizes[p] for p in child), 2))
    for row in np.ndindex(*seen.shape[1:-1]):
        at = dict(zip(child, row, strict=True))
        at |= {owner: int(index[at["pupil"]]) for owner, index in owner_of.items()}
        expected = value[(slice(None), *(at[p] for p in parent))]
        np.testing.assert_array_equal(seen[(slice(None), *row)], expected)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_a_crossed_child_sees_the_cell_of_both_its_owners(
    users: int, films: int, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    graph = PlateGraph(ratings(), [])
    user, film = rng.integers(0, users, count), rng.integers(0, films, count)
    value = rng.normal(size=(films, users))
    recipe = graph.alignment(("film", "user"), ("rating",))
    members = {"rating/user": user, "rating/film": film}
    seen = align(value, recipe, ("rating",), members, event_rank=0, child_event_rank=0)
    np.testing.assert_array_equal(seen, value[film, user])
