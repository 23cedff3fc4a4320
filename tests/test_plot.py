"""Pictures: what they show, by the data of their artists, their labels and limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from complaints import data_error
from numpy.testing import assert_allclose, assert_array_equal
from numpy_backend import install, random_posterior
from small_models import MODELS, rng
from varied_models import CASES, Case

import pavi
from pavi import BackendError, Data, Family, Posterior
from pavi.no_pooling import no_pooling
from pavi.plot import groups
from pavi.schedule import History

PLAIN = Family(hidden=4, encoding_size=3, flow="none")
NAMES = np.array(["Aitkin", "Anoka", "Becker", "Beltrami", "Benton"])


@pytest.fixture(autouse=True)
def drawing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    install(monkeypatch)
    yield
    pyplot.close("all")


def county() -> Posterior:
    """Groups of 3, 1, 0, 2 and 5 homes, with labels."""
    graph, data = MODELS["county"]()
    given = Data(data.values, data.members, data.sizes, {"county": NAMES})
    return random_posterior(Case(lambda: (graph, given), PLAIN))


def drawn(ax: Any) -> Any:
    """The axes, after matplotlib has laid them out."""
    ax.figure.canvas.draw()
    return ax


def texts(ax: Any) -> list[str]:
    legend = [t.get_text() for part in ax.figure.findobj(type_of_legend) for t in part.get_texts()]
    return [t.get_text() for t in ax.texts] + legend


def type_of_legend(artist: Any) -> bool:
    return type(artist).__name__ == "Legend"


def ticks(ax: Any) -> list[str]:
    return [label.get_text() for label in ax.get_xticklabels()]


def history(records: int = 40) -> History:
    """A climb of six orders of magnitude, then a plateau."""
    found = History()
    for record in range(records):
        level = -20.0 - 1e6 * np.exp(-3.0 * record)
        phase = int(record >= 10) + int(record >= 30)
        found.append(level + rng(record).normal(size=50), phase)
    return found


# --- the ELBO -----------------------------------------------------------------------------------


def test_the_elbo_has_a_band_of_two_standard_errors() -> None:
    records = history()
    ax = drawn(pavi.plot.elbo(records))
    assert_allclose(ax.lines[0].get_ydata(), records.elbo)
    band = ax.collections[0].get_paths()[0].vertices
    for step, mean, error in zip(records.step, records.elbo, records.elbo_se, strict=True):
        at = band[band[:, 0] == step, 1]
        assert_allclose([at.min(), at.max()], [mean - 2 * error, mean + 2 * error])
    assert "step" in ax.get_xlabel()
    assert "nats" in ax.get_ylabel()


def test_early_values_do_not_set_the_limits() -> None:
    ax = pavi.plot.elbo(history())
    low, high = ax.get_ylim()
    late = history().elbo[20:]
    assert low < late.min() < late.max() < high
    assert high - low < 10 * np.ptp(late)
    assert any("records lie lower, the first at −1,000,020" in text for text in texts(ax))


def test_the_phases_of_the_history_are_marked() -> None:
    records = history()
    assert records.phases() == {"approach": 0, "refining": 500, "cool-down": 1500}
    assert records.since(20).phases() == {"refining": 0, "cool-down": 1500}
    ax = pavi.plot.elbo(records)
    assert {"approach", "refining", "cool-down"} <= set(texts(ax))
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == [500, 1500]
    assert "late" in texts(pavi.plot.elbo(records, phases={"late": 700}))


def test_a_history_that_does_not_know_its_phases_marks_none() -> None:
    records = History(*history().parts()[:3])
    assert records.phases() == {}
    assert len(pavi.plot.elbo(records).lines) == 1
    assert History().phases() == {}


def test_records_that_overflowed_are_left_out() -> None:
    records = history()
    records.append(np.full(50, np.nan), 2)
    assert len(pavi.plot.elbo(records).lines[0].get_xdata()) == 40
    one = History()
    one.append(np.array([-3.0]))
    assert_array_equal(drawn(pavi.plot.elbo(one)).lines[0].get_ydata(), [-3.0])
    data_error(lambda: pavi.plot.elbo(History()), "no finite ELBO")


# --- intervals ----------------------------------------------------------------------------------


def test_intervals_are_the_quantiles_in_the_order_of_the_means() -> None:
    posterior = county()
    ax = drawn(pavi.plot.intervals(posterior, "effect", num_samples=300))
    draws = posterior.sample(300)["effect"]
    order = np.argsort(draws.mean(0))
    assert ticks(ax) == list(NAMES[order])
    assert_allclose(ax.lines[0].get_ydata(), draws.mean(0)[order])
    for lines, levels in zip(ax.collections, ((0.05, 0.95), (0.25, 0.75)), strict=True):
        ends = np.array(lines.get_segments())[..., 1]
        assert_allclose(ends.T, np.quantile(draws, levels, axis=0)[:, order])
    assert ax.get_ylabel() == "effect"
    assert "county (all 5)" in ax.get_xlabel()


def test_draws_that_there_are_spare_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = county()
    draws = posterior.sample(50, seed=3)
    fresh = pavi.plot.intervals(posterior, "effect", num_samples=50, seed=3)
    monkeypatch.setattr(Posterior, "sample", lambda *_, **__: pytest.fail("drew anew"))
    given = pavi.plot.intervals(posterior, "effect", draws=draws)
    assert_allclose(given.lines[0].get_ydata(), fresh.lines[0].get_ydata())
    assert_allclose(
        given.collections[0].get_segments(), fresh.collections[0].get_segments(), rtol=1e-6
    )


def test_of_many_elements_some_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MAX_DRAWN", 3)
    posterior = county()
    ax = drawn(pavi.plot.intervals(posterior, "effect", num_samples=50))
    means = np.sort(posterior.mean(50)["effect"])
    assert_allclose(ax.lines[0].get_ydata(), means[[0, 2, 4]], rtol=1e-5)
    assert "3 of 5" in ax.get_xlabel()
    assert not any(ticks(ax))


def test_a_component_and_an_element_of_another_plate() -> None:
    posterior = random_posterior(CASES["dense"])
    draws = posterior.sample(40)
    names = [v.name for v in posterior.graph.latents if len(v.plates) == 2]
    event = posterior.graph.variables[names[0]].event
    options: dict[str, Any] = {"plate": "vertex", "at": {"subject": 2}, "draws": draws}
    component = tuple(size - 1 for size in event)
    ax = pavi.plot.intervals(posterior, names[0], **options, component=component)
    values = draws[names[0]][:, 2][(..., *component)]
    assert_allclose(ax.lines[0].get_ydata(), np.sort(values.mean(0)))
    assert "subject 2" in ax.get_ylabel()


def test_names_that_there_are_not() -> None:
    posterior = county()
    plot = pavi.plot.intervals
    data_error(lambda: plot(posterior, "mu"), "'mu' is no latent in plates")
    data_error(lambda: plot(posterior, "efect"), "Did you mean 'effect'?")
    data_error(lambda: plot(posterior, "effect", plate="home"), "'home'", "'county'")
    data_error(lambda: plot(posterior, "effect", component=1), "component=1", "scalar")
    crossed = random_posterior(CASES["crossed, joint block"])
    data_error(lambda: plot(crossed, "skill", component=2), "component=2", "(2,)")
    dense = random_posterior(CASES["dense"])
    data_error(lambda: plot(dense, "z", plate="vertex", at={"subject": 9}), "between 0 and 2")


# --- shrinkage ----------------------------------------------------------------------------------


def test_shrinkage_shows_the_posterior_against_the_groups_own_estimate() -> None:
    posterior = county()
    ax = drawn(pavi.plot.shrinkage(posterior, "effect", num_samples=400))
    draws = posterior.sample(400)
    means = {name: value.mean(0) for name, value in draws.items()}
    found = no_pooling(posterior.data, means, "effect", "y")
    # Larger groups first, so that the smaller ones lie on top of them; the empty one is left out.
    order = np.argsort(found.size)[:0:-1]
    points = next(c for c in ax.collections if len(c.get_offsets()) == 4)
    assert_allclose(
        points.get_offsets(), np.stack([found.estimate, means["effect"]], 1)[order], rtol=1e-5
    )
    assert (np.diff(points.get_sizes()) < 0).all()
    ends = np.array(ax.collections[0].get_segments())[..., 1].T
    assert_allclose(ends, np.quantile(draws["effect"], (0.05, 0.95), axis=0)[:, order], rtol=1e-6)
    assert "4 of 5; 1 without such an estimate" in ax.get_xlabel()
    assert "90 % interval" in ax.get_ylabel()


def test_shrinkage_has_the_diagonal_and_the_prior_mean() -> None:
    posterior = county()
    ax = pavi.plot.shrinkage(posterior, "effect", num_samples=100)
    level = [line for line in ax.lines if line.get_label() == "prior mean given the globals"]
    assert_allclose(level[0].get_ydata(), posterior.mean(100)["mu"], rtol=1e-5)
    assert ax.lines[0].get_slope() == 1
    assert {"observations per county", "1", "5"} <= {
        *texts(ax),
        *(part.get_title().get_text() for part in ax.figure.findobj(type_of_legend)),
    }


def test_a_prior_mean_of_each_group_is_a_dash_for_each() -> None:
    graph, data = MODELS["intercept and slope"]()
    posterior = random_posterior(Case(lambda: (graph, data), PLAIN))
    draws = posterior.sample(60)
    raw, sizes = np.array([1.0, 2.0, np.nan]), np.array([5, 3, 1])
    ax = pavi.plot.shrinkage(posterior, "slope", raw=raw, sizes=sizes, draws=draws)
    level = [line for line in ax.lines if line.get_label().startswith("prior mean")]
    assert_allclose(level[0].get_ydata(), 0.3 * draws["mu"].mean())
    three = random_posterior(CASES["three levels"])
    sizes = np.bincount(three.data.members["test"]["cask"])
    given: dict[str, Any] = {"raw": np.arange(6.0), "sizes": sizes, "num_samples": 60}
    ax = pavi.plot.shrinkage(three, "strength", **given)
    dashes = next(line for line in ax.lines if line.get_label().startswith("prior mean"))
    batch = three.data.members["cask"]["batch"]
    expected = three.mean(60)["effect"][batch]
    assert_allclose(dashes.get_ydata()[np.argsort(dashes.get_xdata())], expected, rtol=1e-5)


def test_estimates_are_asked_for_where_there_are_none() -> None:
    three = random_posterior(CASES["three levels"])
    data_error(lambda: pavi.plot.shrinkage(three, "effect"), "raw=", "sizes=")
    data_error(lambda: pavi.plot.shrinkage(county(), "effect", raw=[1.0]), "raw", "(1,)", "(5,)")
    empty = np.full(5, np.nan)
    data_error(lambda: pavi.plot.shrinkage(county(), "effect", raw=empty), "no county", "raw=")
    data_error(lambda: pavi.plot.shrinkage(county(), "effect", probability=90.0), "90.0")


# --- calibration --------------------------------------------------------------------------------


def test_curves_are_named_where_they_leave_the_envelope() -> None:
    narrow = (rng(1).beta(0.4, 0.4, 200) * 100).astype(int)
    ranks = {"mu": rng(2).integers(0, 100, 200), "tau": narrow}
    ax = drawn(pavi.plot.calibration(ranks, 99))
    assert {"outside: tau", "within: 1 of 2"} <= set(texts(ax))
    curve = next(line for line in ax.lines if line.get_label() == "outside: tau")
    z, difference = np.array(curve.get_data())
    assert_allclose((z[0], z[-1], difference[0], difference[-1]), (0, 1, 0, 0), atol=1e-12)
    at = np.searchsorted(z, 0.3)
    assert_allclose(difference[at], (narrow < 100 * z[at]).mean() - z[at])
    assert difference[z < 0.3].max() > 0 > difference[z > 0.7].min()


def test_ranks_in_an_array() -> None:
    ranks = rng(3).integers(0, 51, (100, 30))
    ax = pavi.plot.calibration(ranks, 50, probability=0.99)
    assert any(text.startswith("99 % of calibrated") for text in texts(ax))
    assert len(pavi.plot.calibration(ranks[:, 0], 50).lines) == 2
    wrong = np.zeros((100, 12), int)
    many = texts(pavi.plot.calibration(wrong, 50))
    assert "... and 4 more outside" in many
    data_error(lambda: pavi.plot.calibration({}, 50), "no ranks")
    data_error(lambda: pavi.plot.calibration(ranks[None], 50), "(1, 100, 30)")
    data_error(lambda: pavi.plot.calibration(ranks, 20), "num_draws")


# --- k-hat --------------------------------------------------------------------------------------


def test_the_worst_groups_are_named() -> None:
    k = np.array([0.1, 0.9, np.inf, 0.69, 1.4, -np.inf])
    sizes = np.array([4, 2, 1, 30, 3, 500])
    names = [f"school {i}" for i in range(6)]
    ax = drawn(pavi.plot.pareto_k(k, sizes, 0.66, labels=names, plate="school", worst=3))
    assert {"school 2", "school 4", "school 1"} == {t for t in texts(ax) if t.startswith("school")}
    assert "above: 4 of 6 (67 %)" in texts(ax)
    assert "of these not finite: 1" in texts(ax)
    below, above, beyond = (np.asarray(c.get_offsets()) for c in ax.collections)
    assert_allclose(below, [[4, 0.1], [500, 0.0]])
    assert_allclose(above, [[2, 0.9], [30, 0.69], [3, 1.4]])
    assert beyond[0, 1] > 1.4
    assert_allclose(ax.lines[0].get_ydata(), 0.66)
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "observations of the school"


def test_groups_below_the_threshold_have_no_names() -> None:
    ax = pavi.plot.pareto_k(np.full(4, 0.2), np.arange(4))
    assert [t.get_text() for t in ax.texts] == ["0.70"]
    assert ax.get_xscale() == "linear"
    data_error(lambda: pavi.plot.pareto_k([0.1, 0.2], [1]), "(2,)", "(1,)")


# --- all of them --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: pavi.plot.elbo(history(), ax=ax),
        lambda ax: pavi.plot.intervals(county(), "effect", num_samples=20, ax=ax),
        lambda ax: pavi.plot.shrinkage(county(), "effect", num_samples=20, ax=ax),
        lambda ax: pavi.plot.calibration(np.arange(20), 19, ax=ax),
        lambda ax: pavi.plot.pareto_k([0.1, 0.8], [3, 4], ax=ax),
    ],
    ids=["elbo", "intervals", "shrinkage", "calibration", "pareto_k"],
)
def test_a_picture_is_drawn_on_the_axes_given(draw: Any) -> None:
    from matplotlib import pyplot

    _, (left, right) = pyplot.subplots(1, 2)
    assert draw(right) is right
    assert right.has_data()
    assert right.get_xlabel()
    assert right.get_ylabel()
    assert not left.has_data()
    assert len(pyplot.get_fignums()) == 1


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *_: Any, **__: Any) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("pavi.plot.canvas.import_module", absent)
    with pytest.raises(BackendError, match=r"needs matplotlib.*pip install 'pavi-vi\[plots\]'"):
        pavi.plot.elbo(history())
    with pytest.raises(BackendError, match=r"needs graphviz.*pip install 'pavi-vi\[plots\]'"):
        pavi.plot.plates(county())
