"""What a diagnosis finds, against NumPy: guides whose fault is known because it was put there."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from complaints import data_error
from grounded import Grounded
from numpy.testing import assert_allclose, assert_array_equal
from numpy_backend import NumpyFunctions, install, on_backend, random_posterior
from scipy import special, stats
from small_models import MODELS, rng
from varied_models import CASES, Case

import pavi
from pavi import Covariate, Data, Family, Latent, Observed, Plate, PlateGraph, Posterior, dist, psis
from pavi.conditional import Conditional
from pavi.diagnosis import STANDS
from pavi.grouping import grouping
from pavi.marginal import integrated
from pavi.noise import Noise
from pavi.schedule import History

PLAIN = Family(flow="none", hidden=4, encoding_size=3)
# Each group with a row of its own to be put wrong by
ROWS = Family(flow="none", hidden=4, encoding="encoder+free")
DEEP = Family(flow="none", hidden=4, encoder="deep_set", encoding="encoder")
NAMES = np.array(["a", "b", "c", "d", "e"])
COUNTS = np.array([4, 1, 0, 2, 6])


@pytest.fixture(autouse=True)
def numpy_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def zhang_stephens(log_ratios: np.ndarray) -> float:
    """Pareto k-hat by the published recipe (JMLR 25, 2024, appendix), with its prior."""
    ratio = np.exp(log_ratios - log_ratios.max())
    count = int(3 * np.sqrt(len(ratio))) if len(ratio) > 225 else len(ratio) // 5
    ordered = np.sort(ratio)
    x = ordered[-count:] - ordered[-count - 1]
    m = 30 + int(np.sqrt(count))
    theta = 1 / x[-1] + (1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / 3 / x[count // 4]
    k = np.log1p(-theta[:, None] * x).mean(1)
    likelihood = count * (np.log(-theta / k) - k - 1)
    theta_hat = (theta * special.softmax(likelihood)).sum()
    k_hat = np.log1p(-theta_hat * x).mean()
    return float((count * k_hat + 10 * 0.5) / (count + 10))


def effects(counts: np.ndarray = COUNTS, mean: bool = True, family: Family = PLAIN) -> Posterior:
    """Means of ragged groups around a common one, with the exact posterior as the guide's."""
    above = [Latent("mu", dist.Normal(0.0, 2.0))] if mean else []
    own = (lambda mu: dist.Normal(mu, 0.5)) if mean else dist.Normal(0.0, 0.5)
    graph = PlateGraph(
        [Plate("group"), Plate("obs", within="group")],
        [
            *above,
            Latent("theta", own, plates="group"),
            Observed("y", lambda theta: dist.Normal(theta, 0.7), plates="obs"),
        ],
    )
    member = np.repeat(np.arange(len(counts)), counts)
    y = 1.0 + rng(80).normal(size=len(counts))[member] + rng(81).normal(0.0, 0.7, len(member))
    coords = {"group": NAMES} if len(counts) == len(NAMES) else {}
    given = Data({"y": y}, {"obs": {"group": member}}, {"group": len(counts)}, coords)
    posterior = random_posterior(Case(lambda: (graph, given), family), scale=0.0)
    if mean:
        total = np.bincount(member, y, len(counts))
        known = counts > 0
        own_variance = 0.25 + 0.49 / counts[known]
        precision = 0.25 + (1 / own_variance).sum()
        centre = (total[known] / counts[known] / own_variance).sum() / precision
        posterior.weights["globals/flow/loc"][:] = centre / 2.0
        posterior.weights["globals/flow/log_diagonal"][:] = -0.5 * np.log(precision) - np.log(2.0)
    return replace(posterior, converged=True, verdict="it settled")


