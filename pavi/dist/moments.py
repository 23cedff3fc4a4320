"""Moments of log-gamma and logit-beta variables, by which bounded priors are whitened."""

from __future__ import annotations

import math

from pavi import ops
from pavi.dist.spec import Array

LARGEST_DEVIATION = 5.0
"""No prior is whitened by more than this on the unconstrained scale, however vague it is."""

_VAGUE = 3.0


def log_gamma_moments(concentration: Array) -> tuple[Array, Array]:
    """Mean and sd of log x, x ~ Gamma(concentration, 1), elementwise, made robust.

    Below a concentration of about 1/3 the exact moments run off (-1000 and 1000 at 0.001) and say
    nothing of where a posterior is; there the mean moves over to the mode of log x and the sd stays
    at 3.
    """
    deviation = ops.sqrt(ops.trigamma(concentration))
    ratio = ops.minimum(_VAGUE / deviation, 1.0)
    mode = ops.log(concentration)
    mean = mode + ratio * ratio * (ops.digamma(concentration) - mode)
    return mean, ops.minimum(deviation, _VAGUE)


def gamma_moments(concentration: Array, rate: Array) -> tuple[Array, Array]:
    """Mean and sd of log x, x ~ Gamma(concentration, rate), elementwise."""
    # E log x = psi(a) - log b, Var log x = psi'(a)
    mean, deviation = log_gamma_moments(concentration)
    return mean - ops.log(rate), deviation + 0.0 * rate


def beta_moments(concentration1: Array, concentration0: Array) -> tuple[Array, Array]:
    """Mean and sd of logit x, x ~ Beta(concentration1, concentration0), elementwise."""
    # logit x = log g1 - log g0 of independent gammas
    mean1, deviation1 = log_gamma_moments(concentration1)
    mean0, deviation0 = log_gamma_moments(concentration0)
    return mean1 - mean0, ops.sqrt(deviation1 * deviation1 + deviation0 * deviation0)


def matched_gamma(mean: Array, variance: Array) -> tuple[Array, Array]:
    """Concentration and rate of the gamma of this mean and variance, elementwise."""
    mean = ops.maximum(mean, 1e-6)
    return mean * mean / variance, mean / variance


def matched_beta(mean: Array, variance: Array) -> tuple[Array, Array]:
    """Both concentrations of the beta of this mean and variance, elementwise."""
    mean = ops.clip(mean, 1e-4, 1.0 - 1e-4)
    total = ops.maximum(mean * (1.0 - mean) / variance - 1.0, 1e-2)
    return mean * total, (1.0 - mean) * total


def mixture_moments(
    weights: Array, means: tuple[Array, ...], deviations: tuple[Array, ...]
) -> tuple[Array, Array]:
    """Mean and sd of a mixture of K components, elementwise.

    Args:
        weights: `[..., K]`.
        means: K arrays.
        deviations: K arrays.
    """
    mean = sum(weights[..., k] * m for k, m in enumerate(means))
    # Var = sum_k w_k (s_k^2 + (m_k - m)^2)
    variance = sum(
        weights[..., k] * (s * s + (m - mean) * (m - mean))
        for k, (m, s) in enumerate(zip(means, deviations, strict=True))
    )
    return mean, ops.sqrt(variance)


EULER = 0.5772156649015329
"""Minus the mean of log x for a standard exponential x."""

LOG_EXPONENTIAL_DEVIATION = math.pi / math.sqrt(6.0)
"""Standard deviation of log x for a standard exponential x."""

LOG_ABSOLUTE_NORMAL_MEAN = -0.5 * (EULER + math.log(2.0))
"""Mean of log |z| for a standard normal z: (psi(1/2) + log 2) / 2."""

LOG_ABSOLUTE_NORMAL_DEVIATION = math.pi / math.sqrt(8.0)
"""Standard deviation of log |z| for a standard normal z: sqrt(psi'(1/2)) / 2."""
