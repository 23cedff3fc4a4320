"""Phases and rates of a fit, and the verdict on histories whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from pavi.drift import Travel
from pavi.schedule import (
    CHUNK,
    COOLED,
    MAX_STEPS,
    MIN_COOL_DOWN,
    REFINING_RECORDS,
    WARM_UP,
    History,
    Schedule,
    after_cooling,
    drift,
    judge,
)

PEAK = 0.01
LATENTS = 10


def history(elbo: np.ndarray | list[float], error: float | np.ndarray = 0.05) -> History:
    """Records of whole calls, as they are: no noise is added."""
    elbo = np.asarray(elbo, float)
    return History(
        CHUNK * np.arange(1, len(elbo) + 1), elbo, np.broadcast_to(error, elbo.shape).astype(float)
    )


def schedule_of(steps: int | str, gradient: str) -> Schedule:
    return Schedule(steps, PEAK, gradient, whole=True, num_particles=1)  # type: ignore[arg-type]


def noisy(elbo: np.ndarray, error: float = 0.05, seed: int = 0) -> History:
    return history(elbo + error * np.random.default_rng(seed).normal(size=len(elbo)), error)


# --- history ------------------------------------------------------------------------------------


def test_a_record_is_the_mean_of_its_call() -> None:
    found = History()
    found.append(np.array([1.0, 2.0, 6.0]))
    found.append(np.array([4.0]))
    np.testing.assert_array_equal(found.step, [3, 4])
    np.testing.assert_array_equal(found.elbo, [3.0, 4.0])
    np.testing.assert_allclose(found.elbo_se[0], np.std([1.0, 2.0, 6.0], ddof=1) / np.sqrt(3))
    assert np.isnan(found.elbo_se[1])


def test_steps_that_overflowed_are_counted_but_not_averaged() -> None:
    found = History()
    found.append(np.array([1.0, np.nan, 3.0, -np.inf]))
    found.append(np.array([np.nan, np.inf]))
    np.testing.assert_array_equal(found.step, [4, 6])
    np.testing.assert_array_equal(found.skipped, [2, 2])
    assert found.elbo[0] == 2.0
    assert np.isnan(found.elbo[1])
    assert np.isnan(found.elbo_se[1])


# --- verdict ------------------------------------------------------------------------------------


def test_drift_is_the_difference_of_the_two_halves() -> None:
    rise, error = drift(history([1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0], 0.2))
    assert rise == 2.0
    np.testing.assert_allclose(error, 0.2 * np.sqrt(8) / 4)
    # Records that scatter by more than their own errors say so.
    _, error = drift(history([0.0, 2.0, 0.0, 2.0, 0.0, 2.0, 0.0, 2.0], 0.2))
    np.testing.assert_allclose(error, np.sqrt(2 * (4.0 / 3.0) / 4))


@pytest.mark.parametrize("records", [4, 5, 8, 30])
def test_a_flat_history_has_settled(records: int) -> None:
    verdict = judge(noisy(np.full(records, -120.0)), LATENTS, whole=True)
    assert verdict.converged, verdict.reason
    assert "moved by" in verdict.reason
    assert f"last {min(8, 2 * (records // 2)) * CHUNK} steps" in verdict.reason


def test_a_rise_before_the_last_windows_is_past() -> None:
    rising = np.concatenate([np.linspace(-500.0, -120.0, 12), np.full(8, -120.0)])
    assert judge(noisy(rising), LATENTS, whole=True).converged


def complaint(found: History, *, whole: bool = True) -> str:
    verdict = judge(found, LATENTS, whole=whole)
    assert not verdict.converged, verdict.reason
    return verdict.reason


def test_a_rising_history_has_not_settled() -> None:
    reason = complaint(noisy(np.linspace(-130.0, -120.0, 12)))
    assert "still rising" in reason
    assert "more steps" in reason


def test_a_rise_within_the_noise_or_of_no_size_is_none() -> None:
    within = history(np.linspace(-120.05, -120.0, 8), 0.2)
    assert judge(within, LATENTS, whole=True).converged
    # Certain, but far below what any latent would show.
    tiny = history(np.linspace(-120.0001, -120.0, 8), 1e-7)
    assert judge(tiny, LATENTS, whole=True).converged
    assert not judge(history(np.linspace(-120.1, -120.0, 8), 1e-7), LATENTS, whole=True).converged


def test_a_fit_that_fell_back_has_not_settled() -> None:
    fell = np.concatenate([np.full(4, -120.0), np.full(8, -150.0)])
    reason = complaint(noisy(fell))
    assert "fell back" in reason
    assert "learning rate" in reason
    # Falling still, faster than the noise
    assert "fell back" in complaint(noisy(np.linspace(-120.0, -130.0, 12)))


def test_noise_that_still_falls_is_a_fit_under_way() -> None:
    error = np.repeat([0.2, 0.1], 4)
    assert "noise was still falling" in complaint(history(np.full(8, -120.0), error))
    assert judge(history(np.full(8, -120.0), error[::-1]), LATENTS, whole=True).converged


def test_draws_that_scatter_are_no_posterior() -> None:
    # One-draw scatter of 1 * sqrt(CHUNK) nats, against sqrt(10) that a guide near it would have
    loud = history(np.full(8, -120.0), 1.0)
    reason = complaint(loud)
    assert "scatter" in reason
    assert "richer family" in reason
    # With batches most of the scatter is theirs.
    assert judge(loud, LATENTS, whole=False).converged
    assert judge(loud, 100 * LATENTS, whole=True).converged


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_elbo_that_is_not_finite_has_not_settled(bad: float) -> None:
    reason = complaint(history([*np.full(8, -120.0), bad]))
    assert "not finite" in reason
    assert "scale of the data" in reason


def test_records_lost_long_ago_do_not_count() -> None:
    # Calls that overflowed at the start, before the guide found its place
    early = history([np.nan, -np.inf, *np.full(12, -120.0)])
    assert judge(early, LATENTS, whole=True).converged
    unsure = history(np.full(12, -120.0), np.array([np.nan, *np.full(11, 0.05)]))
    assert judge(unsure, LATENTS, whole=True).converged
    fell = history([np.nan, *np.full(4, -120.0), *np.full(8, -150.0)])
    assert "fell back" in complaint(fell)


def test_calls_that_tell_nothing_are_no_sign_of_rest() -> None:
    # A call of one step has no error; one that overflowed has no mean either.
    error = np.array([*np.full(8, 0.05), np.nan])
    assert "still rising" in complaint(history(np.linspace(-130.0, -120.0, 9), error))
    rising = np.linspace(-130.0, -120.0, 10)
    rising[4] = np.nan
    error = np.where(np.isnan(rising), np.nan, 0.05)
    assert "still rising" in complaint(history(rising, error))
    assert "too few" in complaint(history(np.full(8, -120.0), np.repeat([np.nan, 0.05], [5, 3])))


@pytest.mark.parametrize("records", [0, 1, 3])
def test_few_records_are_too_few_to_tell(records: int) -> None:
    reason = complaint(history(np.full(records, -120.0)))
    assert f"{records * CHUNK} steps at full rate, before the rate falls, are too few" in reason
    assert f"at least {8 * CHUNK}" in reason


# --- rates --------------------------------------------------------------------------------------


def all_rates(schedule: Schedule) -> dict[str, np.ndarray]:
    """Rates of the steps that are taken, and whether each took the path's gradient."""
    parts: dict[str, list[np.ndarray]] = {}
    while not schedule.finished:
        path = schedule.path
        rates, count = schedule.next_rates()
        assert 1 <= count <= CHUNK
        for rate in (rates.learning, rates.averaging):
            assert rate.shape == (CHUNK,)
            assert not rate[count:].any(), "a step that is not real moves something"
        for name, rate in (rates._asdict() | {"path": np.full(count, path)}).items():
            parts.setdefault(name, []).append(rate[:count])
    return {name: np.concatenate(part) for name, part in parts.items()}


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 17, 100, CHUNK, CHUNK + 1, 4000])
def test_a_number_of_steps_is_taken_to_the_letter(steps: int) -> None:
    schedule = schedule_of(steps, "auto")
    assert schedule.expected == steps
    assert not schedule.finished
    rates = all_rates(schedule)
    assert len(rates["learning"]) == steps
    assert (rates["learning"] > 0).all()
    assert (rates["learning"] <= PEAK).all()