def line(structure: Any) -> Posterior:
    """Intercept and slope over a covariate far from 0, with the best guide of the structure."""
    x, y = np.arange(8.0) + 20.0, rng(82).normal(size=8)
    graph = PlateGraph(
        [Plate("row")],
        [
            Covariate("x", plates="row"),
            Latent("intercept", dist.Normal(0.0, 5.0)),
            Latent("slope", dist.Normal(0.0, 5.0)),
            Observed(
                "y",
                lambda intercept, slope, x: dist.Normal(intercept + slope * x, 1.0),
                plates="row",
            ),
        ],
    )
    family = Family(flow="none", structure=structure)
    case = Case(lambda: (graph, Data({"y": y, "x": x})), family)
    posterior = random_posterior(case, scale=0.0)
    # of the whitened coordinates, which the prior's standard deviations scale
    design = 5.0 * np.stack([np.ones(8), x], 1)
    precision = np.eye(2) + design.T @ design
    mean = np.linalg.solve(precision, design.T @ y)
    if structure == "block":
        lower = np.linalg.cholesky(np.linalg.inv(precision))
        posterior.weights["globals/flow/reference_scale"][:] = lower
        posterior.weights["globals/flow/reference_loc"][:] = mean
        posterior.weights["globals/flow/log_diagonal"][:] = 0.0
    else:
        for i, name in enumerate(("intercept", "slope")):
            posterior.weights[f"{name}/flow/loc"][:] = mean[i]
            posterior.weights[f"{name}/flow/log_diagonal"][:] = -0.5 * np.log(precision[i, i])
    return replace(posterior, converged=True, verdict="it settled")


# --- k-hat --------------------------------------------------------------------------------------


def test_khat_is_that_of_the_published_recipe() -> None:
    ratios = rng(1).normal(0.0, [[0.5], [1.5], [4.0]], size=(3, 1000))
    found = psis.smoothed(ratios)
    assert_allclose(found.khat, [zhang_stephens(r) for r in ratios], atol=0.02)
    assert_allclose(special.logsumexp(found.log_weights, axis=1), 0.0, atol=1e-9)
    assert (np.diff(found.khat) > 0).all()


def test_ratios_without_a_tail() -> None:
    broken = rng(2).normal(size=(3, 200))
    broken[0], broken[1, 3], broken[2, :190] = 7.0, np.nan, -np.inf
    assert_array_equal(psis.smoothed(broken).khat, [0.0, np.inf, np.inf])


@pytest.mark.parametrize(("draws", "limit"), [(100, 0.5), (1000, 1 - 1 / 3), (10**5, 0.7)])
def test_the_threshold_knows_the_number_of_draws(draws: int, limit: float) -> None:
    assert_allclose(psis.threshold(draws), limit)


def test_without_arviz_stats_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz_stats.base", None)
    with pytest.raises(pavi.BackendError, match="arviz-stats"):
        effects().diagnose(num_samples=100)


def test_a_family_that_is_too_small_is_told() -> None:
    small = line("mean_field").diagnose()
    assert small.khat_globals is not None
    assert small.khat_globals > 0.7
    assert not small.trusted
    assert "intercept, slope: k-hat" in str(small)
    assert "structure='block'" in str(small)
    assert "flow='spline'" in str(small)
    enough = line("block").diagnose()
    assert enough.khat_globals == 0.0
    assert enough.trusted
    assert "Nothing speaks against" in str(enough)


def test_gaussian_random_effects_are_trusted() -> None:
    found = effects().diagnose(num_samples=400)
    assert found.khat_globals is not None
    assert found.khat_globals < found.threshold
    assert_allclose(found.groups["group"].khat, 0.0)
    assert_allclose(found.groups["group"].gap, 0.0, atol=1e-9)
    assert_allclose(found.groups["group"].refinement, 0.0, atol=1e-9)
    assert found.trusted
    assert "R-hat" not in str(found)


def test_large_khats_of_tails_that_move_nothing_are_no_alarm() -> None:
    found = replace(line("mean_field").diagnose(num_samples=100), khat_globals=1.4, scatter=0.02)
    assert found.trusted
    assert "far out in the tails" in str(found)
    assert not replace(found, scatter=0.5).trusted
    assert "posterior.host()" in str(replace(found, scatter=0.5, remedies=()))


