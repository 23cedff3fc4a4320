"""Calibration: ranks against laws known in closed form, and refits against fresh fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from complaints import _raises, data_error
from conftest import INSTALLED_BACKENDS
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import pavi
from pavi import (
    Calibration,
    Covariate,
    Data,
    Family,
    Latent,
    Observed,
    Plate,
    PlateGraph,
    calibrating,
    dist,
)
from pavi.calibrating import FEWEST
from pavi.calibration import size_classes
from pavi.calibration_report import how_off
from pavi.ranks import bias, covered, holm, ranked, rate, width
from pavi.simulation import design, seeds
from pavi.uniformity import ecdf_envelope

ROWS = np.array([1, 1, 2, 4, 9, 20])
MEMBERS = {"row": {"group": np.repeat(np.arange(6), ROWS)}}
SIZES = {"group": 6}


def graph(latent: Any = None) -> PlateGraph:
    """Groups whose posterior is known: theta ~ N(0, 1), y ~ N(theta, 0.5); and a slope, alike."""
    return PlateGraph(
        [Plate("group"), Plate("row", within="group"), Plate("point")],
        [
            Covariate("x", plates="point"),
            latent or Latent("slope", dist.Normal(0.0, 1.0)),
            Latent("theta", dist.Normal(0.0, 1.0), plates="group"),
            Observed("y", lambda theta: dist.Normal(theta, 0.5), plates="row"),
            Observed("z", lambda slope, x: dist.Normal(slope * x, 0.5), plates="point"),
        ],
    )


@dataclass
class Exact:
    """A trainer and a posterior in one, exact but for a bias and a scale of the groups' effects."""

    shift: float = 0.0
    scale: float = 1.0
    data: Data | None = None
    graph: PlateGraph | None = None
    converged: bool = True
    seconds: float = 0.0

    def __call__(self, graph: PlateGraph, data: Data, **_: Any) -> Exact:
        return Exact(self.shift, self.scale, data, graph)

    def on(self, data: Data, *, seed: int) -> Exact:
        return Exact(self.shift, self.scale, data, self.graph)

    def fit(self, steps: Any, *, progress: bool) -> Exact:
        return self

    def sample(self, num_samples: int, *, seed: int) -> dict[str, np.ndarray]:
        assert self.data is not None
        values, rng = self.data.values, np.random.default_rng(seed)
        x, z = np.asarray(values["x"]), np.asarray(values["z"])
        total = np.bincount(MEMBERS["row"]["group"], np.asarray(values["y"]), 6)
        variance = np.array([1 / (1 + 4 * (x @ x)), *(1 / (1 + 4 * ROWS))])
        mean = 4 * np.array([x @ z, *total]) * variance
        noise = rng.standard_normal((num_samples, 7))
        wrong = np.array([0.0, *[self.shift] * 6]), np.array([1.0, *[self.scale] * 6])
        draws = mean + np.sqrt(variance) * (wrong[0] + wrong[1] * noise)
        return {"slope": draws[:, 0], "theta": draws[:, 1:]}


def exact(monkeypatch: pytest.MonkeyPatch, posterior: Exact, **options: Any) -> Calibration:
    monkeypatch.setattr(calibrating, "Trainer", posterior)
    given = {"members": MEMBERS, "datasets": 300, "draws": 199, "progress": False, "seed": 3}
    own = {**SIZES, "point": 5}
    return pavi.calibrate(graph(), own, backend="numpyro", **{**given, **options})


# --- exact posteriors, and wrong ones -----------------------------------------------------------


def test_exact_posteriors_are_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    found = exact(monkeypatch, Exact())
    assert found.uniform
    assert [q.name for q in found.quantities] == ["slope", "theta"]
    for quantity in found.quantities:
        assert quantity.held
        assert quantity.p <= quantity.adjusted
        assert abs(quantity.bias.value) < 4 * quantity.bias.error
        assert abs(quantity.width.value - 1) < 4 * quantity.width.error
        for level, (value, error) in quantity.coverage.items():
            assert abs(value - level) < 4 * error
    # 1800 ranks of groups that are independent here, at sqrt(p (1 - p) / n)
    assert_allclose(found.quantities[1].coverage[0.9].error, np.sqrt(0.09 / 1800), rtol=0.2)
    report = str(found)
    assert "ok  ranks: uniform at the 5 % level over 2 quantities" in report
    assert "x: standard normal" in report
    assert "Nothing speaks against" in report
    # What is given is not said to be made.
    assert "balanced" not in report


