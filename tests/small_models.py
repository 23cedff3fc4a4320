"""Small models of every layout of plates, two or more copies of everything, linear and Gaussian."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pavi import Covariate, Data, Latent, Observed, Plate, PlateGraph, dist, ops
from pavi.data import BoundData

Model = tuple[PlateGraph, Data]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- linear Gaussian models ---------------------------------------------------------------------


def county() -> Model:
    """Nested and ragged: groups of 3, 1, 0, 2 and 5 homes."""
    graph = PlateGraph(
        [Plate("county"), Plate("home", within="county")],
        [
            Covariate("floor", plates="home"),
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("slope", dist.Normal(0.0, 2.0)),
            Latent("county_scale", dist.HalfNormal(1.0)),
            Latent("noise", dist.HalfNormal(1.0)),
            Latent(
                "effect", lambda mu, county_scale: dist.Normal(mu, county_scale), plates="county"
            ),
            Observed(
                "y",
                lambda effect, slope, floor, noise: dist.Normal(effect + slope * floor, noise),
                plates="home",
            ),
        ],
    )
    member = rng(0).permutation(np.repeat(np.arange(5), [3, 1, 0, 2, 5]))
    values = {"y": rng(1).normal(size=11), "floor": rng(2).normal(size=11)}
    return graph, Data(values, {"home": {"county": member}}, {"county": 5})


def county_with_missing() -> Model:
    """One county has lost all of its observations, others some."""
    graph, data = county()
    y = data.values["y"].copy()
    y[data.members["home"]["county"] == 3] = np.nan
    y[:2] = np.nan
    return graph, Data({**data.values, "y": y}, data.members, data.sizes)


def dense_rows() -> Model:
    """A matrix of rows that share their group's mean; some are missing, and all of one group."""
    graph = PlateGraph(
        [Plate("group"), Plate("row")],
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("noise", dist.HalfNormal(1.0)),
            Latent("effect", lambda mu: dist.Normal(mu, 0.7), plates="group"),
            Observed(
                "y", lambda effect, noise: dist.Normal(effect, noise), plates=("group", "row")
            ),
        ],
    )
    y = rng(1).normal(size=(4, 3))
    y[1, :2], y[2] = np.nan, np.nan
    return graph, Data({"y": y})


def three_levels(centred: bool) -> Model:
    """batch > cask > test; the cask's mean is its batch's effect, or the effects add up."""
    strength = Latent(
        "strength",
        (lambda effect, cask_scale: dist.Normal(effect, cask_scale))
        if centred
        else (lambda cask_scale: dist.Normal(0.0, cask_scale)),
        plates="cask",
    )
    y = Observed(
        "y",
        (lambda strength, noise: dist.Normal(strength, noise))
        if centred
        else (lambda effect, strength, noise: dist.Normal(effect + strength, noise)),
        plates="test",
    )
    graph = PlateGraph(
        [Plate("batch"), Plate("cask", within="batch"), Plate("test", within="cask")],
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("batch_scale", dist.HalfNormal(1.0)),
            Latent("cask_scale", dist.HalfNormal(1.0)),
            Latent("noise", dist.HalfNormal(1.0)),
            Latent("effect", lambda mu, batch_scale: dist.Normal(mu, batch_scale), plates="batch"),
            strength,
            y,
        ],
    )
    members = {
        "cask": {"batch": rng(3).permutation([0, 0, 0, 1, 2, 2])},
        "test": {"cask": rng(4).permutation([0, 0, 1, 1, 1, 2, 3, 4, 4, 5, 5, 5])},
    }
    return graph, Data({"y": rng(5).normal(size=12)}, members)


def intercept_and_slope() -> Model:
    """Two latents a group, a global below the data too, two likelihoods on two plates."""
    graph = PlateGraph(
        [Plate("group"), Plate("obs", within="group")],
        [
            Covariate("t", plates="obs"),
            Covariate("error", plates="group"),
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("noise", dist.HalfNormal(1.0)),
            Latent("intercept", lambda mu: dist.Normal(mu, 0.7), plates="group"),
            Latent("slope", lambda mu: dist.Normal(0.3 * mu, 0.4), plates="group"),
            Observed(
                "y",
                lambda intercept, slope, t, noise, mu: dist.Normal(
                    intercept + slope * t + 0.5 * mu, noise
                ),
                plates="obs",
            ),
            Observed(
                "survey", lambda slope, error: dist.Normal(2.0 * slope, error), plates="group"
            ),
        ],
    )
    values = {
        "t": rng(6).normal(size=9),
        "y": rng(7).normal(size=9),
        "survey": rng(8).normal(size=3),
        "error": np.array([0.3, 0.9, 2.0]),
    }
    return graph, Data(values, {"obs": {"group": np.array([0, 2, 1, 0, 2, 2, 2, 0, 0])}})