def test_a_fit_that_has_not_converged_is_told_first() -> None:
    posterior = replace(effects(), converged=False, verdict="it was still rising")
    report = str(posterior.diagnose(num_samples=100))
    assert "not converged: it was still rising" in report
    assert "more steps" in report
    assert "Not to be trusted" in report


def test_every_backend_finds_the_same(backend: str) -> None:
    for posterior in (line("mean_field"), effects()):
        wanted = posterior.diagnose(num_samples=200)
        found = on_backend(posterior, backend).diagnose(num_samples=200)
        assert_allclose(found.khat_globals, wanted.khat_globals, rtol=1e-5, atol=1e-9)
        assert_allclose(found.elbo, wanted.elbo, rtol=1e-9)
        assert found.trusted == wanted.trusted
        for plate, groups in wanted.groups.items():
            assert_allclose(found.groups[plate].told, groups.told, rtol=1e-9, atol=1e-12)
            assert_allclose(found.groups[plate].khat, groups.khat, atol=1e-6)


# --- groups -------------------------------------------------------------------------------------


def test_sums_over_groups_are_in_double_precision() -> None:
    """Terms of a single-precision guide, of which a large model sums millions."""
    posterior = random_posterior(CASES["poisson"], "float32")
    groups = grouping(posterior.plan)
    chosen = {g.plate: np.arange(posterior.data.sizes[g.plate]) for g in groups.groups}
    (drawn,) = Conditional(posterior._fitted, groups, chosen).draw(2, 3, 0)
    assert drawn.parts.rest.dtype == np.float64
    assert all(part.dtype == np.float64 for part in drawn.parts.local.values())


def test_khat_of_each_group_is_that_of_numpy() -> None:
    posterior, size = effects(mean=False, family=ROWS), 300
    posterior.tables["group"][:-1] = rng(3).normal(0.0, 0.6, (5, 2))
    found = posterior.diagnose(num_samples=size, seed=4).groups["group"]
    plan, data = posterior.plan, posterior.data
    indices = posterior._fitted.full.indices
    eps = Noise(plan.blocks, data.sizes, indices, 2 * 4 + 1).draw(STANDS * size)
    theta = posterior._fitted.functions.sample(
        posterior.weights,
        posterior._fitted.rows(posterior._fitted.full),
        eps,
        posterior._fitted.full,
    )["theta"]
    member = data.members["obs"]["group"]
    for group in range(5):
        draw, noise = theta[:, group], eps["group"][:, group, 0]
        scale, place = np.polyfit(noise, draw, 1)
        ratio = stats.norm.logpdf(draw, 0.0, 0.5) - stats.norm.logpdf(draw, place, scale)
        for y in data.values["y"][member == group]:
            ratio = ratio + stats.norm.logpdf(y, draw, 0.7)
        stands = ratio.reshape(STANDS, size)
        wanted = np.median([zhang_stephens(stand) for stand in stands])
        assert_allclose(found.khat[group], wanted, atol=0.03)
        gap = special.logsumexp(stands, axis=1) - np.log(size) - stands.mean(1)
        assert_allclose(found.gap[group], gap.mean(), rtol=1e-6)
    assert posterior.diagnose(num_samples=100).khat_globals is None


def test_a_group_that_is_off_is_named_with_its_rows_and_what_a_correction_would_win() -> None:
    posterior = effects(family=ROWS)
    moved, narrower = 0.7, -1.2
    posterior.tables["group"][3] = [moved, narrower]
    found = posterior.diagnose()
    groups = found.groups["group"]
    assert_array_equal(groups.labels, NAMES)
    assert_array_equal(groups.rows, COUNTS)
    assert groups.worst[0] == 3
    assert groups.khat[3] > groups.threshold
    assert_allclose(groups.share_above, 0.2)
    # KL between two normal laws, in units of the second
    exact = 0.5 * (np.exp(2 * narrower) + moved**2 - 1.0) - narrower
    assert_allclose(groups.refinement[3], exact, rtol=0.15)
    assert_allclose(np.delete(groups.refinement, 3), 0.0, atol=1e-9)
    assert 0.3 * exact < groups.gap[3] < 1.1 * exact
    assert "worst: group d (k-hat" in str(found)
    assert "2 rows" in str(found)


