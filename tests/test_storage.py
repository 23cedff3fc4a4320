"""Saved runs: the same numbers on either backend, and files that nobody should trust.

Weights are random: what is stored does not depend on how they came about. Errors need no backend.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mapped_files import all_mapped, grown_by
from numpy.testing import assert_allclose, assert_array_equal
from numpy_backend import install, on_backend, random_posterior
from safetensors.numpy import load_file, save_file
from small_models import MODELS, county
from varied_models import CASES

import pavi
from pavi import (
    Data,
    Family,
    Latent,
    Observed,
    Plate,
    PlateGraph,
    Posterior,
    StorageError,
    dist,
    tensor_file,
)
from pavi.lazy import is_mapped
from pavi.lowering import lower
from pavi.schedule import History

NAME = "nested, missing"
MODEL = MODELS["county, missing"]
RUN = "run.json"


@pytest.fixture(autouse=True)
def numpy_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    history = History(
        np.array([250, 500]),
        np.array([-30.5, -21.25]),
        np.array([0.5, np.nan]),
        phase=np.array([0, 2]),
    )
    return replace(
        random_posterior(CASES[NAME], "float32"),
        history=history,
        converged=True,
        verdict="it settled",
        seconds=1.5,
    )


@pytest.fixture
def saved(posterior: Posterior, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    posterior.save(folder)
    return folder


def load(folder: Path, backend: str = "numpy") -> Posterior:
    return pavi.load(folder, *MODEL(), backend=backend)


def weights_of(folder: Path) -> Path:
    """The one file of weights in a run's folder."""
    (path,) = folder.glob("weights-*")
    return path


def storage_error(build: Callable[[], object], *parts: str) -> None:
    with pytest.raises(StorageError) as caught:
        build()
    for part in parts:
        assert part in str(caught.value), f"{part!r} is not in {caught.value}"
    assert str(caught.value).endswith("."), "a message ends with its remedy, a sentence"


def same(first: Posterior, second: Posterior) -> None:
    for mine, theirs in ((first.weights, second.weights), (first.tables, second.tables)):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert_array_equal(theirs[name], value)
            assert theirs[name].dtype == value.dtype


# --- roundtrip ----------------------------------------------------------------------------------


def test_everything_comes_back(posterior: Posterior, saved: Path) -> None:
    loaded = load(saved)
    same(posterior, loaded)
    # The graph's functions are others by now.
    assert replace(loaded.plan, graph=posterior.graph) == posterior.plan
    for mine, theirs in zip(posterior.history.parts(), loaded.history.parts(), strict=True):
        assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype
    for name in ("dtype", "converged", "verdict", "seconds", "num_weights"):
        assert getattr(loaded, name) == getattr(posterior, name)
    draws = posterior.sample(5, seed=2)
    for name, draw in loaded.sample(5, seed=2).items():
        assert_array_equal(draw, draws[name])


def test_a_posterior_of_groups_without_outcomes_comes_back(
    posterior: Posterior, tmp_path: Path
) -> None:
    graph, data = MODEL()
    y = np.full_like(data.values["y"], np.nan)
    missing = Data({**data.values, "y": y}, data.members, data.sizes)
    encoded = posterior.encode(missing)
    encoded.save(tmp_path)
    same(encoded, pavi.load(tmp_path, graph, missing, backend="numpy"))


def test_what_is_no_folder_graph_or_data(saved: Path) -> None:
    graph, data = MODEL()
    wrong: Any
    for wrong in (3, None):
        storage_error(lambda w=wrong: pavi.load(w, graph, data, backend="numpy"), f"load({wrong}")
    wrong = "graph"
    storage_error(lambda: pavi.load(saved, wrong, data, backend="numpy"), "pavi.PlateGraph", "str")
    wrong = data.values
    storage_error(lambda: pavi.load(saved, graph, wrong, backend="numpy"), "pavi.Data", "dict")
    same(load(saved), pavi.load(str(saved), graph, data, backend="numpy"))