def vector_events() -> Model:
    """A vector a group, mixed by the covariates; some elements of the events are missing."""
    graph = PlateGraph(
        [Plate("group"), Plate("obs", within="group")],
        [
            Covariate("x", plates="obs", event=(2, 3)),
            Latent("mu", dist.Normal(0.0, 1.0), event=3),
            Latent("noise", dist.HalfNormal(1.0)),
            Latent("theta", lambda mu: dist.Normal(mu, 0.8), plates="group", event=3),
            Latent("level", dist.Normal(0.2, 0.5), plates="group"),
            Observed(
                "y",
                lambda theta, level, x, noise: dist.Normal(
                    ops.sum(x * ops.expand_dims(theta, -2), -1) + level, noise
                ),
                plates="obs",
                event=2,
            ),
        ],
    )
    y = rng(9).normal(size=(7, 2))
    y[2, 0] = y[5] = np.nan
    values = {"x": rng(10).normal(size=(7, 2, 3)), "y": y}
    return graph, Data(values, {"obs": {"group": np.array([1, 0, 0, 2, 2, 1, 1])}})


def crossed_dense() -> Model:
    """Every sample on every plate (penicillin): the samples jointly, the plates integrated out."""
    graph = PlateGraph(
        [Plate("dish"), Plate("sample")],
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("dish_scale", dist.HalfNormal(1.0)),
            Latent("sample_scale", dist.HalfNormal(1.0)),
            Latent("noise", dist.HalfNormal(1.0)),
            Latent("dish_effect", lambda dish_scale: dist.Normal(0.0, dish_scale), plates="dish"),
            Latent(
                "sample_effect",
                lambda sample_scale: dist.Normal(0.0, sample_scale),
                plates="sample",
            ),
            Observed(
                "y",
                lambda mu, dish_effect, sample_effect, noise: dist.Normal(
                    mu + dish_effect + sample_effect, noise
                ),
                plates=("dish", "sample"),
            ),
        ],
    )
    y = rng(11).normal(size=(5, 3))
    y[4, 1] = np.nan
    return graph, Data({"y": y})


def crossed_rows() -> Model:
    """Ratings of lecturers by students; two latents a student, a vector a lecturer."""
    graph = PlateGraph(
        [Plate("student"), Plate("lecturer"), Plate("rating", within=("student", "lecturer"))],
        [
            Covariate("x", plates="rating"),
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("ability", dist.Normal(0.1, 0.8), plates="student"),
            Latent("trend", lambda mu: dist.Normal(mu, 0.5), plates="student"),
            Latent("skill", lambda mu: dist.Normal(mu, 0.6), plates="lecturer", event=2),
            Observed(
                "y",
                lambda ability, trend, skill, x: dist.Normal(
                    ability + trend * x + skill[..., 0] - x * skill[..., 1], 0.5
                ),
                plates="rating",
            ),
        ],
    )
    members = {
        "student": rng(12).integers(3, size=14),
        "lecturer": np.append(rng(13).integers(4, size=13), 4),
    }
    values = {"x": rng(14).normal(size=14), "y": rng(15).normal(size=14)}
    return graph, Data(values, {"rating": members})


def crossed_with_own_effects(dense: bool) -> Model:
    """As above, with a latent for each cell too, between the crossed effects and the data."""
    plates = [Plate("row"), Plate("column")]
    cell: tuple[str, ...] = ("row", "column")
    if not dense:
        plates.append(Plate("cell", within=("row", "column")))
        cell = ("cell",)
    graph = PlateGraph(
        plates,
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("row_effect", dist.Normal(0.0, 0.7), plates="row"),
            Latent("column_effect", dist.Normal(0.0, 0.9), plates="column"),
            Latent(
                "cell_effect",
                lambda row_effect, column_effect: dist.Normal(row_effect + column_effect, 0.5),
                plates=cell,
            ),
            Observed("y", lambda mu, cell_effect: dist.Normal(mu + cell_effect, 0.4), plates=cell),
        ],
    )
    if dense:
        return graph, Data({"y": rng(16).normal(size=(2, 3))})
    members = {"row": np.array([0, 1, 1, 0, 1]), "column": np.array([0, 0, 1, 2, 2])}
    return graph, Data({"y": rng(17).normal(size=5)}, {"cell": members})


