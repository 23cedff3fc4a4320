"""Which rows a step sees: one index source, weights that match inclusion frequencies, padding."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import bound, rng

from pavi import Covariate, Data, DataError, Latent, Observed, Plate, PlateGraph, dist
from pavi.batch import Batch
from pavi.data import BoundData
from pavi.subsampling import (
    Sampler,
    Selection,
    check_batch,
    full_batch,
    gather,
    subset,
)


def step(selection: Selection, i: int) -> Selection:
    return Selection(*({k: v[i] for k, v in part.items()} for part in selection))


def labelled() -> BoundData:
    """A value of each element that says which one it is, for every plate and a dense pair."""
    graph = PlateGraph(
        [
            Plate("class_"),
            Plate("student", within="class_"),
            Plate("lecturer"),
            Plate("rating", within=("student", "lecturer")),
            Plate("topic"),
        ],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Covariate("of_class", plates="class_"),
            Covariate("of_student", plates="student"),
            Covariate("of_lecturer", plates="lecturer"),
            Observed("of_rating", lambda mu: dist.Normal(mu, 1.0), plates="rating"),
            Observed("of_pair", lambda mu: dist.Normal(mu, 1.0), plates=("topic", "rating")),
        ],
    )
    of_rating = np.arange(12.0)
    of_rating[3] = np.nan
    values = {
        "of_class": np.arange(4.0),
        "of_student": np.arange(7.0),
        "of_lecturer": np.arange(3.0),
        "of_rating": of_rating,
        "of_pair": np.arange(2.0)[:, None] * 100.0 + np.arange(12.0),
    }
    members = {
        "student": {"class_": np.array([1, 0, 3, 1, 1, 0, 3])},  # class 2 has no students
        "rating": {
            "student": np.array([0, 0, 1, 6, 2, 3, 3, 4, 5, 5, 6, 0]),
            "lecturer": np.array([2, 0, 1, 1, 0, 2, 1, 0, 0, 1, 2, 1]),
        },
    }
    return Data(values, members, {"class_": 4}).bind(graph)


BATCHES: list[dict[str, int]] = [
    {"class_": 2},
    {"class_": 2, "student": 1},
    {"class_": 3, "student": 2, "rating": 1},
    {"student": 3, "lecturer": 2},
    {"lecturer": 1, "topic": 1},
    {"class_": 2, "lecturer": 2},
    {"rating": 5},
]


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_model_guide_and_data_see_the_same_rows(batch: dict[str, int]) -> None:
    """Values, masks, members and table rows are those of `index`: one index source a step."""
    data = labelled()
    full = full_batch(data, "float64")
    sampler = Sampler(data, batch, "float64")
    drawn = sampler.draw(0, 50)
    for i in range(50):
        small = gather(data.graph, full, step(drawn, i))
        assert {p: len(index) for p, index in small.indices.items()} == sampler.sizes
        present = {p: index < data.sizes[p] for p, index in small.indices.items()}
        for name, plate in (
            ("of_class", "class_"),
            ("of_student", "student"),
            ("of_lecturer", "lecturer"),
        ):
            rows = present[plate]
            np.testing.assert_array_equal(small.values[name][rows], small.indices[plate][rows])
        rows, topics = present["rating"], present["topic"]
        pair = small.values["of_pair"][np.ix_(topics, rows)]
        np.testing.assert_array_equal(
            pair // 100, np.repeat(small.indices["topic"][topics][:, None], rows.sum(), 1)
        )
        np.testing.assert_array_equal(pair[0] % 100, small.indices["rating"][rows])
        np.testing.assert_array_equal(
            small.masks["of_rating"][rows], small.indices["rating"][rows] != 3
        )
        for key, position in small.members.items():
            plate, owner = key.split("/")
            counted = small.weights[plate] > 0
            owners = small.indices[owner][position[counted]]
            ground = data.members[plate][owner][small.indices[plate][counted]]
            np.testing.assert_array_equal(owners, ground)
            assert (small.weights[owner][position[counted]] > 0).all()


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_weights_are_inverse_inclusion_frequencies(batch: dict[str, int]) -> None:
    """Over 5,000 steps of seed 1: weight x frequency is 1 to 5 standard deviations."""
    data, steps = labelled(), 5000
    drawn = Sampler(data, batch, "float64").draw(1, steps)
    for plate, index in drawn.indices.items():
        size = data.sizes[plate]
        counted = drawn.weights[plate] > 0
        count = np.bincount(index[counted], minlength=size + 1)
        sums = np.bincount(index[counted], drawn.weights[plate][counted], minlength=size + 1)
        assert count[size] == 0
        mean = sums[:size] / count[:size]
        # The sum of an element's weights over the steps is the number of steps, up to the
        # binomial error of the number of times that it was drawn ...
        assert (np.abs(sums[:size] / steps - 1.0) <= 5.0 * np.sqrt((mean - 1.0) / steps)).all()
        # ... and its weight is the same at every step.
        squares = np.bincount(
            index[counted], drawn.weights[plate][counted] ** 2, minlength=size + 1
        )
        np.testing.assert_allclose(squares[:size] / count[:size], mean**2, rtol=1e-9)


def ragged(counts: np.ndarray) -> BoundData:
    graph = PlateGraph(
        [Plate("group"), Plate("row", within="group")],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Observed("y", lambda mu: dist.Normal(mu, 1.0), plates="row"),
        ],
    )
    member = rng(4).permutation(np.repeat(np.arange(len(counts)), counts))
    data = Data(
        {"y": np.arange(float(len(member)))}, {"row": {"group": member}}, {"group": len(counts)}
    )
    return data.bind(graph)


def test_very_ragged_groups_are_padded_to_one_shape() -> None:
    """Groups of 0 to 5,000 rows: every step has the rows of the largest groups there could be."""
    counts = np.array([5000, 1, 0, 3, 1, 40, 2, 700, 1, 0, 12, 5])
    data = ragged(counts)
    sampler = Sampler(data, {"group": 3}, "float32")
    assert sampler.sizes == {"group": 3, "row": 5000 + 700 + 40}
    drawn = sampler.draw(5, 30)
    assert drawn.indices["row"].shape == (30, 5740)
    assert drawn.weights["row"].dtype == np.float32
    assert drawn.indices["row"].dtype == drawn.members["row/group"].dtype == np.int32
    for groups, rows, weights in zip(
        drawn.indices["group"], drawn.indices["row"], drawn.weights["row"], strict=True
    ):
        present = rows < len(data.values["y"])
        assert present.sum() == counts[groups].sum()
        assert len(np.unique(rows[present])) == present.sum()
        np.testing.assert_array_equal(weights, np.where(present, np.float32(12 / 3), 0.0))
        assert set(data.members["row"]["group"][rows[present]]) <= set(groups)


def test_rows_of_each_group_are_drawn_where_both_are_named() -> None:
    counts = np.array([5000, 1, 0, 3, 1, 40])
    data = ragged(counts)
    sampler = Sampler(data, {"group": 4, "row": 10}, "float64")
    assert sampler.sizes == {"group": 4, "row": 10 + 10 + 3 + 1}
    drawn = sampler.draw(6, 50)
    member = data.members["row"]["group"]
    for i in range(50):
        small = step(drawn, i)
        rows = small.indices["row"]
        present = rows < len(member)
        owner, kept = np.unique(member[rows[present]], return_counts=True)
        np.testing.assert_array_equal(kept, np.minimum(counts[owner], 10))
        assert len(np.unique(rows[present])) == present.sum()
        expected = (
            6 / 4 * counts[member[rows[present]]] / np.minimum(counts[member[rows[present]]], 10)
        )
        np.testing.assert_allclose(small.weights["row"][present], expected)


def test_groups_without_any_rows_leave_only_padding() -> None:
    data = ragged(np.array([0, 0, 0, 2]))
    drawn = Sampler(data, {"group": 1}, "float64").draw(7, 40)
    empty = drawn.indices["group"][:, 0] < 3
    assert empty.any()
    assert (drawn.indices["row"][empty] == 2).all()
    assert (drawn.weights["row"][empty] == 0.0).all()
    assert (drawn.weights["row"][~empty] == 4.0).all()


def test_an_owner_of_which_no_row_is_drawn() -> None:
    """Ratings by users in visits to hospitals; one hospital had no visit."""
    graph = PlateGraph(
        [
            Plate("hospital"),
            Plate("visit", within="hospital"),
            Plate("user"),
            Plate("rating", within=("user", "visit")),
        ],
        [
            Latent("u", dist.Normal(0.0, 1.0), plates="user"),
            Latent("v", dist.Normal(0.0, 1.0), plates="visit"),
            Observed("y", lambda u, v: dist.Normal(u + v, 1.0), plates="rating"),
        ],
    )
    members = {
        "visit": {"hospital": np.array([0, 0, 1])},
        "rating": {"user": np.arange(12) % 4, "visit": np.arange(12) % 3},
    }
    data = Data({"y": np.zeros(12)}, members, {"hospital": 3}).bind(graph)
    sampler = Sampler(data, {"user": 2, "hospital": 1, "visit": 2}, "float64")
    drawn = sampler.draw(0, 50)
    empty = drawn.indices["hospital"][:, 0] == 2
    assert empty.any()
    assert (drawn.weights["rating"][empty] == 0.0).all()


def test_order_of_the_rows_in_the_data_does_not_matter() -> None:
    """Sorted data are seen as often as shuffled ones, and neighbours in them no more together."""
    data = ragged(np.full(100, 2))
    drawn = Sampler(data, {"group": 10}, "float64").draw(8, 4000)
    count = np.bincount(drawn.indices["group"].ravel(), minlength=100)
    np.testing.assert_array_equal(count, 400)
    neighbours = np.bincount(drawn.indices["group"][(drawn.indices["group"] == 0).any(1)].ravel())
    assert np.abs(neighbours[1:] - count[0] * 9 / 99).max() < 5 * np.sqrt(400 * 0.09)


def test_steps_take_turns() -> None:
    """Each group in as many of 7 steps, and each row of a group in as many of its visits."""
    data = ragged(np.array([6, 4, 9, 2, 3, 5, 8]))
    sampler = Sampler(data, {"group": 3, "row": 2}, "float64")
    drawn = sampler.draw(0, 7 * 18)
    groups = drawn.indices["group"].reshape(18, -1)
    assert all((np.bincount(cycle, minlength=7) == 3).all() for cycle in groups)
    # 54 visits: 108 draws, whole cycles of the groups of 2, 3, 4, 6 and 9 rows.
    rows = drawn.indices["row"][drawn.weights["row"] > 0]
    seen, owner = np.bincount(rows, minlength=37), data.members["row"]["group"]
    for group, size in enumerate([6, 4, 9, 2, 3, 5, 8]):
        assert np.ptp(seen[owner == group]) == 0 if 108 % size == 0 else 1


def test_a_step_is_the_same_wherever_one_begins() -> None:
    sampler = Sampler(labelled(), {"class_": 2, "student": 1, "lecturer": 2}, "float64")
    whole, end = sampler.draw(9, 20), sampler.draw(9, 8, 12)
    for part, other in zip(whole, end, strict=True):
        for key in part:
            np.testing.assert_array_equal(part[key][12:], other[key])


def test_the_same_seed_draws_the_same_rows() -> None:
    sampler = Sampler(labelled(), {"class_": 2, "student": 1}, "float64")
    one, two = sampler.draw(9, 20), sampler.draw(9, 20)
    other = sampler.draw(10, 20)
    for part, again in zip(one, two, strict=True):
        for key in part:
            np.testing.assert_array_equal(part[key], again[key])
    assert any((one.indices[p] != other.indices[p]).any() for p in one.indices)


def test_full_batch_has_every_row_once_with_weight_1() -> None:
    data = labelled()
    full = full_batch(data, "float32")
    for plate, size in data.sizes.items():
        np.testing.assert_array_equal(full.indices[plate], np.arange(size))
        np.testing.assert_array_equal(full.weights[plate], np.ones(size))
    assert set(full.members) == {
        "student/class_",
        "rating/student",
        "rating/class_",
        "rating/lecturer",
    }
    assert set(full.masks) == {"of_rating"}
    assert {v.dtype.name for v in full.values.values()} == {"float32"}


@pytest.mark.parametrize("plates", [{"class_": [3, 1]}, {"student": [5]}, {"lecturer": [2, 0]}])
def test_subset_keeps_the_chosen_elements_and_what_lies_within_them(
    plates: dict[str, list[int]],
) -> None:
    data = labelled()
    chosen = {plate: np.array(index) for plate, index in plates.items()}
    small: Batch = subset(data, chosen, "float64")
    ((plate, index),) = chosen.items()
    np.testing.assert_array_equal(small.indices[plate], index)
    for finer, owners in data.members.items():
        if plate in owners:
            expected = np.flatnonzero(np.isin(owners[plate], index))
            np.testing.assert_array_equal(np.sort(small.indices[finer]), expected)
            owner = small.indices[plate][small.members[f"{finer}/{plate}"]]
            np.testing.assert_array_equal(owner, owners[plate][small.indices[finer]])


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"scool": 2}, ["no plate 'scool'", "class_"]),
        ({"class_": 5}, ["class_", "5", "4 elements", "at most 4"]),
        ({"class_": 0}, ["class_", "between 1 and 4"]),
        ({"class_": True}, ["class_", "integer"]),
        ({"class_": 2.0}, ["class_", "integer"]),
    ],
)
def test_a_bad_reduced_cardinality_is_named(batch: dict[str, int], words: list[str]) -> None:
    for attempt in (check_batch, lambda data, given: Sampler(data, given, "float64")):
        with pytest.raises(DataError) as raised:
            attempt(labelled(), batch)
        assert all(word in str(raised.value) for word in words)


def diamond(own: bool, agree: bool) -> BoundData:
    """A rating's country by its user and by its film."""
    within = ("user", "film", "country") if own else ("user", "film")
    graph = PlateGraph(
        [
            Plate("country"),
            Plate("user", within="country"),
            Plate("film", within="country"),
            Plate("rating", within=within),
        ],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Observed("y", lambda mu: dist.Normal(mu, 1.0), plates="rating"),
        ],
    )
    members = {
        "user": {"country": np.array([0, 1, 2])},
        "film": {"country": np.array([0, 1, 2])},
        "rating": {
            "user": np.array([0, 0, 1, 2]),
            "film": np.array([0, 0, 1, 2]) if agree else np.array([0, 1, 1, 2]),
        },
    }
    if own:
        members["rating"]["country"] = np.array([0, 0, 1, 2])
    return Data({"y": np.zeros(4)}, members).bind(graph)


