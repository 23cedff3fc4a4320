"""Every mistake in data is named: variable, plate, wanted and given shape, remedy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from complaints import data_error

import pavi
from pavi import dist
from pavi.data import BoundData, Data
from pavi.graph import Covariate, Latent, Observed, Plate, PlateGraph

NORMAL = dist.Normal(0.0, 1.0)
COUNTY = [Plate("county"), Plate("home", within="county")]

# --- names --------------------------------------------------------------------------------

RADON = PlateGraph(
    COUNTY,
    [
        Covariate("floor", plates="home"),
        Latent("effect", NORMAL, plates="county"),
        Observed("radon", lambda effect, floor: dist.Normal(effect + floor, 1.0), plates="home"),
    ],
)
VALUES = {"floor": np.zeros(4), "radon": np.arange(4.0)}
INDEX: Any = {"home": {"county": np.array([0, 1, 1, 2])}}


def bind(
    values: dict[str, Any] | None = None, members: Any = INDEX, **others: Any
) -> Callable[[], object]:
    """Binds the radon data, with some parts replaced."""
    return lambda: Data({**VALUES, **(values or {})}, members, **others).bind(RADON)


def row(spec: dist.Spec, value: Any, event: tuple[int, ...] = ()) -> Callable[[], object]:
    """Binds one observed variable on a plate of rows."""
    y = Observed("y", spec, plates="row", event=event)
    return lambda: Data({"y": value}).bind(PlateGraph([Plate("row")], [y]))


def test_a_missing_value_key() -> None:
    data_error(
        lambda: Data({"radon": np.zeros(4), "flor": np.zeros(4)}, INDEX).bind(RADON),
        "'flor'",
        "Did you mean 'floor'?",
    )
    data_error(
        lambda: Data({"radon": np.zeros(4)}, INDEX).bind(RADON),
        "covariate",
        "'floor'",
        "[home]",
        "Add it to `values`",
    )


def test_an_unknown_value_key() -> None:
    data_error(bind({"raddon": np.zeros(4)}), "'raddon'", "Did you mean 'radon'?")


def test_a_latent_given_as_data() -> None:
    data_error(bind({"effect": np.zeros(3)}), "'effect'", "latent", "pavi.Observed")


def test_unknown_plates_of_members_sizes_and_coords() -> None:
    data_error(bind(members={"hom": {"county": [0]}}), "members['hom']", "Did you mean 'home'?")
    data_error(bind(sizes={"conty": 3}), "sizes['conty']", "Did you mean 'county'?")
    data_error(bind(coords={"conty": "abc"}), "coords['conty']", "Did you mean 'county'?")
    members = {**INDEX, "county": {"home": [0, 1, 2]}}
    data_error(bind(members=members), "members['county']['home']", "does not belong", "within")


def test_arguments_that_are_no_mappings() -> None:
    data_error(lambda: Data(np.zeros(3)), "values", "mapping", "ndarray", "from_frame")  # type: ignore[arg-type]
    data_error(lambda: Data({}, {"home": np.zeros(3)}), "members['home']", "owner")  # type: ignore[dict-item]


# --- shapes and sizes ---------------------------------------------------------------------


def test_an_array_of_the_wrong_shape() -> None:
    build = bind({"radon": np.zeros((4, 2))})
    data_error(build, "observed 'radon'", "(4, 2)", "[home]", "('home',)", "Reshape")
    graph_with_event = PlateGraph([Plate("row")], [Covariate("x", plates="row", event=3)])
    data_error(
        lambda: Data({"x": np.zeros((3, 5))}).bind(graph_with_event),
        "covariate 'x'",
        "(3, 5)",
        "[row, 3]",
        "Reshape",
    )


def test_a_ragged_list() -> None:
    data_error(bind({"radon": [[1.0], [2.0, 3.0]]}), "'radon'", "membership index")


def test_a_dtype_that_is_no_number() -> None:
    data_error(bind({"radon": list("abcd")}), "'radon'", "[home]", "<U1", "numbers")
    data_error(bind({"radon": [1.0, "b", 2.0, 3.0]}), "'radon'", "numbers")
    mixed = np.array([1.0, "b", None, 3.0], dtype=object)
    data_error(bind({"radon": mixed}), "'radon'", "object", "numbers")


def test_two_arrays_that_disagree_about_a_plate() -> None:
    build = bind({"floor": np.zeros(5)})
    data_error(build, "'home'", "'floor'", "(5,)", "'radon'", "(4,)", "Make them agree")


def test_a_size_that_disagrees_with_an_array() -> None:
    data_error(bind(sizes={"home": 5}), "'home'", "4", "sizes['home']", "Make them agree")
    data_error(bind(coords={"home": list("abc")}), "'home'", "4", "coords of shape (3,)")


@pytest.mark.parametrize("size", [-1, 2.0, True, "3"])
def test_a_size_that_is_no_count(size: Any) -> None:
    data_error(bind(sizes={"county": size}), "sizes['county']", repr(size), "positive integer")


def test_an_empty_plate() -> None:
    values = {"floor": np.zeros(0), "radon": np.zeros(0)}
    empty = {"home": {"county": np.zeros(0, int)}}
    data_error(bind(values, empty), "'home'", "empty", "(0,)", "at least one")
    data_error(bind(sizes={"county": 0}), "'county'", "empty", "sizes['county']")


def test_a_size_that_nothing_tells() -> None:
    alone = PlateGraph([Plate("row"), Plate("year")], [Observed("y", NORMAL, plates="row")])
    data_error(
        lambda: Data({"y": np.zeros(3)}).bind(alone), "'year'", "not known", "sizes={'year': ...}"
    )


def test_a_plate_whose_members_are_missing_is_asked_for_them_first() -> None:
    nested = PlateGraph([Plate("g"), Plate("row", "g")], [Observed("y", NORMAL, plates="row")])
    data_error(
        lambda: Data({"y": np.zeros(3)}).bind(nested),
        "The membership of plate 'row' in 'g' is missing",
        "(3,)",
        "members={'row': {'g': index}}",
    )
    data_error(bind_pupils(), "The membership of plate 'school' in 'authority'", "[school]")


# --- labels -------------------------------------------------------------------------------


def test_labels_are_unique() -> None:
    build = bind(coords={"county": ["a", "b", "a"]})
    data_error(build, "coords['county']", "(3,)", "'a'", "twice", "index 2", "unique")


def test_labels_have_one_axis() -> None:
    for labels in ("abc", [["a", "b", "c"]]):
        data_error(bind(coords={"county": labels}), "coords['county']", "one axis", "[county]")


def test_too_few_labels_are_no_mistake_of_the_membership() -> None:
    members = {"home": {"county": np.array([0, 1, 4, 2])}}
    build = bind(members=members, coords={"county": ["a", "b", "c"]})
    data_error(build, "coords['county'] has 3 labels", "'home'", "position 4", "at least 5")
    from_one = {"home": {"county": np.array([1, 2, 3, 3])}}
    build = bind(members=from_one, coords={"county": ["a", "b", "c"]})
    data_error(build, "'county'", "subtract 1")


# --- memberships --------------------------------------------------------------------------


def test_a_missing_membership() -> None:
    values = "members={'home': {'county': index}}"
    data_error(bind(members={}, sizes={"county": 3}), "'home'", "'county'", "(4,)", values)


def test_a_membership_index_of_float_type() -> None:
    members = {"home": {"county": np.array([0.0, 1.0, 1.0, 2.0])}}
    data_error(bind(members=members), "'home'", "'county'", "float64", ".astype(int)")


def test_a_membership_by_labels() -> None:
    members = {"home": {"county": np.array(["a", "b", "b", "c"])}}
    data_error(bind(members=members), "'home'", "'county'", "<U1", "Data.from_frame")


def test_a_negative_membership_index() -> None:
    members = {"home": {"county": np.array([0, 1, -1, 2])}}
    data_error(bind(members=members), "'home'", "'county'", "-1 at row 2", "missing")


def test_a_membership_index_out_of_range() -> None:
    members = {"home": {"county": np.array([0, 1, 7, 2])}}
    build = bind(members=members, sizes={"county": 3})
    data_error(build, "'home'", "'county'", "7 at row 2", "3 elements", "from 0 to 2")


def test_a_membership_index_counted_from_one() -> None:
    members = {"home": {"county": np.array([1, 2, 2, 3])}}
    data_error(bind(members=members, sizes={"county": 3}), "'county'", "subtract 1")


def test_a_membership_index_counted_from_one_where_nothing_tells_the_size() -> None:
    members = {"home": {"county": np.array([1, 2, 2, 3])}}
    with pytest.warns(pavi.PaviWarning, match="'county'") as caught:
        bind(members=members)()
    text = str(caught[0].message)
    for part in ("Element 0", "counted from 1", "Subtract 1", "sizes={'county': 4}"):
        assert part in text
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bind(members=members, sizes={"county": 4})()
        bind(members=members, coords={"county": list("abcd")})()
        bind()()


def test_a_membership_of_the_wrong_shape() -> None:
    members = {"home": {"county": np.array([0, 1, 2])}}
    data_error(bind(members=members), "'home'", "'county'", "(3,)", "(4,)", "Make them agree")
    members = {"home": {"county": np.zeros((4, 1), int)}}
    data_error(bind(members=members), "'home'", "'county'", "(4, 1)", "[home]", "Flatten")


PUPILS = PlateGraph(
    [Plate("authority"), Plate("school", "authority"), Plate("pupil", "school")],
    [Observed("mark", NORMAL, plates="pupil")],
)


def bind_pupils(**members: Any) -> Callable[[], object]:
    return lambda: Data({"mark": np.zeros(4)}, members).bind(PUPILS)


def test_memberships_that_contradict_each_other() -> None:
    build = bind_pupils(
        pupil={"school": [0, 0, 1, 1], "authority": [0, 0, 0, 1]}, school={"authority": [0, 1]}
    )
    data_error(build, "'pupil'", "'authority'", "pupil -> school -> authority", "row 2")


def test_an_owner_in_two_owners() -> None:
    build = bind_pupils(pupil={"school": [0, 0, 1, 1], "authority": [0, 1, 1, 1]})
    data_error(build, "Element 0 of plate 'school'", "'authority'", "join the two labels")


def test_an_owner_of_an_owner_without_rows() -> None:
    build = bind_pupils(pupil={"school": [0, 0, 2, 2], "authority": [0, 0, 1, 1]})
    data_error(build, "Element 1 of plate 'school'", "'authority'", "(3,)")


# --- values -------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_covariate_that_is_not_finite(wrong: float) -> None:
    build = bind({"floor": [0.0, wrong, 1.0, 0.0]})
    data_error(build, "'floor'", "[home]", "(4,)", str(wrong), "index 1", "impute")


def test_an_infinite_observation() -> None:
    build = bind({"radon": [0.0, 1.0, np.inf, 0.0]})
    data_error(build, "'radon'", "[home]", "(4,)", "inf at index 2", "NaN", "dist.Censored")


def test_all_observations_missing() -> None:
    data_error(bind({"radon": np.full(4, np.nan)}), "All", "'radon'", "[home]", "(4,)", "Latent")


def test_a_missing_parent() -> None:
    chain = PlateGraph(
        [Plate("row")],
        [
            Observed("x", NORMAL, plates="row"),
            Observed("y", lambda x: dist.Normal(x, 1.0), plates="row"),
        ],
    )
    data_error(
        lambda: Data({"x": [0.0, np.nan], "y": [0.0, 1.0]}).bind(chain),
        "'x'",
        "[row]",
        "missing",
        "parent of 'y'",
        "Impute",
    )


def test_a_draw_that_is_partly_missing() -> None:
    value = [[0.5, 0.5], [np.nan, 0.5]]
    build = row(dist.Dirichlet(np.ones(2)), value, (2,))
    data_error(build, "'y'", "[row, 2]", "partly", "index 1", "Dirichlet")


@pytest.mark.parametrize(
    ("spec", "value", "parts"),
    [
        (dist.Poisson(1.0), [0, 1, -1], ("-1 at index 2", "integers from 0 up")),
        (dist.Poisson(1.0), [0.0, 1.5, 1.0], ("1.5 at index 1", "integers from 0 up")),
        (dist.Beta(1.0, 1.0), [0.5, 1.2], ("1.2 at index 1", "from 0 to 1")),
        (dist.Beta(1.0, 1.0), [0.5, 0.0], ("0.0 at index 1", "excluded")),
        (dist.Bernoulli(0.5), [0, 2], ("2 at index 1", "0 or 1")),
        (dist.Binomial(5, probs=0.5), [5, 6], ("6 at index 1", "from 0 to 5")),
        (dist.Categorical(probs=np.full(3, 1 / 3)), [0, 3], ("3 at index 1", "from 0 to 2")),
        (dist.Gamma(1.0, 1.0), [1.0, -2.0], ("-2.0 at index 1", "positive")),
    ],
    ids=repr,
)
def test_an_observation_outside_the_support(
    spec: dist.Spec, value: list[Any], parts: tuple[str, ...]
) -> None:
    data_error(row(spec, value), "'y'", "[row]", type(spec).__name__, *parts, "Correct the value")


def test_a_count_above_a_total_that_is_a_covariate() -> None:
    herds = PlateGraph(
        [Plate("herd"), Plate("visit", within="herd")],
        [
            Covariate("size", plates="herd"),
            Latent("logit", NORMAL),
            Observed(
                "cases", lambda size, logit: dist.Binomial(size, logits=logit), plates="visit"
            ),
        ],
    )
    index = {"visit": {"herd": [0, 1, 1]}}

    def build(cases: list[float]) -> BoundData:
        return Data({"size": [5, 2], "cases": cases}, index).bind(herds)

    assert build([5, 2, np.nan]).masks["cases"] is not None
    data_error(lambda: build([5, 2, 3]), "'cases'", "[visit]", "3", "index 2", "from 0 to 2")
    data_error(lambda: build([5, -1, 1]), "'cases'", "-1", "index 1")


def test_a_mixture_takes_what_any_of_its_components_takes() -> None:
    half = np.full(2, 0.5)
    trials = dist.Mixture(half, (dist.Binomial(5, probs=0.5), dist.Binomial(10, probs=0.5)))
    row(trials, [7, 0, 10])()
    data_error(row(trials, [7, 11]), "'y'", "11 at index 1", "from 0 to 10")
    # The covariate's bound is the smaller one at placeholders, and the larger one in the data.
    herds = PlateGraph(
        [Plate("herd")],
        [
            Covariate("size", plates="herd"),
            Observed(
                "cases",
                lambda size: dist.Mixture(half, (dist.Binomial(4, 0.5), dist.Binomial(size, 0.5))),
                plates="herd",
            ),
        ],
    )
    Data({"size": [3, 9], "cases": [4, 7]}).bind(herds)
    data_error(
        lambda: Data({"size": [3, 9], "cases": [5, 7]}).bind(herds), "5 at index 0", "from 0"
    )


def test_a_bound_that_depends_on_a_latent_is_left_to_the_fit() -> None:
    graph_ = PlateGraph(
        [Plate("row")],
        [
            Latent("top", dist.HalfNormal(1.0)),
            Observed("y", lambda top: dist.Uniform(0.0, top), plates="row"),
        ],
    )
    Data({"y": [0.5, 99.0]}).bind(graph_)
    data_error(lambda: Data({"y": [0.5, -1.0]}).bind(graph_), "'y'", "-1.0", "from 0.0 to inf")


# --- frames and datasets ------------------------------------------------------------------

FRAME = pd.DataFrame({"radon": [1.0, 2.0, 3.0], "county": ["a", "b", "b"], "u": [1.0, 2.0, 3.0]})


def from_frame(frame: Any = FRAME, **changed: Any) -> Callable[[], object]:
    given = {"plate": "home", "values": ["radon"], "members": {"county": "county"}} | changed
    return lambda: Data.from_frame(frame, **given)


def test_a_column_that_is_not_there() -> None:
    data_error(from_frame(values=["radn"]), "'radn'", "Did you mean 'radon'?")
    data_error(from_frame(members={"county": "conty"}), "'conty'", "'home'", "'county'")


def test_a_frame_without_a_plate() -> None:
    data_error(lambda: Data.from_frame(FRAME, values=["radon"]), "`plate`", "graph")
    two = PlateGraph([Plate("a"), Plate("b")], [])
    data_error(lambda: Data.from_frame(FRAME, two), "['a', 'b']", "Give `plate`")


def test_a_missing_label() -> None:
    frame = FRAME.assign(county=["a", None, "b"])
    data_error(from_frame(frame), "'home'", "'county'", "1 labels", "row 1", "Drop")


def test_labels_of_several_types() -> None:
    frame = FRAME.assign(county=np.array(["a", 1, "b"], dtype=object))
    data_error(from_frame(frame), "'home'", "'county'", "sorted", "strings")


def test_a_label_that_is_not_among_the_coordinates() -> None:
    data_error(from_frame(coords={"county": ["a", "c"]}), "'b'", "'county'", "Add it")
    data_error(from_frame(coords={"county": ["a", "b", "b"]}), "'county'", "twice")


def test_a_value_that_differs_within_its_group() -> None:
    build = from_frame(group_values={"county": ["u"]})
    data_error(build, "'u'", "'county'", "county 'b'", "2.0", "3.0", "plate of the rows")
    build = from_frame(group_values={"state": ["u"]})
    data_error(build, "'state'", "members")


def test_a_group_value_that_is_no_number() -> None:
    frame = FRAME.assign(name=["x", "y", "y"])
    data_error(from_frame(frame, group_values={"county": ["name"]}), "'name'", "'county'")


def test_what_is_no_dataset() -> None:
    array = xr.DataArray(np.zeros(3), dims="row")
    words = "Dataset", "DataArray"
    data_error(lambda: Data.from_xarray(array), *words, ".to_dataset(name='y')")
    named = array.rename("radon")
    data_error(lambda: Data.from_xarray(named), *words, ".to_dataset(name='radon')")
    data_error(lambda: Data.from_xarray({"y": np.zeros(3)}), "dict", "Dataset")


def test_a_dataset_without_a_variable_or_a_dimension() -> None:
    dataset = xr.Dataset({"y": ("home", [1.0])})
    members = {"home": {"county": "county_of"}}
    data_error(
        lambda: Data.from_xarray(dataset, members=members), "'county_of'", "'home'", "'county'"
    )
    graph_ = PlateGraph([Plate("row")], [Observed("y", NORMAL, plates="row")])
    data_error(
        lambda: Data.from_xarray(dataset).bind(graph_),
        "'y'",
        "('home',)",
        "[row]",
        "'row'",
        "Rename",
    )