@pytest.mark.parametrize(
    ("posterior", "words"),
    [
        (Exact(scale=0.5), "is too narrow, 0.5"),
        (Exact(scale=2.0), "is too wide, "),
        (Exact(shift=0.7), "lies too high, by 0."),
        (Exact(shift=-0.7), "lies too low, by 0."),
    ],
    ids=["narrow", "wide", "high", "low"],
)
def test_a_wrong_posterior_is_found(
    posterior: Exact, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = exact(monkeypatch, posterior)
    slope, theta = found.quantities
    assert not found.uniform
    assert slope.held
    assert not theta.held
    assert theta.p < 1e-4
    assert abs(theta.width.value - posterior.scale) < 4 * theta.width.error
    assert abs(theta.bias.value * posterior.scale - posterior.shift) < 4 * theta.bias.error
    # The interval of a normal law at another place and scale
    edge = posterior.scale * stats.norm.ppf(0.95)
    there = stats.norm(-posterior.shift)
    value, error = theta.coverage[0.9]
    assert abs(value - (there.cdf(edge) - there.cdf(-edge))) < 4 * error
    report = str(found)
    assert words in report.replace("\n      ", " ")
    assert "!!  theta" in report
    assert "!!  slope" not in report
    assert "Not calibrated" in report


def test_coverage_by_the_size_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = exact(monkeypatch, Exact()).by_size("theta")
    assert [(c.fewest, c.most, c.copies) for c in classes] == [
        (1, 1, 2),
        (2, 2, 1),
        (4, 4, 1),
        (9, 9, 1),
        (20, 20, 1),
    ]
    for one in classes:
        assert abs(one.coverage[0.9].value - 0.9) < 4 * one.coverage[0.9].error
    found = exact(monkeypatch, Exact(), datasets=FEWEST)
    _raises(pavi.PaviError, lambda: found.by_size("slope"), ("'slope'", "theta"))


def test_ranks_depend_neither_on_the_workers_nor_on_the_number_of_data_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = exact(monkeypatch, Exact(), datasets=40)
    three = exact(monkeypatch, Exact(), datasets=30, workers=3)
    for name, ranks in one.all_ranks.items():
        assert_array_equal(three.all_ranks[name], ranks[:30])
        assert_array_equal(three.copies[name], one.copies[name][:30])
    other = exact(monkeypatch, Exact(), datasets=40, seed=4)
    assert (other.all_ranks["theta"] != one.all_ranks["theta"]).any()


def test_a_picture_takes_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    found = exact(monkeypatch, Exact(scale=0.5))
    ax = pavi.plot.calibration(found.ranks, found.num_draws)
    assert "outside: theta" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_fits_that_did_not_converge_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = exact(monkeypatch, Exact(), datasets=FEWEST)
    assert found.findings[0].passed
    found.converged[:2] = False
    assert found.findings[0].passed is False
    assert "18 of 20 converged" in found.findings[0].text
    found.finite[3] = False
    assert "1 have draws that are not finite" in found.findings[0].text


# --- ranks --------------------------------------------------------------------------------------


def test_ties_are_ranked_at_random_and_what_is_fixed_is_told() -> None:
    rng = np.random.default_rng(0)
    draws = np.array([[0, 1, 5], [0, 1, 5], [2, 1, 5], [3, 1, 5]], np.float32)
    found = [ranked(np.array([0.0, 2.0, 5.0]), draws, rng) for _ in range(200)]
    rank = np.stack([each.rank for each in found])
    assert set(rank[:, 0]) == {0, 1, 2}
    assert set(rank[:, 1]) == {4}
    assert set(rank[:, 2]) == {0, 1, 2, 3, 4}
    assert_array_equal(found[0].fixed, [False, False, True])


def test_a_truth_is_ranked_in_the_precision_of_the_draws() -> None:
    third = 1 / 3
    draws = np.full((5, 1), third, np.float32)
    assert ranked(np.array([third]), draws, np.random.default_rng(0)).fixed.all()


@pytest.mark.parametrize("num_draws", [19, 99, 999])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_hold_exactly_their_share_of_uniform_ranks(num_draws: int, level: float) -> None:
    inside = covered(np.arange(num_draws + 1), num_draws, level)
    assert inside.mean() == pytest.approx(level, abs=0 if level == 0.9 else 0.05)
    assert_array_equal(inside, inside[::-1])


def test_bias_and_width_of_uniform_ranks_are_none() -> None:
    ranks = np.arange(20)
    assert bias(ranks, 19).value == pytest.approx(0.0, abs=1e-12)
    assert width(ranks, 19).value == pytest.approx(1.0)


def test_holm() -> None:
    # By hand: 0.01 x 4, max(0.04, 0.02 x 3), max(0.06, 0.03 x 2), max(0.06, 0.8 x 1)
    assert_allclose(holm(np.array([0.03, 0.01, 0.8, 0.02])), [0.06, 0.04, 0.8, 0.06])
    assert_allclose(holm(np.array([0.9, 0.8])), [1.0, 1.0])


def test_a_rate_has_the_error_of_data_sets_not_of_copies() -> None:
    hits = np.repeat(np.arange(10) % 2 == 0, 50).reshape(10, 50)
    value, error = rate(hits)
    assert (value, error) == (0.5, pytest.approx(np.sqrt(0.25 / 9)))


def test_p_values_are_uniform_at_most() -> None:
    envelope = ecdf_envelope(50, 99)
    ranks = np.random.default_rng(2).integers(0, 100, (300, 50))
    p = np.array([envelope.p_value(each) for each in ranks])
    for level in (0.05, 0.2, 0.5):
        assert (p <= level).mean() < level + 4 * np.sqrt(level / 300)
    # The envelope holds what its p-value does not reject.
    assert_array_equal(p > 0.05, [envelope.holds(each) for each in ranks])
    assert envelope.p_value(np.zeros(50, int)) < 1e-40


def test_classes_of_sizes_hold_all_sizes_once() -> None:
    rows = np.random.default_rng(5).geometric(0.05, 400)
    classes = size_classes(rows)
    assert 3 <= len(classes) <= 5
    held = [((rows >= low) & (rows <= high)).sum() for low, high in classes]
    assert sum(held) == 400
    assert min(held) > 40


# --- simulated data -----------------------------------------------------------------------------


def test_simulated_latents_have_their_prior_and_data_their_law() -> None:
    made = design(graph(), {**SIZES, "point": 5}, MEMBERS, {"x": np.ones(5)})
    drawn = [made.simulate(seed) for seed in range(300)]
    theta = np.stack([truth["theta"] for truth, _ in drawn])
    assert stats.kstest(theta.ravel(), "norm").pvalue > 1e-3
    # y | theta ~ N(theta, 0.5) by the memberships given
    own = theta[:, MEMBERS["row"]["group"]]
    y = np.stack([data.values["y"] for _, data in drawn])
    assert stats.kstest((y - own).ravel() / 0.5, "norm").pvalue > 1e-3
    assert all((data.values["x"] == 1).all() for _, data in drawn)
    assert_array_equal(made.rows(graph().latents[1]), ROWS)


def test_memberships_that_are_not_given_are_balanced() -> None:
    crossed = PlateGraph(
        [
            Plate("school"),
            Plate("pupil", within="school"),
            Plate("item"),
            Plate("answer", within=("pupil", "item")),
        ],
        [
            Latent("ability", dist.Normal(0.0, 1.0), plates="pupil"),
            Observed("y", lambda ability: dist.Normal(ability, 1.0), plates="answer"),
        ],
    )
    sizes = {"school": 3, "pupil": 6, "item": 4, "answer": 24}
    made = design(crossed, sizes, None, None)
    assert_array_equal(made.members["pupil"]["school"], [0, 0, 1, 1, 2, 2])
    pairs = {*zip(*(made.members["answer"][p].tolist() for p in ("pupil", "item")), strict=True)}
    assert len(pairs) == 24
    assert made.balanced == (("pupil", "school"), ("answer", "pupil"), ("answer", "item"))
    _, data = made.simulate(0)
    assert data.bind(crossed).sizes == sizes


# --- mistakes -----------------------------------------------------------------------------------


def test_what_cannot_be_simulated_is_named() -> None:
    def asked(latent: Any = None, sizes: Any = None, **options: Any) -> Any:
        given = {**SIZES, "point": 5} if sizes is None else sizes
        own = {"backend": "numpyro", "members": MEMBERS, **options}
        return lambda: pavi.calibrate(graph(latent), given, **own)

    flat = Latent("slope", dist.Flat())
    data_error(asked(flat), "slope", "improper", "dist.Flat", "proper prior")
    data_error(asked(sizes=SIZES), "'point'", "no size", "sizes={'point': ...}")
    data_error(asked(sizes={"groups": 3}), "'groups'", "'group'")
    data_error(asked(sizes={"point": 0}), "'point'", "positive integer")
    data_error(asked(sizes=6), "sizes", "mapping", "int")
    data_error(asked(covariates={"slope": 1}), "'slope'", "no covariate", "simulated")
    data_error(asked(covariates={"x": np.ones(4)}), "'point'", "(4,)")
    data_error(asked(members={"row": {"group": [0, 9]}}), "out of range")
    for options, words in (
        ({"datasets": FEWEST - 1}, ("datasets=19", "20", "envelope")),
        ({"draws": 500}, ("draws=500", "499 or 999")),
        ({"probability": 1}, ("probability=1", "between 0 and 1")),
        ({"workers": 0}, ("workers=0", "positive integer")),
        ({"seed": -1}, ("seed=-1", "0 or more")),
    ):
        _raises(pavi.PaviError, asked(**options), words)
    _raises(
        pavi.PaviError, lambda: pavi.calibrate(3, {}, backend="numpyro"), ("graph", "PlateGraph")
    )  # type: ignore[arg-type]


def test_a_censored_outcome_cannot_be_simulated() -> None:
    censored = PlateGraph(
        [Plate("row")],
        [
            Covariate("c", plates="row"),
            Latent("mu", dist.Normal(0.0, 1.0)),
            Observed(
                "y", lambda mu, c: dist.Censored(dist.Normal(mu, 1.0), censoring=c), plates="row"
            ),
        ],
    )
    data_error(lambda: pavi.calibrate(censored, {"row": 5}, backend="numpyro"), "'y'", "censored")


# --- on a backend -------------------------------------------------------------------------------

FEW_STEPS = 12


@pytest.fixture(scope="module", params=INSTALLED_BACKENDS)
def short(request: pytest.FixtureRequest) -> tuple[str, Calibration]:
    """Fits that are far too short for the slope; the groups' conditional is exact untrained."""
    found = pavi.calibrate(
        graph(),
        {**SIZES, "point": 5},
        backend=request.param,
        members=MEMBERS,
        family=Family(flow="none"),
        num_particles=1,
        gradient="path",
        steps=FEW_STEPS,
        datasets=30,
        draws=199,
        progress=False,
    )
    return request.param, found


def test_a_short_fit_is_found_where_it_matters(short: tuple[str, Calibration]) -> None:
    slope, theta = short[1].quantities
    assert slope.adjusted < 1e-3
    assert how_off(slope).startswith("the posterior")
    assert theta.held
    assert not short[1].uniform


def test_a_refit_is_a_fresh_fit(short: tuple[str, Calibration]) -> None:
    backend, found = short
    place = 7
    own = seeds(0, place)
    truth, data = found.dataset(place)
    posterior = pavi.fit(
        graph(),
        data,
        backend=backend,
        family=Family(flow="none"),
        num_particles=1,
        gradient="path",
        steps=FEW_STEPS,
        seed=own.fit,
        progress=False,
    )
    draws = posterior.sample(199, seed=own.draws)
    for name, value in truth.items():
        below = (draws[name] < value.astype(np.float32)).sum(0)
        assert_array_equal(found.all_ranks[name][place], below)
