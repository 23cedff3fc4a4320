"""Distributions of vectors and matrices: `Dirichlet`, `MultivariateNormal`, `LKJCholesky`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pavi import ops
from pavi.dist.moments import beta_moments
from pavi.dist.special import log_normal_density
from pavi.dist.spec import Array, Spec, promote
from pavi.dist.supports import (
    CORRELATION_CHOLESKY,
    LOWER_CHOLESKY,
    POSITIVE,
    REAL,
    SIMPLEX,
    Support,
)
from pavi.errors import GraphError


@dataclass(frozen=True, repr=False)
class Dirichlet(Spec):
    """The Dirichlet distribution over the simplex of K parts; `concentration` is `[..., K]`."""

    concentration: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {"concentration": POSITIVE}
    _support: ClassVar[Support] = SIMPLEX

    def unconstrained_moments(self) -> tuple[Array, Array]:
        (concentration,) = promote(self.concentration)
        size = ops.shape(concentration)[-1]
        # The k-th stick takes a Beta(a_k, a_{k+1} + ... + a_K) share of what is left; the link
        # shifts its logit by log(K - k), so that u = 0 is the centre of the simplex.
        total = ops.sum(concentration, axis=-1, keepdims=True)
        rest = total - ops.cumsum(concentration, axis=-1)
        mean, deviation = beta_moments(concentration[..., :-1], rest[..., :-1])
        (offset, _) = promote(np.log(np.arange(size - 1, 0, -1.0)), concentration)
        return mean + offset, deviation


@dataclass(frozen=True, repr=False)
class MultivariateNormal(Spec):
    """The multivariate normal; `loc` is `[..., d]`, `scale_tril` `[..., d, d]` its lower factor."""

    loc: Array
    scale_tril: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {
        "loc": REAL,
        "scale_tril": LOWER_CHOLESKY,
    }

    @property
    def event_rank(self) -> int:
        return 1

    def unconstrained_moments(self) -> tuple[Array, Array]:
        loc, factor = promote(self.loc, self.scale_tril)
        # Var x_i = sum_j L_ij^2
        return loc, ops.sqrt(ops.sum(factor * factor, axis=-1))

    def log_density(self, value: Array) -> Array:
        """Log p(value), `[...]`; NumPyro hands a batch of factors to LAPACK, see `ops`."""
        value, loc, factor = promote(value, self.loc, self.scale_tril)
        # z = L^{-1} (x - mu)
        z = ops.solve_triangular(factor, ops.expand_dims(value - loc, -1))[..., 0]
        size = ops.shape(factor)[-1]
        identity = np.eye(size, dtype=bool)
        log_diagonal = ops.log(ops.sum(ops.where(identity, factor, 0.0), axis=-1))
        return ops.sum(log_normal_density(z) - log_diagonal, axis=-1)


@dataclass(frozen=True, repr=False)
class LKJCholesky(Spec):
    """The LKJ distribution of the Cholesky factor of a correlation matrix of `dimension` rows.

    The density of the correlation matrix is proportional to its determinant to the power of
    `concentration` - 1.
    """

    dimension: int
    concentration: Array = 1.0

    parameter_supports: ClassVar[Mapping[str, Support]] = {"concentration": POSITIVE}
    _support: ClassVar[Support] = CORRELATION_CHOLESKY

    def __post_init__(self) -> None:
        if self.dimension < 2:
            raise GraphError(
                "LKJCholesky: `dimension` must be at least 2, the number of rows of the "
                f"correlation matrix; given {self.dimension!r}."
            )

    def parameters(self) -> dict[str, Array]:
        return {"concentration": self.concentration}

    def unconstrained_moments(self) -> tuple[Array, Array]:
        (concentration,) = promote(self.concentration)
        # The partial correlation in column j is 2 b - 1, b ~ Beta(c_j, c_j),
        # c_j = concentration + (d - 2 - j) / 2; its atanh is half the logit of b.
        columns = np.concatenate([np.arange(row) for row in range(1, self.dimension)])
        shift, _ = promote(0.5 * (self.dimension - 2 - columns), concentration)
        column_concentration = ops.expand_dims(concentration, -1) + shift
        mean, deviation = beta_moments(column_concentration, column_concentration)
        return 0.5 * mean, 0.5 * deviation
