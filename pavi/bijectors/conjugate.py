"""The pseudo-conjugate affine bijector: a prior times a Gaussian potential."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pavi import ops
from pavi.bijectors.base import Array, Bijector, ParameterSpec, Params, check_batch
from pavi.errors import PaviError

# Longest vector that is given a full precision matrix; of longer ones it is diagonal.
DENSE_LIMIT = 32


class GaussianPotential(NamedTuple):
    """The factor `exp(-1/2 w' precision w + shift' w)` of whitened coordinates w.

    Attributes:
        precision: `[..., d, d]`, symmetric and positive semi-definite (the caller's duty).
        shift: `[..., d]`.
    """

    precision: Array
    shift: Array


class DiagonalPotential(NamedTuple):
    """A `GaussianPotential` of a diagonal precision, for vectors too long for a matrix each.

    Attributes:
        precision: `[..., d]`, its diagonal, not negative (the caller's duty).
        shift: `[..., d]`.
    """

    precision: Array
    shift: Array


def solve_potential(potential: GaussianPotential) -> tuple[Array, Array]:
    """Multiplies a potential by the standard normal prior of w.

    Returns:
        The mean `[..., d]` of the normal law of w, and the lower Cholesky factor `[..., d, d]` of
        its precision.
    """
    # Lambda = I + precision = L L'
    cholesky = _cholesky(potential)
    # mean = Lambda^{-1} shift
    return _solve(cholesky, _solve(cholesky, potential.shift), transpose=True), cholesky


@dataclass(frozen=True)
class PseudoConjugateAffine(Bijector):
    """Maps N(0, I) to the prior N(0, I) times a Gaussian potential; it has no parameters.

    The context is a `GaussianPotential`, whose numbers `context_size` counts, or a
    `DiagonalPotential`. For a conjugate model whose potential is the exact one, y follows the exact
    posterior of the whitened block.
    """

    context_size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "context_size", self.size * (self.size + 1))
        super().__post_init__()

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        return {}

    def _forward(self, params: Params, x: Array, context: Any) -> tuple[Array, Array]:
        if isinstance(context, DiagonalPotential):
            precision = 1.0 + context.precision
            # y = Lambda^{-1} shift + Lambda^{-1/2} x
            y = context.shift / precision + x / ops.sqrt(precision)
            return y, -0.5 * ops.sum(ops.log(precision), -1)
        cholesky = _cholesky(context)
        # y = Lambda^{-1} shift + L^{-T} x = L^{-T} (L^{-1} shift + x)
        y = _solve(cholesky, _solve(cholesky, context.shift) + x, transpose=True)
        return y, -_log_diagonal_sum(cholesky)

    def _inverse(self, params: Params, y: Array, context: Any) -> tuple[Array, Array]:
        if isinstance(context, DiagonalPotential):
            precision = 1.0 + context.precision
            # x = Lambda^{1/2} (y - Lambda^{-1} shift)
            x = ops.sqrt(precision) * (y - context.shift / precision)
            return x, 0.5 * ops.sum(ops.log(precision), -1)
        cholesky = _cholesky(context)
        # x = L' (y - mean) = L' y - L^{-1} shift
        whitened = ops.sum(cholesky * ops.expand_dims(y, -1), -2)
        return whitened - _solve(cholesky, context.shift), _log_diagonal_sum(cholesky)

    def _check_context(self, batch: tuple[int, ...], context: Any) -> None:
        if not isinstance(context, GaussianPotential | DiagonalPotential):
            raise PaviError(
                f"Expected a GaussianPotential as context; got {type(context).__name__}."
            )
        precision, shift = ops.shape(context.precision), ops.shape(context.shift)
        axes = (self.size,) * (2 if isinstance(context, GaussianPotential) else 1)
        if precision[-len(axes) :] != axes or shift[-1:] != axes[:1]:
            raise PaviError(
                f"Expected a potential of shapes [..., {', '.join(map(str, axes))}] and "
                f"[..., {self.size}]; got {precision} and {shift}."
            )
        check_batch(batch, precision[: -len(axes)])
        check_batch(batch, shift[:-1])


def _cholesky(potential: GaussianPotential) -> Array:
    precision = potential.precision
    if ops.shape(precision)[-1] == 1:
        return ops.sqrt(1.0 + precision)
    identity = ops.asarray(np.eye(ops.shape(precision)[-1]), like=precision)
    return ops.cholesky(identity + precision)


def _solve(cholesky: Array, vector: Array, *, transpose: bool = False) -> Array:
    """Solves `L z = vector` (or `L' z = vector`) for vectors `[..., d]`.

    The vectors may have one leading axis more than the factors, or a longer one than theirs of 1.
    """
    if ops.shape(cholesky)[-1] == 1:
        return vector / cholesky[..., 0]
    lead, rank = ops.shape(vector)[0], len(ops.shape(vector))
    if lead > 1 and (rank == len(ops.shape(cholesky)) or ops.shape(cholesky)[0] == 1):
        # Vectors of one factor are solved together, as its columns.
        columns = ops.transpose(vector, (*range(1, rank), 0))
        own = cholesky if rank == len(ops.shape(cholesky)) else cholesky[0]
        solved = ops.solve_triangular(own, columns, transpose=transpose)
        return ops.transpose(solved, (rank - 1, *range(rank - 1)))
    column = ops.expand_dims(vector, -1)
    return ops.solve_triangular(cholesky, column, transpose=transpose)[..., 0]


def _log_diagonal_sum(cholesky: Array) -> Array:
    size = ops.shape(cholesky)[-1]
    if size == 1:
        return ops.log(cholesky[..., 0, 0])
    diagonal = ops.sum(ops.where(np.eye(size, dtype=bool), cholesky, 0.0), -1)
    return ops.sum(ops.log(diagonal), -1)