def test_globals_with_the_groups_integrated_out_have_the_exact_ratio() -> None:
    posterior = random_posterior(CASES["nested, missing"], scale=0.1)
    found = grouping(posterior.plan)
    assert [g.plate for g in found.groups] == ["county"]
    fitted, size = posterior._fitted, 40
    whole = {"county": np.arange(5)}
    overall = integrated(Conditional(fitted, found, whole), size, 16, 6)
    noise = Noise(posterior.plan.blocks[:1], fitted.data.sizes, fitted.full.indices, 6).draw(size)
    every = {"county": np.zeros((size, 5, 1)), **noise}
    terms = fitted.functions.terms(posterior.weights, fitted.rows(fitted.full), every, fitted.full)
    grounded, exact = Grounded(posterior.data), np.zeros(size)
    for s in range(size):
        fixed = {n: terms.values[n][s] for n in ("mu", "slope", "county_scale", "noise")}
        exact[s] = grounded.gaussian(["effect"], fixed)[2] - terms.log_q["globals"][s]
    error = overall.marginal - exact
    assert np.sqrt((error**2).mean()) < 1.5 * overall.noise
    assert overall.noise < 0.5
    # without integrating, the ratios are off by more
    assert (overall.joint - exact).std() > 1.5 * error.std()


def test_a_guide_without_plates_gives_the_ratios_of_its_draws() -> None:
    posterior = line("mean_field")
    found = posterior.diagnose(num_samples=200)
    stats_ = posterior.to_arviz(200, log_likelihood=False)["sample_stats"]
    ratio = (stats_["log_p"] - stats_["log_q"]).values[0]
    assert_allclose([found.khat_joint, found.khat_globals], psis.smoothed(ratio).khat, rtol=1e-6)
    assert_allclose((found.elbo, found.elbo_se), posterior.elbo(200), rtol=1e-9)
    assert not found.groups
    assert not found.missing


@pytest.mark.parametrize(
    ("name", "plate", "given", "missing"),
    [
        ("crossed, joint block", "lecturer", ("ability", "trend"), "joint density"),
        ("crossed, no joint block", "lecturer", ("ability", "trend"), "draws 'ability' and"),
        ("dense", "vertex", (), "crosses 'vertex'"),
    ],
)
def test_crossed_plates(name: str, plate: str, given: tuple[str, ...], missing: str) -> None:
    found = random_posterior(CASES[name]).diagnose(num_samples=100)
    (groups,) = found.groups.values()
    assert groups.plate == plate
    assert groups.given == given
    (why,) = found.missing.values()
    assert missing in why
    assert "cannot be looked at one by one" in str(found)
    assert set(given) <= set(found.globals)


@pytest.mark.parametrize("name", ["three levels", "nested, spline", "cholesky"])
def test_terms_are_sorted_without_loss(name: str) -> None:
    posterior = random_posterior(CASES[name])
    found = posterior.diagnose(num_samples=100)
    terms, error = posterior.elbo(2000)
    assert abs(found.elbo - terms) < 4 * np.hypot(error, found.elbo_se)
    for groups in found.groups.values():
        assert np.isfinite(groups.gap).all()
        assert groups.rows.sum() > 0


# --- many groups --------------------------------------------------------------------------------


def test_the_cost_does_not_grow_with_the_groups_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    posterior = effects(rng(5).integers(1, 4, 2000))
    seen: list[int] = []
    inner = NumpyFunctions.terms

    def spied(self: Any, weights: Any, rows: Any, noise: Any, batch: Any) -> Any:
        seen.append(len(batch.indices["group"]))
        return inner(self, weights, rows, noise, batch)

    monkeypatch.setattr(NumpyFunctions, "terms", spied)
    found = posterior.diagnose(num_samples=100, groups=50)
    assert set(seen) == {50}
    groups = found.groups["group"]
    assert (groups.size, len(groups.elements)) == (2000, 50)
    assert found.khat_globals is None
    assert "50 sampled of 2,000" in str(found)
    value, error = posterior.elbo(100)
    assert abs(found.elbo - value) < 4 * np.hypot(error, found.elbo_se)


