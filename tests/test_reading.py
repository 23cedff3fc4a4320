"""Rows that are read when a step needs them: the same as from memory, no others, all checked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lazy_kinds import KINDS, Counted, of_kind
from small_models import MODELS, rng

import pavi
from pavi import (
    Covariate,
    Data,
    DataError,
    Family,
    Latent,
    Observed,
    Plate,
    PlateGraph,
    Posterior,
    dist,
)
from pavi.batch import Batch
from pavi.binding import standards
from pavi.data import BoundData
from pavi.feed import Feed
from pavi.lowering import lower
from pavi.reading import SAMPLE_ROWS
from pavi.subsampling import Sampler, full_batch, subset

# Nested and ragged; events and missing values; dense, two plates; crossed rows; three levels.
LAYOUTS = (
    "county, missing",
    "vector events",
    "crossed, dense",
    "crossed, rows",
    "region over crossed",
    "intercept and slope",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reading")


def feed(bound: BoundData, batch: Mapping[str, int]) -> Feed:
    family = Family(encoding="free")
    plan = lower(bound.graph, family, bound.sizes, dict(batch), standards(bound))
    return Feed(plan, bound, Sampler(bound, batch, "float64"), "float64")


def drawn(bound: BoundData, batch: Mapping[str, int], seed: int, steps: int = 3) -> Batch:
    call = feed(bound, batch).draw(seed, steps).call
    assert call is not None
    return call.batch


def assert_same(lazy: Batch, memory: Batch) -> None:
    """The same arrays; of what is read there is a mask even where nothing is missing."""
    for field in Batch._fields:
        own, other = getattr(lazy, field), getattr(memory, field)
        for name in own.keys() | other.keys():
            expected = other.get(name, np.ones(()))
            assert np.broadcast_shapes(own[name].shape, expected.shape) == own[name].shape
            np.testing.assert_array_equal(own[name], np.broadcast_to(expected, own[name].shape))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_steps_see_the_rows_that_they_see_of_arrays_in_memory(
    kind: str, folder: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(LAYOUTS))
    graph, given_ = MODELS[name]()
    memory = given_.bind(graph)
    lazy = of_kind(kind, graph, given_, folder).bind(graph)
    assert not lazy.values
    assert lazy.sizes == memory.sizes
    assert lazy.fingerprint() == memory.fingerprint()
    assert standards(lazy) == standards(memory)
    batch = {
        plate: data.draw(st.integers(1, size - 1))
        for plate, size in memory.sizes.items()
        if size > 1 and plate != "region" and data.draw(st.booleans())
    }
    seed = data.draw(st.integers(0, 100))
    assert_same(full_batch(lazy, "float64"), full_batch(memory, "float64"))
    if batch:
        assert_same(drawn(lazy, batch, seed), drawn(memory, batch, seed))
        own, other = feed(lazy, batch), feed(memory, batch)
        assert_same(own.resident, other.resident)
    plate = data.draw(st.sampled_from(sorted(set(graph.plates) - {"region"})))
    size = memory.sizes[plate]
    chosen = {plate: rng(seed).permutation(size)[: data.draw(st.integers(1, size))]}
    assert_same(subset(lazy, chosen, "float64"), subset(memory, chosen, "float64"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_plate_of_one_and_a_batch_of_one(kind: str, folder: Path) -> None:
    graph = PlateGraph(
        [Plate("site"), Plate("row")],
        [
            Covariate("height", plates="site"),
            Latent("effect", lambda height: dist.Normal(height, 1.0), plates="site"),
            Observed("y", lambda effect: dist.Normal(effect, 1.0), plates=("site", "row")),
        ],
    )
    values = {"height": np.array([0.4]), "y": rng(0).normal(size=(1, 6))}
    memory, lazy = Data(values), of_kind(kind, graph, Data(values), folder)
    own, other = drawn(lazy.bind(graph), {"row": 1}, 5), drawn(memory.bind(graph), {"row": 1}, 5)
    assert_same(own, other)
    assert own.values["y"].shape == (3, 1, 1)


@pytest.mark.parametrize("kind", ["memory map", "zarr", "function"])
def test_a_fit_takes_the_steps_that_it_takes_in_memory(kind: str, folder: Path) -> None:
    pytest.importorskip("numpyro")
    graph, data = MODELS["county, missing"]()
    expected = short_fit()
    found = fitted(graph, of_kind(kind, graph, data, folder))
    for part, history in vars(found.history).items():
        np.testing.assert_array_equal(history, getattr(expected.history, part))
    for weight, value in found.weights.items():
        np.testing.assert_array_equal(value, expected.weights[weight])
    for plates in (None, {"county": [1, 0]}):
        draws, others = (p.sample(3, plates=plates) for p in (found, expected))
        for latent, value in draws.items():
            np.testing.assert_array_equal(value, others[latent])


def fitted(graph: PlateGraph, data: Data) -> Posterior:
    family = Family(flow="none", hidden=4, structure="mean_field")
    return pavi.fit(
        graph,
        data,
        backend="numpyro",
        family=family,
        batch={"county": 2, "home": 2},
        steps=5,
        num_particles=1,
        progress=False,
    )


@cache
def short_fit() -> Posterior:
    return fitted(*MODELS["county, missing"]())


# --- what is read -------------------------------------------------------------------------------


def table(**observed: Any) -> PlateGraph:
    """Rows in groups, and a covariate of each group."""
    return PlateGraph(
        [Plate("group"), Plate("row", within="group")],
        [
            Covariate("x", plates="row"),
            Covariate("z", plates="group"),
            Latent("effect", lambda z: dist.Normal(z, 1.0), plates="group"),
            observed.get("y")
            or Observed("y", lambda effect: dist.Normal(effect, 1.0), plates="row"),
        ],
    )


ROWS, GROUPS = 20_000, 2_000
OWNER = np.repeat(np.arange(GROUPS), ROWS // GROUPS)


def arrays() -> dict[str, np.ndarray]:
    return {"x": np.arange(ROWS) / ROWS, "y": rng(0).normal(size=ROWS), "z": np.zeros(GROUPS)}


def bound_to(values: Mapping[str, Any], graph: PlateGraph | None = None, **more: Any) -> BoundData:
    return Data(values, {"row": {"group": OWNER}}, **more).bind(graph or table())


def test_no_more_is_read_than_steps_need() -> None:
    counted = {name: Counted(array) for name, array in arrays().items()}
    bound = bound_to({name: c.source for name, c in counted.items()})
    fed = feed(bound, {"group": 5, "row": 3})
    assert all(c.rows <= SAMPLE_ROWS for c in counted.values())
    for c in counted.values():
        c.reads.clear()
    call = fed.draw(0, 10).call
    assert call is not None
    assert len(counted["y"].reads) == 1, "one read for all steps"
    for name, plate in (("x", "row"), ("y", "row"), ("z", "group")):
        assert counted[name].rows == len(np.unique(call.batch.indices[plate]))


def test_a_function_is_asked_for_each_step_by_itself_and_for_all_names_at_once() -> None:
    values, asked = arrays(), list[dict[str, np.ndarray]]()

    def rows(indices: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        asked.append(indices)
        return {"x": values["x"][indices["row"]], "z": values["z"][indices["group"]]}

    bound = bound_to({"y": values["y"]}, sizes={"group": GROUPS}, rows=rows)
    assert len(asked) == 1
    assert [len(index) for index in asked[0].values()] == [SAMPLE_ROWS, SAMPLE_ROWS]
    assert all(index[0] == 0 for index in asked[0].values())
    fed = feed(bound, {"group": 5})
    asked.clear()
    call = fed.draw(0, 4).call
    assert call is not None
    assert len(asked) == 4
    for step, indices in enumerate(asked):
        assert list(indices) == ["group", "row"]
        for plate, index in indices.items():
            np.testing.assert_array_equal(index, np.unique(call.batch.indices[plate][step]))


def test_plates_that_are_seen_whole_are_asked_for_whole() -> None:
    graph = PlateGraph(
        [Plate("subject"), Plate("vertex")],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Covariate("age", plates="subject"),
            Observed("y", lambda mu: dist.Normal(mu, 1.0), plates=("subject", "vertex"), event=2),
        ],
    )
    asked = list[dict[str, np.ndarray]]()

    def rows(indices: dict[str, np.ndarray]) -> dict[str, Any]:
        asked.append(indices)
        subject, vertex = indices["subject"], indices["vertex"]
        y = np.stack(np.broadcast_arrays(subject[:, None], vertex), -1)
        return {"y": y.astype(np.float32), "age": [float(s) for s in subject]}

    bound = Data(rows=rows, sizes={"subject": 30, "vertex": 4}).bind(graph)
    assert bound.lazy.names == ("age", "y")
    assert "observed y: float32[30, 4, 2], read by rows from a function" in repr(bound)
    batch = drawn(bound, {"subject": 6}, 0)
    assert asked[-1]["vertex"].tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(batch.values["age"], batch.indices["subject"])
    np.testing.assert_array_equal(batch.values["y"][..., 1, 0], batch.indices["subject"])
    np.testing.assert_array_equal(batch.values["y"][0, 3, :, 1], np.arange(4))


def test_a_function_may_use_one_array_again_and_change_what_it_is_given() -> None:
    kept = np.zeros(ROWS)

    def rows(indices: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(indices["row"])
        kept[:count] = indices["row"]
        indices["row"] *= 0
        return {"x": kept[:count]}

    values = arrays()
    bound = bound_to({"y": values["y"], "z": values["z"]}, rows=rows)
    batch = drawn(bound, {"row": 7}, 1)
    np.testing.assert_array_equal(batch.values["x"], batch.indices["row"])


def test_a_fingerprint_tells_other_data_apart() -> None:
    values = arrays()

    def prints(**changed: Any) -> dict[str, str]:
        bound = bound_to({name: Counted(a).source for name, a in {**values, **changed}.items()})
        return bound.fingerprints()

    first, other = prints(), prints(y=values["y"] + 1.0)
    assert first == prints()
    assert {name for name in first if first[name] != other[name]} == {"y"}


def test_what_is_too_large_to_be_read_whole_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    values = arrays()
    bound = bound_to({**values, "y": Counted(values["y"]).source})
    assert len(full_batch(bound, "float32").values["y"]) == ROWS
    monkeypatch.setattr("pavi.reading.WHOLE_BYTES", 4 * ROWS - 1)
    with pytest.raises(DataError) as error:
        full_batch(bound, "float32")
    for part in ("'y' [row]", "(20000,)", "GiB", "batch={'row': ...}", "plates=", "export"):
        assert part in str(error.value)
    assert len(subset(bound, {"group": np.array([3, 1])}, "float32").values["y"]) == 20
    assert drawn(bound, {"group": 2}, 0).values["y"].shape == (3, 20)


# --- bad sources --------------------------------------------------------------------------------


class Later:
    """A function that gives what it should until the data are bound, then `change` of it."""

    def __init__(self, change: Any, values: Mapping[str, np.ndarray] | None = None) -> None:
        self.change, self.values, self.bound = change, values or arrays(), False

    def __call__(self, indices: dict[str, np.ndarray]) -> Any:
        out = {"x": self.values["x"][indices["row"]], "y": self.values["y"][indices["row"]]}
        return self.change(out) if self.bound else out


def raising(out: Any) -> Any:
    raise OSError("the disk is gone")


BAD_ANSWERS = {
    "fewer rows": (lambda o: {**o, "y": o["y"][:-1]}, r"'y'.*fewer rows.*\(9,\), wanted \(10,\)"),
    "other shape": (lambda o: {**o, "y": o["y"][:, None]}, r"\(10, 1\), wanted \(10,\): \[row\]"),
    "scalar": (lambda o: {**o, "x": 0.0}, r"covariate 'x'.*shape \(\), wanted \(10,\)"),
    "strings": (lambda o: {**o, "x": o["x"].astype(str)}, "'x'.*dtype <U.*wanted numbers"),
    "complex": (lambda o: {**o, "x": o["x"] + 0j}, "dtype complex128, wanted numbers"),
    "raises": (raising, r"'row': \[.*\(10\)\}\), asked for 'x', 'y', raised OSError: the disk"),
    "no mapping": (lambda o: o["y"], "gave ndarray, wanted a mapping"),
    "nothing": (lambda o: None, "gave NoneType, wanted a mapping"),
    "a name short": (lambda o: {"x": o["x"]}, r"gave no observed 'y', wanted an array \[row\]"),
    "a name more": (lambda o: {**o, "yy": o["y"]}, "'yy'.*none of the variables.*Did you mean 'y'"),
    "NaN covariate": (
        lambda o: {**o, "x": np.where(o["x"] == o["x"][4], np.nan, o["x"])},
        r"Covariate 'x' \[row\] of shape \(20000,\) is nan at index",
    ),
    "infinite": (lambda o: {**o, "y": o["y"] * np.inf}, r"Observed 'y'.*\(20000,\) is -?inf at"),
    "ragged": (lambda o: {**o, "y": [[1.0], [2.0, 3.0]]}, "'y' cannot be made an array"),
}


@pytest.mark.parametrize(("change", "words"), BAD_ANSWERS.values(), ids=list(BAD_ANSWERS))
def test_an_answer_that_goes_wrong_later_is_named(change: Any, words: str) -> None:
    function = Later(change)
    bound = bound_to({"z": np.zeros(GROUPS)}, rows=function)
    fed = feed(bound, {"row": 10})
    function.bound = True
    with pytest.raises(DataError, match=words) as error:
        fed.draw(0, 3)
    assert isinstance(error.value.__cause__, OSError) == (change is raising)


def test_a_fit_ends_with_what_was_wrong_in_a_later_batch() -> None:
    """Rows are read in another thread, whose errors must not be lost."""
    pytest.importorskip("numpyro")
    function = Later(raising)
    data = Data({"z": np.zeros(GROUPS)}, {"row": {"group": OWNER}}, rows=function)
    trainer = pavi.Trainer(table(), data, backend="numpyro", batch={"group": 5})
    function.bound = True
    with pytest.raises(DataError, match=r"rows\(.*raised OSError: the disk is gone"):
        trainer.fit(5, progress=False)


@pytest.mark.parametrize("change", [c for c, _ in BAD_ANSWERS.values()], ids=list(BAD_ANSWERS))
def test_an_answer_that_is_wrong_at_once_is_named_when_the_data_are_bound(change: Any) -> None:
    function = Later(change)
    function.bound = True
    with pytest.raises(DataError):
        bound_to({"z": np.zeros(GROUPS)}, rows=function)


def test_integers_cannot_become_floats_where_masks_were_left_out() -> None:
    counts = {**arrays(), "y": np.ones(ROWS, int)}
    function = Later(lambda o: {**o, "y": np.full(len(o["y"]), np.nan)}, counts)
    graph = table(y=Observed("y", dist.Poisson(2.0), plates="row"))
    bound = bound_to({"z": counts["z"]}, graph, rows=function)
    function.bound = True
    with pytest.raises(DataError, match="dtype float64, but int64 when the data were bound"):
        drawn(bound, {"row": 10}, 0)


def test_a_file_that_cannot_be_read_is_named() -> None:
    values, counted = arrays(), Counted(arrays()["y"])
    bound = bound_to({**values, "y": counted.source})
    counted.array = counted.array[:50]
    with pytest.raises(DataError, match=r"reading observed 'y' \[row\], a counted array, at") as e:
        drawn(bound, {"row": 10}, 0)
    assert isinstance(e.value.__cause__, IndexError)


@pytest.mark.parametrize("wrong", ["lazy", "its bound is lazy", "both"])
def test_a_later_value_outside_its_support_is_named(wrong: str) -> None:
    """The number of trials is a group's; in the group of the rows 5,000 to 5,009 it is 3."""
    graph = PlateGraph(
        [Plate("group"), Plate("row", within="group")],
        [
            Covariate("trials", plates="group"),
            Latent("p", dist.Beta(1.0, 1.0), plates="group"),
            Observed("hits", lambda trials, p: dist.Binomial(trials, p), plates="row"),
        ],
    )
    trials = np.full(GROUPS, 9)
    trials[501] = 3
    hits = np.full(ROWS, 9.0)
    hits[np.r_[5010, 5013:5020]] = 3.0
    hits[5011] = np.nan
    values: dict[str, Any] = {"trials": trials, "hits": hits}
    for name in {"lazy": ["hits"], "its bound is lazy": ["trials"], "both": [*values]}[wrong]:
        values[name] = Counted(values[name]).source
    bound = bound_to(values, graph)
    words = r"'hits' \[row\] of shape \(20000,\) is 9.0 at index 5012, outside .*Binomial.*3"
    with pytest.raises(DataError, match=words):
        subset(bound, {"group": np.array([7, 501])}, "float32")
    fed = feed(bound, {"group": 400})
    with pytest.raises(DataError, match=words):
        fed.draw(0, 10)
    assert subset(bound, {"group": np.array([7, 500])}, "float32").values["hits"].max() == 9.0


