"""Conditional bijectors, one family a file; `REGISTRY` feeds each of them to the law tests."""

from __future__ import annotations

from collections.abc import Callable

from pavi.bijectors.affine import ConditionalAffine, Identity
from pavi.bijectors.autoregressive import MaskedAutoregressive
from pavi.bijectors.base import Bijector, Chain, Inverse, ParameterSpec, initial_parameters
from pavi.bijectors.conjugate import (
    DENSE_LIMIT,
    DiagonalPotential,
    GaussianPotential,
    PseudoConjugateAffine,
    solve_potential,
)
from pavi.bijectors.coupling import SplineCoupling
from pavi.bijectors.spline import rational_quadratic_spline

# Every family at the sizes where its code takes another path. A new one is tested by its line here.
REGISTRY: dict[str, Callable[[], Bijector]] = {
    "affine": lambda: ConditionalAffine(3),
    "affine of one": lambda: ConditionalAffine(1),
    "affine, large": lambda: ConditionalAffine(10),
    "affine, linear": lambda: ConditionalAffine(3, 2),
    "affine, network": lambda: ConditionalAffine(3, 2, hidden=4),
    "affine, large network": lambda: ConditionalAffine(10, 2, hidden=4),
    "affine, diagonal": lambda: ConditionalAffine(3, rank="diagonal"),
    "affine, diagonal network": lambda: ConditionalAffine(3, 2, hidden=4, rank="diagonal"),
    "identity": lambda: Identity(3),
    "conjugate": lambda: PseudoConjugateAffine(3),
    "conjugate of one": lambda: PseudoConjugateAffine(1),
    "conjugate, large": lambda: PseudoConjugateAffine(10),
    "spline": lambda: MaskedAutoregressive(2, hidden=(8,)),
    "spline of one": lambda: MaskedAutoregressive(1, bins=4),
    "spline of one, context": lambda: MaskedAutoregressive(1, 2, hidden=(4,), bins=4),
    "spline, context": lambda: MaskedAutoregressive(3, 2, hidden=(7, 5), bins=4),
    "spline, reversed": lambda: MaskedAutoregressive(2, 2, hidden=(8,), bins=4, reverse=True),
    "spline, narrow": lambda: MaskedAutoregressive(4, hidden=(2,), bins=3),
    "autoregressive affine": lambda: MaskedAutoregressive(3, 2, (8, 9), transformer="affine"),
    "autoregressive affine, reversed": lambda: MaskedAutoregressive(
        3, hidden=(8,), transformer="affine", reverse=True
    ),
    "inverse autoregressive": lambda: Inverse(
        MaskedAutoregressive(3, 2, (8,), transformer="affine", reverse=True)
    ),
    "coupling of one": lambda: SplineCoupling(1, bins=4),
    "coupling, reversed": lambda: SplineCoupling(3, 2, hidden=(7, 5), bins=4, reverse=True),
    "chain": lambda: Chain([ConditionalAffine(3), ConditionalAffine(3, 2)]),
    "chain of two contexts": lambda: Chain(
        [MaskedAutoregressive(2, 3, (4,), bins=4), ConditionalAffine(2), PseudoConjugateAffine(2)]
    ),
}

__all__ = [
    "DENSE_LIMIT",
    "REGISTRY",
    "Bijector",
    "Chain",
    "ConditionalAffine",
    "DiagonalPotential",
    "GaussianPotential",
    "Identity",
    "Inverse",
    "MaskedAutoregressive",
    "ParameterSpec",
    "PseudoConjugateAffine",
    "SplineCoupling",
    "initial_parameters",
    "rational_quadratic_spline",
    "solve_potential",
]
