"""Sampling and evaluation of a plan on JAX, compiled once for each shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pavi import guide, objective
from pavi.backends.base import Arrays
from pavi.backends.numpyro.compilation import compiled, one_blas_thread
from pavi.backends.numpyro.distributions import log_prob
from pavi.backends.numpyro.precision import precision
from pavi.batch import Batch
from pavi.plan import GuidePlan


class JaxFunctions:
    """A plan's draws and densities; see `backends.base.Functions`."""

    def __init__(self, plan: GuidePlan, dtype: str) -> None:
        self._dtype = dtype

        def sample(weights: Any, rows: Any, noise: Any, batch: Batch) -> Any:
            return guide.sample(plan, weights, rows, noise, batch).values

        def moments(weights: Any, rows: Any, noise: Any, batch: Batch) -> Any:
            return tuple(guide.moments(plan, weights, rows, noise, batch))

        def log_q(weights: Any, rows: Any, values: Any, batch: Batch) -> Any:
            draw = guide.log_prob(plan, weights, rows, values, batch)
            return guide.weighted_log_prob(plan, draw, batch)

        def elbo(weights: Any, rows: Any, noise: Any, batch: Batch) -> Any:
            return objective.elbo_samples(plan, log_prob, weights, rows, noise, batch)

        def terms(weights: Any, rows: Any, noise: Any, batch: Batch) -> Any:
            return tuple(objective.terms(plan, log_prob, weights, rows, noise, batch))

        self._sample, self._moments, self._log_q, self._elbo, self._terms = (
            compiled(function) for function in (sample, moments, log_q, elbo, terms)
        )

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with precision(self._dtype), one_blas_thread():
            arguments = jax.tree.map(lambda x: jnp.asarray(_cast(x, self._dtype)), arguments)
            return jax.tree.map(np.asarray, function(*arguments))

    def sample(self, weights: Arrays, rows: Arrays, noise: Arrays, batch: Batch) -> Arrays:
        """Latents `{name: [S, *plates, *event]}` from standard normal noise."""
        return dict(self._call(self._sample, weights, rows, noise, batch))

    def moments(self, weights: Arrays, rows: Arrays, noise: Arrays, batch: Batch) -> guide.Moments:
        """As `sample`, with exact moments of what is Gaussian given the earlier blocks' draws."""
        return guide.Moments(*self._call(self._moments, weights, rows, noise, batch))

    def log_prob(self, weights: Arrays, rows: Arrays, values: Arrays, batch: Batch) -> np.ndarray:
        """Log q of each draw, `[S]`."""
        return np.asarray(self._call(self._log_q, weights, rows, values, batch))

    def elbo(self, weights: Arrays, rows: Arrays, noise: Arrays, batch: Batch) -> np.ndarray:
        """One-draw estimates of the ELBO of the batch, `[S]`."""
        return np.asarray(self._call(self._elbo, weights, rows, noise, batch))

    def terms(self, weights: Arrays, rows: Arrays, noise: Arrays, batch: Batch) -> objective.Terms:
        """Draws as of `sample`, with the terms of their ELBO, neither weighted nor summed."""
        return objective.Terms(*self._call(self._terms, weights, rows, noise, batch))


def _cast(x: Any, dtype: str) -> Any:
    return x.astype(dtype) if x.dtype.kind == "f" else x