def test_rows_that_do_not_count_are_not_held_against_other_owners() -> None:
    """A row whose other owner is not drawn has weight 0 and the place of another one."""
    graph = PlateGraph(
        [Plate("a"), Plate("b"), Plate("row", within=("a", "b"))],
        [
            Covariate("trials", plates="b"),
            Latent("p", dist.Beta(1.0, 1.0), plates="a"),
            Observed("hits", lambda trials, p: dist.Binomial(trials, p), plates="row"),
        ],
    )
    a, b = (x.ravel() for x in np.mgrid[:6, :6])
    trials = np.arange(6) + 1
    data = Data(
        {"trials": trials, "hits": Counted(trials[b].astype(float)).source},
        {"row": {"a": a, "b": b}},
    )
    batch = drawn(data.bind(graph), {"a": 3, "b": 2}, 0, steps=40)
    assert (batch.weights["row"] == 0).any()


def test_missing_values_have_a_mask_at_every_step() -> None:
    values = arrays()
    values["y"][7] = np.nan
    bound = bound_to({**values, "y": Counted(values["y"]).source})
    assert (drawn(bound, {"row": 10}, 0).masks["y"] == 1).all()
    batch = subset(bound, {"row": np.array([6, 7, 8])}, "float32")
    assert batch.masks["y"].tolist() == [1.0, 0.0, 1.0]
    assert np.isfinite(batch.values["y"]).all()


def test_data_without_any_outcome_are_refused() -> None:
    graph = PlateGraph([Plate("row")], [Observed("y", dist.Normal(0.0, 1.0), plates="row")])
    source = Counted(np.full(9, np.nan)).source
    with pytest.raises(DataError, match="All observations of 'y'"):
        Data({"y": source}).bind(graph)
    assert Data({"y": source}).bind(graph, need_outcomes=False).lazy.names == ("y",)


def test_a_function_that_is_none_or_has_nothing_to_give() -> None:
    values = arrays()
    with pytest.raises(DataError, match=r"rows=.*must be a function.*got dict"):
        Data({}, rows=values)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has nothing to give"):
        bound_to(values, rows=lambda indices: {})
    with pytest.raises(DataError, match=r"size of plate 'row' is not known.*sizes={'row'"):
        Data(rows=lambda indices: {}).bind(
            PlateGraph([Plate("row")], [Observed("y", dist.Normal(0.0, 1.0), plates="row")])
        )
