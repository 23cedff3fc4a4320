"""Natural-parameter pooling: exact for linear Gaussian models, the posterior mode for others.

A block's guide at its initial weights is its prior times the potential of the data. Here it is
compared with the exact conditional law of that block given the coarser ones, all finer ones
integrated out, in the fully grounded model (two or more copies of everything).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from grounded import Grounded, Setup, exact_law, guide_law, log_prob
from scipy import stats

from pavi import Covariate, Data, Family, Latent, Observed, Plate, PlateGraph, dist, objective, ops
from pavi.data import BoundData
from pavi.dist.supports import POSITIVE
from pavi.potentials import natural_potential

Model = tuple[PlateGraph, Data]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- linear Gaussian models ---------------------------------------------------------------------


def county() -> Model:
    """Nested and ragged: groups of 3, 1, 0, 2 and 5 homes."""
    graph = PlateGraph(
        [Plate("county"), Plate("home", within="county")],
        [
            Covariate("floor", plates="home"),
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("slope", dist.Normal(0.0, 2.0)),
            Latent("county_scale", dist.HalfNormal(1.0)),
            Latent("noise", dist.HalfNormal(1.0)),
            Latent(
                "effect", lambda mu, county_scale: dist.Normal(mu, county_scale), plates="county"
            ),
            Observed(
                "y",
                lambda effect, slope, floor, noise: dist.Normal(effect + slope * floor, noise),
                plates="home",
            ),
        ],
    )
    member = rng(0).permutation(np.repeat(np.arange(5), [3, 1, 0, 2, 5]))
    values = {"y": rng(1).normal(size=11), "floor": rng(2).normal(size=11)}
    return graph, Data(values, {"home": {"county": member}}, {"county": 5})


def county_with_missing() -> Model:
    """One county has lost all of its observations, others some."""
    graph, data = county()
    y = data.values["y"].copy()
    y[data.members["home"]["county"] == 3] = np.nan
    y[:2] = np.nan
    return graph, Data({**data.values, "y": y}, data.members, data.sizes)


def three_levels(centred: bool) -> Model:
    """batch > cask > test; the cask's mean is its batch's effect, or the effects add up."""
    strength = Latent(
        "strength",
        (lambda effect, cask_scale: dist.Normal(effect, cask_scale))
        if centred
        else (lambda cask_scale: dist.Normal(0.0, cask_scale)),
        plates="cask",
    )
    y = Observed(
        "y",
        (lambda strength, noise: dist.Normal(strength, noise))
        if centred
        else (lambda effect, strength, noise: dist.Normal(effect + strength, noise)),
        plates="test",
    )
    graph = PlateGraph(
        [Plate("batch"), Plate("cask", within="batch"), Plate("test", within="cask")],
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("batch_scale", dist.HalfNormal(1.0)),
            Latent("cask_scale", dist.HalfNormal(1.0)),
            Latent("noise", dist.HalfNormal(1.0)),
            Latent("effect", lambda mu, batch_scale: dist.Normal(mu, batch_scale), plates="batch"),
            strength,
            y,
        ],
    )
    members = {
        "cask": {"batch": rng(3).permutation([0, 0, 0, 1, 2, 2])},
        "test": {"cask": rng(4).permutation([0, 0, 1, 1, 1, 2, 3, 4, 4, 5, 5, 5])},
    }
    return graph, Data({"y": rng(5).normal(size=12)}, members)


def intercept_and_slope() -> Model:
    """Two latents a group, a global below the data too, two likelihoods on two plates."""
    graph = PlateGraph(
        [Plate("group"), Plate("obs", within="group")],
        [
            Covariate("t", plates="obs"),
            Covariate("error", plates="group"),
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("noise", dist.HalfNormal(1.0)),
            Latent("intercept", lambda mu: dist.Normal(mu, 0.7), plates="group"),
            Latent("slope", lambda mu: dist.Normal(0.3 * mu, 0.4), plates="group"),
            Observed(
                "y",
                lambda intercept, slope, t, noise, mu: dist.Normal(
                    intercept + slope * t + 0.5 * mu, noise
                ),
                plates="obs",
            ),
            Observed(
                "survey", lambda slope, error: dist.Normal(2.0 * slope, error), plates="group"
            ),
        ],
    )
    values = {
        "t": rng(6).normal(size=9),
        "y": rng(7).normal(size=9),
        "survey": rng(8).normal(size=3),
        "error": np.array([0.3, 0.9, 2.0]),
    }
    return graph, Data(values, {"obs": {"group": np.array([0, 2, 1, 0, 2, 2, 2, 0, 0])}})


def vector_events() -> Model:
    """A vector a group, mixed by the covariates; some elements of the events are missing."""
    graph = PlateGraph(
        [Plate("group"), Plate("obs", within="group")],
        [
            Covariate("x", plates="obs", event=(2, 3)),
            Latent("mu", dist.Normal(0.0, 1.0), event=3),
            Latent("noise", dist.HalfNormal(1.0)),
            Latent("theta", lambda mu: dist.Normal(mu, 0.8), plates="group", event=3),
            Latent("level", dist.Normal(0.2, 0.5), plates="group"),
            Observed(
                "y",
                lambda theta, level, x, noise: dist.Normal(
                    ops.sum(x * ops.expand_dims(theta, -2), -1) + level, noise
                ),
                plates="obs",
                event=2,
            ),
        ],
    )
    y = rng(9).normal(size=(7, 2))
    y[2, 0] = y[5] = np.nan
    values = {"x": rng(10).normal(size=(7, 2, 3)), "y": y}
    return graph, Data(values, {"obs": {"group": np.array([1, 0, 0, 2, 2, 1, 1])}})


def crossed_dense() -> Model:
    """Every sample on every plate (penicillin): the samples jointly, the plates integrated out."""
    graph = PlateGraph(
        [Plate("dish"), Plate("sample")],
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("dish_scale", dist.HalfNormal(1.0)),
            Latent("sample_scale", dist.HalfNormal(1.0)),
            Latent("noise", dist.HalfNormal(1.0)),
            Latent("dish_effect", lambda dish_scale: dist.Normal(0.0, dish_scale), plates="dish"),
            Latent(
                "sample_effect",
                lambda sample_scale: dist.Normal(0.0, sample_scale),
                plates="sample",
            ),
            Observed(
                "y",
                lambda mu, dish_effect, sample_effect, noise: dist.Normal(
                    mu + dish_effect + sample_effect, noise
                ),
                plates=("dish", "sample"),
            ),
        ],
    )
    y = rng(11).normal(size=(5, 3))
    y[4, 1] = np.nan
    return graph, Data({"y": y})


def crossed_rows() -> Model:
    """Ratings of lecturers by students; two latents a student, a vector a lecturer."""
    graph = PlateGraph(
        [Plate("student"), Plate("lecturer"), Plate("rating", within=("student", "lecturer"))],
        [
            Covariate("x", plates="rating"),
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("ability", dist.Normal(0.1, 0.8), plates="student"),
            Latent("trend", lambda mu: dist.Normal(mu, 0.5), plates="student"),
            Latent("skill", lambda mu: dist.Normal(mu, 0.6), plates="lecturer", event=2),
            Observed(
                "y",
                lambda ability, trend, skill, x: dist.Normal(
                    ability + trend * x + skill[..., 0] - x * skill[..., 1], 0.5
                ),
                plates="rating",
            ),
        ],
    )
    members = {
        "student": rng(12).integers(3, size=14),
        "lecturer": np.append(rng(13).integers(4, size=13), 4),
    }
    values = {"x": rng(14).normal(size=14), "y": rng(15).normal(size=14)}
    return graph, Data(values, {"rating": members})


def crossed_with_own_effects(dense: bool) -> Model:
    """As above, with a latent for each cell too, between the crossed effects and the data."""
    plates = [Plate("row"), Plate("column")]
    cell: tuple[str, ...] = ("row", "column")
    if not dense:
        plates.append(Plate("cell", within=("row", "column")))
        cell = ("cell",)
    graph = PlateGraph(
        plates,
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("row_effect", dist.Normal(0.0, 0.7), plates="row"),
            Latent("column_effect", dist.Normal(0.0, 0.9), plates="column"),
            Latent(
                "cell_effect",
                lambda row_effect, column_effect: dist.Normal(row_effect + column_effect, 0.5),
                plates=cell,
            ),
            Observed("y", lambda mu, cell_effect: dist.Normal(mu + cell_effect, 0.4), plates=cell),
        ],
    )
    if dense:
        return graph, Data({"y": rng(16).normal(size=(2, 3))})
    members = {"row": np.array([0, 1, 1, 0, 1]), "column": np.array([0, 0, 1, 2, 2])}
    return graph, Data({"y": rng(17).normal(size=5)}, {"cell": members})


def regions_crossed() -> Model:
    """A coarser plate above one of two crossed plates: both are joint."""
    graph = PlateGraph(
        [Plate("region"), Plate("site", within="region"), Plate("year")],
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("region_effect", dist.Normal(0.0, 0.7), plates="region"),
            Latent(
                "site_effect", lambda region_effect: dist.Normal(region_effect, 0.6), plates="site"
            ),
            Latent("year_effect", dist.Normal(0.0, 0.9), plates="year"),
            Observed(
                "y",
                lambda mu, site_effect, year_effect: dist.Normal(
                    mu + site_effect + year_effect, 0.4
                ),
                plates=("site", "year"),
            ),
        ],
    )
    members = {"site": {"region": np.array([1, 0, 1])}}
    return graph, Data({"y": rng(18).normal(size=(3, 5))}, members)


def dependent_within_a_block() -> Model:
    """The second latent's mean is the first one, on the same plate."""
    graph = PlateGraph(
        [Plate("group"), Plate("obs", within="group")],
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("start", lambda mu: dist.Normal(mu, 0.7), plates="group"),
            Latent("end", lambda start: dist.Normal(0.5 + 0.8 * start, 0.4), plates="group"),
            Observed("before", lambda start: dist.Normal(start, 0.6), plates="group"),
            Observed("after", lambda start, end: dist.Normal(end - 0.2 * start, 0.5), plates="obs"),
        ],
    )
    values = {"before": rng(19).normal(size=3), "after": rng(20).normal(size=6)}
    return graph, Data(values, {"obs": {"group": np.array([0, 1, 1, 2, 2, 2])}})