def test_groups_can_be_named() -> None:
    found = effects().diagnose(num_samples=100, groups={"group": ["e", "b"]})
    groups = found.groups["group"]
    assert groups.labels.tolist() == ["e", "b"]
    assert_array_equal(groups.rows, [6, 1])
    assert "not estimated" in str(found)
    history = History(np.array([250]), np.array([-7.5]), np.array([0.25]))
    last = replace(effects(), history=history).diagnose(num_samples=100, groups=2)
    assert (last.elbo, last.elbo_se, last.elbo_how) == (-7.5, 0.25, "at the end of the fit")
    assert groups.told[0] > groups.told[1] > 0.0


# --- encoders -----------------------------------------------------------------------------------


def test_an_encoder_that_tells_nothing_has_collapsed() -> None:
    given = effects(10 * COUNTS)
    case = Case(
        lambda: (given.graph, Data(given.data.values, given.data.members, {"group": 5})),
        DEEP,
    )
    posterior = random_posterior(case, scale=0.0)
    # a potential of no precision leaves the prior as it is
    posterior.weights["group/head/b1"][:] = -30.0
    posterior.weights["group/head/w1"][:] = 0.0
    found = posterior.diagnose(num_samples=200)
    assert_allclose(found.groups["group"].told, 0.0, atol=1e-6)
    assert "collapsed" in str(found)
    assert "collapsed" not in str(given.diagnose(num_samples=200))


def test_groups_unlike_those_of_the_training_are_named() -> None:
    posterior = effects()
    member = np.repeat([0, 1, 2], [3, 40, 0])
    given = Data(
        {"y": np.zeros(43)}, {"obs": {"group": member}}, {"group": 3}, {"group": ["p", "q", "r"]}
    )
    found = posterior.encode(given).diagnose(num_samples=100)
    (one,) = found.groups["group"].unfamiliar
    assert one.feature == "number of y"
    assert (one.low, one.high) == (1.0, 6.0)
    assert one.elements.tolist() == [1]
    assert "40 (group q)" in str(found)
    trained = posterior.data
    again = Data({"y": trained.values["y"]}, trained.members, {"group": 5})
    back = posterior.encode(given).encode(again).diagnose(num_samples=100)
    assert not back.groups["group"].unfamiliar


def test_a_deep_set_meets_the_data_themselves() -> None:
    case = Case(MODELS["county"], DEEP)
    posterior = random_posterior(case)
    data = MODELS["county"]()[1]
    far = {**data.values, "floor": data.values["floor"] + 9.0}
    found = posterior.encode(Data(far, data.members, data.sizes)).diagnose(num_samples=100)
    features = [one.feature for one in found.groups["county"].unfamiliar]
    assert features == ["mean of floor"]
    assert found.groups["county"].unfamiliar[0].elements.tolist() != [2]


# --- mistakes -----------------------------------------------------------------------------------


def test_mistakes_are_named() -> None:
    posterior = effects()
    data_error(lambda: posterior.diagnose(num_samples=99), "num_samples=99", "100")
    data_error(lambda: posterior.diagnose(num_samples=0), "num_samples=0")
    data_error(lambda: posterior.diagnose(groups=0), "groups=0", "positive integer")
    data_error(lambda: posterior.diagnose(groups={"obs": [1]}), "'obs'", "['group']")
    data_error(lambda: posterior.diagnose(groups={"grup": [1]}), "'grup'", "'group'")
    data_error(lambda: posterior.diagnose(groups={"group": ["z"]}), "'z'")
    crossed = random_posterior(CASES["crossed, joint block"])
    data_error(lambda: crossed.diagnose(groups={"student": [0]}), "'student'", "joint density")