def test_rows_with_two_elements_of_a_drawn_plate_are_refused() -> None:
    """Their inclusion is no product of independent draws: no weight makes the estimate unbiased."""
    for data in (diamond(own=False, agree=False), diamond(own=True, agree=False)):
        with pytest.raises(DataError, match=r"'rating' belongs to several elements of 'country'"):
            Sampler(data, {"country": 2}, "float64")
        Sampler(data, {"user": 2, "film": 2}, "float64")


def test_rows_whose_ways_to_a_drawn_plate_agree_are_weighted_once() -> None:
    drawn = Sampler(diamond(own=True, agree=True), {"country": 2}, "float64").draw(11, 20)
    counted = drawn.weights["rating"] > 0
    assert (drawn.weights["rating"][counted] == 1.5).all()
    assert (counted == (drawn.indices["rating"] < 4)).all()


def test_a_dense_variable_twice_within_a_drawn_plate_is_refused() -> None:
    graph = PlateGraph(
        [Plate("county"), Plate("home", within="county"), Plate("well", within="county")],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Observed("distance", lambda mu: dist.Normal(mu, 1.0), plates=("home", "well")),
        ],
    )
    members = {"home": {"county": np.array([0, 1])}, "well": {"county": np.array([0, 1])}}
    data = Data({"distance": np.zeros((2, 2))}, members).bind(graph)
    with pytest.raises(DataError, match=r"'distance' is on the plates 'home' and 'well'"):
        Sampler(data, {"county": 1}, "float64")
    Sampler(data, {"home": 1, "well": 1}, "float64")


def test_ragged_models_of_the_objective_have_padding() -> None:
    """The exact expectations of test_objective.py go through padded batches."""
    data = bound("county")
    drawn = Sampler(data, {"county": 2}, "float64").draw(12, 50)
    assert (drawn.indices["home"] == data.sizes["home"]).any()
