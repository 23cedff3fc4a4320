from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from dist.cases import CASES
from dist.oracle import ORACLES

import pavi
from pavi import dist
from pavi.dist.spec import Spec, promote

names = pytest.mark.parametrize("name", CASES)


def test_every_public_spec_has_a_case_and_an_oracle() -> None:
    public = {getattr(dist, name) for name in dist.__all__}
    specs = {s for s in public if isinstance(s, type) and issubclass(s, Spec)} - {Spec}
    assert {type(spec) for spec, _ in CASES.values()} == specs
    assert set(ORACLES) == specs


@names
def test_a_spec_is_frozen_and_printable(name: str) -> None:
    spec, _ = CASES[name]
    field = dataclasses.fields(spec)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec, field, 1.0)
    assert repr(spec).startswith(type(spec).__name__ + "(")
    assert "array(" not in repr(spec)


def test_a_spec_prints_numbers_in_full_and_arrays_by_shape() -> None:
    assert repr(dist.Normal(0.0, np.ones((2, 3)))) == "Normal(loc=0.0, scale=float64[2, 3])"
    assert repr(dist.Poisson(log_rate=np.float64(1.5))) == "Poisson(log_rate=1.5)"


def test_a_spec_of_numbers_hashes_and_compares() -> None:
    assert hash(dist.Normal(0.0, 1.0)) == hash(dist.Normal(0.0, 1.0))
    assert dist.Normal(0.0, 1.0) == dist.Normal(0.0, 1.0) != dist.Normal(0.0, 2.0)
    assert dist.Normal(0.0, 1.0) != dist.Laplace(0.0, 1.0)
    assert hash(dist.Censored(dist.Normal(0.0, 1.0), 0)) is not None


@names
def test_sensible_values_lie_in_the_support(name: str) -> None:
    spec, value = CASES[name]
    assert np.all(spec.support.contains(value))
    assert spec.discrete == spec.support.discrete
    spec.validate(name)


@names
def test_parameters_map_one_by_one(name: str) -> None:
    spec, _ = CASES[name]
    doubled = spec.map_parameters(lambda x: np.asarray(x) * 2).parameters()
    assert list(doubled) == list(spec.parameters())
    for key, parameter in spec.parameters().items():
        np.testing.assert_array_equal(doubled[key], np.asarray(parameter) * 2)


def test_event_rank_is_that_of_one_draw() -> None:
    ranks = {name: spec.event_rank for name, (spec, _) in CASES.items()}
    assert {n for n, rank in ranks.items() if rank == 1} == {
        "flat_simplex",
        "dirichlet",
        "multivariate_normal",
        "mixture_of_vectors",
        "mixture_over_independent_elements",
    }
    assert {n for n, rank in ranks.items() if rank == 2} == {"flat_matrix", "lkj_cholesky"}


def test_the_support_of_a_truncated_normal_follows_its_bounds() -> None:
    assert dist.TruncatedNormal(0.0, 1.0, 0.0).support == dist.GreaterThan(0.0)
    assert dist.TruncatedNormal(0.0, 1.0, high=1.0).support == dist.LessThan(1.0)
    assert dist.TruncatedNormal(0.0, 1.0, 0.0, 1.0).support == dist.Interval(0.0, 1.0)
    assert dist.TruncatedNormal(0.0, 1.0).support == dist.REAL


def mixed(*components: Spec) -> dist.Mixture:
    return dist.Mixture(np.full(len(components), 1 / len(components)), components)


def test_the_support_of_a_mixture_holds_those_of_its_components() -> None:
    assert mixed(dist.Uniform(0.0, 1.0), dist.Uniform(0.0, 10.0)).support == dist.Interval(
        0.0, 10.0
    )
    assert mixed(dist.Uniform(0.0, 9.0), dist.Uniform(-1.0, 2.0)).support == dist.Interval(
        -1.0, 9.0
    )
    trials = mixed(dist.Binomial(5, 0.5), dist.Binomial(10, 0.5), dist.Binomial(7, 0.5)).support
    assert str(trials) == "integers from 0 to 10"
    assert trials.contains(np.array([7, 10, 11])).tolist() == [True, True, False]
    tails = (
        dist.TruncatedNormal(0.0, 1.0, 2.0),
        dist.TruncatedNormal(0.0, 1.0, np.array([1.0, 3.0])),
    )
    np.testing.assert_array_equal(mixed(*tails).support.low, [1.0, 2.0])  # type: ignore[attr-defined]
    same = dist.Uniform(0.0, 1.0)
    assert mixed(same, same).support == same.support
    assert not mixed(same, dist.Uniform(0.0, 1.0)).differing_bounds
    assert mixed(mixed(same, dist.Uniform(0.0, 2.0)), dist.Uniform(0.0, 2.0)).differing_bounds


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (dist.Normal(0.0, -1.0), ["'effect'", "'scale'", "Normal", "positive", "-1.0"]),
        (dist.Gamma(np.array([1.0, 0.0]), 1.0), ["'concentration'", "Gamma", "0.0", "(2,)"]),
        (dist.Bernoulli(1.2), ["'probs'", "1.2"]),
        (dist.Mixture(np.array([0.5, 0.6]), (dist.Normal(0.0, 1.0),) * 2), ["'weights'"]),
        (dist.Mixture(np.array([0.5, 0.5]), (dist.Normal(0.0, -1.0),) * 2), ["'scale'"]),
        (dist.Censored(dist.Normal(0.0, 0.0), 0), ["'scale'"]),
    ],
)
def test_a_parameter_outside_of_its_support_is_named(spec: Spec, words: list[str]) -> None:
    with pytest.raises(pavi.GraphError) as error:
        spec.validate("effect")
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dist.Bernoulli(), ["Bernoulli", "'probs'", "'logits'", "neither"]),
        (lambda: dist.Poisson(1.0, 0.0), ["Poisson", "rate and log_rate"]),
        (lambda: dist.Binomial(3), ["Binomial", "neither"]),
        (lambda: dist.Categorical(), ["Categorical", "neither"]),
        (lambda: dist.LKJCholesky(1), ["LKJCholesky", "dimension", "1"]),
        (lambda: dist.Mixture(np.ones(3) / 3, (dist.Normal(0, 1),) * 2), ["[..., 2]", "(3,)"]),
        (
            lambda: dist.Mixture(np.ones(2) / 2, (dist.Normal(0, 1),) * 2, -1),
            ["reinterpreted_batch_ndims", "-1"],
        ),
        (
            lambda: dist.Mixture(np.ones(2) / 2, (dist.Normal(0, 1), dist.Gamma(1, 1))),
            ["same support", "Gamma"],
        ),
        (lambda: dist.Censored(dist.Poisson(1.0), 0), ["Censored", "Poisson", "Weibull"]),
        (lambda: dist.Poisson(1.0).unconstrained_moments(), ["Poisson", "discrete"]),
        (lambda: dist.Uniform(0.0, 1.0).with_predictors((0.0,)), ["Uniform", "predictors"]),
    ],
)
def test_an_impossible_spec_is_refused_in_words(make: object, words: list[str]) -> None:
    with pytest.raises(pavi.GraphError) as error:
        make()  # type: ignore[operator]
    assert all(word in str(error.value) for word in words)


def test_numbers_become_float64_without_a_framework() -> None:
    assert [a.dtype for a in promote(1, np.float32(2), np.arange(2))] == ["f8", "f4", "f8"]
