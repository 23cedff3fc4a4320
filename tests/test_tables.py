"""Row-wise Adam: a row moves when it is drawn and sleeps otherwise; padding has its own row."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from grounded import Setup
from mapped_files import all_mapped, mapped_in
from numpy.testing import assert_array_equal
from small_models import bound, rng
from varied_models import CASES, problem

from pavi import Family, PaviError, mapped
from pavi.byte_sizes import readable
from pavi.subsampling import Sampler, Selection, full_batch, gather
from pavi.tables import (
    EPSILON,
    FIRST_DECAY,
    SECOND_DECAY,
    TABLE_MEMORY,
    Table,
    TableSpace,
    TableStore,
    fitted_bytes,
    moved_rows,
    packed_bytes,
    table_rows,
)

# Two blocks whose rows take steps of either kind.
ADAM = Setup(bound("county"), Family(encoding="free")).plan, "county"
SITE = problem(CASES["mixture, sites"]).plan, "subject"


def textbook(value: np.ndarray, gradients: list[np.ndarray], rate: float) -> np.ndarray:
    """Adam (Kingma & Ba 2015, algorithm 1), one step for each gradient."""
    m = v = np.zeros_like(value)
    for t, g in enumerate(gradients, start=1):
        m = FIRST_DECAY * m + (1 - FIRST_DECAY) * g
        v = SECOND_DECAY * v + (1 - SECOND_DECAY) * g**2
        m_hat, v_hat = m / (1 - FIRST_DECAY**t), v / (1 - SECOND_DECAY**t)
        value = value - rate * m_hat / (np.sqrt(v_hat) + EPSILON)
    return value


def new_table(value: np.ndarray) -> Table:
    """A table at rest."""
    never = np.zeros((len(value), 1))
    still = np.zeros_like(value)
    return Table(value, still, still.copy(), never, value.copy(), never.copy())


def rows_of(table: Table, places: np.ndarray) -> Table:
    return Table(*(part[places] for part in table))


def written(table: Table, places: np.ndarray, rows: Table) -> Table:
    out = Table(*(part.copy() for part in table))
    for part, row in zip(out, rows, strict=True):
        part[places] = row
    return out


def test_a_row_that_is_drawn_at_every_step_has_adams_steps() -> None:
    value = rng(0).normal(size=(4, 3))
    gradients = list(rng(1).normal(size=(25, 4, 3)))
    table = new_table(value)
    for gradient in gradients:
        table = moved_rows(*ADAM, table, gradient, 0.01)
    np.testing.assert_allclose(table.value, textbook(value, gradients, 0.01), rtol=1e-10)
    np.testing.assert_array_equal(table.count, np.full((4, 1), 25.0))


def test_a_row_sleeps_while_it_is_not_drawn() -> None:
    """Its moments are those of the gradients it has had, however long it slept in between."""
    value = rng(2).normal(size=(6, 2))
    table, random = new_table(value), rng(3)
    had: dict[int, list[np.ndarray]] = {row: [] for row in range(6)}
    for _ in range(40):
        places = random.permutation(5)[:2]  # the last row is never drawn
        gradient = random.normal(size=(2, 2))
        table = written(table, places, moved_rows(*ADAM, rows_of(table, places), gradient, 0.05))
        for place, g in zip(places, gradient, strict=True):
            had[place].append(g)
    for row, gradients in had.items():
        expected = textbook(value[row], gradients, 0.05)
        np.testing.assert_allclose(table.value[row], expected, rtol=1e-10)
        assert table.count[row, 0] == len(gradients)
    np.testing.assert_array_equal(table.value[5], value[5])


def test_the_first_step_has_the_length_of_the_rate() -> None:
    """Whatever the gradient's scale, and however late a row is drawn for the first time."""
    for scale in (1e-4, 1.0, 1e6):
        rows = moved_rows(*ADAM, new_table(np.zeros((1, 2))), scale * np.array([[1.0, -3.0]]), 0.1)
        np.testing.assert_allclose(rows.value, [[-0.1, 0.1]], rtol=1e-3)


def test_sites_become_the_mean_of_what_their_batches_say() -> None:
    """Their gradient is what they are less what the batch says of them; whatever the rate."""
    said = np.abs(rng(4).normal(size=(400, 3, 4))) + 0.1
    rows = new_table(np.zeros((3, 4)))
    for one in said:
        own = np.concatenate([rows.value[:, :2], -0.5 * rows.value[:, 2:]], 1)
        batch = np.concatenate([one[:, :2], -0.5 * one[:, 2:]], 1)
        rows = moved_rows(*SITE, rows, own - batch, 0.01)
    # Steps of n^-3/4 leave the noise of some n^3/4 of the last batches.
    error = said.std(axis=0) / np.sqrt(400**0.75)
    assert np.all(np.abs(rows.value - said.mean(axis=0)) < 4.0 * error)
    np.testing.assert_array_equal(rows.count, np.full((3, 1), 400.0))


