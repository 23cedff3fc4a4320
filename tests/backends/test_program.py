"""Compiled training on both backends: random bits, Adam's steps, sleeping rows, the average."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from varied_models import CASES, Case, Problem, problem, rng

from pavi.backends.base import Arrays, Program, Rates, Settings, get_adapter
from pavi.subsampling import Sampler, Selection

STEPS = 4
RATE = 1e-3
CASE = CASES["nested, missing"]


def rates(learning: float = RATE, averaging: float = 0.0, refine: float = 1.0) -> Rates:
    return Rates(*(np.full(STEPS, rate) for rate in (learning, averaging, 1.0, refine)))


def one_step() -> Rates:
    """The first step alone moves."""
    first = np.where(np.arange(STEPS) == 0, RATE, 0.0)
    return rates()._replace(learning=first)


@cache
def compiled(backend: str, dtype: str = "float32") -> tuple[Problem, Program]:
    p = problem(CASE, dtype)
    settings = Settings(num_particles=2, gradient="path", dtype=dtype)
    return p, get_adapter(backend).program(p.plan, p.batch, settings)


def selected(p: Problem, steps: int = STEPS, seed: int = 0) -> Selection:
    """Two counties out of five at each step."""
    return Sampler(p.bound, {"county": 2}, p.dtype).draw(rng(seed), steps)


def fresh(backend: str, seed: int = 0) -> tuple[Problem, Program]:
    p, program = compiled(backend)
    program.initialise(p.weights, p.tables, seed)
    return p, program


def state(program: Program) -> tuple[Arrays, Arrays, Arrays]:
    weights, tables = program.weights(averaged=False)
    return weights, tables, program.weights(averaged=True)[0]


def assert_same(first: Any, second: Any) -> None:
    for mine, theirs in zip(first, second, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert_array_equal(theirs[name], value, err_msg=name)


def test_run_comes_after_initialise(backend: str) -> None:
    p = problem(CASE, "float32")
    program = get_adapter(backend).program(p.plan, p.batch, Settings(1, "path", "float32"))
    with pytest.raises(RuntimeError, match="initialise"):
        program.run(None, rates())
    with pytest.raises(RuntimeError, match="initialise"):
        program.weights(averaged=True)
    with pytest.raises(RuntimeError, match="initialise"):
        program.rebase(dict)


def test_weights_go_in_and_come_out(backend: str) -> None:
    p, program = fresh(backend)
    weights, tables, average = state(program)
    assert_same((weights, tables, average), (p.weights, p.tables, p.weights))
    assert {w.dtype.name for w in weights.values()} == {"float32"}


def test_same_seed_same_bits(backend: str) -> None:
    ends = []
    for seed in (3, 3, 4):
        p, program = fresh(backend, seed)
        elbo = np.concatenate([program.run(selected(p, seed=i), rates()) for i in range(2)])
        assert elbo.dtype == np.float64
        assert len(np.unique(elbo)) == 2 * STEPS
        ends.append((elbo, state(program)))
    assert_array_equal(ends[0][0], ends[1][0])
    assert_same(ends[0][1], ends[1][1])
    assert (ends[0][0] != ends[2][0]).all()


def test_noise_is_new_at_every_step(backend: str) -> None:
    p, program = fresh(backend)
    before = state(program)
    # The same rows at every step of both calls: only the noise differs.
    same = Selection(*({k: np.repeat(v[:1], STEPS, 0) for k, v in s.items()} for s in selected(p)))
    elbos = [program.run(same, rates(learning=0.0)) for _ in range(2)]
    assert len(np.unique(elbos)) == 2 * STEPS
    after = state(program)
    assert_same(before[:1], after[:1])


def test_first_step_is_adams_and_other_rows_sleep(backend: str) -> None:
    p, program = fresh(backend)
    selection = selected(p)
    program.run(selection, one_step())
    weights, tables, average = state(program)
    # Adam's first step has the length of the rate, wherever there is a gradient.
    moved = np.concatenate([np.ravel(weights[n] - p.weights[n]) for n in weights])
    assert_allclose(np.abs(moved[moved != 0]), RATE, rtol=2e-2)
    assert (moved != 0).mean() > 0.5
    assert_same((average,), (p.weights,))
    change = tables["county"] - p.tables["county"]
    drawn = np.isin(np.arange(len(change)), selection.indices["county"][0])
    assert not change[~drawn].any()
    assert_allclose(np.abs(change[drawn]), RATE, rtol=2e-2)


def test_rows_sleep_until_they_are_drawn(backend: str) -> None:
    p, program = fresh(backend)
    selection = selected(p)
    program.run(selection, rates())
    change = state(program)[1]["county"] - p.tables["county"]
    ever = np.isin(np.arange(len(change)), selection.indices["county"])
    assert not ever.all()
    assert not change[~ever].any()
    assert change[ever].any(axis=-1).all()


def test_refining_weights_are_held_until_they_are_wanted(backend: str) -> None:
    p, program = fresh(backend)
    held = p.plan.refining
    # Of this plan: the row of each county, and the affine that corrects its encoding.
    assert "county" in held
    assert "globals/flow/loc" not in held
    for refine in (0.0, 1.0):
        before = state(program)
        program.run(selected(p), rates(refine=refine))
        after = state(program)
        for mine, theirs in zip(before[:2], after[:2], strict=True):
            for name, value in mine.items():
                fixed = name.rpartition("/")[2].startswith("reference")
                moves = not fixed and (name not in held or refine == 1.0)
                assert (theirs[name] != value).any() == moves, name


def test_average_follows_the_weights(backend: str) -> None:
    p, program = fresh(backend)
    program.run(selected(p), rates(averaging=1.0))
    weights, _, average = state(program)
    for name, value in weights.items():
        assert_allclose(average[name], value, rtol=1e-5, atol=1e-7)
    program.run(selected(p), rates(averaging=0.25))
    later, _, moved = state(program)
    changed = [n for n in later if (later[n] != weights[n]).any()]
    assert changed
    for name in changed:
        low, high = np.minimum(average[name], later[name]), np.maximum(average[name], later[name])
        slack = STEPS * RATE
        assert (moved[name] >= low - slack).all()
        assert (moved[name] <= high + slack).all()
        assert (moved[name] != later[name]).any()


def test_overflow_leaves_the_weights_alone(backend: str) -> None:
    p, program = compiled(backend)
    weights = dict(p.weights)
    weights["globals/flow/loc"] = np.full_like(weights["globals/flow/loc"], 1e30)
    program.initialise(weights, p.tables, 0)
    elbo = program.run(selected(p), rates())
    assert not np.isfinite(elbo).any()
    after, tables, _ = state(program)
    assert_same((after, tables), (weights, p.tables))


def test_rebase_keeps_tables_and_sets_the_optimizer_to_rest(backend: str) -> None:
    p, program = fresh(backend)
    program.run(selected(p), rates())
    before = state(program)
    program.rebase(lambda weights: {name: 2.0 * value for name, value in weights.items()})
    weights, tables, average = state(program)
    doubled = {name: 2.0 * value for name, value in before[0].items()}
    assert_same((weights, tables, average), (doubled, before[1], doubled))
    program.run(selected(p), one_step())
    moved = np.concatenate([np.ravel(w - weights[n]) for n, w in state(program)[0].items()])
    assert_allclose(np.abs(moved[np.abs(moved) > 0]), RATE, rtol=2e-2)


def test_new_numbers_are_not_compiled_anew(backend: str) -> None:
    p, program = fresh(backend)
    for seed in range(3):
        program.initialise(p.weights, p.tables, seed)
        program.run(selected(p, seed=seed), rates(learning=RATE / (1 + seed)))
    # Other tests may have run it on the same shapes, never on others.
    runs: Any = program._run  # type: ignore[attr-defined]
    for path, run in runs.items():
        traces = run._cache_size() if backend == "numpyro" else run.experimental_get_tracing_count()
        assert traces == int(path == bool(rates().path[0]))


def test_full_batch_in_double_precision_climbs(backend: str) -> None:
    p = problem(Case(CASE.model, CASE.family), "float64")
    program = get_adapter(backend).program(p.plan, p.batch, Settings(8, "path", "float64"))
    program.initialise(p.weights, p.tables, 0)
    elbo = np.concatenate([program.run(None, rates(0.02)) for _ in range(60)])
    assert elbo[-40:].mean() > elbo[:10].mean() + 1.0
    weights, tables, _ = state(program)
    assert {w.dtype.name for w in (*weights.values(), *tables.values())} == {"float64"}
