"""Natural-parameter pooling: exact for linear Gaussian models, the best Gaussian for others.

A block's guide at its initial weights is its prior times the potential of the data. Here it is
compared with the exact conditional law of that block given the coarser ones, all finer ones
integrated out, in the fully grounded model (two or more copies of everything).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from grounded import Grounded, Setup, best_law, exact_law, guide_law, log_prob
from scipy import stats
from small_models import MODELS, bound, rng

from pavi import Covariate, Data, Family, Latent, Observed, Plate, PlateGraph, dist, objective, ops
from pavi.data import BoundData
from pavi.dist.supports import POSITIVE
from pavi.potentials import natural_potential

# Blocks whose exact conditional law the natural encoding must give; the scales are in "globals".
EXACT = {
    "county": ["county"],
    "county, missing": ["county"],
    "dense rows, missing": ["group"],
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
    "two orders": ["a,b", "b,a"],
    "dependent within": ["group"],
}
CASES = [(model, block) for model, blocks in EXACT.items() for block in blocks]


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


def test_rows_that_another_block_crosses_inform_one_by_one() -> None:
    """Whether repeated rows are an axis of their own or a list, they say the same."""
    latents = [
        Latent("mu", dist.Normal(0.0, 1.0)),
        Latent("a", lambda mu: dist.Normal(mu, 0.7), plates="g"),
        Latent("b", dist.Normal(0.0, 0.9), plates="s"),
    ]

    def likelihood(a: Any, b: Any) -> dist.Normal:
        return dist.Normal(a + b, 0.5)

    y = np.random.default_rng(3).normal(size=(2, 4, 3))
    dense = PlateGraph(
        [Plate("g"), Plate("r"), Plate("s")],
        [*latents, Observed("y", likelihood, plates=("g", "r", "s"))],
    )
    rows = PlateGraph(
        [Plate("g"), Plate("s"), Plate("row", within=("g", "s"))],
        [*latents, Observed("y", likelihood, plates="row")],
    )
    g, _, s = np.indices(y.shape)
    members = {"row": {"g": g.ravel(), "s": s.ravel()}}
    family = Family(joint_limit=0)
    laws = [
        guide_law(Setup(data, family), "g")
        for data in (Data({"y": y}).bind(dense), Data({"y": y.ravel()}, members).bind(rows))
    ]
    for one, other in zip(laws[0][1:], laws[1][1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


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
def test_newton_steps_find_the_best_gaussian(likelihood: str, seed: int) -> None:
    """With a canonical link, whose expected information is the Hessian."""
    data = counts(likelihood)
    laws = {n: guide_law(Setup(data, Family(newton_steps=n)), "group", seed) for n in (3, 6)}
    coarser, start, _ = laws[6]
    wanted, spread = best_law(Setup(data), "group", coarser, start)
    # In units of the prior's standard deviation.
    prior_sd = np.repeat([coarser["scale"], 0.5], 4)
    for steps, near, like in ((3, 0.02, 0.1), (6, 5e-3, 0.015)):
        _, mean, covariance = laws[steps]
        np.testing.assert_allclose(mean / prior_sd, wanted / prior_sd, rtol=0, atol=near)
        np.testing.assert_allclose(
            np.diag(np.linalg.inv(covariance)), np.diag(np.linalg.inv(spread)), rtol=like
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
def test_finer_latents_are_integrated_out_of_the_joint_gaussian(seed: int) -> None:
    """The upper level's law is a marginal of the Gaussian that is nearest to all levels at once."""
    setup = Setup(cask_counts(), Family(newton_steps=8))
    coarser, mean, covariance = guide_law(setup, "batch", seed)
    start = np.concatenate([mean, mean[[0, 0, 1, 2, 2]]])
    wanted, spread = best_law(setup, "batch", coarser, start)
    np.testing.assert_allclose(mean, wanted, rtol=0, atol=4e-3)
    np.testing.assert_allclose(covariance, spread, rtol=0, atol=4e-3)


# --- topologies and parameters at large ---------------------------------------------------------