def test_no_step_takes_a_sites_precision_away() -> None:
    """It is shortened as a whole, so that the place that shift and precision give moves along."""
    rows = new_table(np.array([[1.0, 2.0, 0.5, 0.0]]))
    gradient = np.array([[3.0, 3.0, -1e6, -1e6]])
    moved = moved_rows(*SITE, rows, gradient, 0.01).value
    assert moved[0, 2] == 0.25
    np.testing.assert_allclose(moved[0, :2], [1.0, 2.0], atol=1e-6)
    assert moved[0, 3] == 0.0


def test_sites_rest_where_the_rate_is_zero() -> None:
    rows = new_table(np.ones((2, 4)))
    np.testing.assert_array_equal(moved_rows(*SITE, rows, np.ones((2, 4)), 0.0).value, rows.value)


def test_a_store_gives_the_rows_it_was_given() -> None:
    """At rest at first; what is put where it was taken leaves the other rows alone."""
    plan = Setup(bound("county"), Family(encoding="free")).plan
    store = TableStore(plan, "float32")
    rows = np.array([3, 0, 5])
    start = store.take("county", rows)
    assert {part.dtype.name for part in start} == {"float32"}
    assert not any(part.any() for part in start)
    put = Table(
        *(rng(i).uniform(1.0, 2.0, part.shape).astype("f4") for i, part in enumerate(start))
    )
    store.put("county", rows, put)
    for mine, theirs in zip(store.take("county", rows), put, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not any(part.any() for part in store.take("county", np.array([1, 2, 4])))
    whole = store.take("county", None)
    assert len(whole.value) == 5
    store.put("county", None, Table(*(part + 1.0 for part in whole)))
    np.testing.assert_array_equal(store.values(averaged=False)["county"][0], put.value[1] + 1.0)
    np.testing.assert_array_equal(store.values(averaged=True)["county"][0], put.average[1] + 1.0)


@pytest.mark.parametrize(
    ("model", "block", "batch"),
    [
        ("county", "county", {"county": 3}),
        ("crossed, own effects, dense", "row,column", {"row": 1, "column": 2}),
        ("crossed, own effects", "cell", {"row": 1}),
        ("three levels, additive", "cask", {"batch": 2}),
    ],
)
def test_table_rows_are_those_of_the_batchs_elements(
    model: str, block: str, batch: dict[str, int]
) -> None:
    """In the order of the axes, ravelled; a row that is padding in any plate is the last one."""
    data = bound(model)
    setup = Setup(data, Family(encoding="free"), batch)
    plates = setup.plan.block(block).plates
    sizes = [data.sizes[p] for p in plates]
    place = np.arange(np.prod(sizes)).reshape(sizes)
    full = full_batch(data, "float64")
    np.testing.assert_array_equal(table_rows(setup.plan, block, full), place.ravel())
    drawn = Sampler(data, batch, "float64").draw(4, 10)
    padding = 0
    for i in range(10):
        small = gather(
            data.graph, full, Selection(*({k: v[i] for k, v in part.items()} for part in drawn))
        )
        rows = table_rows(setup.plan, block, small).reshape([len(small.indices[p]) for p in plates])
        for at in np.ndindex(rows.shape):
            element = tuple(small.indices[p][j] for p, j in zip(plates, at, strict=True))
            if any(e >= n for e, n in zip(element, sizes, strict=True)):
                padding += 1
                assert rows[at] == np.prod(sizes)
            else:
                assert rows[at] == place[element]
    assert padding > 0 or block in ("county", "row,column")


def test_every_block_with_a_table_has_plates() -> None:
    """A block of one copy has no row beside its own weights."""
    for model in ("crossed, rows", "crossed, dense", "three levels, centred"):
        for encoding in ("auto", "free", "encoder", "encoder+free"):
            plan = Setup(bound(model), Family(encoding=encoding)).plan
            for block in plan.blocks:
                assert bool(block.axes) or block.table_width == 0


def test_the_average_of_a_row_is_that_of_its_own_iterates() -> None:
    table, random = new_table(rng(4).normal(size=(4, 2))), rng(5)
    iterates: dict[int, list[np.ndarray]] = {row: [] for row in range(4)}
    for step in range(30):
        # The last row sleeps, the one before it wakes up once the others are averaged already.
        places = random.permutation(2 if step < 20 else 3)[:2]
        gradient, averaging = random.normal(size=(2, 2)), max(0.0, step - 9.0)
        rows = moved_rows(*ADAM, rows_of(table, places), gradient, 0.05, averaging)
        table = written(table, places, rows)
        for place, value in zip(places, rows.value, strict=True):
            if averaging > 0:
                iterates[place].append(value)
    store = TableStore(Setup(bound("county"), Family(encoding="free")).plan, "float64")
    width = store.take("county", np.arange(1)).value.shape[1]
    spread = [np.repeat(part[:, :1], width if part.shape[1] > 1 else 1, 1) for part in table]
    store.put("county", np.arange(4), Table(*spread))
    found = store.values(averaged=True)["county"][:, :1]
    for row in range(3):
        np.testing.assert_allclose(found[row], np.mean(iterates[row], axis=0)[:1], rtol=1e-10)
    assert not iterates[3]
    np.testing.assert_array_equal(found[3], table.value[3, :1])


# --- in files -----------------------------------------------------------------------------------

PLAN = Setup(bound("county"), Family(encoding="free")).plan


def used(store: TableStore) -> TableStore:
    """A store after rows were taken and put, two of them never averaged."""
    random = rng(6)
    for rows in (np.array([0, 3, 5]), np.array([1, 3, 2, 5]), None):
        taken = store.take("county", rows)
        drawn = [random.normal(size=part.shape).astype(part.dtype) for part in taken]
        drawn[-1] = np.arange(len(drawn[-1]))[:, None] // 2
        store.put("county", rows, Table(*(a + b for a, b in zip(taken, drawn, strict=True))))
    return store


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_store_in_files_is_one_in_memory(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "PART_BYTES", 100)
    memory = used(TableStore(PLAN, dtype))
    files = used(TableStore(PLAN, dtype, TableSpace(0, tmp_path)))
    assert all_mapped(files.packed)
    assert not all_mapped(memory.packed)
    assert sum(table.nbytes for table in files.packed.values()) == packed_bytes(PLAN, dtype)
    for averaged in (True, False, True):
        mine, theirs = files.values(averaged=averaged), memory.values(averaged=averaged)
        assert all_mapped(mine)
        assert_array_equal(mine["county"], theirs["county"])
        assert mine["county"].dtype == theirs["county"].dtype
        assert sum(table.nbytes for table in mine.values()) == fitted_bytes(PLAN, dtype)
    for source, target in ((files, TableStore(PLAN, dtype)), (memory, files)):
        target.restore({name: packed.copy() for name, packed in source.packed.items()})
        assert_array_equal(target.packed["county"], memory.packed["county"])


def test_what_was_read_out_stays_as_it_was(tmp_path: Path) -> None:
    store = used(TableStore(PLAN, "float32", TableSpace(0, tmp_path)))
    first = store.values(averaged=False)["county"]
    kept = first.copy()
    used(store)
    assert not np.array_equal(store.values(averaged=False)["county"], kept)
    assert_array_equal(first, kept)


def test_files_have_no_names_and_are_gone_with_the_store(tmp_path: Path) -> None:
    store = used(TableStore(PLAN, "float32", TableSpace(0, tmp_path)))
    assert list(tmp_path.iterdir()) == []
    fitted = store.values(averaged=True)
    assert mapped_in(tmp_path) == 2
    del store
    assert mapped_in(tmp_path) == 1
    del fitted
    assert mapped_in(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_tables_are_in_files_beyond_the_memory_they_may_take(tmp_path: Path) -> None:
    size = packed_bytes(PLAN, "float32")
    assert TableSpace(size, tmp_path).folder_of(PLAN, "float32") is None
    assert TableSpace(size - 1, tmp_path).folder_of(PLAN, "float32") == tmp_path
    assert TableSpace(size, tmp_path).folder_of(PLAN, "float64") == tmp_path
    # A folder that is to be made lies on the disk of the one above it.
    assert TableSpace(0, tmp_path / "a" / "b").folder_of(PLAN, "float32") == tmp_path
    assert TableSpace(0).folder_of(PLAN, "float32") == Path(tempfile.gettempdir())
    assert TableSpace().folder_of(PLAN, "float32") is None
    assert TableSpace().memory == TABLE_MEMORY
    whole = Setup(bound("county"), Family(encoding="encoder")).plan
    assert TableSpace(0, tmp_path).folder_of(whole, "float32") is None


@pytest.mark.parametrize("memory", [-1, 1.5, 4e9, True, "4 GiB", None])
def test_a_memory_that_is_no_number_of_bytes(memory: object) -> None:
    with pytest.raises(PaviError, match=r"table_memory=.*number of bytes"):
        TableSpace(memory)  # type: ignore[arg-type]


def test_a_disk_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    needed = packed_bytes(PLAN, "float32") + fitted_bytes(PLAN, "float32")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(needed))
    TableStore(PLAN, "float32", TableSpace(0, tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(needed - 1))
    with pytest.raises(PaviError, match="table_memory=0 bytes, and files of") as caught:
        TableStore(PLAN, "float32", TableSpace(0, tmp_path))
    for words in (str(tmp_path), f"{readable(needed - 1)} are free", "TMPDIR", "table_memory, to"):
        assert words in str(caught.value)
    TableStore(PLAN, "float32")


def test_a_folder_that_takes_no_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(PaviError, match=r"Disk quota exceeded.*Make room") as caught:
        TableStore(PLAN, "float32", TableSpace(0, tmp_path))
    assert str(tmp_path) in str(caught.value)
