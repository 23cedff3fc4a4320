"""Random weights that a bijector may have: none at a special value, references triangular."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pavi.bijectors import ParameterSpec, initial_parameters


def random_weights(
    specs: Mapping[str, ParameterSpec], rng: np.random.Generator, scale: float = 0.2
) -> dict[str, np.ndarray]:
    """The initial weights, each moved by `scale * N(0, 1)`."""
    start = initial_parameters(specs, rng, np.float64)
    moved = {
        name: value + scale * rng.standard_normal(value.shape) for name, value in start.items()
    }
    for name, value in moved.items():
        if specs[name].init in ("eye", "constant") and not specs[name].trainable:
            # The scale of a reference has a positive diagonal.
            moved[name] = np.tril(value) if value.ndim == 2 else np.abs(value)
    return moved