def three_crossed() -> Model:
    """Three crossed factors: two of them joint, the third one independent given these."""
    graph = PlateGraph(
        [Plate("a"), Plate("b"), Plate("c"), Plate("row", within=("a", "b", "c"))],
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("a_effect", dist.Normal(0.0, 0.7), plates="a"),
            Latent("b_effect", lambda mu: dist.Normal(mu, 0.9), plates="b"),
            Latent("c_effect", dist.Normal(0.0, 1.2), plates="c"),
            Observed(
                "y",
                lambda a_effect, b_effect, c_effect: dist.Normal(
                    a_effect + b_effect + c_effect, 0.5
                ),
                plates="row",
            ),
        ],
    )
    n = {"a": 2, "b": 3, "c": 4}
    members = {p: np.append(rng(21 + k).integers(k, size=11), k - 1) for p, k in n.items()}
    return graph, Data({"y": rng(30).normal(size=12)}, {"row": members})


MODELS: dict[str, Callable[[], Model]] = {
    "county": county,
    "county, missing": county_with_missing,
    "three levels, centred": lambda: three_levels(True),
    "three levels, additive": lambda: three_levels(False),
    "intercept and slope": intercept_and_slope,
    "vector events": vector_events,
    "crossed, dense": crossed_dense,
    "crossed, rows": crossed_rows,
    "crossed, own effects": lambda: crossed_with_own_effects(False),
    "crossed, own effects, dense": lambda: crossed_with_own_effects(True),
    "region over crossed": regions_crossed,
    "three crossed": three_crossed,
    "dependent within": dependent_within_a_block,
}
# Blocks whose exact conditional law the natural encoding must give; the scales are in "globals".
EXACT = {
    "county": ["county"],
    "county, missing": ["county"],
    "three levels, centred": ["batch", "cask"],
    "three levels, additive": ["batch", "cask"],
    "intercept and slope": ["group"],
    "vector events": ["group"],
    "crossed, dense": ["sample", "dish"],
    "crossed, rows": ["student", "lecturer"],
    "crossed, own effects": ["row", "column", "cell"],
    "crossed, own effects, dense": ["row", "column", "row,column"],
    "region over crossed": ["region", "site", "year"],
    "three crossed": ["a", "b", "c"],
    "dependent within": ["group"],
}
CASES = [(model, block) for model, blocks in EXACT.items() for block in blocks]


