"""A run hands every row on to the call that sees it next, wherever it is on its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mapped_files import all_mapped, mapped_in

import pavi
from pavi import Data, Family, Latent, Observed, Plate, PlateGraph, dist, feed, mapped, storage
from pavi.backends.base import Rates
from pavi.run import Run
from pavi.schedule import CHUNK
from pavi.tables import Table, TableSpace


class Counting:
    """A program whose steps add 1 to every row that they see, and that counts how often it did."""

    name = "counting"

    def __init__(self, groups: int) -> None:
        self.seen = np.zeros(groups, int)
        self.calls = 0

    def initialise(self, *_: Any) -> None:
        pass

    def rebase(self, _: Any) -> None:
        pass

    def weights(self, *, averaged: bool) -> dict[str, np.ndarray]:
        return {}

    def state(self) -> dict[str, np.ndarray]:
        return {"seen": self.seen.copy()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.seen = state["seen"].copy()

    def run(
        self, call: Any, tables: dict[str, Table], rates: Rates, *, path: bool, steps: int
    ) -> tuple[np.ndarray, dict[str, Table]]:
        self.calls += 1
        out = {name: Table(*(part.copy() for part in table)) for name, table in tables.items()}
        for step in range(steps):
            if call is None:
                self.seen += 1
                out["group"].value[:] += 1
                continue
            self.seen[call.batch.indices["group"][step]] += 1
            out["group"].value[call.places["group"][step]] += 1
        return np.zeros(steps), out


def trainer(groups: int, batch: int | None) -> pavi.Trainer:
    graph = PlateGraph(
        [Plate("group")],
        [
            Latent("mean", dist.Normal(0.0, 1.0)),
            Latent("effect", lambda mean: dist.Normal(mean, 1.0), plates="group"),
            Observed("y", lambda effect: dist.Normal(effect, 1.0), plates="group"),
        ],
    )
    return pavi.Trainer(
        graph,
        Data({"y": np.zeros(groups)}),
        backend=None,
        family=Family(encoding="free"),
        batch={"group": batch} if batch else None,
    )


def run_of(own: pavi.Trainer, program: Counting, space: TableSpace | None = None) -> Run:
    parts = (own.plan, own.data, program, own._sampler, own._settings)
    return Run(*parts, 0.01, 0, 10**6, space)  # type: ignore[arg-type]


@pytest.mark.parametrize("small_calls", [False, True])
@pytest.mark.parametrize(("groups", "batch"), [(12, None), (12, 5), (1000, 3), (40_000, 7)])
def test_every_row_has_as_many_updates_as_it_was_drawn(
    groups: int, batch: int | None, small_calls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small_calls:
        monkeypatch.setattr(feed, "CALL_BYTES", 4000)
    own, program = trainer(groups, batch), Counting(groups)
    run = run_of(own, program)
    for _ in range(3):
        run.advance()
    _, tables = run.fitted(averaged=False)
    run.close()
    assert program.seen.sum() == 3 * CHUNK * (batch or groups)
    assert (program.calls > 3) == (small_calls and batch is not None)
    np.testing.assert_array_equal(tables["group"][:-1, 0], program.seen)


@pytest.mark.parametrize("batch", [None, 5])
def test_a_run_goes_on_where_it_was_kept(batch: int | None) -> None:
    own, program = trainer(3000, batch), Counting(3000)
    run = run_of(own, program)
    run.advance()
    description, arrays = run.state()
    arrays = {name: array.copy() for name, array in arrays.items()}
    run.advance()
    run.advance()
    whole = run.fitted(averaged=False)[1]["group"]
    run.close()
    other = run_of(own, Counting(3000))
    other.restore(description, arrays)
    other.advance()
    other.advance()
    np.testing.assert_array_equal(other.fitted(averaged=False)[1]["group"], whole)
    np.testing.assert_array_equal(other.state()[1]["program:seen"], program.seen)
    for name in ("history:step", "history:elbo", "movement:000", "movement:001"):
        np.testing.assert_array_equal(other.state()[1][name], run.state()[1][name])
    other.close()


def test_a_run_pauses_between_two_calls_and_goes_on_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the same process, or in another one from what was kept."""
    monkeypatch.setattr(feed, "CALL_BYTES", 4000)
    own = trainer(3000, 5)
    whole = run_of(own, Counting(3000))
    for _ in range(2):
        assert whole.advance() == CHUNK
    paused, pauses = run_of(own, Counting(3000)), 0
    while len(paused.history.step) < 2:
        if paused.advance(lambda: True):
            continue
        pauses += 1
        assert not paused.finished
        if pauses % 3 == 0:
            kept = paused.state()
            arrays = {name: array.copy() for name, array in kept[1].items()}
            assert paused.taken % CHUNK != 0
            paused.close()
            paused = run_of(own, Counting(3000))
            paused.restore(kept[0], arrays)
            assert paused.taken % CHUNK != 0
    assert pauses > 6
    np.testing.assert_array_equal(paused.history.elbo, whole.history.elbo)
    np.testing.assert_array_equal(paused.history.step, whole.history.step)
    tables = (run.fitted(averaged=False)[1]["group"] for run in (paused, whole))
    np.testing.assert_array_equal(next(tables), next(tables))
    for name in ("movement:000", "movement:001"):
        np.testing.assert_array_equal(paused.state()[1][name], whole.state()[1][name])
    paused.close()
    whole.close()


@pytest.mark.parametrize("batch", [None, 5])
def test_a_run_in_files_is_one_in_memory(
    batch: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it goes on from a checkpoint of either kind; it leaves nothing behind."""
    monkeypatch.setattr(mapped, "PART_BYTES", 5000)
    own, files = trainer(3000, batch), TableSpace(0, tmp_path / "files")
    (tmp_path / "files").mkdir()
    memory = run_of(own, Counting(3000))
    for _ in range(3):
        memory.advance()
    wanted = memory.fitted(averaged=False)[1]["group"]
    memory.close()
    first = run_of(own, Counting(3000), files)
    first.advance()
    storage.write(tmp_path / "kept", *first.state())
    for space in (files, None):
        second = run_of(own, Counting(3000), space)
        keys = ("calls", "schedule")
        second.restore(*storage.read(tmp_path / "kept", keys, 10**9 if space else 0))
        for run in (second,) if space is None else (second, first):
            run.advance()
            run.advance()
            tables = run.fitted(averaged=False)[1]
            assert all_mapped(tables) == (run is first or space is files)
            np.testing.assert_array_equal(tables["group"], wanted)
            run.close()
    assert mapped_in(tmp_path / "files") > 0
    del first, second, run, tables
    assert mapped_in(tmp_path) == 0
    assert list((tmp_path / "files").iterdir()) == []
