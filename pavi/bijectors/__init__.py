"""Conditional bijectors, one family a file; `REGISTRY` feeds each of them to the law tests."""

from __future__ import annotations

from pavi.bijectors.affine import ConditionalAffine
from pavi.bijectors.base import Bijector, Chain, ParameterSpec, initial_parameters
from pavi.bijectors.conjugate import GaussianPotential, PseudoConjugateAffine, solve_potential

__all__ = [
    "Bijector",
    "Chain",
    "ConditionalAffine",
    "GaussianPotential",
    "ParameterSpec",
    "PseudoConjugateAffine",
    "initial_parameters",
    "solve_potential",
]