def bound(name: str) -> BoundData:
    graph, data = MODELS[name]()
    return data.bind(graph)


def known_scales(name: str) -> BoundData:
    """The model with every scale a known number, so that it is linear Gaussian as a whole."""
    graph, data = MODELS[name]()
    scales = {v.name for v in graph.latents if graph.probe[v.name].support == POSITIVE}
    variables = [Covariate(n) if n in scales else v for n, v in graph.variables.items()]
    numbers = {n: np.array(0.5 + 0.2 * i) for i, n in enumerate(sorted(scales))}
    known = PlateGraph(graph.plates.values(), variables)
    return Data({**data.values, **numbers}, data.members, data.sizes).bind(known)


@pytest.mark.parametrize(("model", "block"), CASES)
@pytest.mark.parametrize("encoding", ["auto", "encoder", "encoder+free"])
def test_linear_gaussian_conditionals_are_exact(model: str, block: str, encoding: str) -> None:
    setup = Setup(bound(model), Family(encoding=encoding))
    assert setup.plan.block(block).encoder == "natural"
    coarser, mean, covariance = guide_law(setup, block, seed=1)
    exact_mean, exact_covariance = exact_law(setup, block, coarser)
    np.testing.assert_allclose(mean, exact_mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(covariance, exact_covariance, rtol=0, atol=1e-8)


@pytest.mark.parametrize("model", MODELS)
def test_with_known_scales_every_draw_has_the_log_evidence(model: str) -> None:
    """All blocks exact, globals too: log p(theta, x) - log q(theta) = log p(x) at any noise."""
    data = known_scales(model)
    setup = Setup(data, Family(encoding="encoder"))
    elbo = objective.elbo_samples(
        setup.plan, log_prob, setup.params, setup.tables, setup.noise(5, seed=2), setup.batch
    )
    *_, log_evidence = Grounded(data).gaussian([v.name for v in data.graph.latents], {})
    np.testing.assert_allclose(elbo, np.full(5, log_evidence), rtol=0, atol=1e-8)


@pytest.mark.parametrize("model", ["three levels, centred", "crossed, rows", "vector events"])
def test_log_q_of_a_block_is_the_density_of_its_exact_law(model: str) -> None:
    setup = Setup(bound(model))
    block = EXACT[model][0]
    coarser, mean, covariance = guide_law(setup, block, seed=3)
    noise = setup.noise(1, seed=3)
    draw = setup.sample(noise)
    slots = setup.plan.block(block).slots
    for name, value in coarser.items():  # the same noise gives the same coarser values
        np.testing.assert_array_equal(draw.values[name][0], value)
    theta = np.concatenate([draw.values[slot.name][0].ravel() for slot in slots])
    log_q = draw.log_prob[block].sum()
    expected = stats.multivariate_normal.logpdf(theta, mean, covariance)
    np.testing.assert_allclose(log_q, expected, rtol=0, atol=1e-8)


def test_an_element_without_data_keeps_its_prior() -> None:
    setup = Setup(bound("county"))
    coarser, mean, covariance = guide_law(setup, "county")
    np.testing.assert_allclose(mean[2], coarser["mu"], rtol=1e-12)
    np.testing.assert_allclose(covariance[2, 2], coarser["county_scale"] ** 2, rtol=1e-12)


# --- where it is an approximation ---------------------------------------------------------------


def test_a_large_crossing_block_widens_the_data() -> None:
    """Crossed blocks too large for one joint density: h <- h / (1 + h J J').

    The first one sees each row with the other's prior variance added, as if no two rows shared an
    element of the other; that is no longer exact, and the residual row or the flow has to learn it.
    Here each student's potential is checked against that very model.
    """
    data = bound("crossed, rows")
    setup = Setup(data, Family(joint_limit=1))
    assert setup.plan.block("student").evidence.crossed == ("lecturer",)
    coarser, mean, covariance = guide_law(setup, "student")
    exact_mean, exact_covariance = exact_law(setup, "student", coarser)
    assert np.abs(covariance - exact_covariance).max() > 1e-3
    x, y = data.values["x"], data.values["y"]
    student = data.members["rating"]["student"]
    mu = coarser["mu"]
    prior_mean, prior_precision = np.array([0.1, mu]), np.diag([0.8**-2.0, 0.5**-2.0])
    for s in range(3):
        row = student == s
        design = np.stack([np.ones(row.sum()), x[row]], -1)
        h = 1.0 / (0.5**2 + 0.6**2 * (1.0 + x[row] ** 2))
        target = y[row] - mu * (1.0 - x[row])
        precision = prior_precision + design.T @ (h[:, None] * design)
        wide = np.linalg.inv(precision)
        at = [s, 3 + s]
        np.testing.assert_allclose(covariance[np.ix_(at, at)], wide, rtol=0, atol=1e-8)
        shift = prior_precision @ prior_mean + design.T @ (h * target)
        np.testing.assert_allclose(mean[at], wide @ shift, rtol=0, atol=1e-8)
    # Given the students, the lecturers are independent: exact again.
    coarser, mean, covariance = guide_law(setup, "lecturer")
    exact_mean, exact_covariance = exact_law(setup, "lecturer", coarser)
    np.testing.assert_allclose(mean, exact_mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(covariance, exact_covariance, rtol=0, atol=1e-8)


def test_a_scale_from_within_the_block_is_linearised() -> None:
    """b ~ N(0, exp(a)), both on one plate: y's mean is not linear in the whitened (w_a, w_b).

    At the origin, w = 0, the derivative in w_b is E[exp(a)]'s, exp(m_a), and that in w_a is 0: the
    potential is that of the linear model y ~ N(exp(m_a) w_b, noise).
    """
    graph = PlateGraph(
        [Plate("group")],
        [
            Latent("mu", dist.Normal(0.0, 0.1)),
            Latent("a", lambda mu: dist.Normal(mu, 0.5), plates="group"),
            Latent("b", lambda a: dist.Normal(0.0, ops.exp(a)), plates="group"),
            Observed("y", lambda b: dist.Normal(b, 0.4), plates="group"),
        ],
    )
    setup = Setup(Data({"y": np.array([0.3, -2.0])}).bind(graph))
    block = setup.plan.block("group")
    values = {"mu": np.array([0.05, -0.1])}
    like = np.zeros((2, 2, 2))
    potential = natural_potential(setup.plan, block, values, setup.batch, like)
    slope = np.exp(values["mu"])[:, None] * np.ones(2)
    np.testing.assert_allclose(potential.precision[..., 1, 1], slope**2 / 0.16, rtol=1e-12)
    np.testing.assert_allclose(potential.precision[..., 0, :], 0.0, atol=1e-12)
    np.testing.assert_allclose(potential.shift[..., 1], slope * [0.3, -2.0] / 0.16, rtol=1e-12)
    np.testing.assert_allclose(potential.shift[..., 0], 0.0, atol=1e-12)


# --- likelihoods that are not Gaussian ----------------------------------------------------------


def counts(likelihood: str) -> BoundData:
    """Groups of 4, 1, 0 and 3 rows with an intercept and a slope each, given two globals."""
    observed = {
        "poisson": lambda level, slope, x, base: dist.Poisson(log_rate=base + level + slope * x),
        "poisson rate": lambda level, slope, x, base: dist.Poisson(
            rate=ops.exp(base + level + slope * x)
        ),
        "bernoulli": lambda level, slope, x, base: dist.Bernoulli(logits=base + level + slope * x),
        "bernoulli probs": lambda level, slope, x, base: dist.Bernoulli(
            probs=ops.sigmoid(base + level + slope * x)
        ),
        "binomial": lambda level, slope, x, base, trials: dist.Binomial(
            trials, logits=base + level + slope * x
        ),
    }[likelihood]
    values = {
        "poisson": np.array([0.0, 3, 12, 1, 40, 0, 2, 7]),
        "bernoulli": np.array([1.0, 1, 1, 1, 0, 0, 1, 0]),
        "binomial": np.array([0.0, 3, 20, 1, 5, 0, 2, 7]),
    }[likelihood.split()[0]]
    data = {"x": rng(31).normal(size=8), "y": values}
    covariates = [Covariate("x", plates="row")]
    if likelihood == "binomial":
        data["trials"] = np.array([5.0, 3, 20, 9, 30, 1, 4, 8])
        covariates.append(Covariate("trials", plates="row"))
    graph = PlateGraph(
        [Plate("group"), Plate("row", within="group")],
        [
            *covariates,
            Latent("base", dist.Normal(0.0, 0.5)),
            Latent("scale", dist.HalfNormal(1.0)),
            Latent("level", lambda scale: dist.Normal(0.0, scale), plates="group"),
            Latent("slope", lambda base: dist.Normal(0.4 * base, 0.5), plates="group"),
            Observed("y", observed, plates="row"),
        ],
    )
    member = np.array([0, 0, 0, 0, 1, 3, 3, 3])
    return Data(data, {"row": {"group": member}}, {"group": 4}).bind(graph)


@pytest.mark.parametrize(
    "likelihood", ["poisson", "poisson rate", "bernoulli", "bernoulli probs", "binomial"]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_newton_steps_find_the_posterior_mode(likelihood: str, seed: int) -> None:
    """With a canonical link, whose expected information is the Hessian."""
    data = counts(likelihood)
    for steps, near, like in ((3, 2e-3, 0.1), (6, 1e-6, 1e-5)):
        setup = Setup(data, Family(newton_steps=steps))
        coarser, mean, covariance = guide_law(setup, "group", seed)
        mode, inverse_hessian = exact_law(setup, "group", coarser, start=mean)
        # In units of the prior's standard deviation.
        prior_sd = np.repeat([coarser["scale"], 0.5], 4)
        np.testing.assert_allclose(mean / prior_sd, mode / prior_sd, rtol=0, atol=near)
        np.testing.assert_allclose(
            np.diag(np.linalg.inv(covariance)), np.diag(np.linalg.inv(inverse_hessian)), rtol=like
        )


def cask_counts() -> BoundData:
    """Counts below two levels of latents."""
    graph = PlateGraph(
        [Plate("batch"), Plate("cask", within="batch"), Plate("test", within="cask")],
        [
            Latent("mu", dist.Normal(1.0, 0.5)),
            Latent("effect", lambda mu: dist.Normal(mu, 0.8), plates="batch"),
            Latent("strength", lambda effect: dist.Normal(effect, 0.6), plates="cask"),
            Observed("y", lambda strength: dist.Poisson(log_rate=strength), plates="test"),
        ],
    )
    members = {
        "cask": {"batch": np.array([0, 0, 1, 2, 2])},
        "test": {"cask": np.array([0, 0, 1, 2, 2, 2, 3, 4])},
    }
    return Data({"y": np.array([0.0, 1, 9, 3, 2, 4, 0, 12])}, members).bind(graph)


@pytest.mark.parametrize("seed", [0, 1])
def test_finer_latents_are_integrated_out_at_the_joint_mode(seed: int) -> None:
    """The upper level's potential is Laplace's: the Schur complement of the Hessian at the mode."""
    setup = Setup(cask_counts(), Family(newton_steps=8))
    coarser, mean, covariance = guide_law(setup, "batch", seed)
    start = np.concatenate([mean, mean[[0, 0, 1, 2, 2]]])
    mode, inverse_hessian = exact_law(setup, "batch", coarser, start)
    np.testing.assert_allclose(mean, mode, rtol=0, atol=1e-6)
    np.testing.assert_allclose(covariance, inverse_hessian, rtol=0, atol=1e-6)