def test_phases_of_a_number_of_steps() -> None:
    rates = all_rates(schedule_of(4000, "auto"))
    step = np.arange(4000)
    # Approach: 0 - 1000, refine: 1000 - 2400, cool-down: 2400 - 4000
    np.testing.assert_array_equal(rates["refine"], step >= 1000)
    np.testing.assert_array_equal(rates["path"], step >= 1000)
    learning = rates["learning"]
    np.testing.assert_allclose(learning[:WARM_UP], PEAK * np.arange(1, WARM_UP + 1) / WARM_UP)
    np.testing.assert_allclose(learning[WARM_UP:2400], PEAK)
    assert (np.diff(learning[2400:]) < 0).all()
    np.testing.assert_allclose(learning[2400], PEAK)
    np.testing.assert_allclose(learning[-1], COOLED * PEAK, rtol=1e-3)


def test_the_average_is_that_of_the_second_half_of_the_cool_down() -> None:
    averaging = all_rates(schedule_of(4000, "auto"))["averaging"]
    assert not averaging[:3200].any()
    # average <- average + w (iterate - average), from a number that it forgets
    iterates = np.random.default_rng(0).normal(size=4000)
    average = 1e6
    for weight, iterate in zip(averaging, iterates, strict=True):
        average += weight * (iterate - average)
    np.testing.assert_allclose(average, iterates[3200:].mean(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 17])