def school(schools: int, students: int, teachers: int) -> BoundData:
    """Two plates within one owner, rows within all three."""
    graph = PlateGraph(
        [
            Plate("school"),
            Plate("student", within="school"),
            Plate("teacher", within="school"),
            Plate("grade", within=("school", "student", "teacher")),
        ],
        [
            Latent("s", dist.Normal(0.0, 1.0), plates="school"),
            Latent("u", dist.Normal(0.0, 1.0), plates="student"),
            Latent("v", dist.Normal(0.0, 1.0), plates="teacher"),
            Observed("y", lambda s, u, v: dist.Normal(s + u + v, 1.0), plates="grade"),
        ],
    )
    member = np.arange(schools)
    student, teacher = np.repeat(member, students), np.repeat(member, teachers)
    pairs = [
        (i, j) for i in range(len(student)) for j in range(len(teacher)) if student[i] == teacher[j]
    ]
    first, second = np.array(pairs).T
    members = {
        "student": {"school": student},
        "teacher": {"school": teacher},
        "grade": {"school": student[first], "student": first, "teacher": second},
    }
    return Data({"y": rng(0).normal(size=len(pairs))}, members).bind(graph)


@pytest.mark.parametrize("joint_limit", [0, 10, 160])
@pytest.mark.parametrize("encoding", ["auto", "encoder"])
@pytest.mark.parametrize("sizes", [(2, 2, 2), (4, 5, 3), (40, 2, 3)])
def test_evidence_through_plates_that_cross_is_never_negative(
    sizes: tuple[int, int, int], encoding: str, joint_limit: int
) -> None:
    """Only one of two blocks that cross can be integrated out: the other widens the rows."""
    data = school(*sizes)
    setup = Setup(data, Family(encoding=encoding, joint_limit=joint_limit))
    draw = setup.sample(setup.noise(3, seed=0))
    assert all(np.isfinite(value).all() for value in draw.values.values())
    block = setup.plan.block("school")
    like = np.zeros((1, sizes[0], 1))
    potential = natural_potential(setup.plan, block, {}, setup.batch, like)
    assert (potential.precision > 0).all()


LOCAL_PARAMETERS = {
    "cutpoints": lambda k: dist.OrderedLogistic(0.0, ops.stack([k, k + 1.0], -1)),
    "shape": lambda k: dist.Weibull(1.0, ops.exp(k)),
    "degrees of freedom": lambda k: dist.StudentT(ops.exp(k), 0.0, 1.0),
    "scale": lambda k: dist.Normal(0.0, ops.exp(k)),
    "concentration": lambda k: dist.NegativeBinomial(2.0, ops.exp(k)),
}


@pytest.mark.parametrize("name", LOCAL_PARAMETERS)
@pytest.mark.parametrize("encoding", ["auto", "encoder"])
def test_a_parameter_that_is_no_predictor_may_be_local(name: str, encoding: str) -> None:
    graph = PlateGraph(
        [Plate("group"), Plate("row", within="group")],
        [
            Latent("mean", dist.Normal(0.0, 1.0)),
            Latent("k", lambda mean: dist.Normal(mean, 1.0), plates="group"),
            Observed("y", LOCAL_PARAMETERS[name], plates="row"),
        ],
    )
    data = Data({"y": np.ones(6)}, {"row": {"group": np.repeat(np.arange(3), 2)}}).bind(graph)
    setup = Setup(data, Family(encoding=encoding))
    draw = setup.sample(setup.noise(3, seed=0))
    assert np.isfinite(draw.values["k"]).all()
    if encoding == "encoder":
        # Whatever the encoder, the data reach the latent.
        moved = Data({"y": np.array([2.0] * 2 + [1.0] * 4)}, data.members).bind(graph)
        other = Setup(moved, Family(encoding=encoding))
        change = other.sample(setup.noise(3, seed=0)).values["k"] - draw.values["k"]
        assert np.abs(change[:, 0]).min() > 0


def test_a_parent_that_a_row_has_twice_is_left_to_the_free_part() -> None:
    """Users and films each of a country: a rating has two, and tells neither alone."""
    graph = PlateGraph(
        [
            Plate("country"),
            Plate("user", within="country"),
            Plate("film", within="country"),
            Plate("rating", within=("user", "film")),
        ],
        [
            Latent("c", dist.Normal(0.0, 1.0), plates="country"),
            Latent("u", lambda c: dist.Normal(c, 1.0), plates="user"),
            Latent("f", lambda c: dist.Normal(c, 1.0), plates="film"),
            Observed("y", lambda u, f: dist.Normal(u + f, 1.0), plates="rating"),
        ],
    )
    members = {
        "user": {"country": np.array([0, 0, 1, 1])},
        "film": {"country": np.array([0, 1, 1])},
        "rating": {"user": np.arange(12) % 4, "film": np.arange(12) // 4},
    }
    data = Data({"y": rng(0).normal(size=12)}, members).bind(graph)
    setup = Setup(data, Family())
    draw = setup.sample(setup.noise(3, seed=0))
    assert all(np.isfinite(value).all() for value in draw.values.values())