@pytest.mark.parametrize("name", ["crossed, joint block", "nested, deep set", "simplex"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kind_of_block_comes_back(name: str, dtype: str, tmp_path: Path) -> None:
    posterior = random_posterior(CASES[name], dtype)
    posterior.save(tmp_path)
    loaded = pavi.load(tmp_path, *CASES[name].model(), backend="numpy")
    same(posterior, loaded)
    assert loaded.dtype == dtype
    assert_array_equal(
        loaded.log_prob(posterior.sample(3)), posterior.log_prob(posterior.sample(3))
    )


def test_family_batch_and_standards_come_back(tmp_path: Path) -> None:
    graph, data = county()
    bound = data.bind(graph)
    family = Family(
        hidden=3, flow="none", overrides={"effect": {"encoding": "encoder"}}, encoding_size=2
    )
    plan = lower(graph, family, bound.sizes, {"county": 2}, {"y": (0.5, 2.0), "floor": (0.0, 1.0)})
    start = random_posterior(CASES[NAME])
    weights = {
        f"{block.name}/{name}": np.full(spec.shape, 0.1, np.float32)
        for block in plan.blocks
        for name, spec in block.parameters
    }
    Posterior(plan, bound, "numpyro", weights, {}).save(tmp_path)
    loaded = pavi.load(tmp_path, graph, data, backend="numpy")
    assert loaded.plan.family == family
    assert dict(loaded.plan.batch) == {"county": 2}
    assert loaded.plan.standards == plan.standards
    assert loaded.plan.blocks == plan.blocks
    assert start.plan.blocks != plan.blocks


@pytest.fixture(scope="module")
def answers(posterior: Posterior) -> dict[str, Any]:
    """Draws, their density and the means, by NumPy."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        draws = posterior.sample(6, seed=1)
        return {"draws": draws, "log q": posterior.log_prob(draws), "mean": posterior.mean(6)}


def test_a_run_of_either_backend_loads_on_the_other(
    backend: str, posterior: Posterior, answers: dict[str, Any], tmp_path: Path
) -> None:
    # Whoever trained it, and with nobody's help but the files': the same density, the same means.
    other = {"numpyro": "tfp", "tfp": "numpyro"}[backend]
    on_backend(posterior, other).save(tmp_path)
    loaded = load(tmp_path, backend)
    assert loaded.backend == backend
    assert_allclose(loaded.log_prob(answers["draws"]), answers["log q"], rtol=1e-4)
    for name, mean in loaded.mean(6).items():
        assert_allclose(mean, answers["mean"][name], rtol=1e-4)
    # And back again
    loaded.save(tmp_path)
    same(posterior, load(tmp_path))


# --- what is on the disk ------------------------------------------------------------------------


def test_a_run_is_two_files_without_pickle(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {RUN, weights_of(saved).name}
    assert {path.name for path in saved.parent.iterdir()} == {"run"}
    json.loads((saved / RUN).read_text())
    assert load_file(weights_of(saved))
    for path in saved.iterdir():
        with pytest.raises((pickle.UnpicklingError, ValueError, KeyError, IndexError, EOFError)):
            pickle.loads(path.read_bytes())
        # As readable as any other file that the user writes
        wanted = saved.parent / "other"
        wanted.touch()
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(wanted.stat().st_mode)
        wanted.unlink()


def test_an_encoded_posterior_is_a_run_of_its_own_data(tmp_path: Path) -> None:
    graph, data = county()
    encoded = random_posterior(CASES[NAME], "float32").encode(data)
    encoded.save(tmp_path)
    loaded = pavi.load(tmp_path, graph, data, backend="numpy")
    same(encoded, loaded)
    assert_array_equal(loaded.sample(3)["effect"], encoded.sample(3)["effect"])
    storage_error(lambda: load(tmp_path), "other data")


@pytest.mark.parametrize(("limit", "encoding"), [(3, "encoder"), (4, "encoder+free")])
def test_an_encoded_posterior_keeps_what_was_settled_for_the_fit(
    limit: int, encoding: str, tmp_path: Path
) -> None:
    # 'auto' would settle on the other encoding for the new data's number of groups.
    case = CASES["poisson"]
    case = replace(case, family=replace(case.family, residual_limit=limit))
    posterior = random_posterior(case, "float32")
    assert posterior.plan.block("group").encoding == encoding
    graph, data = case.model()
    count = {"encoder": 2, "encoder+free": 7}[encoding]
    member = np.arange(9) % count
    new = Data(data.values, {"obs": {"group": member}}, {"group": count})
    encoded = posterior.encode(new)
    encoded.save(tmp_path)
    loaded = pavi.load(tmp_path, graph, new, backend="numpy")
    assert loaded.plan.block("group").encoding == encoding
    same(encoded, loaded)
    assert_array_equal(loaded.sample(3)["effect"], encoded.sample(3)["effect"])


def test_no_source_of_ours_unpickles() -> None:
    for path in Path(pavi.__file__).parent.rglob("*.py"):
        text = path.read_text()
        assert "import pickle" not in text, path
        assert "allow_pickle=True" not in text, path


def test_numbers_that_json_does_not_have_are_none_of_the_file(saved: Path) -> None:
    def unknown(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads((saved / RUN).read_text(), parse_constant=unknown)


def test_saving_makes_the_folders_above(posterior: Posterior, tmp_path: Path) -> None:
    posterior.save(tmp_path / "a" / "b" / "run")
    same(posterior, load(tmp_path / "a" / "b" / "run"))
    posterior.save(str(tmp_path / "text"))  # type: ignore[arg-type]
    same(posterior, pavi.load(str(tmp_path / "text"), *MODEL(), backend="numpy"))


def test_a_run_replaces_another_run(posterior: Posterior, saved: Path) -> None:
    doubled = {name: 2 * value for name, value in posterior.weights.items()}
    (saved / "table.txt").write_text("what a user put beside it stays")
    replace(posterior, weights=doubled, verdict="another").save(saved)
    loaded = load(saved)
    same(replace(posterior, weights=doubled), loaded)
    assert loaded.verdict == "another"
    assert (saved / "table.txt").exists()


def test_other_peoples_files_are_not_written_over(posterior: Posterior, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("three years of work")
    storage_error(lambda: posterior.save(tmp_path), str(tmp_path), "not a saved run", "new folder")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    taken = tmp_path / "thesis.tex"
    storage_error(lambda: posterior.save(taken), str(taken), "not a folder")
    assert taken.read_text() == "three years of work"


class Cut(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def cut_at(call: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes one of the calls that change the disk fail; returns the calls as they come."""
    calls: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        true = getattr(os, name)

        def run(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == call:
                raise Cut
            return true(*arguments, **options)

        return run

    for name in ("replace", "fsync", "unlink"):
        monkeypatch.setattr(os, name, counted(name))
    return calls


def test_a_save_cut_off_anywhere_leaves_the_old_run_or_the_new_one(
    posterior: Posterior, tmp_path: Path
) -> None:
    weights = {name: 2 * value for name, value in posterior.weights.items()}
    doubled = replace(posterior, weights=weights, verdict="another")
    outcomes = []
    for call in range(1, 100):
        folder = tmp_path / f"cut at {call}"
        posterior.save(folder)
        with pytest.MonkeyPatch.context() as patch:
            calls = cut_at(call, patch)
            with suppress(Cut):
                doubled.save(folder)
        loaded = load(folder)
        new = loaded.verdict == "another"
        same(doubled if new else posterior, loaded)
        outcomes.append(new)
        # Saving again mends it, and removes what was left over.
        doubled.save(folder)
        same(doubled, load(folder))
        assert {path.name for path in folder.iterdir()} == {RUN, weights_of(folder).name}
        if len(calls) < call:
            break
    assert calls == ["fsync", "replace", "fsync"] * 2 + ["unlink"]
    assert outcomes == sorted(outcomes), "once the new run is there it stays"
    assert set(outcomes) == {False, True}


def test_a_first_save_cut_off_anywhere_can_be_made_again(
    posterior: Posterior, tmp_path: Path
) -> None:
    for call in range(1, 7):
        folder = tmp_path / f"cut at {call}"
        with pytest.MonkeyPatch.context() as patch:
            cut_at(call, patch)
            with pytest.raises(Cut):
                posterior.save(folder)
        if (folder / RUN).exists():
            same(posterior, load(folder))
        else:
            storage_error(lambda folder=folder: load(folder), str(folder), "no saved run")  # type: ignore[misc]
        posterior.save(folder)
        same(posterior, load(folder))


def test_a_full_disk_is_not_filled_with_parts(
    posterior: Posterior, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = {path.name for path in saved.iterdir()}
    with pytest.raises(OSError, match="no space"):
        replace(posterior, verdict="another").save(saved)
    assert {path.name for path in saved.iterdir()} == before
    assert load(saved).verdict == "it settled"


@pytest.mark.parametrize("pieces", [0, 1, 3])
def test_a_disk_that_fills_up_while_tables_are_written(
    pieces: int, posterior: Posterior, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filling(arrays: dict[str, np.ndarray]) -> Iterator[memoryview]:
        yield from islice(parts(arrays), pieces)
        raise OSError(errno.ENOSPC, "No space left on device")

    parts = tensor_file.parts
    before = {path.name for path in saved.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(tensor_file, "parts", filling)
        with pytest.raises(OSError, match="No space"):
            replace(posterior, verdict="another").save(saved)
    assert {path.name for path in saved.iterdir()} == before
    assert load(saved).verdict == "it settled"


def test_large_tables_are_mapped(posterior: Posterior, saved: Path, tmp_path: Path) -> None:
    size = sum(table.nbytes for table in posterior.tables.values())
    loaded = pavi.load(saved, *MODEL(), backend="numpy", table_memory=size - 1)
    assert all_mapped(loaded.tables)
    assert not any(map(is_mapped, loaded.weights.values()))
    same(posterior, loaded)
    draws = posterior.sample(5, plates={"county": [3, 1]})
    for name, draw in loaded.sample(5, plates={"county": [3, 1]}).items():
        assert_array_equal(draw, draws[name])
    # Onto itself, and elsewhere
    for folder in (saved, tmp_path / "other"):
        loaded.save(folder)
        same(posterior, load(folder))
    assert not any(map(is_mapped, load(saved).tables.values()))
    with pytest.raises(pavi.PaviError, match=r"table_memory=-1.*number of bytes"):
        pavi.load(saved, *MODEL(), backend="numpy", table_memory=-1)


def test_large_tables_are_checked_as_others_are(saved: Path) -> None:
    def mapped() -> Posterior:
        return pavi.load(saved, *MODEL(), backend="numpy", table_memory=0)

    path = weights_of(saved)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    storage_error(mapped, "edited")
    path.write_bytes(content[:-100])
    storage_error(mapped, "truncated")
    path.unlink()
    storage_error(mapped, "missing")


def test_a_save_takes_little_memory_however_large_the_tables_are(tmp_path: Path) -> None:
    before = """
    from pavi import storage
    storage.write(folder / "small", {}, {"x": np.zeros(3)})
    table = filled(5_000_000, 10)
    """
    measured = """
    storage.write(folder / "run", {}, {"tables:x": table})
    _, arrays = storage.read(folder / "run", (), 1 << 20)
    assert arrays["tables:x"][4_999_999, 3] == 4_999_999
    """
    assert grown_by(tmp_path, before, measured) < 40 * 2**20
    assert weights_of(tmp_path / "run").stat().st_size > 200_000_000


def test_a_description_names_its_weights(saved: Path) -> None:
    run = json.loads((saved / RUN).read_text())["run"]
    digest = sha256(weights_of(saved).read_bytes()).hexdigest()
    assert run["weights"] == weights_of(saved).name == f"weights-{digest[:16]}.safetensors"
    # Another folder's weights are none of this run's.
    reseal(saved, lambda run: run.update(weights="../other/weights-0123456789abcdef.safetensors"))
    storage_error(lambda: load(saved), "../other", "no such file", "fit again")


def test_the_message_about_other_data_says_which(tmp_path: Path) -> None:
    graph, data = MODEL()
    random_posterior(CASES[NAME], "float32").save(tmp_path)
    # In the run's precision these are the same data.
    single = {k: v.astype(np.float32) for k, v in data.values.items()}
    assert load(tmp_path).data.sizes
    pavi.load(tmp_path, graph, Data(single, data.members, data.sizes), backend="numpy")
    moved = {**data.values, "y": data.values["y"] + 1.0}
    storage_error(
        lambda: pavi.load(tmp_path, graph, Data(moved, data.members, data.sizes), backend="numpy"),
        "other data",
        "sizes agree",
        "differ: y)",
    )


# --- files that are not what they were ----------------------------------------------------------


def test_nothing_there(saved: Path, tmp_path: Path) -> None:
    storage_error(lambda: load(tmp_path / "nowhere"), "nowhere", "no saved run", RUN)
    storage_error(lambda: load(saved / RUN), RUN, "no saved run")
    weights_of(saved).unlink()
    storage_error(lambda: load(saved), "weights-", "missing")
    (saved / RUN).unlink()
    storage_error(lambda: load(saved), RUN, "missing")


def test_truncated_weights(saved: Path) -> None:
    path = weights_of(saved)
    path.write_bytes(path.read_bytes()[:-100])
    storage_error(lambda: load(saved), "weights-", "truncated", "fit again")
    path.write_bytes(b"")
    storage_error(lambda: load(saved), "weights-", "truncated", "fit again")


def test_edited_weights(saved: Path) -> None:
    path = weights_of(saved)
    arrays = dict(load_file(path))
    name = next(iter(arrays))
    arrays[name] = arrays[name] + 1e-3
    save_file(arrays, path)
    storage_error(lambda: load(saved), "weights-", "edited", "restore")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_description(saved: Path, share: float) -> None:
    path = saved / RUN
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    storage_error(lambda: load(saved), RUN, "truncated", "fit again")


@pytest.mark.parametrize(
    "text",
    ["[]", "3", "null", '"run"', "{}", '{"run": 3}', '{"run": 3, "sha256": ""}', "\x00\x01", "NaN"],
)
def test_a_description_of_something_else(saved: Path, text: str) -> None:
    (saved / RUN).write_text(text)
    storage_error(lambda: load(saved), RUN)


def test_a_description_that_is_not_text(saved: Path) -> None:
    (saved / RUN).write_bytes(b"\xff\xfe\x00 binary")
    storage_error(lambda: load(saved), RUN, "truncated")


@pytest.mark.parametrize(
    ("key", "value"),
    [("converged", False), ("verdict", "it is fine"), ("dtype", "float64"), ("batch", {"home": 3})],
)
def test_edited_description(saved: Path, key: str, value: Any) -> None:
    path = saved / RUN
    sealed = json.loads(path.read_text())
    sealed["run"][key] = value
    path.write_text(json.dumps(sealed))
    storage_error(lambda: load(saved), RUN, "edited", "fit again")


def test_reformatting_a_description_is_no_edit(posterior: Posterior, saved: Path) -> None:
    path = saved / RUN
    path.write_text(json.dumps(json.loads(path.read_text())))
    same(posterior, load(saved))


def reseal(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edits a description as another version of pavi might have written it, with its seal."""
    path = folder / RUN
    run = json.loads(path.read_text())["run"]
    change(run)
    seal = sha256(json.dumps(run, indent=1, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"run": run, "sha256": seal}))


def test_another_version_of_the_format(saved: Path) -> None:
    reseal(saved, lambda run: run.update(format=99))
    storage_error(lambda: load(saved), "format 99", "reads format 5")


def test_a_family_that_this_version_does_not_have(saved: Path) -> None:
    reseal(saved, lambda run: run["family"].update(colour="red"))
    storage_error(lambda: load(saved), "another version", "fit again")


def test_a_description_that_lacks_something(saved: Path) -> None:
    reseal(saved, lambda run: run.pop("standards"))
    storage_error(lambda: load(saved), "'standards'", "another version", "fit again")


@pytest.mark.parametrize("part", ["weights:", "tables:"])
@pytest.mark.parametrize("change", ["gone", "longer", "extra"])
def test_weights_of_another_family(saved: Path, part: str, change: str) -> None:
    path = weights_of(saved)
    arrays = dict(load_file(path))
    name = next(name for name in arrays if name.startswith(part))
    if change == "gone":
        del arrays[name]
    elif change == "longer":
        arrays[name] = np.concatenate([arrays[name], arrays[name]])
    else:
        arrays[f"{part}other"] = arrays[name]
    save_file(arrays, path)
    digest = sha256(path.read_bytes()).hexdigest()
    reseal(saved, lambda run: run.update(weights_sha256=digest))
    storage_error(lambda: load(saved), "do not fit the family", "fit again")


def test_arrays_that_are_neither_weights_nor_tables(saved: Path) -> None:
    save_file({"nonsense": np.zeros(3, np.float32)}, weights_of(saved))
    digest = sha256(weights_of(saved).read_bytes()).hexdigest()
    reseal(saved, lambda run: run.update(weights_sha256=digest))
    storage_error(lambda: load(saved), "do not fit the family")


def test_weights_that_are_no_safetensors(saved: Path) -> None:
    weights_of(saved).write_bytes(b"not a tensor at all")
    digest = sha256(weights_of(saved).read_bytes()).hexdigest()
    reseal(saved, lambda run: run.update(weights_sha256=digest))
    storage_error(lambda: load(saved), "weights-", "cannot be read")


# --- the right run for something else -----------------------------------------------------------


def test_another_graph(saved: Path) -> None:
    graph = PlateGraph(
        [Plate("row")],
        [
            Latent("level", dist.Normal(0.0, 1.0)),
            Observed("z", lambda level: dist.Normal(level, 1.0), plates="row"),
        ],
    )
    data = Data({"z": np.zeros(3)})
    storage_error(
        lambda: pavi.load(saved, graph, data, backend="numpy"),
        "another graph",
        "effect",
        "level",
        "Load it with the graph it was fitted with",
    )


def test_the_same_names_with_another_prior(saved: Path) -> None:
    _, data = MODEL()
    other, _ = county()
    variables = [
        Latent("mu", dist.StudentT(3.0, 0.0, 2.0)) if variable.name == "mu" else variable
        for variable in other.variables.values()
    ]
    graph = PlateGraph(list(other.plates.values()), variables)
    storage_error(lambda: pavi.load(saved, graph, data, backend="numpy"), "another graph")


@pytest.mark.parametrize("change", ["value", "missing", "membership", "covariate", "size"])
def test_other_data(saved: Path, change: str) -> None:
    graph, data = MODEL()
    values = {name: value.copy() for name, value in data.values.items()}
    member, size = data.members["home"]["county"].copy(), data.sizes["county"]
    if change == "value":
        values["y"][4] += 1e-6  # beyond the run's precision nothing differs
    elif change == "missing":
        values["y"][4] = np.nan
    elif change == "membership":
        member[:2] = member[1], (member[0] + 1) % 5
    elif change == "covariate":
        values["floor"][0] += 1.0
    else:
        size = 6
    other = Data(values, {"home": {"county": member}}, {"county": size})
    storage_error(
        lambda: pavi.load(saved, graph, other, backend="numpy"),
        "other data",
        {
            "value": "differ: y)",
            "missing": "y",
            "membership": "members of home in county)",
            "covariate": "differ: floor)",
            "size": "'county': (5, 6)",
        }[change],
        "encode",
    )


def test_an_unknown_backend(saved: Path) -> None:
    with pytest.raises(pavi.BackendError, match=r"'torch'.*numpyro, tfp"):
        load(saved, "torch")
