"""Draws of every spec on NumPy, as a function of standard normal noise.

A draw of one number is the quantile function at the noise's probability wherever there is one at a
bearable cost. So draws follow their parameters smoothly, or step by step where they are counts: two
backends whose parameters differ by rounding draw the same, which no rejection sampler would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from pavi.dist.bounded import Beta, Flat, TruncatedNormal, Uniform
from pavi.dist.categories import Categorical, OrderedLogistic
from pavi.dist.compound import Censored, Mixture
from pavi.dist.counts import Bernoulli, BetaBinomial, Binomial, NegativeBinomial, Poisson
from pavi.dist.multivariate import Dirichlet, LKJCholesky, MultivariateNormal
from pavi.dist.positive import (
    Exponential,
    Gamma,
    HalfCauchy,
    HalfNormal,
    InverseGamma,
    LogNormal,
    Weibull,
)
from pavi.dist.real import Cauchy, Laplace, Logistic, Normal, StudentT
from pavi.dist.spec import Spec
from pavi.errors import GraphError

Array = np.ndarray

# A mean from which on a count is drawn as the normal variable that it is to 1e-4 of its sd.
_MANY = 1e8
_TINY = float(np.finfo(np.float64).tiny)


def noise_width(spec: Spec) -> int:
    """Standard normal numbers that each element of a draw takes."""
    if isinstance(spec, Mixture):
        return 1 + max(noise_width(component) for component in spec.components)
    if isinstance(spec, Censored):
        return noise_width(spec.base)
    return 2 if isinstance(spec, Dirichlet | BetaBinomial | NegativeBinomial) else 1


def draw(spec: Spec, noise: Array) -> Array:
    """Draws of a spec; of a `Censored` one, of what is censored.

    Args:
        spec: parameters on NumPy, which broadcast against `[*batch, *event]`.
        noise: standard normal, `[*batch, *event, noise_width(spec)]`.

    Returns:
        `[*batch, *event]` in float64.

    Raises:
        GraphError: the distribution is improper.
    """
    if isinstance(spec, Flat):
        raise GraphError(
            "Flat is improper, so that there is nothing to draw from: give the variable a proper "
            "distribution, such as dist.Normal(0.0, 10.0)."
        )
    exact = spec.map_parameters(lambda x: np.asarray(x, np.float64))
    return np.asarray(RULES[type(spec)](exact, noise))


def _two_sided(tail: Callable[[Array], Array], z: Array) -> Array:
    """The quantile of a symmetric variable, from that of its upper tail, to all digits of both."""
    return np.copysign(tail(special.ndtr(-np.abs(z))), z)


def _cauchy(z: Array) -> Array:
    return _two_sided(lambda p: 1.0 / np.tan(np.pi * p), z)


def _laplace(z: Array) -> Array:
    return _two_sided(lambda p: -np.log(2.0 * p), z)


def _logistic(z: Array) -> Array:
    # logit of Phi(z)
    return special.log_ndtr(z) - special.log_ndtr(-z)


def _exponential(z: Array) -> Array:
    return -special.log_ndtr(-z)


def _gamma(concentration: Array, z: Array) -> Array:
    return np.maximum(special.gammaincinv(concentration, special.ndtr(z)), _TINY)


def _beta(concentration1: Array, concentration0: Array, z: Array) -> Array:
    return np.clip(special.betaincinv(concentration1, concentration0, special.ndtr(z)), _TINY, 1.0)


def _truncated_normal(s: Any, z: Array) -> Array:
    low = np.asarray(-np.inf if s.low is None else (s.low - s.loc) / s.scale)
    high = np.asarray(np.inf if s.high is None else (s.high - s.loc) / s.scale)
    # From the tail that is the thinner, where log Phi keeps its digits
    flip = low > 0.0
    a, b = np.where(flip, -high, low), np.where(flip, -low, high)
    below, above = special.log_ndtr(a), special.log_ndtr(b)
    u = special.ndtr(np.where(flip, -z, z))
    # log [Phi(a) + u (Phi(b) - Phi(a))] = log Phi(b) + log [u + (1 - u) Phi(a) / Phi(b)]
    x = special.ndtri_exp(above + np.log(u + (1.0 - u) * np.exp(below - above)))
    x = np.clip(np.where(flip, -x, x), low, high)
    return s.loc + s.scale * x


def _dirichlet(s: Any, noise: Array) -> Array:
    a = s.concentration
    # Gamma(a) = Gamma(a + 1) U^(1/a), by its log: for a small a the variable itself would be 0
    log_gamma = np.log(_gamma(a + 1.0, noise[..., 0])) + special.log_ndtr(noise[..., 1]) / a
    return special.softmax(log_gamma, axis=-1)


def _multivariate_normal(s: Any, z: Array) -> Array:
    return s.loc + np.einsum("...ij,...j->...i", s.scale_tril, z)


def _lkj_cholesky(s: Any, z: Array) -> Array:
    # Row i, from 0, has a length r in its first i entries, r^2 ~ Beta(i / 2, c + (d - 1 - i) / 2),
    # in a direction that is uniform: the onion (Lewandowski, Kurowicka and Joe 2009, sect. 3.2).
    out = np.zeros(z.shape)
    out[..., 0, 0] = 1.0
    for i in range(1, s.dimension):
        rest = s.concentration + 0.5 * (s.dimension - 1 - i)
        square = _beta(np.asarray(0.5 * i), rest, z[..., i, i])
        direction = z[..., i, :i] / np.linalg.norm(z[..., i, :i], axis=-1, keepdims=True)
        out[..., i, :i] = np.sqrt(square)[..., None] * direction
        out[..., i, i] = np.sqrt(np.maximum(1.0 - square, _TINY))
    return out


def _quantile(
    z: Array, start: Array, cdf: Callable[..., Array], *parameters: Array, last: Array | None = None
) -> Array:
    """The smallest count k with cdf(k, *parameters) >= Phi(z), sought from `start` on."""
    given = np.broadcast_arrays(special.ndtr(z), start, *parameters)
    shape = given[0].shape
    u, first, *own = (np.ravel(x) for x in given)
    k = np.maximum(np.rint(first), 0.0)
    if last is not None:
        k = np.minimum(k, np.ravel(np.broadcast_to(last, shape)))
    rising = np.flatnonzero(cdf(k, *own) < u)
    falling = np.setdiff1d(np.flatnonzero(k > 0), rising, assume_unique=True)
    while rising.size:
        k[rising] += 1.0
        rising = rising[cdf(k[rising], *(x[rising] for x in own)) < u[rising]]
    while falling.size:
        falling = falling[cdf(k[falling] - 1.0, *(x[falling] for x in own)) >= u[falling]]
        k[falling] -= 1.0
        falling = falling[k[falling] > 0]
    return k.reshape(shape)


def _poisson(rate: Array, z: Array) -> Array:
    # Cornish and Fisher's expansion, up to its first correction
    with np.errstate(invalid="ignore"):  # of a rate that has overflowed nothing can be drawn
        start = rate + np.sqrt(rate) * z + (z * z - 1.0) / 6.0
    many = rate > _MANY
    few = _quantile(
        z,
        np.where(many, 0.0, start),
        lambda k, mean: special.gammaincc(k + 1.0, mean),
        np.where(many, 0.0, rate),
    )
    return np.where(many, np.rint(start), few)


def _binomial(n: Array, p: Array, z: Array) -> Array:
    n, p = np.rint(n), np.clip(p, 0.0, 1.0)
    start = n * p + np.sqrt(n * p * (1.0 - p)) * z + (1.0 - 2.0 * p) * (z * z - 1.0) / 6.0
    many = n > _MANY
    few = _quantile(
        z,
        np.where(many, 0.0, start),
        _binomial_cdf,
        np.where(many, 0.0, n),
        p,
        last=np.where(many, 0.0, n),
    )
    return np.where(many, np.clip(np.rint(start), 0.0, n), few)


def _binomial_cdf(k: Array, n: Array, p: Array) -> Array:
    # P(X <= k) = I_{1-p}(n - k, k + 1)
    return np.where(k >= n, 1.0, special.betainc(np.maximum(n - k, 1.0), k + 1.0, 1.0 - p))


def _probs(s: Any) -> Array:
    return special.expit(s.logits) if s.probs is None else s.probs


def _bernoulli(s: Any, z: Array) -> Array:
    # 1 where a logistic variable is at least -logit, which any logit decides to all digits
    if s.probs is None:
        return np.where(_logistic(z) >= -s.logits, 1.0, 0.0)
    return np.where(special.ndtr(-z) <= s.probs, 1.0, 0.0) * (s.probs > 0)


def _categorical(s: Any, z: Array) -> Array:
    return _chosen(special.softmax(s.logits, axis=-1) if s.probs is None else s.probs, z)


def _chosen(probs: Array, z: Array) -> Array:
    """A category by its probability."""
    below = np.cumsum(probs, axis=-1)
    # Of the sum that there is: weights in float32 make 1 to seven digits
    below = below[..., :-1] / below[..., -1:]
    return np.sum(special.ndtr(z)[..., None] > below, axis=-1).astype(np.float64)


def _ordered_logistic(s: Any, z: Array) -> Array:
    value = s.predictor + _logistic(z)
    return np.sum(value[..., None] > s.cutpoints, axis=-1).astype(np.float64)


def _mixture(s: Any, noise: Array) -> Array:
    own = s.event_rank
    # The noise of the first element of an event says which component the event is from
    chosen = _chosen(s.weights, noise[(..., *(0,) * own, 0)])
    chosen = np.reshape(chosen, (*chosen.shape, *(1,) * own))
    out = np.zeros(noise.shape[:-1])
    for k, component in enumerate(s.components):
        drawn = draw(component, noise[..., 1 : 1 + noise_width(component)])
        out = np.where(chosen == k, drawn, out)
    return out


def _scalar(function: Callable[[Any, Array], Array]) -> Callable[[Any, Array], Array]:
    """A rule that takes one number for each element."""
    return lambda s, noise: function(s, noise[..., 0])


RULES: dict[type[Spec], Callable[[Any, Array], Array]] = {
    Normal: _scalar(lambda s, z: s.loc + s.scale * z),
    StudentT: _scalar(
        lambda s, z: s.loc + s.scale * _two_sided(lambda p: -special.stdtrit(s.df, p), z)
    ),
    Laplace: _scalar(lambda s, z: s.loc + s.scale * _laplace(z)),
    Cauchy: _scalar(lambda s, z: s.loc + s.scale * _cauchy(z)),
    Logistic: _scalar(lambda s, z: s.loc + s.scale * _logistic(z)),
    HalfNormal: _scalar(lambda s, z: s.scale * np.abs(z)),
    HalfCauchy: _scalar(lambda s, z: s.scale * np.abs(_cauchy(z))),
    LogNormal: _scalar(lambda s, z: np.exp(s.loc + s.scale * z)),
    Exponential: _scalar(lambda s, z: _exponential(z) / s.rate),
    Gamma: _scalar(lambda s, z: _gamma(s.concentration, z) / s.rate),
    InverseGamma: _scalar(lambda s, z: s.rate / _gamma(s.concentration, z)),
    Weibull: _scalar(lambda s, z: s.scale * _exponential(z) ** (1.0 / s.concentration)),
    Beta: _scalar(lambda s, z: _beta(s.concentration1, s.concentration0, z)),
    Uniform: _scalar(lambda s, z: s.low + (s.high - s.low) * special.ndtr(z)),
    TruncatedNormal: _scalar(_truncated_normal),
    Dirichlet: _dirichlet,
    MultivariateNormal: _scalar(_multivariate_normal),
    LKJCholesky: _scalar(_lkj_cholesky),
    Bernoulli: _scalar(_bernoulli),
    Binomial: _scalar(lambda s, z: _binomial(s.total_count, _probs(s), z)),
    BetaBinomial: lambda s, noise: _binomial(
        s.total_count,
        _beta(s.concentration1, s.concentration0, noise[..., 0]),
        noise[..., 1],
    ),
    Poisson: _scalar(lambda s, z: _poisson(np.exp(s.log_rate) if s.rate is None else s.rate, z)),
    # A Poisson count whose rate is Gamma(concentration, concentration / mean)
    NegativeBinomial: lambda s, noise: _poisson(
        s.mean / s.concentration * _gamma(s.concentration, noise[..., 0]), noise[..., 1]
    ),
    Categorical: _scalar(_categorical),
    OrderedLogistic: _scalar(_ordered_logistic),
    Mixture: _mixture,
    Censored: lambda s, noise: draw(s.base, noise),
}
