"""Moments of the unconstrained value, against Monte Carlo through hand-written maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from dist.cases import CASES, FACTOR
from dist.oracle import sample
from scipy import special

from pavi import dist
from pavi.dist.spec import Spec

DRAWS = 200_000


def identity(x: np.ndarray) -> np.ndarray:
    return x


def label(argument: object) -> str:
    return repr(argument) if isinstance(argument, Spec) else ""


def sticks(x: np.ndarray) -> np.ndarray:
    """Logits of the shares broken off, centred at the uniform point: [n, K] -> [n, K-1]."""
    left = 1 - np.cumsum(x, axis=-1) + x
    return special.logit(x / left)[:, :-1] + np.log(np.arange(x.shape[-1] - 1, 0, -1))


@pytest.mark.parametrize(
    ("spec", "link"),
    [
        (dist.Normal(0.7, 1.3), identity),
        (dist.StudentT(9.0, 0.7, 1.3), identity),
        (dist.Laplace(0.7, 1.3), identity),
        (dist.Logistic(0.7, 1.3), identity),
        (dist.HalfNormal(1.3), np.log),
        (dist.HalfCauchy(1.3), np.log),
        (dist.LogNormal(0.7, 1.3), np.log),
        (dist.Exponential(1.3), np.log),
        (dist.Gamma(2.5, 1.3), np.log),
        (dist.Gamma(0.4, 1.3), np.log),
        (dist.InverseGamma(2.5, 1.3), np.log),
        (dist.Weibull(1.3, 1.7), np.log),
        (dist.Beta(2.0, 3.5), special.logit),
        (dist.Uniform(-1.0, 3.0), lambda x: special.logit((x + 1) / 4)),
        (dist.Dirichlet(np.array([1.0, 2.0, 0.5, 3.0])), sticks),
        (dist.MultivariateNormal(np.arange(3.0), FACTOR), identity),
    ],
    ids=label,
)
def test_closed_forms(spec: Spec, link: Callable[[np.ndarray], np.ndarray]) -> None:
    draws = link(sample(spec, np.random.default_rng(0), (DRAWS,)))
    check(spec, draws)


@pytest.mark.parametrize("concentration", [0.7, 1.0, 3.0])
def test_lkj_cholesky(concentration: float) -> None:
    rng, d = np.random.default_rng(0), 4
    # Row i: a uniform direction, and a squared radius of Beta(i / 2, concentration + (d-i-1) / 2)
    partial = []
    for row in range(1, d):
        direction = rng.normal(size=(DRAWS, row))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        square = rng.beta(row / 2, concentration + (d - row - 1) / 2, (DRAWS, 1))
        x = direction * np.sqrt(square)
        left = 1 - np.cumsum(x**2, axis=-1) + x**2
        partial.append(np.arctanh(x / np.sqrt(left)))
    check(dist.LKJCholesky(d, concentration), np.concatenate(partial, axis=-1))


def test_a_mixture_has_the_moments_of_its_draws() -> None:
    rng = np.random.default_rng(0)
    spec = dist.Mixture(np.array([0.3, 0.7]), (dist.Normal(-1.0, 0.5), dist.Normal(2.0, 1.5)))
    second = rng.uniform(size=DRAWS) < 0.7
    check(spec, np.where(second, rng.normal(2.0, 1.5, DRAWS), rng.normal(-1.0, 0.5, DRAWS)))


def check(spec: Spec, draws: np.ndarray) -> None:
    """Mean and variance within 5 standard errors of those of the draws `[n, *event]`."""
    mean, deviation = spec.unconstrained_moments()
    centred = draws - draws.mean(axis=0)
    variance = (centred**2).mean(axis=0)
    assert np.shape(mean) == np.shape(deviation) == draws.shape[1:]
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean), 5 * np.sqrt(variance / len(draws)))
    error = np.sqrt(((centred**4).mean(axis=0) - variance**2) / len(draws))
    np.testing.assert_array_less(np.abs(variance - deviation**2), 5 * error)


@pytest.mark.parametrize(
    ("spec", "link"),
    [
        (dist.TruncatedNormal(0.3, 1.2, low=-0.5), lambda x: np.log(x + 0.5)),
        (dist.TruncatedNormal(0.3, 1.2, high=0.5), lambda x: np.log(0.5 - x)),
        (dist.TruncatedNormal(0.3, 1.2, -1.0, 2.0), lambda x: special.logit((x + 1) / 3)),
        (dist.TruncatedNormal(0.0, 1.0, 3.0, 9.0), lambda x: special.logit((x - 3) / 6)),
        (dist.TruncatedNormal(0.3, 1.2), identity),
    ],
    ids=label,
)
def test_a_truncated_normal_is_matched_approximately(
    spec: Spec, link: Callable[[np.ndarray], np.ndarray]
) -> None:
    draws = link(sample(spec, np.random.default_rng(0), (DRAWS,)))
    mean, deviation = spec.unconstrained_moments()
    assert abs(mean - draws.mean()) < 0.2 * draws.std()
    assert 0.7 < deviation / draws.std() < 1.3


@pytest.mark.parametrize(
    "spec",
    [
        dist.Gamma(0.001, 0.001),
        dist.InverseGamma(0.001, 0.001),
        dist.Beta(0.001, 0.001),
        dist.Weibull(1.0, 0.001),
        dist.Cauchy(0.0, 1.0),
        dist.StudentT(1.0, 0.0, 1.0),
        dist.StudentT(2.0, 0.0, 1.0),
        dist.Flat(),
        dist.Flat(support=dist.SIMPLEX),
    ],
    ids=repr,
)
def test_a_vague_prior_has_a_location_and_a_bounded_scale(spec: Spec) -> None:
    mean, deviation = spec.unconstrained_moments()
    assert abs(mean) < 0.1
    assert 0.5 < deviation <= 5.0


def test_gamma_moments_do_not_jump_where_they_turn_robust() -> None:
    concentration = np.geomspace(0.2, 0.5, 1001)
    for moment in dist.Gamma(concentration, 1.0).unconstrained_moments():
        assert np.abs(np.diff(moment)).max() < 0.02


@pytest.mark.parametrize("name", [n for n, (spec, _) in CASES.items() if not spec.discrete])
def test_moments_take_the_parameters_shape(name: str) -> None:
    spec, value = CASES[name]
    mean, deviation = spec.unconstrained_moments()
    event = spec.support.unconstrained_event(value.shape[value.ndim - spec.event_rank :])
    np.broadcast_to(mean, (3, *event))
    np.broadcast_to(deviation, (3, *event))
    assert np.all(np.isfinite(mean))
    assert np.all(deviation > 0)