def test_a_short_fit_ends_with_an_average(steps: int) -> None:
    # The averaged weights are what a fit returns: they may not stay where they began.
    assert all_rates(schedule_of(steps, "auto"))["averaging"].any()


@pytest.mark.parametrize(("gradient", "share"), [("path", True), ("total", False)])
def test_the_gradient_that_was_asked_for(gradient: str, share: float) -> None:
    rates = all_rates(schedule_of(1000, gradient))
    np.testing.assert_array_equal(rates["path"], np.full(1000, share))


def test_the_scatter_is_that_of_single_draws() -> None:
    """However many draws a step takes the mean of."""
    draws = 4.0 * np.sqrt(LATENTS)
    for particles in (1, 8):
        error = draws / np.sqrt(particles * CHUNK)
        verdict = judge(
            history(np.full(8, -120.0), error), LATENTS, whole=True, num_particles=particles
        )
        assert not verdict.converged
        assert "scatter by 12.6 nats" in verdict.reason


def test_rows_that_travel_have_not_settled() -> None:
    found = noisy(np.full(8, -120.0))
    assert judge(found, LATENTS, whole=False, agreement=0.1).converged
    verdict = judge(found, LATENTS, whole=False, agreement=0.6)
    assert not verdict.converged
    assert "correlate by 0.60" in verdict.reason


def test_maps_that_travel_have_not_settled_whatever_the_elbo_of_batches_says() -> None:
    found = noisy(np.full(8, -120.0))
    assert judge(found, LATENTS, whole=False, travel=Travel(0.05, "globals")).converged
    assert judge(found, LATENTS, whole=True, travel=Travel(0.5, "globals")).converged
    verdict = judge(found, LATENTS, whole=False, travel=Travel(0.5, "globals"))
    assert not verdict.converged
    assert "'globals' was still on its way (by 0.50 of its standard deviations)" in verdict.reason


