"""Data: sizes, memberships, missing values, sources, fingerprints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from pavi import binding, dist
from pavi.data import BoundData, Data
from pavi.graph import Covariate, Latent, Observed, Plate, PlateGraph


def pupils(*, within: tuple[str, ...] = ("school",)) -> PlateGraph:
    """Marks of pupils in schools in authorities."""
    return PlateGraph(
        [Plate("authority"), Plate("school", "authority"), Plate("pupil", within)],
        [
            Covariate("budget", plates="authority"),
            Latent("effect", lambda budget: dist.Normal(budget, 1.0), plates="school"),
            Observed("mark", lambda effect: dist.Normal(effect, 1.0), plates="pupil"),
        ],
    )


def marks(missing: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    mark = np.arange(6.0)
    mark[list(missing)] = np.nan
    return {"mark": mark, "budget": np.array([1.0, 2.0])}


SCHOOL = np.array([0, 0, 1, 1, 2, 2])
AUTHORITY = np.array([0, 0, 1])
NESTED = {"pupil": {"school": SCHOOL}, "school": {"authority": AUTHORITY}}


def observed(spec: dist.Spec, event: tuple[int, ...] = ()) -> PlateGraph:
    return PlateGraph([Plate("row")], [Observed("y", spec, plates="row", event=event)])


# --- sizes --------------------------------------------------------------------------------------


def test_sizes_come_from_arrays_and_memberships() -> None:
    bound = Data(marks(), NESTED).bind(pupils())
    assert bound.sizes == {"authority": 2, "school": 3, "pupil": 6}


def test_an_owner_without_an_array_is_as_large_as_its_largest_index() -> None:
    graph = PlateGraph(
        [Plate("county"), Plate("home", "county")],
        [Observed("y", dist.Normal(0.0, 1.0), plates="home")],
    )
    values, index = {"y": np.zeros(3)}, {"home": {"county": np.array([0, 4, 1])}}
    assert Data(values, index).bind(graph).sizes["county"] == 5
    assert Data(values, index, sizes={"county": 9}).bind(graph).sizes["county"] == 9
    assert Data(values, index, coords={"county": list("abcdefg")}).bind(graph).sizes["county"] == 7


def test_an_owner_may_have_no_members() -> None:
    data = Data(marks(), {**NESTED, "school": {"authority": np.array([1, 1, 1])}})
    bound = data.bind(pupils())
    assert 0 not in bound.members["pupil"]["authority"]
    assert bound.sizes["authority"] == 2


def test_dense_plates_are_the_leading_axes() -> None:
    graph = PlateGraph(
        [Plate("subject"), Plate("vertex")],
        [Observed("y", dist.Normal(0.0, 1.0), plates=("subject", "vertex"), event=2)],
    )
    assert Data({"y": np.zeros((3, 5, 2))}).bind(graph).sizes == {"subject": 3, "vertex": 5}


def test_a_variable_without_plates_is_a_scalar() -> None:
    graph = PlateGraph([], [Observed("y", dist.Normal(0.0, 1.0))])
    assert Data({"y": 3.0}).bind(graph).values["y"].shape == ()


# --- memberships --------------------------------------------------------------------------------


def test_memberships_are_composed_through_all_levels() -> None:
    members = Data(marks(), NESTED).bind(pupils()).members
    np.testing.assert_array_equal(members["pupil"]["authority"], [0, 0, 0, 0, 1, 1])
    assert members["pupil"]["authority"].dtype == np.int64
    assert members["authority"] == {}


def test_the_membership_of_an_owner_is_read_off_rows_that_have_both() -> None:
    index = {"pupil": {"school": SCHOOL, "authority": AUTHORITY[SCHOOL]}}
    members = Data(marks(), index).bind(pupils()).members
    np.testing.assert_array_equal(members["school"]["authority"], AUTHORITY)


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 20),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_composition_is_index_arithmetic(
    authorities: int, schools: int, count: int, named: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    school, authority = rng.integers(0, schools, count), rng.integers(0, authorities, schools)
    index: dict[str, Any] = {"pupil": {"school": school}, "school": {"authority": authority}}
    if named:
        index["pupil"]["authority"] = authority[school]
    data = Data({"mark": np.zeros(count), "budget": np.zeros(authorities)}, index)
    bound = data.bind(pupils(within=("school", "authority") if named else ("school",)))
    for row in range(count):
        assert bound.members["pupil"]["authority"][row] == authority[school[row]]
        assert bound.members["pupil"]["school"][row] == school[row]


def test_a_crossed_row_has_an_owner_in_each_plate() -> None:
    graph = PlateGraph(
        [Plate("student"), Plate("lecturer"), Plate("rating", within=("student", "lecturer"))],
        [Observed("y", dist.Normal(0.0, 1.0), plates="rating")],
    )
    index = {"rating": {"student": [0, 1, 1], "lecturer": [2, 0, 2]}}
    bound = Data({"y": np.zeros(3)}, index).bind(graph)
    assert bound.sizes == {"student": 2, "lecturer": 3, "rating": 3}
    assert list(bound.members["rating"]) == ["student", "lecturer"]


# --- missing values -----------------------------------------------------------------------------


def test_nan_in_an_observed_array_means_missing() -> None:
    bound = Data(marks(missing=(1, 4)), NESTED).bind(pupils())
    mask = bound.masks["mark"]
    assert mask is not None
    np.testing.assert_array_equal(mask, [True, False, True, True, False, True])
    assert np.isfinite(bound.values["mark"]).all()
    np.testing.assert_array_equal(bound.values["mark"][mask], marks()["mark"][mask])


def test_without_missing_values_there_is_no_mask() -> None:
    assert Data(marks(), NESTED).bind(pupils()).masks == {"mark": None}


@pytest.mark.parametrize(
    ("spec", "value", "event"),
    [
        (dist.Poisson(3.0), [np.nan, 2.0], ()),
        (dist.Binomial(5, probs=0.5), [np.nan, 5.0], ()),
        (dist.Beta(1.0, 1.0), [np.nan, 0.25], ()),
        (dist.LogNormal(0.0, 1.0), [np.nan, 7.0], ()),
        (dist.Dirichlet(np.ones(2)), [[np.nan, np.nan], [0.25, 0.75]], (2,)),
    ],
    ids=repr,
)
def test_what_stands_in_for_a_missing_value_lies_in_the_support(
    spec: dist.Spec, value: list[Any], event: tuple[int, ...]
) -> None:
    bound = Data({"y": value}).bind(observed(spec, event))
    assert spec.support.contains(bound.values["y"]).all()
    mask = bound.masks["y"]
    assert mask is not None
    assert mask.tolist() == [False, True]  # of a Dirichlet, one for each draw


@pytest.mark.parametrize(
    ("spec", "event"),
    [
        (dist.Poisson(3.0), ()),
        (dist.Binomial(5, probs=0.5), ()),
        (dist.Beta(1.0, 1.0), ()),
        (dist.LogNormal(0.0, 1.0), ()),
        (dist.TruncatedNormal(0.0, 1.0, low=3.0), ()),
        (dist.Dirichlet(np.ones(2)), (2,)),
    ],
    ids=repr,
)
def test_all_outcomes_may_be_missing_where_none_are_needed(
    spec: dist.Spec, event: tuple[int, ...]
) -> None:
    bound = Data({"y": np.full((3, *event), np.nan)}).bind(
        observed(spec, event), need_outcomes=False
    )
    assert spec.support.contains(bound.values["y"]).all()
    mask = bound.masks["y"]
    assert mask is not None
    assert mask.tolist() == [False] * 3


def test_none_and_masked_entries_are_missing_too() -> None:
    graph = observed(dist.Normal(0.0, 1.0))
    for value in ([1.0, None], np.ma.array([1.0, 5.0], mask=[False, True])):
        mask = Data({"y": value}).bind(graph).masks["y"]
        assert mask is not None
        assert mask.tolist() == [True, False]


# --- arrays are kept ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "int16", "int64", "bool"])
def test_arrays_keep_their_dtype(dtype: str) -> None:
    value = np.ones(3, dtype=dtype)
    assert Data({"y": value}).bind(observed(dist.Bernoulli(0.5))).values["y"].dtype == dtype


def test_a_membership_in_a_file_is_not_copied(tmp_path: Path) -> None:
    graph = PlateGraph(
        [Plate("group"), Plate("row", within="group")],
        [Observed("y", dist.Normal(0.0, 1.0), plates="row")],
    )
    index = np.memmap(tmp_path / "index", dtype=np.int64, mode="w+", shape=(6,))
    index[:] = [0, 1, 2, 0, 1, 2]
    bound = Data({"y": np.zeros(6)}, {"row": {"group": index}}).bind(graph)
    assert np.shares_memory(bound.members["row"]["group"], index)
    assert not bound.members["row"]["group"].flags.writeable


# --- frames -------------------------------------------------------------------------------------

FRAME = pd.DataFrame(
    {
        "mark": [1.0, 2.0, 3.0, 4.0],
        "school": ["oak", "elm", "oak", "ash"],
        "authority": ["north", "south", "north", "north"],
        "budget": [5.0, 7.0, 5.0, 5.0],
    }
)


def test_labels_of_a_frame_become_sorted_coordinates() -> None:
    data = Data.from_frame(
        FRAME,
        plate="pupil",
        values=["mark"],
        members={"school": "school", "authority": "authority"},
        group_values={"authority": ["budget"]},
    )
    bound = data.bind(pupils())
    assert bound.coords["school"].tolist() == ["ash", "elm", "oak"]
    assert bound.coords["authority"].tolist() == ["north", "south"]
    assert bound.members["pupil"]["school"].tolist() == [2, 1, 2, 0]
    assert bound.members["school"]["authority"].tolist() == [0, 1, 0]
    assert bound.values["budget"].tolist() == [5.0, 7.0]


def test_the_graph_says_which_columns_to_take() -> None:
    explicit = Data.from_frame(
        FRAME,
        plate="pupil",
        values={"mark": "mark"},
        members={"school": "school", "authority": "authority"},
        group_values={"authority": {"budget": "budget"}},
    )
    bound = Data.from_frame(FRAME, pupils()).bind(pupils())
    assert bound.fingerprint() == explicit.bind(pupils()).fingerprint()


def test_labels_that_repeat_in_several_owners_are_joined() -> None:
    frame = {"y": [0.0, 1.0, 2.0], "batch": ["A", "A", "B"], "cask": [1, 2, 1]}
    data = Data.from_frame(
        frame, plate="row", values=["y"], members={"batch": "batch", "cask": ["batch", "cask"]}
    )
    assert data.coords["cask"].tolist() == ["A:1", "A:2", "B:1"]


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        # Readable where that is enough
        (["x:y", "x", "a"], ["z", "y:z", "b"], ["('x', 'y:z')", "('x:y', 'z')", "a:b"]),
        (["x:", "x", "x:"], ["y", ":y", "y"], ["('x', ':y')", "('x:', 'y')"]),
        (["x:y", "x", "('x"], ["z", "y:z", "'y:z')"], None),
        (["x:y", "x", "('x', 'y"], ["z", "y:z", "z')"], None),
    ],
)
def test_labels_of_several_columns_are_never_merged(
    first: list[str], second: list[str], labels: list[str] | None
) -> None:
    frame = {"y": np.arange(3.0), "first": first, "second": second}
    data = Data.from_frame(frame, plate="row", values=["y"], members={"owner": ["first", "second"]})
    pairs = list(zip(first, second, strict=True))
    index, coords = data.members["row"]["owner"].tolist(), data.coords["owner"].tolist()
    assert len(set(coords)) == len(coords) == len(set(pairs))
    assert [[i == j for i in index] for j in index] == [[p == q for p in pairs] for q in pairs]
    assert labels is None or coords == labels


def test_given_coordinates_keep_their_order_and_owners_without_rows() -> None:
    order = ["oak", "elm", "ash", "yew"]
    data = Data.from_frame(
        FRAME,
        plate="pupil",
        values=["mark"],
        members={"school": "school"},
        coords={"school": order},
    )
    assert data.members["pupil"]["school"].tolist() == [0, 1, 0, 2]
    assert data.coords["school"].tolist() == order


def test_several_columns_of_one_variable_are_its_event() -> None:
    data = Data.from_frame(FRAME, plate="pupil", values={"x": ["mark", "budget"]})
    assert data.values["x"].shape == (4, 2)


def test_the_index_of_a_frame_labels_its_rows() -> None:
    frame = FRAME.set_index(pd.Index(["p1", "p2", "p3", "p4"]))
    data = Data.from_frame(frame, plate="pupil", values=["mark"])
    assert data.coords["pupil"].tolist() == ["p1", "p2", "p3", "p4"]
    assert "pupil" not in Data.from_frame(FRAME, plate="pupil", values=["mark"]).coords


def test_an_index_that_is_not_unique_labels_no_rows() -> None:
    frame = FRAME.set_index(pd.Index(["s", "t", "s", "t"]))
    assert "pupil" not in Data.from_frame(frame, plate="pupil", values=["mark"]).coords
    given = {"pupil": ["p1", "p2", "p3", "p4"]}
    data = Data.from_frame(frame, plate="pupil", values=["mark"], coords=given)
    assert data.coords["pupil"].tolist() == given["pupil"]


def test_nullable_and_categorical_columns_are_understood() -> None:
    frame = FRAME.assign(mark=pd.array([1, None, 3, 4], dtype="Int64"))
    frame["school"] = frame["school"].astype("category")
    bound = Data.from_frame(frame, pupils()).bind(pupils())
    mask = bound.masks["mark"]
    assert mask is not None
    assert mask.tolist() == [True, False, True, True]


# --- xarray -------------------------------------------------------------------------------------


def test_dimensions_of_a_dataset_are_plates_in_any_order() -> None:
    graph = PlateGraph(
        [Plate("subject"), Plate("vertex")],
        [Observed("y", dist.Normal(0.0, 1.0), plates=("subject", "vertex"), event=2)],
    )
    values = np.arange(12.0).reshape(2, 2, 3)
    dataset = xr.Dataset(
        {"y": (("axis", "subject", "vertex"), values)}, coords={"subject": ["a", "b"]}
    )
    bound = Data.from_xarray(dataset).bind(graph)
    np.testing.assert_array_equal(bound.values["y"], np.moveaxis(values, 0, -1))
    assert bound.sizes == {"subject": 2, "vertex": 3}
    assert bound.coords["subject"].tolist() == ["a", "b"]


def test_a_dataset_may_hold_labels_of_owners() -> None:
    dataset = xr.Dataset(
        {
            "mark": ("pupil", [1.0, 2.0, 3.0]),
            "budget": ("authority", [5.0, 7.0]),
            "authority_of": ("school", ["south", "north"]),
        },
        coords={
            "authority": ["north", "south"],
            "school_of": ("pupil", ["oak", "elm", "oak"]),
        },
    )
    members = {"pupil": {"school": "school_of"}, "school": {"authority": "authority_of"}}
    bound = Data.from_xarray(dataset, members=members).bind(pupils())
    assert bound.coords["school"].tolist() == ["elm", "oak"]
    assert bound.members["pupil"]["authority"].tolist() == [0, 1, 0]


# --- print and fingerprint ----------------------------------------------------------------------


def test_the_fingerprint_changes_with_every_part_of_the_data() -> None:
    def fingerprint(values: dict[str, np.ndarray], **others: Any) -> str:
        return Data(values, **({"members": NESTED} | others)).bind(pupils()).fingerprint()

    moved = {**NESTED, "school": {"authority": np.array([0, 1, 1])}}
    prints = [
        fingerprint(marks()),
        fingerprint(marks(missing=(0,))),
        fingerprint({**marks(), "mark": np.arange(6.0) + 1e-9}),
        fingerprint(marks(), members=moved),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint(marks()) == prints[0]


def test_the_fingerprint_is_of_the_values_and_not_of_their_dtype() -> None:
    def bound(y: Any) -> BoundData:
        return Data({"y": y}).bind(observed(dist.Normal(0.0, 1.0)))

    whole = bound(np.arange(5))
    for dtype in ("float64", "float32", "int8", "uint16"):
        assert bound(np.arange(5).astype(dtype)).fingerprint() == whole.fingerprint()
    assert bound(np.array([-0.0, 1, 2, 3, 4])).fingerprint() == whole.fingerprint()
    # As the run sees them: in float32 a tenth is the same number, whichever file it came from.
    double, single = np.linspace(0.0, 1.0, 7), np.linspace(0.0, 1.0, 7).astype("float32")
    assert bound(double).fingerprint("float32") == bound(single).fingerprint("float32")
    assert bound(double).fingerprint() != bound(single).fingerprint()
    assert bound(double).fingerprint("float32") != bound(2.0 * double).fingerprint("float32")


def test_the_fingerprints_name_what_differs() -> None:
    first = Data(marks(missing=(0,)), NESTED).bind(pupils()).fingerprints()
    moved = {**NESTED, "school": {"authority": np.array([0, 1, 1])}}
    other = Data(marks(missing=(2,)), moved).bind(pupils()).fingerprints()
    assert first.keys() == other.keys()
    assert {name for name in first if first[name] != other[name]} == {
        "mark",
        "which of mark are missing",
        "members of school in authority",
        "members of pupil in authority",
    }


def test_what_is_done_to_an_array_afterwards_changes_no_bound_data() -> None:
    values, members = marks(), {p: {o: i.copy() for o, i in m.items()} for p, m in NESTED.items()}
    labels = np.array(["a", "b", "c"])
    bound = Data(values, members, coords={"school": labels}).bind(pupils())
    before, print_ = (
        {name: value.copy() for name, value in bound.values.items()},
        bound.fingerprint(),
    )
    for value in values.values():
        value -= 100.0
    members["pupil"]["school"][:] = 0
    labels[:] = "z"
    for name, value in bound.values.items():
        np.testing.assert_array_equal(value, before[name])
    assert bound.coords["school"].tolist() == ["a", "b", "c"]
    assert bound.fingerprint() == print_
    arrays = [*bound.values.values(), *bound.members["pupil"].values(), bound.coords["school"]]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]


def test_a_large_array_enters_the_fingerprint_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = observed(dist.Normal(0.0, 1.0))
    whole = Data({"y": np.arange(1000.0)}).bind(graph)
    before = whole.fingerprint()
    monkeypatch.setattr("pavi.fingerprints.WHOLE", 100)
    monkeypatch.setattr("pavi.fingerprints.SAMPLE", 10)
    assert whole.fingerprint() != before
    other = Data({"y": np.arange(1000.0) + 1.0}).bind(graph)
    assert whole.fingerprint() != other.fingerprint()


def test_printing_shows_sizes_owners_and_missing_values() -> None:
    lines = str(Data(marks(missing=(0,)), NESTED).bind(pupils())).splitlines()
    assert "  plate pupil: 6 in school (3), authority (2)" in lines
    assert "  observed mark: float64[6], 1 missing" in lines
    assert repr(Data(marks(), NESTED)).startswith("Data(mark[6], budget[2]; pupil in school")


@pytest.mark.parametrize("loc", [0.0, 1e7])
def test_standards_are_those_of_the_whole_array(loc: float, monkeypatch: Any) -> None:
    """Block by block, and no worse far from zero; of equal numbers the scale is 1."""
    monkeypatch.setattr(binding, "_BLOCK", 64)
    graph = PlateGraph(
        [Plate("row")],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Observed("y", lambda mu: dist.Normal(mu, 1.0), plates="row"),
        ],
    )
    y = loc + np.random.default_rng(0).normal(size=1000)
    y[::7] = np.nan
    mean, scale = binding.standards(Data({"y": y}).bind(graph))["y"]
    np.testing.assert_allclose((mean, scale), (np.nanmean(y), np.nanstd(y)), rtol=1e-7)
    alike = Data({"y": np.full(500, 0.1 + loc)}).bind(graph)
    assert binding.standards(alike)["y"] == (0.1 + loc, 1.0)
