"""Export: what a store holds is what `sample` draws, however it is parted, cut off and resumed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from lazy_kinds import KINDS, Counted, of_kind
from numpy.testing import assert_allclose, assert_array_equal
from numpy_backend import install, on_backend, random_posterior
from small_models import rng
from varied_models import CASES, Case

import pavi
from pavi import DataError, Family, Latent, Observed, Plate, PlateGraph, Posterior, dist
from pavi import export as export_module
from pavi.cells import Grid, part
from pavi.errors import BackendError, StorageError
from pavi.export_store import Store


@pytest.fixture(autouse=True)
def numpy_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    # Cells as small as can be, and some draws at a time: these models are drawn in one go.
    monkeypatch.setattr(export_module, "_NUMBERS", 1)
    monkeypatch.setattr(export_module, "_OWN_SHARE", 0)


def crossed_cells(seed: int = 5) -> tuple[PlateGraph, pavi.Data]:
    """Rows and columns that own cells together, ragged and in no order; a latent on each."""
    draws = rng(seed)
    members = {"row": draws.integers(7, size=31), "column": draws.integers(5, size=31)}
    graph = PlateGraph(
        [Plate("row"), Plate("column"), Plate("cell", within=("row", "column"))],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Latent("a", lambda mu: dist.Normal(mu, 1.0), plates="row"),
            Latent("b", dist.Normal(0.0, 1.0), plates="column"),
            Latent("c", lambda a, b: dist.Normal(a + b, 1.0), plates="cell", event=2),
            Observed("y", lambda c: dist.Normal(c, 1.0), plates="cell", event=2),
        ],
    )
    sizes = {"row": 7, "column": 5}
    return graph, pavi.Data({"y": draws.normal(size=(31, 2))}, {"cell": members}, sizes)


FREE = Family(hidden=4, encoding_size=3, flow="none", encoding="free")
MODELS = {
    **{name: CASES[name] for name in CASES if name != "crossed, no joint block"},
    "dense, free": replace(CASES["dense"], family=FREE),
    "crossed, free": Case(crossed_cells, replace(FREE, joint_limit=0)),
    "crossed, encoder": Case(crossed_cells, Family(hidden=4, encoding_size=3, flow="none")),
    "three levels, free": replace(CASES["three levels"], family=FREE),
}


def exported(posterior: Posterior, path: Path, **options: Any) -> xarray.Dataset:
    given = {"num_samples": 40, "draws": 7, "seed": 3, "progress": False}
    assert posterior.export(path, **{**given, **options}) == path
    with xarray.open_zarr(path) as store:
        return store.load()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
def test_a_store_holds_what_is_drawn(name: str, tmp_path: Path) -> None:
    posterior = random_posterior(MODELS[name])
    store = exported(posterior, tmp_path / "out", quantiles=(0.1, 0.5))
    draws = posterior.sample(40, seed=3)
    for latent in posterior.graph.latents:
        draw = draws[latent.name]
        events = tuple(f"{latent.name}_dim_{i}" for i in range(len(latent.event)))
        dims = (*latent.plates, *events)
        statistics = {
            "": (("draw",), draw[:7]),
            "_mean": ((), draw.mean(0)),
            "_sd": ((), draw.std(0, ddof=1)),
            "_quantile": (("quantile",), np.quantile(draw, (0.1, 0.5), axis=0)),
        }
        for suffix, (lead, expected) in statistics.items():
            array = store[latent.name + suffix]
            assert array.dims == (*lead, *dims)
            assert_allclose(array.values, expected, rtol=1e-9, atol=1e-9)
    assert_array_equal(store.coords["quantile"], [0.1, 0.5])
    assert_array_equal(store.coords["draw"], np.arange(7))
    assert store.attrs["complete"] is True


@pytest.mark.parametrize(
    "name", ["dense, free", "crossed, free", "nested, missing", "three levels", "nested, free"]
)
def test_all_cells_have_one_shape(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior = random_posterior(MODELS[name])
    shapes: list[Any] = []
    sample = type(posterior._functions).sample

    def recorded(self: Any, weights: Any, rows: Any, noise: Any, batch: Any) -> Any:
        arrays = [*rows.values(), *noise.values()]
        arrays += [array for part in batch for array in part.values()]
        shapes.append([array.shape for array in arrays])
        return sample(self, weights, rows, noise, batch)

    monkeypatch.setattr(type(posterior._functions), "sample", recorded)
    store = exported(posterior, tmp_path / "out", statistics=("mean",), draws=0)
    assert store.attrs["cells"] > 2
    assert all(shape == shapes[0] for shape in shapes)


@pytest.mark.parametrize("name", ["dense, free", "nested, free"])
def test_little_memory_means_more_cells(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_NUMBERS", 1 << 17)
    posterior = random_posterior(MODELS[name])
    much = exported(posterior, tmp_path / "much")
    assert much.attrs["cells"] == 1
    little = exported(posterior, tmp_path / "little", memory=8_000)
    assert little.attrs["cells"] > 1
    for array in much.data_vars:
        assert_allclose(little[array], much[array], rtol=1e-9, atol=1e-12)


def test_the_joint_is_kept(tmp_path: Path) -> None:
    posterior = random_posterior(MODELS["nested, free"], scale=0.6)
    store = exported(posterior, tmp_path / "out", num_samples=200, draws=200)
    assert store.attrs["cells"] > 2
    draws = posterior.sample(200, seed=3)
    for county in range(5):
        expected = np.corrcoef(draws["mu"], draws["effect"][:, county])
        found = np.corrcoef(store["mu"], store["effect"].isel(county=county))
        assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("name", ["dense, free", "crossed, free", "three levels, free"])
def test_all_cells_draw_the_same_globals(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior = random_posterior(MODELS[name])
    globals_ = [v.name for v in posterior.graph.latents if not v.plates]
    seen: list[dict[str, np.ndarray]] = []
    sample = type(posterior._functions).sample

    def recorded(self: Any, *arguments: Any) -> Any:
        seen.append(sample(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(type(posterior._functions), "sample", recorded)
    store = exported(posterior, tmp_path / "out", statistics=("mean",), draws=1)
    assert store.attrs["cells"] > 2
    pieces = len(seen) // store.attrs["cells"]
    for variable in globals_:
        draws = [
            np.concatenate([s[variable] for s in seen[i : i + pieces]])
            for i in range(0, len(seen), pieces)
        ]
        for draw in draws:
            assert_array_equal(draw, draws[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["nested, missing", "dense", "three levels"])
def test_of_data_that_are_not_in_memory_each_cell_reads_its_rows(
    name: str, kind: str, tmp_path: Path
) -> None:
    posterior = random_posterior(MODELS[name])
    graph, data = posterior.graph, MODELS[name].model()[1]
    bound = of_kind(kind, graph, data, tmp_path).bind(graph)
    lazy, expected = replace(posterior, data=bound), posterior.sample(40, seed=3)
    store = exported(lazy, tmp_path / "out", statistics=(), draws=40)
    assert store.attrs["cells"] > 1
    for variable, draw in expected.items():
        assert_allclose(store[variable].values, draw, rtol=1e-9, atol=1e-9)


def test_only_the_rows_of_a_cell_are_read() -> None:
    graph, data = CASES["dense"].model()
    counted = Counted(data.values["y"])
    bound = pavi.Data({"y": counted.source}).bind(graph)
    counted.reads.clear()
    grid = Grid(bound, {"subject": 2, "vertex": 2})
    for cell in grid.cells():
        assert grid.batch(cell, frozenset({"y"}), "float32").values["y"].shape == (2, 2, 2)
    assert counted.reads == [(2, 2), (2, 2), (1, 2), (1, 2)]


def test_variables_and_statistics_are_those_asked_for(tmp_path: Path) -> None:
    posterior = random_posterior(MODELS["nested, free"])
    store = exported(posterior, tmp_path / "a", variables=["mu"], statistics=("sd",), draws=0)
    assert set(store.data_vars) == {"mu_sd"}
    assert store.attrs["cells"] == 1
    store = exported(posterior, tmp_path / "b", variables=["effect"], statistics=(), draws=2)
    assert set(store.data_vars) == {"effect"}
    assert_allclose(store["effect"], posterior.sample(2, seed=3)["effect"], rtol=1e-9)


def test_labels_are_coordinates(tmp_path: Path) -> None:
    graph, data = CASES["nested, missing"].model()
    labels = np.array(["Aitkin", "Anoka", "Becker", "Beltrami", "Benton"], object)
    labelled = pavi.Data(data.values, data.members, data.sizes, {"county": labels})
    case = Case(lambda: (graph, labelled), FREE)
    posterior = random_posterior(case)
    store = exported(posterior, tmp_path / "out")
    assert list(store.coords["county"].values) == list(labels)
    one = store["effect_mean"].sel(county="Becker")
    assert_allclose(one, posterior.sample(40, seed=3)["effect"][:, 2].mean(), rtol=1e-9)
    assert "home" not in store.coords


@pytest.mark.parametrize("dtype", ["int64", "float64", "datetime64[ns]", "bool", "S3"])
def test_labels_of_every_kind_come_back(dtype: str, tmp_path: Path) -> None:
    labels = np.arange(4).astype("S3" if dtype == "S3" else dtype)[: 2 if dtype == "bool" else 4]
    graph = PlateGraph(
        [Plate("row")],
        [
            Latent("a", dist.Normal(0.0, 1.0), plates="row"),
            Observed("y", lambda a: dist.Normal(a, 1.0), plates="row"),
        ],
    )
    data = pavi.Data({"y": np.zeros(len(labels))}, coords={"row": labels})
    store = exported(random_posterior(Case(lambda: (graph, data), FREE)), tmp_path / "out")
    found = store.coords["row"].values
    assert_array_equal(found.astype(str), labels.astype(str))
    assert found.dtype.kind == ("U" if dtype == "S3" else np.dtype(dtype).kind)


def test_attributes_say_what_it_is(tmp_path: Path) -> None:
    posterior = random_posterior(MODELS["nested, free"])
    attributes = exported(posterior, tmp_path / "out").attrs
    assert attributes["graph"] == posterior.graph.fingerprint()
    expected = {"seed": 3, "num_samples": 40, "draws": 7, "backend": "numpy", "dtype": "float64"}
    assert {key: attributes[key] for key in expected} == expected


# --- cut off, and resumed -----------------------------------------------------------------------


class Cut(Exception):
    pass


def cut_after(monkeypatch: pytest.MonkeyPatch, cells: int, error: Exception) -> None:
    """Lets so many cells be written, of the next one a part, and that wrongly."""
    write = Store.write

    def cut(self: Store, name: str, region: Any, value: np.ndarray) -> None:
        if self.done == cells and name.endswith("_sd"):
            write(self, name, region, np.full_like(value, 7.0))
            with self._writing():
                raise error
        write(self, name, region, value)

    monkeypatch.setattr(Store, "write", cut)


@pytest.mark.parametrize("name", ["nested, free", "crossed, free", "dense, free"])
def test_a_resumed_export_is_one_that_was_never_cut_off(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior = random_posterior(MODELS[name])
    whole = exported(posterior, tmp_path / "whole")
    path, options = tmp_path / "parts", {"num_samples": 40, "draws": 7, "seed": 3}
    with monkeypatch.context() as patched:
        cut_after(patched, 1, Cut())
        with pytest.raises(Cut):
            posterior.export(path, **options, progress=False)
    with xarray.open_zarr(path) as begun:
        assert begun.attrs["complete"] is False
    done = json.loads((path / ".zattrs").read_text())["cells_done"]
    assert done == 1 < whole.attrs["cells"]

    # What Zarr leaves behind of a chunk that it was writing when it was killed.
    torn = path / "mu_mean" / "0.5c3e.partial"
    torn.write_bytes(b"half")
    calls: list[int] = []
    batch = Grid.batch
    monkeypatch.setattr(Grid, "batch", lambda *given: calls.append(1) or batch(*given))
    # Another limit of memory does not matter: what is written was parted by the one of then.
    monkeypatch.setattr(export_module, "_NUMBERS", 1 << 17)
    resumed = exported(posterior, path, memory=1 << 29)
    assert len(calls) == whole.attrs["cells"] - done
    xarray.testing.assert_identical(resumed, whole)
    assert not torn.exists()


def test_a_finished_export_returns_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = random_posterior(MODELS["nested, free"])
    first = exported(posterior, tmp_path / "out")
    monkeypatch.setattr(export_module, "part", None)
    monkeypatch.setattr(type(posterior._functions), "sample", None)
    xarray.testing.assert_identical(exported(posterior, tmp_path / "out"), first)


def test_a_disk_that_fills_up_leaves_a_store_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior = random_posterior(MODELS["nested, free"])
    path = tmp_path / "out"
    with monkeypatch.context() as patched:
        cut_after(patched, 1, OSError(28, "No space left on device"))
        with pytest.raises(StorageError, match=r"stopped after \d+ of \d+ cells.*No space"):
            exported(posterior, path)
    with xarray.open_zarr(path) as begun:
        assert begun.attrs["complete"] is False
    assert exported(posterior, path).attrs["complete"] is True


@pytest.mark.parametrize("made", [0, 1, 4])
def test_an_export_cut_off_while_it_is_made_is_made_anew(
    made: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior = random_posterior(MODELS["nested, free"])
    path = tmp_path / "out"
    with monkeypatch.context() as patched:
        import zarr

        create, seen = zarr.Group.create_array, []

        def cut(self: Any, *given: Any, **options: Any) -> Any:
            seen.append(given)
            if len(seen) > made:
                raise Cut
            return create(self, *given, **options)

        patched.setattr(zarr.Group, "create_array", cut)
        with pytest.raises(Cut):
            exported(posterior, path)
    again = exported(posterior, path)
    xarray.testing.assert_identical(again, exported(posterior, tmp_path / "other"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"num_samples": 41}, "num_samples is 40 there and 41 here"),
        ({"draws": 0}, "draws is 7 there and 0 here"),
        ({"statistics": ("mean",)}, "statistics is"),
        ({"quantiles": (0.5,)}, "quantiles is"),
        ({"variables": ["mu"]}, "variables is"),
    ],
)
def test_other_arguments_are_refused(
    options: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior = random_posterior(MODELS["nested, free"])
    with monkeypatch.context() as patched:
        cut_after(patched, 1, Cut())
        with pytest.raises(Cut):
            exported(posterior, tmp_path / "out")
    with pytest.raises(StorageError, match=words):
        exported(posterior, tmp_path / "out", **options)


def test_another_posterior_is_refused(tmp_path: Path) -> None:
    posterior = random_posterior(MODELS["nested, free"])
    exported(posterior, tmp_path / "out")
    with pytest.raises(StorageError, match="another posterior"):
        exported(random_posterior(MODELS["nested, free"], scale=0.3), tmp_path / "out")
    with pytest.raises(StorageError, match="another graph"):
        exported(random_posterior(MODELS["poisson"]), tmp_path / "out")
    with pytest.raises(StorageError, match="dtype is 'float64' there and 'float32' here"):
        exported(random_posterior(MODELS["nested, free"], "float32"), tmp_path / "out")


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"statistics": ("median",)}, "'mean', 'sd', 'quantiles'"),
        ({"statistics": "mean"}, "expected a list"),
        ({"statistics": (), "draws": 0}, "neither statistics nor draws"),
        ({"draws": -1}, "draws=-1"),
        ({"draws": 41}, "num_samples=41"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"quantiles": (0.5, 1.5)}, "between 0 and 1"),
        ({"quantiles": ()}, "between 0 and 1"),
        ({"variables": ["effects"]}, "Did you mean 'effect'"),
        ({"memory": 0}, "memory=0"),
        ({"memory": 500}, "memory=500 is less than"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        exported(random_posterior(MODELS["nested, free"]), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_names_that_would_clash_are_named(tmp_path: Path) -> None:
    graph = PlateGraph(
        [Plate("draw")],
        [
            Latent("a", dist.Normal(0.0, 1.0), plates="draw"),
            Observed("y", lambda a: dist.Normal(a, 1.0), plates="draw"),
        ],
    )
    case = Case(lambda: (graph, pavi.Data({"y": np.zeros(3)})), FREE)
    with pytest.raises(DataError, match=r"plate 'draw'.*rename"):
        exported(random_posterior(case), tmp_path / "out")


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    posterior = random_posterior(MODELS["nested, free"])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="is a file"):
        exported(posterior, tmp_path / "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes").write_text("mine")
    with pytest.raises(StorageError, match="no export"):
        exported(posterior, tmp_path / "folder")
    assert (tmp_path / "folder" / "notes").read_text() == "mine"


def test_without_zarr_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(BackendError, match=r"pavi-vi\[export\]"):
        exported(random_posterior(MODELS["nested, free"]), tmp_path / "out")


# --- the grid -----------------------------------------------------------------------------------


def test_a_plate_that_an_encoder_needs_whole_is_not_parted() -> None:
    posterior = random_posterior(MODELS["crossed, encoder"])
    grid = part(posterior.plan, posterior.data, lambda sizes: 1.0, 0.0)
    # Each effect's data lie across the other plate.
    assert not grid.lengths
    posterior = random_posterior(MODELS["crossed, free"])
    grid = part(posterior.plan, posterior.data, lambda sizes: 1.0, 0.0)
    assert grid.lengths == {"row": 1, "column": 1}


@pytest.mark.parametrize("backend", ["numpyro"])
def test_a_backend_gives_what_it_samples(backend: str, tmp_path: Path) -> None:
    pytest.importorskip("numpyro")
    posterior = on_backend(random_posterior(MODELS["nested, missing"], "float32"), backend)
    store = exported(posterior, tmp_path / "out")
    assert store.attrs["cells"] > 1
    for name, draw in posterior.sample(40, seed=3).items():
        assert store[name].dtype == np.float32
        assert_allclose(store[name], draw[:7], rtol=2e-5, atol=2e-6)
        assert_allclose(store[f"{name}_mean"], draw.mean(0), rtol=2e-5, atol=2e-6)
