"""A forecast before the run: what is counted is right, and what cannot fit is refused."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from small_models import MODELS

import pavi
from pavi import Family, Latent, Observed, PaviError, Plate, PlateGraph, dist, forecast
from pavi.tables import TableStore, fitted_bytes


def trainer(**options: object) -> pavi.Trainer:
    return pavi.Trainer(*MODELS["county"](), backend=None, **options)  # type: ignore[arg-type]


def test_tables_are_counted_to_the_byte() -> None:
    own = trainer(family=Family(encoding="free"))
    found = own.forecast(probe=False)
    packed = TableStore(own.plan, "float32").packed.values()
    assert found.table_bytes == sum(table.nbytes for table in packed) > 0
    assert found.latents == own.plan.num_latents
    assert found.weights == own.plan.num_weights
    assert found.data_bytes == sum(value.nbytes for value in own.data.values.values())


def test_a_smaller_batch_takes_a_smaller_step() -> None:
    whole, part = (trainer(batch=batch).forecast(probe=False) for batch in (None, {"county": 1}))
    assert part.step_bytes < whole.step_bytes
    more = trainer(num_particles=16).forecast(probe=False)
    assert more.step_bytes == 2 * trainer(num_particles=8).forecast(probe=False).step_bytes


def test_what_cannot_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = trainer().forecast(probe=False)
    replace(found, available_bytes=found.host_bytes).check()
    replace(found, available_bytes=None).check()
    with pytest.raises(PaviError, match=r"needs about .* of memory.*batch="):
        replace(found, available_bytes=found.host_bytes - 1).check()
    monkeypatch.setattr(forecast, "_available", lambda: 10)
    with pytest.raises(PaviError, match="10 bytes are free"):
        trainer().forecast(probe=False)


def test_tables_in_files_take_disk_instead_of_memory() -> None:
    family, batch = Family(encoding="free"), {"county": 1}
    memory = trainer(family=family, batch=batch).forecast(probe=False)
    files = trainer(family=family, batch=batch, table_memory=0).forecast(probe=False)
    assert (memory.file_bytes, memory.row_bytes) == (0, 0)
    assert memory.host_bytes == 2 * memory.table_bytes + memory.step_bytes
    assert "in the host's memory" in str(memory)
    plan = trainer(family=family).plan
    assert files.table_bytes == memory.table_bytes
    assert files.file_bytes == files.table_bytes + fitted_bytes(plan, "float32")
    assert files.host_bytes == files.row_bytes + files.step_bytes
    assert "in files" in str(files)
    assert "of disk" in str(files)
    with pytest.raises(PaviError, match="table_memory=0"):
        replace(memory, available_bytes=10).check()
    with pytest.raises(PaviError, match=r"or Family\(encoding") as caught:
        replace(files, available_bytes=10).check()
    assert "table_memory" not in str(caught.value)


def test_rows_in_memory_depend_on_the_batch_and_not_on_the_tables() -> None:
    def rows(groups: int, batch: int) -> int:
        graph = PlateGraph(
            [Plate("group")],
            [
                Latent("effect", dist.Normal(0.0, 1.0), plates="group"),
                Observed("y", lambda effect: dist.Normal(effect, 1.0), plates="group"),
            ],
        )
        own = pavi.Trainer(
            graph,
            pavi.Data({"y": np.zeros(groups)}),
            backend=None,
            family=Family(encoding="free"),
            batch={"group": batch},
            table_memory=0,
        )
        return own.forecast(probe=False).row_bytes

    assert rows(100_000, 10) == rows(200_000, 10) > rows(200_000, 5)
    assert rows(1000, 10) < rows(100_000, 10)


def test_a_probe_tells_time_and_memory(backend: str) -> None:
    found = pavi.fit(*MODELS["county"](), backend=backend, steps=4000, dry_run=True)
    assert isinstance(found, forecast.Forecast)
    assert found.seconds_per_step is not None
    assert found.seconds is not None
    assert 0 < found.seconds_per_step < 1
    assert found.seconds >= 4000 * found.seconds_per_step
    assert found.peak_bytes is None or found.peak_bytes > 2**24
    assert (found.program_bytes is not None) == (backend == "numpyro")
    text = str(found)
    for words in ("latents", "weights", "tables", "step time", "expected time", "4,000 steps"):
        assert words in text
    # The arrays that go in are the least that the program needs.
    if found.program_bytes is not None:
        assert found.program_bytes > 4 * prod(np.shape(MODELS["county"]()[1].values["y"]))
