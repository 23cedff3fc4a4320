"""Backend-neutral distribution specs: `from pavi import dist`."""

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
from pavi.dist.supports import (
    BOOLEAN,
    CORRELATION_CHOLESKY,
    LOWER_CHOLESKY,
    NON_NEGATIVE_INTEGER,
    ORDERED,
    POSITIVE,
    REAL,
    SIMPLEX,
    UNIT_INTERVAL,
    GreaterThan,
    IntegerInterval,
    Interval,
    LessThan,
    Support,
)

__all__ = [
    # Continuous, on the real line
    "Normal",
    "StudentT",
    "Laplace",
    "Cauchy",
    "Logistic",
    # on the positive half-line
    "HalfNormal",
    "HalfCauchy",
    "LogNormal",
    "Exponential",
    "Gamma",
    "InverseGamma",
    "Weibull",
    # on an interval, or on any support
    "Beta",
    "Uniform",
    "TruncatedNormal",
    "Flat",
    # vectors and matrices
    "Dirichlet",
    "MultivariateNormal",
    "LKJCholesky",
    # Observations
    "Bernoulli",
    "Binomial",
    "BetaBinomial",
    "Poisson",
    "NegativeBinomial",
    "Categorical",
    "OrderedLogistic",
    "Mixture",
    "Censored",
    # Supports
    "REAL",
    "POSITIVE",
    "UNIT_INTERVAL",
    "Interval",
    "GreaterThan",
    "LessThan",
    "SIMPLEX",
    "ORDERED",
    "LOWER_CHOLESKY",
    "CORRELATION_CHOLESKY",
    "BOOLEAN",
    "NON_NEGATIVE_INTEGER",
    "IntegerInterval",
    # The bases
    "Spec",
    "Support",
]
