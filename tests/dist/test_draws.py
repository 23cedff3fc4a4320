"""Draws of every spec against SciPy's distributions, and against moments where it has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dist.cases import CASES
from dist.oracle import TAILS, log_prob
from numpy.testing import assert_allclose, assert_array_equal, assert_array_less
from scipy import special, stats

import pavi
from pavi import dist
from pavi.dist.draws import RULES, draw, noise_width
from pavi.dist.spec import Spec

COUNT = 20_000
# The Kolmogorov-Smirnov distance that a sample of this size exceeds once in a thousand.
DISTANCE = 1.95 / np.sqrt(COUNT)


def _bounds(s: Any) -> tuple[Any, Any]:
    low = -np.inf if s.low is None else (s.low - s.loc) / s.scale
    high = np.inf if s.high is None else (s.high - s.loc) / s.scale
    return low, high


def _categories(s: Spec) -> Callable[[np.ndarray], np.ndarray]:
    """The distribution function of three categories, from their masses."""

    def cdf(x: np.ndarray) -> np.ndarray:
        masses = [np.exp(log_prob(s, np.full(3, float(k)))) for k in range(3)]
        below = np.cumsum(masses, axis=0)
        return np.take_along_axis(below, np.minimum(x, 2).astype(int), axis=0)

    return cdf


def _mixture(s: Any) -> Callable[[np.ndarray], np.ndarray]:
    weights = np.broadcast_to(s.weights, (3, 2))
    return lambda x: sum(weights[:, k] * CDF[type(c)](c)(x) for k, c in enumerate(s.components))


CDF: dict[type[Spec], Callable[[Any], Callable[[np.ndarray], np.ndarray]]] = {
    **{kind: lambda s, tail=tail: tail(s).cdf for kind, tail in TAILS.items()},
    dist.StudentT: lambda s: stats.t(s.df, s.loc, s.scale).cdf,
    dist.Laplace: lambda s: stats.laplace(s.loc, s.scale).cdf,
    dist.Cauchy: lambda s: stats.cauchy(s.loc, s.scale).cdf,
    dist.HalfNormal: lambda s: stats.halfnorm(scale=s.scale).cdf,
    dist.HalfCauchy: lambda s: stats.halfcauchy(scale=s.scale).cdf,
    dist.Gamma: lambda s: stats.gamma(s.concentration, scale=1 / s.rate).cdf,
    dist.InverseGamma: lambda s: stats.invgamma(s.concentration, scale=s.rate).cdf,
    dist.Beta: lambda s: stats.beta(s.concentration1, s.concentration0).cdf,
    dist.Uniform: lambda s: stats.uniform(s.low, s.high - s.low).cdf,
    dist.TruncatedNormal: lambda s: stats.truncnorm(*_bounds(s), s.loc, s.scale).cdf,
    dist.Bernoulli: lambda s: (
        lambda x: np.where(x > 0, 1.0, special.expit(-s.logits) if s.probs is None else 1 - s.probs)
    ),
    dist.Binomial: lambda s: (
        stats.binom(s.total_count, special.expit(s.logits) if s.probs is None else s.probs).cdf
    ),
    dist.BetaBinomial: lambda s: (
        stats.betabinom(s.total_count, s.concentration1, s.concentration0).cdf
    ),
    dist.Poisson: lambda s: stats.poisson(np.exp(s.log_rate) if s.rate is None else s.rate).cdf,
    dist.NegativeBinomial: lambda s: (
        stats.nbinom(s.concentration, s.concentration / (s.concentration + s.mean)).cdf
    ),
    dist.Categorical: _categories,
    dist.OrderedLogistic: _categories,
    dist.Mixture: _mixture,
    dist.Censored: lambda s: CDF[type(s.base)](s.base),
}

ONE = [n for n, (s, _) in CASES.items() if s.event_rank == 0 and not isinstance(s, dist.Flat)]


def noise(spec: Spec, event: tuple[int, ...], count: int = COUNT, seed: int = 0) -> np.ndarray:
    shape = (count, 3, *event, noise_width(spec))
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("name", ONE)
def test_draws_have_the_distribution_function(name: str) -> None:
    spec, value = CASES[name]
    drawn = draw(spec, noise(spec, ()))
    assert drawn.shape == (COUNT, 3)
    base = spec.base if isinstance(spec, dist.Censored) else spec
    assert np.all(base.support.contains(drawn))
    cdf = CDF[type(spec)](spec)
    if spec.discrete:
        for k in range(11):
            share, exact = np.mean(drawn <= k, axis=0), cdf(np.full((1, 3), float(k)))[0]
            assert_array_less(np.abs(share - exact), DISTANCE)
    else:
        u = np.sort(cdf(drawn), axis=0)
        steps = np.arange(COUNT + 1)[:, None] / COUNT
        assert_array_less(np.abs(u - steps[1:]), DISTANCE)
        assert_array_less(np.abs(u - steps[:-1]), DISTANCE)


COUNTS: dict[str, tuple[Spec, Any]] = {
    "rare": (dist.Poisson(np.array([0.0, 1e-9, 0.02])), stats.poisson),
    "common": (dist.Poisson(np.array([3.0, 400.0, 1e6])), stats.poisson),
    "few trials": (dist.Binomial(np.array([0, 1, 7]), np.array([0.3, 0.0, 0.999])), stats.binom),
    "many trials": (dist.Binomial(10**5, np.array([1e-4, 0.5, 1.0])), stats.binom),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_the_quantiles_of_the_noise(name: str) -> None:
    spec, host = COUNTS[name]
    z = np.linspace(-6.0, 6.0, 401)[:, None, None] * np.ones((1, 3, 1))
    frozen = host(*spec.parameters().values())
    assert_array_equal(draw(spec, z), np.maximum(frozen.ppf(special.ndtr(z[..., 0])), 0.0))


def test_very_many_counts_have_the_normal_distribution_s_quantiles() -> None:
    z = np.array([-3.0, 0.0, 2.0])[:, None]
    for spec, mean, sd in [
        (dist.Poisson(1e12), 1e12, 1e6),
        (dist.Binomial(10**12, 0.2), 2e11, 4e5),
    ]:
        assert_allclose((draw(spec, z) - mean) / sd, z[:, 0], atol=1e-4)
    assert not np.isfinite(draw(dist.Poisson(np.inf), z)).any()


def test_tails_keep_their_digits() -> None:
    z = np.array([-8.0, 8.0])[:, None]
    p = special.ndtr(-8.0)
    for spec, tail in [
        (dist.StudentT(3.0, 0.0, 1.0), stats.t(3.0).isf(p)),
        (dist.Cauchy(0.0, 1.0), stats.cauchy.isf(p)),
        (dist.Laplace(0.0, 1.0), stats.laplace.isf(p)),
        (dist.Logistic(0.0, 1.0), stats.logistic.isf(p)),
    ]:
        assert_allclose(draw(spec, z), [-tail, tail], rtol=1e-9)
    assert_allclose(draw(dist.Exponential(2.0), z)[1], stats.expon.isf(p) / 2.0, rtol=1e-9)


def test_shares_of_a_small_concentration() -> None:
    spec = dist.Dirichlet(np.full(3, 0.01))
    drawn = draw(spec, noise(spec, (3,)))
    assert np.isfinite(drawn).all()
    # Var x_k = (1 / 3) (2 / 3) / (1 + sum a)
    assert_allclose(drawn.var(axis=(0, 1)), 2.0 / 9.0 / 1.03, rtol=0.02)


VECTORS = ["dirichlet", "multivariate_normal", "mixture_of_vectors"]


@pytest.mark.parametrize("name", [*VECTORS, "mixture_over_independent_elements"])
def test_vectors_have_their_means_and_covariances(name: str) -> None:
    spec, _ = CASES[name]
    drawn = draw(spec, noise(spec, (3,)))
    mean, covariance = exact_moments(spec)
    for column in range(3):
        x = drawn[:, column]
        assert_allclose(x.mean(0), mean[column], atol=4.0 * x.std(0).max() / np.sqrt(COUNT))
        scale = np.sqrt(np.outer(x.var(0), x.var(0)))
        found = (np.cov(x.T) - covariance[column]) / scale
        assert_allclose(found, 0.0, atol=0.05)


def exact_moments(spec: Any) -> tuple[np.ndarray, np.ndarray]:
    """Means `[3, 3]` and covariances `[3, 3, 3]`."""
    if isinstance(spec, dist.Dirichlet):
        a = spec.concentration
        mean = a / a.sum()
        covariance = (np.diag(mean) - np.outer(mean, mean)) / (a.sum() + 1.0)
    elif isinstance(spec, dist.MultivariateNormal):
        mean, covariance = spec.loc, spec.scale_tril @ spec.scale_tril.T
    elif isinstance(spec, dist.Normal):
        # Independent elements, of the same parameters in all columns
        mean = np.broadcast_to(spec.loc, 3)
        covariance = np.diag(np.broadcast_to(spec.scale, 3) ** 2)
    else:
        weights = np.broadcast_to(spec.weights, (3, 2))
        parts = [exact_moments(component) for component in spec.components]
        mean = sum(weights[:, k, None] * parts[k][0] for k in range(2))
        apart = [m - mean for m, _ in parts]
        return mean, sum(
            weights[:, k, None, None] * (parts[k][1] + apart[k][:, :, None] * apart[k][:, None, :])
            for k in range(2)
        )
    return np.broadcast_to(mean, (3, 3)), np.broadcast_to(covariance, (3, 3, 3))


def test_correlations_have_their_marginals() -> None:
    spec, _ = CASES["lkj_cholesky"]
    factor = draw(spec, noise(spec, (3, 3)))
    assert np.all(spec.support.contains(factor))
    correlation = factor @ np.swapaxes(factor, -1, -2)
    for column, concentration in enumerate(spec.concentration):  # type: ignore[attr-defined]
        # (r + 1) / 2 ~ Beta(b, b), b = c - 1 + d / 2
        b = concentration + 0.5
        for i, j in [(1, 0), (2, 0), (2, 1)]:
            test = stats.kstest((correlation[:, column, i, j] + 1) / 2, stats.beta(b, b).cdf)
            assert test.statistic < DISTANCE


def test_draws_follow_parameters_that_rounding_moves() -> None:
    for name in ("gamma", "poisson", "student_t", "beta_binomial", "negative_binomial"):
        spec, _ = CASES[name]
        near = spec.map_parameters(lambda x: np.asarray(x, np.float32))
        one, other = (draw(s, noise(spec, (), 2000)) for s in (spec, near))
        differ = np.abs(one - other) > 1e-5 * np.abs(one)
        assert differ.mean() < 1e-3, name


def test_what_is_improper_is_refused() -> None:
    with pytest.raises(pavi.GraphError, match=r"Flat is improper.*Normal"):
        draw(dist.Flat(), np.zeros((2, 1)))


def test_every_proper_spec_has_a_rule() -> None:
    assert set(RULES) == {type(spec) for spec, _ in CASES.values()} - {dist.Flat}