def regions_crossed() -> Model:
    """A coarser plate above one of two crossed plates: both are joint."""
    graph = PlateGraph(
        [Plate("region"), Plate("site", within="region"), Plate("year")],
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("region_effect", dist.Normal(0.0, 0.7), plates="region"),
            Latent(
                "site_effect", lambda region_effect: dist.Normal(region_effect, 0.6), plates="site"
            ),
            Latent("year_effect", dist.Normal(0.0, 0.9), plates="year"),
            Observed(
                "y",
                lambda mu, site_effect, year_effect: dist.Normal(
                    mu + site_effect + year_effect, 0.4
                ),
                plates=("site", "year"),
            ),
        ],
    )
    members = {"site": {"region": np.array([1, 0, 1])}}
    return graph, Data({"y": rng(18).normal(size=(3, 5))}, members)


def dependent_within_a_block() -> Model:
    """The second latent's mean is the first one, on the same plate."""
    graph = PlateGraph(
        [Plate("group"), Plate("obs", within="group")],
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("start", lambda mu: dist.Normal(mu, 0.7), plates="group"),
            Latent("end", lambda start: dist.Normal(0.5 + 0.8 * start, 0.4), plates="group"),
            Observed("before", lambda start: dist.Normal(start, 0.6), plates="group"),
            Observed("after", lambda start, end: dist.Normal(end - 0.2 * start, 0.5), plates="obs"),
        ],
    )
    values = {"before": rng(19).normal(size=3), "after": rng(20).normal(size=6)}
    return graph, Data(values, {"obs": {"group": np.array([0, 1, 1, 2, 2, 2])}})


def three_crossed() -> Model:
    """Three crossed factors: two of them joint, the third one independent given these."""
    graph = PlateGraph(
        [Plate("a"), Plate("b"), Plate("c"), Plate("row", within=("a", "b", "c"))],
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("a_effect", dist.Normal(0.0, 0.7), plates="a"),
            Latent("b_effect", lambda mu: dist.Normal(mu, 0.9), plates="b"),
            Latent("c_effect", dist.Normal(0.0, 1.2), plates="c"),
            Observed(
                "y",
                lambda a_effect, b_effect, c_effect: dist.Normal(
                    a_effect + b_effect + c_effect, 0.5
                ),
                plates="row",
            ),
        ],
    )
    n = {"a": 2, "b": 3, "c": 4}
    members = {p: np.append(rng(21 + k).integers(k, size=11), k - 1) for p, k in n.items()}
    return graph, Data({"y": rng(30).normal(size=12)}, {"row": members})


def pair_in_two_orders() -> Model:
    """Latents on the same two plates, the axes in either order: two blocks."""
    graph = PlateGraph(
        [Plate("a"), Plate("b")],
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("u", lambda mu: dist.Normal(mu, 0.7), plates=("a", "b")),
            Latent("v", lambda u: dist.Normal(0.8 * u, 0.5), plates=("b", "a"), event=2),
            Observed("y", lambda v: dist.Normal(v, 0.6), plates=("a", "b"), event=2),
        ],
    )
    return graph, Data({"y": rng(31).normal(size=(2, 3, 2))})


MODELS: dict[str, Callable[[], Model]] = {
    "county": county,
    "county, missing": county_with_missing,
    "dense rows, missing": dense_rows,
    "three levels, centred": lambda: three_levels(True),
    "three levels, additive": lambda: three_levels(False),
    "intercept and slope": intercept_and_slope,
    "vector events": vector_events,
    "crossed, dense": crossed_dense,
    "crossed, rows": crossed_rows,
    "crossed, own effects": lambda: crossed_with_own_effects(False),
    "crossed, own effects, dense": lambda: crossed_with_own_effects(True),
    "region over crossed": regions_crossed,
    "three crossed": three_crossed,
    "two orders": pair_in_two_orders,
    "dependent within": dependent_within_a_block,
}


def bound(name: str) -> BoundData:
    graph, data = MODELS[name]()
    return data.bind(graph)
