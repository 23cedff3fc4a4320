"""Scores against finite differences of the oracle, and information against the spread of scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dist.cases import CASES
from dist.oracle import log_prob, sample

from pavi import dist
from pavi.dist.spec import Spec

POTENTIALS = [name for name, (spec, _) in CASES.items() if spec.has_potential]
names = pytest.mark.parametrize("name", POTENTIALS)


Place = tuple[int, tuple[Any, ...]]


def places(spec: Spec) -> list[Place]:
    """Every predictor, or every element of those that are vectors: its number, its index."""
    out: list[Place] = []
    for which, predictor in enumerate(spec.predictors()):
        own = np.shape(predictor)[len(np.shape(predictor)) - spec.predictor_rank :]
        out += [(which, (..., *index)) for index in np.ndindex(own)]
    return out


def shifted(spec: Spec, place: Place, step: float) -> Spec:
    predictors = [np.array(p, np.float64) for p in spec.predictors()]
    which, index = place
    predictors[which][index] += step
    return spec.with_predictors(tuple(predictors))


def scores(spec: Spec, place: Place, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score and information of one place."""
    which, index = place
    score, information = spec.score_and_information(value)[which]
    return np.asarray(score)[index], np.asarray(information)[index]


@pytest.mark.parametrize("name", CASES)
def test_only_a_spec_with_a_potential_has_predictors(name: str) -> None:
    spec, value = CASES[name]
    count = len(spec.predictors())
    assert (count > 0) == spec.has_potential
    assert len(spec.score_and_information(value)) == len(spec.data_predictors(value)) == count


@names
def test_with_predictors_inverts_predictors(name: str) -> None:
    spec, value = CASES[name]
    same = spec.with_predictors(spec.predictors())
    np.testing.assert_allclose(log_prob(same, value), log_prob(spec, value), rtol=1e-10, atol=1e-12)


@names
def test_the_score_is_the_derivative_of_the_log_density(name: str) -> None:
    spec, value = CASES[name]
    step = 1e-5
    for place in places(spec):
        score, information = scores(spec, place, value)
        up, down = (
            log_prob(shifted(spec, place, step), value),
            log_prob(shifted(spec, place, -step), value),
        )
        np.testing.assert_allclose(score, (up - down) / (2 * step), rtol=1e-6, atol=1e-7)
        assert np.shape(score) == np.shape(information) == (3,)
        assert np.all(information >= 0)


@names
def test_a_predictor_from_the_datum_is_finite_and_raises_its_likelihood(name: str) -> None:
    spec, value = CASES[name]
    guesses = spec.data_predictors(value)
    best = [
        old if new is None else new for old, new in zip(spec.predictors(), guesses, strict=True)
    ]
    assert all(np.all(np.isfinite(b)) for b in best)
    if type(spec) not in (dist.TruncatedNormal, dist.Censored):
        # Smoothing keeps a guess from the very maximum, so a start next to it may lose a little.
        gained = log_prob(spec.with_predictors(tuple(best)), value) - log_prob(spec, value)
        assert np.all(gained > -0.5)


EXACT = [
    dist.Normal(0.3, 1.2),
    dist.StudentT(4.0, 0.3, 1.2),
    dist.Laplace(0.3, 1.2),
    dist.Cauchy(0.3, 1.2),
    dist.Logistic(0.3, 1.2),
    dist.HalfNormal(1.3),
    dist.HalfCauchy(1.3),
    dist.LogNormal(0.3, 1.2),
    dist.Exponential(1.3),
    dist.Gamma(2.5, 1.3),
    dist.InverseGamma(2.5, 1.3),
    dist.Weibull(1.5, 2.3),
    dist.Beta(2.0, 3.5),
    dist.TruncatedNormal(0.3, 1.2, -0.5, 2.0),
    dist.TruncatedNormal(0.3, 1.2, low=-0.5),
    dist.TruncatedNormal(0.3, 1.2, high=0.5),
    dist.Bernoulli(0.3),
    dist.Binomial(10, logits=0.7),
    dist.BetaBinomial(1, 2.0, 3.5),
    dist.Poisson(2.5),
    dist.Categorical(np.array([0.2, 0.5, 0.3])),
    dist.OrderedLogistic(0.3, np.array([-1.0, 0.5, 2.0])),
]


@pytest.mark.parametrize("spec", EXACT, ids=repr)
def test_information_is_the_variance_of_the_score(spec: Spec) -> None:
    value = sample(spec, np.random.default_rng(0), (200_000,))
    for place in places(spec):
        score, information = scores(spec, place, value)
        assert abs(score.mean()) < 5 * score.std() / np.sqrt(len(score))
        squares = score**2
        error = squares.std() / np.sqrt(len(squares))
        assert abs(squares.mean() - np.mean(information)) < 5 * error + 1e-12


@pytest.mark.parametrize("mean", [0.1, 1.0, 5.0, 100.0])
@pytest.mark.parametrize("concentration", [0.5, 3.0, 50.0])
def test_information_of_a_dispersion_is_close(mean: float, concentration: float) -> None:
    spec = dist.NegativeBinomial(mean, concentration)
    value = sample(spec, np.random.default_rng(0), (400_000,))
    (_, first), (score, second) = spec.score_and_information(value)
    np.testing.assert_allclose(first, mean * concentration / (mean + concentration))
    error = (score**2).std() / np.sqrt(len(score))
    assert abs((score**2).mean() - second[0]) < 0.2 * second[0] + 5 * error


@pytest.mark.parametrize("total", [2, 10, 100])
def test_information_of_overdispersed_trials_is_close_and_no_more(total: int) -> None:
    spec = dist.BetaBinomial(total, 2.0, 3.5)
    value = sample(spec, np.random.default_rng(0), (200_000,))
    ((score, information),) = spec.score_and_information(value)
    error = (score**2).std() / np.sqrt(len(score))
    assert 0.85 * (score**2).mean() < information[0] < (score**2).mean() + 5 * error


@pytest.mark.parametrize("name", [n for n in POTENTIALS if n.startswith("mixture")])
def test_information_of_a_mixtures_weights_is_the_observed_one_where_positive(name: str) -> None:
    spec, value = CASES[name]
    step = 1e-5
    for place in places(spec):
        _, information = scores(spec, place, value)
        up, _ = scores(shifted(spec, place, step), place, value)
        down, _ = scores(shifted(spec, place, -step), place, value)
        observed = np.maximum((down - up) / (2 * step), 0.0)
        np.testing.assert_allclose(information, observed, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [n for n in POTENTIALS if n.startswith("censored")])
def test_information_of_a_censored_value_is_the_observed_one(name: str) -> None:
    spec, value = CASES[name]
    assert isinstance(spec, dist.Censored)
    step = 1e-5
    for place in places(spec):
        up, _ = scores(shifted(spec, place, step), place, value)
        down, _ = scores(shifted(spec, place, -step), place, value)
        observed = np.maximum((down - up) / (2 * step), 0.0)
        _, information = scores(spec, place, value)
        censored = np.asarray(spec.censoring) != 0
        np.testing.assert_allclose(information[censored], observed[censored], rtol=1e-5, atol=1e-7)


def test_quadratic_says_that_the_information_is_free_of_the_predictor() -> None:
    for spec, value in CASES.values():
        if spec.quadratic:
            moved = shifted(spec, (0, (...,)), 3.0)
            here = spec.score_and_information(value)[0]
            there = moved.score_and_information(value)[0]
            np.testing.assert_allclose(here[1], there[1])
            np.testing.assert_allclose(here[0] - there[0], 3.0 * here[1])
