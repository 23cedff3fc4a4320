"""One registry of specs, with sensible values, that feeds every law test of the distributions.

Values have a leading axis of 3; parameters are numbers, or arrays that broadcast against it.
"""

from __future__ import annotations

import numpy as np

from pavi import dist
from pavi.dist.spec import Spec

FACTOR = np.array([[1.0, 0.0, 0.0], [0.5, 0.8, 0.0], [-0.3, 0.2, 1.5]])
CORRELATIONS = np.array(
    [
        [[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.28, 0.96]],
        [[1.0, 0.0, 0.0], [-0.28, 0.96, 0.0], [0.48, 0.64, 0.6]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.36, -0.48, 0.8]],
    ]
)
POINTS = np.array([[0.2, -0.3, 0.5], [1.0, 2.0, -1.0], [0.0, 0.0, 0.0]])
SHARES = np.array([[0.2, 0.3, 0.5], [0.05, 0.9, 0.05], [1 / 3, 1 / 3, 1 / 3]])
SCALES = np.array([0.5, 1.3, 4.0])
REALS = np.array([-3.1, 0.2, 2.4])
POSITIVES = np.array([0.15, 1.1, 4.2])
COUNTS = np.array([0.0, 1.0, 6.0])
CODES = np.array([0, 1, -1])

CASES: dict[str, tuple[Spec, np.ndarray]] = {
    "normal": (dist.Normal(0.3, SCALES), REALS),
    "student_t": (dist.StudentT(4.0, 0.3, SCALES), REALS),
    "student_t_heavy": (dist.StudentT(1.5, 0.3, 1.2), REALS),
    "laplace": (dist.Laplace(0.3, SCALES), REALS),
    "cauchy": (dist.Cauchy(0.3, SCALES), REALS),
    "logistic": (dist.Logistic(0.3, SCALES), REALS),
    "half_normal": (dist.HalfNormal(SCALES), POSITIVES),
    "half_cauchy": (dist.HalfCauchy(SCALES), POSITIVES),
    "log_normal": (dist.LogNormal(0.3, SCALES), POSITIVES),
    "exponential": (dist.Exponential(1.3), POSITIVES),
    "gamma": (dist.Gamma(2.5, SCALES), POSITIVES),
    "inverse_gamma": (dist.InverseGamma(2.5, SCALES), POSITIVES),
    "weibull": (dist.Weibull(SCALES + 1.0, 1.7), POSITIVES),
    "beta": (dist.Beta(2.0, 3.5), np.array([0.1, 0.5, 0.95])),
    "uniform": (dist.Uniform(-4.0, np.array([3.0, 4.0, 5.0])), REALS),
    "truncated_normal": (dist.TruncatedNormal(0.3, 1.2, -3.5, 2.5), REALS),
    "truncated_normal_low": (dist.TruncatedNormal(0.3, 1.2, low=-3.5), REALS),
    "truncated_normal_high": (dist.TruncatedNormal(0.3, 1.2, high=2.5), REALS),
    "truncated_normal_none": (dist.TruncatedNormal(0.3, 1.2), REALS),
    "truncated_normal_at_loc": (dist.TruncatedNormal(0.0, SCALES, low=0.0), POSITIVES),
    "truncated_normal_tail": (
        dist.TruncatedNormal(0.0, 1.0, 8.0, 9.0),
        np.array([8.0, 8.1, 9.0]),
    ),
    "flat": (dist.Flat(), REALS),
    "flat_simplex": (dist.Flat(support=dist.SIMPLEX), SHARES),
    "flat_matrix": (dist.Flat(support=dist.CORRELATION_CHOLESKY), CORRELATIONS),
    "dirichlet": (dist.Dirichlet(np.array([1.2, 2.0, 0.5])), SHARES),
    "multivariate_normal": (dist.MultivariateNormal(np.arange(3.0), FACTOR), POINTS),
    "lkj_cholesky": (dist.LKJCholesky(3, np.array([0.7, 1.0, 2.5])), CORRELATIONS),
    "bernoulli": (dist.Bernoulli(0.3), np.array([0.0, 1.0, 1.0])),
    "bernoulli_logits": (dist.Bernoulli(logits=REALS), np.array([0.0, 1.0, 1.0])),
    "binomial": (dist.Binomial(np.array([10, 12, 9]), 0.3), COUNTS),
    "binomial_logits": (dist.Binomial(10, logits=REALS), COUNTS),
    "beta_binomial": (dist.BetaBinomial(10, 2.0, 3.5), COUNTS),
    "poisson": (dist.Poisson(POSITIVES), COUNTS),
    "poisson_log_rate": (dist.Poisson(log_rate=REALS), COUNTS),
    "negative_binomial": (dist.NegativeBinomial(POSITIVES, 2.5), COUNTS),
    "categorical": (dist.Categorical(np.array([0.2, 0.5, 0.3])), np.array([0.0, 1.0, 2.0])),
    "categorical_logits": (dist.Categorical(logits=POINTS), np.array([0.0, 1.0, 2.0])),
    "ordered_logistic": (
        dist.OrderedLogistic(REALS, np.array([-1.0, 0.5])),
        np.array([0.0, 1.0, 2.0]),
    ),
    "mixture": (
        dist.Mixture(np.array([0.3, 0.7]), (dist.Normal(0.0, SCALES), dist.Normal(2.0, 0.5))),
        REALS,
    ),
    "mixture_of_counts": (
        dist.Mixture(np.array([[0.3, 0.7]]), (dist.Poisson(0.5), dist.Poisson(SCALES))),
        COUNTS,
    ),
    "mixture_of_trials": (
        dist.Mixture(np.array([0.3, 0.7]), (dist.Binomial(5, 0.4), dist.Binomial(10, 0.6))),
        np.array([2.0, 5.0, 7.0]),
    ),
    "mixture_of_intervals": (
        dist.Mixture(np.array([0.3, 0.7]), (dist.Uniform(0.0, 1.0), dist.Uniform(0.5, 10.0))),
        np.array([0.2, 0.7, 7.0]),
    ),
    "mixture_over_independent_elements": (
        dist.Mixture(
            np.array([[0.3, 0.7], [0.5, 0.5], [0.9, 0.1]]),
            (dist.Normal(np.zeros(3), SCALES), dist.Normal(np.array([1.0, -1.0, 0.5]), 0.7)),
            reinterpreted_batch_ndims=1,
        ),
        POINTS,
    ),
    "mixture_of_vectors": (
        dist.Mixture(
            np.array([0.3, 0.7]),
            (
                dist.MultivariateNormal(np.zeros(3), FACTOR),
                dist.MultivariateNormal(np.ones(3), FACTOR),
            ),
        ),
        POINTS,
    ),
    "censored_normal": (dist.Censored(dist.Normal(0.3, 1.2), CODES), REALS),
    "censored_logistic": (dist.Censored(dist.Logistic(0.3, 1.2), CODES), REALS),
    "censored_log_normal": (dist.Censored(dist.LogNormal(0.3, 1.2), CODES), POSITIVES),
    "censored_exponential": (dist.Censored(dist.Exponential(1.3), CODES), POSITIVES),
    "censored_weibull": (dist.Censored(dist.Weibull(1.5, 2.3), CODES), POSITIVES),
    "censored_weibull_left": (dist.Censored(dist.Weibull(1.5, 2.3), -CODES), POSITIVES),
}
"""name -> (spec, values `[3, *event]`)."""
