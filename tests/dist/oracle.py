"""The log density of every spec by SciPy or by hand in NumPy: a third voice beside the hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special, stats

from pavi import dist
from pavi.dist.spec import Spec


def log_prob(spec: Spec, value: Any) -> np.ndarray:
    """Log density of `value` in float64, `[*batch]`: the spec's own event axes are summed over."""
    exact = spec.map_parameters(lambda x: np.asarray(x, dtype=np.float64))
    return np.asarray(ORACLES[type(spec)](exact, np.asarray(value, dtype=np.float64)))


def sample(spec: Spec, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draws `[*shape, *event]`."""
    return np.asarray(SAMPLERS[type(spec)](spec, rng, shape), dtype=np.float64)


def _truncated_normal(s: Any, x: np.ndarray) -> np.ndarray:
    low = -np.inf if s.low is None else (s.low - s.loc) / s.scale
    high = np.inf if s.high is None else (s.high - s.loc) / s.scale
    return stats.truncnorm.logpdf(x, low, high, s.loc, s.scale)


def _multivariate_normal(s: Any, x: np.ndarray) -> np.ndarray:
    residual = x - s.loc
    covariance = s.scale_tril @ np.swapaxes(s.scale_tril, -1, -2)
    precision = np.linalg.inv(covariance)
    distance = np.einsum("...i,...ij,...j->...", residual, precision, residual)
    _, log_det = np.linalg.slogdet(covariance)
    return -0.5 * (distance + log_det + x.shape[-1] * np.log(2 * np.pi))


def _lkj_cholesky(s: Any, x: np.ndarray) -> np.ndarray:
    # Row i of the factor is a point of a hemisphere, independent of the others, of density
    # proportional to L_ii^(d - i + 2 (eta - 1)) in its first i - 1 entries (i from 1); those fill a
    # ball, in which the square of the radius is Beta((i-1)/2, eta + (d-i)/2).
    d = s.dimension
    total = 0.0
    for row in range(2, d + 1):
        k = row - 1
        exponent = d - row + 2 * (s.concentration - 1)
        # integral over the unit k-ball of (1 - r^2)^(exponent / 2)
        surface = np.log(2) + 0.5 * k * np.log(np.pi) - special.gammaln(0.5 * k)
        radial = special.betaln(0.5 * k, 0.5 * exponent + 1) - np.log(2)
        total = total + exponent * np.log(x[..., row - 1, row - 1]) - surface - radial
    return np.asarray(total)


def _probs(s: Any) -> np.ndarray:
    return special.expit(s.logits) if s.probs is None else s.probs


def _categorical(s: Any, x: np.ndarray) -> np.ndarray:
    log_p = special.log_softmax(s.logits, axis=-1) if s.probs is None else np.log(s.probs)
    return _pick(log_p, x)


def _ordered_logistic(s: Any, x: np.ndarray) -> np.ndarray:
    exceed = special.expit(s.predictor[..., None] - s.cutpoints)
    ends = np.ones((*exceed.shape[:-1], 1))
    return _pick(np.log(-np.diff(np.concatenate([ends, exceed, 0 * ends], axis=-1))), x)


def _pick(log_p: np.ndarray, x: np.ndarray) -> np.ndarray:
    shape = np.broadcast_shapes(log_p.shape[:-1], x.shape)
    log_p = np.broadcast_to(log_p, (*shape, log_p.shape[-1]))
    index = np.broadcast_to(x, shape).astype(int)[..., None]
    return np.take_along_axis(log_p, index, axis=-1)[..., 0]


def _mixture(s: Any, x: np.ndarray) -> np.ndarray:
    own = tuple(range(-s.reinterpreted_batch_ndims, 0))
    terms = np.broadcast_arrays(*(log_prob(c, x).sum(own) for c in s.components))
    return special.logsumexp(np.stack(terms, axis=-1), b=s.weights, axis=-1)


def _censored(s: Any, x: np.ndarray) -> np.ndarray:
    host = TAILS[type(s.base)](s.base)
    with np.errstate(divide="ignore"):
        parts = log_prob(s.base, x), host.logcdf(x), host.logsf(x)
    return np.select([s.censoring == 0, s.censoring < 0, s.censoring > 0], parts)


TAILS: dict[type[Spec], Callable[[Any], Any]] = {
    dist.Normal: lambda s: stats.norm(s.loc, s.scale),
    dist.Logistic: lambda s: stats.logistic(s.loc, s.scale),
    dist.LogNormal: lambda s: stats.lognorm(s.scale, scale=np.exp(s.loc)),
    dist.Exponential: lambda s: stats.expon(scale=1 / s.rate),
    dist.Weibull: lambda s: stats.weibull_min(s.concentration, scale=s.scale),
}

ORACLES: dict[type[Spec], Callable[[Any, np.ndarray], Any]] = {
    dist.Normal: lambda s, x: stats.norm.logpdf(x, s.loc, s.scale),
    dist.StudentT: lambda s, x: stats.t.logpdf(x, s.df, s.loc, s.scale),
    dist.Laplace: lambda s, x: stats.laplace.logpdf(x, s.loc, s.scale),
    dist.Cauchy: lambda s, x: stats.cauchy.logpdf(x, s.loc, s.scale),
    dist.Logistic: lambda s, x: stats.logistic.logpdf(x, s.loc, s.scale),
    dist.HalfNormal: lambda s, x: stats.halfnorm.logpdf(x, scale=s.scale),
    dist.HalfCauchy: lambda s, x: stats.halfcauchy.logpdf(x, scale=s.scale),
    dist.LogNormal: lambda s, x: stats.lognorm.logpdf(x, s.scale, scale=np.exp(s.loc)),
    dist.Exponential: lambda s, x: stats.expon.logpdf(x, scale=1 / s.rate),
    dist.Gamma: lambda s, x: stats.gamma.logpdf(x, s.concentration, scale=1 / s.rate),
    dist.InverseGamma: lambda s, x: stats.invgamma.logpdf(x, s.concentration, scale=s.rate),
    dist.Weibull: lambda s, x: stats.weibull_min.logpdf(x, s.concentration, scale=s.scale),
    dist.Beta: lambda s, x: stats.beta.logpdf(x, s.concentration1, s.concentration0),
    dist.Uniform: lambda s, x: stats.uniform.logpdf(x, s.low, s.high - s.low),
    dist.TruncatedNormal: _truncated_normal,
    dist.Flat: lambda s, x: np.zeros(x.shape[: x.ndim - s.event_rank]),
    # Gamma(sum a) / prod Gamma(a) prod x^(a - 1)
    dist.Dirichlet: lambda s, x: (
        special.gammaln(s.concentration.sum(-1))
        - special.gammaln(s.concentration).sum(-1)
        + special.xlogy(s.concentration - 1, x).sum(-1)
    ),
    dist.MultivariateNormal: _multivariate_normal,
    dist.LKJCholesky: _lkj_cholesky,
    dist.Bernoulli: lambda s, x: stats.bernoulli.logpmf(x, _probs(s)),
    dist.Binomial: lambda s, x: stats.binom.logpmf(x, s.total_count, _probs(s)),
    dist.BetaBinomial: lambda s, x: stats.betabinom.logpmf(
        x, s.total_count, s.concentration1, s.concentration0
    ),
    dist.Poisson: lambda s, x: stats.poisson.logpmf(
        x, np.exp(s.log_rate) if s.rate is None else s.rate
    ),
    dist.NegativeBinomial: lambda s, x: stats.nbinom.logpmf(
        x, s.concentration, s.concentration / (s.concentration + s.mean)
    ),
    dist.Categorical: _categorical,
    dist.OrderedLogistic: _ordered_logistic,
    dist.Mixture: _mixture,
    dist.Censored: _censored,
}

SAMPLERS: dict[type[Spec], Callable[[Any, np.random.Generator, tuple[int, ...]], Any]] = {
    dist.Normal: lambda s, r, n: r.normal(s.loc, s.scale, n),
    dist.StudentT: lambda s, r, n: s.loc + s.scale * r.standard_t(s.df, n),
    dist.Laplace: lambda s, r, n: r.laplace(s.loc, s.scale, n),
    dist.Cauchy: lambda s, r, n: s.loc + s.scale * r.standard_cauchy(n),
    dist.Logistic: lambda s, r, n: r.logistic(s.loc, s.scale, n),
    dist.HalfNormal: lambda s, r, n: np.abs(r.normal(0, s.scale, n)),
    dist.HalfCauchy: lambda s, r, n: np.abs(s.scale * r.standard_cauchy(n)),
    dist.LogNormal: lambda s, r, n: r.lognormal(s.loc, s.scale, n),
    dist.Exponential: lambda s, r, n: r.exponential(1 / s.rate, n),
    dist.Gamma: lambda s, r, n: r.gamma(s.concentration, 1 / s.rate, n),
    dist.InverseGamma: lambda s, r, n: s.rate / r.gamma(s.concentration, 1, n),
    dist.Weibull: lambda s, r, n: s.scale * r.weibull(s.concentration, n),
    dist.Beta: lambda s, r, n: r.beta(s.concentration1, s.concentration0, n),
    dist.Uniform: lambda s, r, n: r.uniform(s.low, s.high, n),
    dist.TruncatedNormal: lambda s, r, n: stats.truncnorm.rvs(
        -np.inf if s.low is None else (s.low - s.loc) / s.scale,
        np.inf if s.high is None else (s.high - s.loc) / s.scale,
        s.loc,
        s.scale,
        size=n,
        random_state=r,
    ),
    dist.Dirichlet: lambda s, r, n: r.dirichlet(s.concentration, n),
    dist.MultivariateNormal: lambda s, r, n: (
        s.loc + r.normal(size=(*n, len(s.loc))) @ s.scale_tril.T
    ),
    dist.Bernoulli: lambda s, r, n: r.binomial(1, _probs(s), n),
    dist.Binomial: lambda s, r, n: r.binomial(s.total_count, _probs(s), n),
    dist.BetaBinomial: lambda s, r, n: r.binomial(
        s.total_count, r.beta(s.concentration1, s.concentration0, n)
    ),
    dist.Poisson: lambda s, r, n: r.poisson(np.exp(s.log_rate) if s.rate is None else s.rate, n),
    dist.NegativeBinomial: lambda s, r, n: r.poisson(
        r.gamma(s.concentration, s.mean / s.concentration, n)
    ),
    dist.Categorical: lambda s, r, n: r.choice(
        s.num_categories, n, p=special.softmax(s.logits) if s.probs is None else s.probs
    ),
    dist.OrderedLogistic: lambda s, r, n: np.searchsorted(
        s.cutpoints, r.logistic(s.predictor, 1, n)
    ),
}
