"""Compiled training on both backends: random bits, Adam's steps, sleeping rows, the average."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from varied_models import CASES, Case, Problem, problem

from pavi.backends.base import Arrays, Program, Rates, Settings, get_adapter
from pavi.batch import Batch
from pavi.feed import Call, Drawn, Feed
from pavi.subsampling import Sampler
from pavi.tables import TableStore

STEPS = 4
RATE = 1e-3
CASE = CASES["nested, missing"]


class Training:
    """A program and its tables, driven as the trainer drives them."""

    def __init__(self, p: Problem, backend: str, settings: Settings, batch: Any = None) -> None:
        self.p, self._tables = p, TableStore(p.plan, settings.dtype)
        sampler = Sampler(p.bound, batch, settings.dtype) if batch else None
        self.feed = Feed(p.plan, p.bound, sampler, settings.dtype)
        self.program: Program = get_adapter(backend).program(p.plan, settings)

    def initialise(self, weights: Arrays, tables: Arrays, seed: int) -> None:
        self.program.initialise(self.feed.resident, weights, seed)
        for name, packed in self._tables.packed.items():
            width = tables[name].shape[1]
            packed[:] = 0.0
            packed[:, :width] = packed[:, 3 * width + 1 : 4 * width + 1] = tables[name]

    def drawn(self, steps: int = STEPS, seed: int = 0) -> Drawn:
        return self.feed.draw(seed, steps)

    def run(self, drawn: Drawn, rates: Rates, path: bool = True) -> np.ndarray:
        call, rows = drawn
        given = {name: self._tables.take(name, index) for name, index in rows.items()}
        elbo, moved = self.program.run(call, given, rates, path=path)
        for name, index in rows.items():
            self._tables.put(name, index, moved[name])
        return elbo

    def state(self) -> tuple[Arrays, Arrays, Arrays]:
        weights = self.program.weights(averaged=False)
        return weights, self._tables.values(averaged=False), self.program.weights(averaged=True)


def rates(learning: float = RATE, averaging: float = 0.0, refine: float = 1.0) -> Rates:
    return Rates(*(np.full(STEPS, rate) for rate in (learning, averaging, refine)))


def one_step() -> Rates:
    """The first step alone moves."""
    first = np.where(np.arange(STEPS) == 0, RATE, 0.0)
    return rates()._replace(learning=first)


@cache
def compiled(backend: str, dtype: str = "float32") -> Training:
    """Two counties out of five at each step."""
    settings = Settings(num_particles=2, gradient="path", dtype=dtype)
    return Training(problem(CASE, dtype), backend, settings, {"county": 2})


def fresh(backend: str, seed: int = 0) -> tuple[Problem, Training]:
    training = compiled(backend)
    training.initialise(training.p.weights, training.p.tables, seed)
    return training.p, training


def assert_same(first: Any, second: Any) -> None:
    for mine, theirs in zip(first, second, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert_array_equal(theirs[name], value, err_msg=name)


def test_run_comes_after_initialise(backend: str) -> None:
    p = problem(CASE, "float32")
    program = get_adapter(backend).program(p.plan, Settings(1, "path", "float32"))
    with pytest.raises(RuntimeError, match="initialise"):
        program.run(None, {}, rates(), path=True)
    with pytest.raises(RuntimeError, match="initialise"):
        program.weights(averaged=True)
    with pytest.raises(RuntimeError, match="initialise"):
        program.rebase(dict)


def test_weights_go_in_and_come_out(backend: str) -> None:
    p, training = fresh(backend)
    weights, tables, average = training.state()
    assert_same((weights, tables, average), (p.weights, p.tables, p.weights))
    assert {w.dtype.name for w in weights.values()} == {"float32"}


def test_same_seed_same_bits(backend: str) -> None:
    ends = []
    for seed in (3, 3, 4):
        _, training = fresh(backend, seed)
        elbo = np.concatenate([training.run(training.drawn(seed=i), rates()) for i in range(2)])
        assert elbo.dtype == np.float64
        assert len(np.unique(elbo)) == 2 * STEPS
        ends.append((elbo, training.state()))
    assert_array_equal(ends[0][0], ends[1][0])
    assert_same(ends[0][1], ends[1][1])
    assert (ends[0][0] != ends[2][0]).all()


def test_noise_is_new_at_every_step(backend: str) -> None:
    _, training = fresh(backend)
    before = training.state()
    # The same rows at every step of both calls: only the noise differs.
    call, rows = training.drawn()
    assert call is not None
    batch = ({k: np.repeat(v[:1], STEPS, 0) for k, v in part.items()} for part in call.batch)
    places = {k: np.repeat(v[:1], STEPS, 0) for k, v in call.places.items()}
    same = Drawn(Call(Batch(*batch), places), rows)
    elbos = [training.run(same, rates(learning=0.0)) for _ in range(2)]
    assert len(np.unique(elbos)) == 2 * STEPS
    after = training.state()
    assert_same(before[:1], after[:1])


def test_first_step_is_adams_and_other_rows_sleep(backend: str) -> None:
    p, training = fresh(backend)
    drawn_rows = training.drawn()
    training.run(drawn_rows, one_step())
    weights, tables, average = training.state()
    # Adam's first step has the length of the rate, wherever there is a gradient.
    moved = np.concatenate([np.ravel(weights[n] - p.weights[n]) for n in weights])
    assert_allclose(np.abs(moved[moved != 0]), RATE, rtol=2e-2)
    assert (moved != 0).mean() > 0.5
    assert_same((average,), (p.weights,))
    change = tables["county"] - p.tables["county"]
    drawn = np.isin(np.arange(len(change)), drawn_rows.call.batch.indices["county"][0])
    assert not change[~drawn].any()
    assert_allclose(np.abs(change[drawn]), RATE, rtol=2e-2)


def test_rows_sleep_until_they_are_drawn(backend: str) -> None:
    p, training = fresh(backend)
    drawn_rows = training.drawn()
    training.run(drawn_rows, rates())
    change = training.state()[1]["county"] - p.tables["county"]
    ever = np.isin(np.arange(len(change)), drawn_rows.call.batch.indices["county"])
    assert not ever.all()
    assert not change[~ever].any()
    assert change[ever].any(axis=-1).all()


def test_refining_weights_are_held_until_they_are_wanted(backend: str) -> None:
    p, training = fresh(backend)
    held = p.plan.refining
    # Of this plan: the row of each county, and the affine that corrects its encoding.
    assert "county" in held
    assert "globals/flow/loc" not in held
    for refine in (0.0, 1.0):
        before = training.state()
        training.run(training.drawn(), rates(refine=refine))
        after = training.state()
        for mine, theirs in zip(before[:2], after[:2], strict=True):
            for name, value in mine.items():
                fixed = name.rpartition("/")[2].startswith("reference")
                moves = not fixed and (name not in held or refine == 1.0)
                assert (theirs[name] != value).any() == moves, name


def test_average_follows_the_weights(backend: str) -> None:
    _, training = fresh(backend)
    training.run(training.drawn(), rates(averaging=1.0))
    weights, _, average = training.state()
    for name, value in weights.items():
        assert_allclose(average[name], value, rtol=1e-5, atol=1e-7)
    training.run(training.drawn(), rates(averaging=0.25))
    later, _, moved = training.state()
    changed = [n for n in later if (later[n] != weights[n]).any()]
    assert changed
    for name in changed:
        low, high = np.minimum(average[name], later[name]), np.maximum(average[name], later[name])
        slack = STEPS * RATE
        assert (moved[name] >= low - slack).all()
        assert (moved[name] <= high + slack).all()
        assert (moved[name] != later[name]).any()


def test_overflow_leaves_the_weights_alone(backend: str) -> None:
    training = compiled(backend)
    p = training.p
    weights = dict(p.weights)
    weights["globals/flow/loc"] = np.full_like(weights["globals/flow/loc"], 1e30)
    training.initialise(weights, p.tables, 0)
    elbo = training.run(training.drawn(), rates())
    assert not np.isfinite(elbo).any()
    after, tables, _ = training.state()
    assert_same((after, tables), (weights, p.tables))


def test_rebase_keeps_tables_and_sets_the_optimizer_to_rest(backend: str) -> None:
    _, training = fresh(backend)
    training.run(training.drawn(), rates())
    before = training.state()
    training.program.rebase(lambda weights: {name: 2.0 * value for name, value in weights.items()})
    weights, tables, average = training.state()
    doubled = {name: 2.0 * value for name, value in before[0].items()}
    assert_same((weights, tables, average), (doubled, before[1], doubled))
    training.run(training.drawn(), one_step())
    moved = np.concatenate([np.ravel(w - weights[n]) for n, w in training.state()[0].items()])
    assert_allclose(np.abs(moved[np.abs(moved) > 0]), RATE, rtol=2e-2)


def test_new_numbers_are_not_compiled_anew(backend: str) -> None:
    p, training = fresh(backend)
    for seed in range(3):
        training.initialise(p.weights, p.tables, seed)
        training.run(training.drawn(seed=seed), rates(learning=RATE / (1 + seed)))
    # Other tests may have run it on the same shapes, never on others.
    program: Any = training.program
    if backend == "numpyro":
        assert [path for path, *_ in program._executables] == [True]
    else:
        traces = {path: run.experimental_get_tracing_count() for path, run in program._run.items()}
        assert traces == {True: 1, False: 0}


def test_restored_it_goes_on_bit_by_bit(backend: str) -> None:
    _, training = fresh(backend)
    training.run(training.drawn(seed=0), rates(averaging=0.5))
    kept = training.program.state(), {k: v.copy() for k, v in training._tables.packed.items()}
    elbo = training.run(training.drawn(seed=1), rates(averaging=0.5))
    ends = training.state()
    _, training = fresh(backend, seed=7)
    training.program.restore(kept[0])
    for name, packed in kept[1].items():
        training._tables.packed[name][:] = packed
    assert_array_equal(training.run(training.drawn(seed=1), rates(averaging=0.5)), elbo)
    assert_same(training.state(), ends)


def test_full_batch_in_double_precision_climbs(backend: str) -> None:
    p = problem(Case(CASE.model, CASE.family), "float64")
    training = Training(p, backend, Settings(8, "path", "float64"))
    training.initialise(p.weights, p.tables, 0)
    elbo = np.concatenate([training.run(training.drawn(), rates(0.02)) for _ in range(60)])
    assert elbo[-40:].mean() > elbo[:10].mean() + 1.0
    weights, tables, _ = training.state()
    assert {w.dtype.name for w in (*weights.values(), *tables.values())} == {"float64"}