def test_a_fit_that_fell_at_the_full_rate_may_come_back() -> None:
    constant = judge(history(np.linspace(-120.0, -125.0, 8), 1e-3), LATENTS, whole=True)
    assert constant.fell
    assert not constant.converged
    back = history(np.r_[np.linspace(-120.0, -125.0, 8), np.full(4, -119.9)], 1e-3)
    assert after_cooling(back, constant, LATENTS).converged
    down = history(np.r_[np.linspace(-120.0, -125.0, 8), np.full(4, -124.0)], 1e-3)
    assert after_cooling(down, constant, LATENTS) == constant
    rising = judge(history(np.linspace(-125.0, -120.0, 8), 1e-3), LATENTS, whole=True)
    assert after_cooling(back, rising, LATENTS) == rising


def test_steps_without_a_finite_gradient_are_told() -> None:
    found = noisy(np.full(8, -120.0))
    found.skipped[-1] = CHUNK // 2
    verdict = judge(found, LATENTS, whole=True)
    assert not verdict.converged
    assert "6% of the last steps had no finite gradient" in verdict.reason


# --- automatic ----------------------------------------------------------------------------------


def run(schedule: Schedule, elbo: object, limit: int = 1000) -> tuple[History, list[int]]:
    """A fit whose ELBO is a function of the step; returns its history and its phases."""
    found, phases = History(), []
    generator = np.random.default_rng(0)
    for _ in range(limit):
        if schedule.finished:
            break
        phases.append(schedule.phase)
        _, count = schedule.next_rates()
        last = found.step[-1] if len(found.step) else 0
        steps = np.arange(last, last + count)
        found.append(elbo(steps) + generator.normal(size=count))  # type: ignore[operator]
        schedule.consider(found, LATENTS)
    return found, phases


def test_automatic_steps_go_through_the_phases_once_settled() -> None:
    schedule = schedule_of("auto", "auto")
    assert schedule.expected is None
    found, phases = run(schedule, lambda step: -100.0 - 300.0 * np.exp(-step / 300.0))
    assert schedule.finished
    assert sorted(phases) == phases
    assert set(phases) == {0, 1, 2}
    cooling = phases.count(2)
    constant = (len(phases) - cooling) * CHUNK
    taken = int(found.step[-1])
    assert schedule.expected == taken == constant + max(MIN_COOL_DOWN, constant // 2)
    assert taken < 20_000


def test_the_second_phase_is_judged_by_its_own_records() -> None:
    # Flat from the start: the approach ends at its first verdict, the refining must wait for
    # records of its own.
    _, phases = run(schedule_of("auto", "auto"), lambda step: np.full(len(step), -100.0))
    assert phases.count(0) >= 4
    assert phases.count(1) == REFINING_RECORDS


def test_a_fit_that_never_settles_ends_all_the_same() -> None:
    schedule = schedule_of("auto", "auto")
    found, phases = run(schedule, lambda step: 0.1 * step)
    assert schedule.finished
    assert phases.count(0) * CHUNK == MAX_STEPS // 2
    assert phases.count(1) * CHUNK == MAX_STEPS - MAX_STEPS // 2
    assert int(found.step[-1]) == MAX_STEPS + MAX_STEPS // 2
    assert not judge(found, LATENTS, whole=True).converged


def test_a_number_of_steps_is_no_automatic_one() -> None:
    schedule = schedule_of(2000, "auto")
    found, _ = run(schedule, lambda step: np.full(len(step), -100.0))
    assert int(found.step[-1]) == 2000
    schedule = schedule_of(3 * CHUNK, "auto")
    found, phases = run(schedule, lambda step: np.full(len(step), -100.0))
    assert int(found.step[-1]) == 3 * CHUNK
    assert phases[-1] == 2
