"""A third backend on NumPy, for what needs no framework: draws and densities of small models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dist.oracle import log_prob
from varied_models import Case, Problem, problem

from pavi import Posterior, guide, objective
from pavi import loading as loading_module
from pavi import posterior as posterior_module
from pavi.backends import base
from pavi.backends.base import Arrays
from pavi.batch import Batch
from pavi.plan import GuidePlan


class NumpyFunctions:
    """`backends.base.Functions`, not compiled."""

    def __init__(self, plan: GuidePlan, dtype: str) -> None:
        self._plan, self._dtype = plan, dtype

    def sample(self, weights: Arrays, rows: Arrays, noise: Arrays, batch: Batch) -> Arrays:
        noise = {name: eps.astype(self._dtype) for name, eps in noise.items()}
        values = guide.sample(self._plan, weights, rows, noise, batch).values
        # NumPy promotes where the frameworks do not.
        return {name: value.astype(self._dtype) for name, value in values.items()}

    def moments(self, weights: Arrays, rows: Arrays, noise: Arrays, batch: Batch) -> guide.Moments:
        noise = {name: eps.astype(self._dtype) for name, eps in noise.items()}
        found = guide.moments(self._plan, weights, rows, noise, batch)
        return guide.Moments(
            *({name: v.astype(self._dtype) for name, v in part.items()} for part in found)
        )

    def log_prob(self, weights: Arrays, rows: Arrays, values: Arrays, batch: Batch) -> np.ndarray:
        draw = guide.log_prob(self._plan, weights, rows, values, batch)
        return np.asarray(guide.weighted_log_prob(self._plan, draw, batch))

    def elbo(self, weights: Arrays, rows: Arrays, noise: Arrays, batch: Batch) -> np.ndarray:
        return np.asarray(objective.elbo_samples(self._plan, log_prob, weights, rows, noise, batch))

    def terms(self, weights: Arrays, rows: Arrays, noise: Arrays, batch: Batch) -> objective.Terms:
        noise = {name: eps.astype(self._dtype) for name, eps in noise.items()}
        found = objective.terms(self._plan, log_prob, weights, rows, noise, batch)
        return objective.Terms(
            *({name: v.astype(self._dtype) for name, v in part.items()} for part in found)
        )


class NumpyAdapter:
    """`backends.base.Adapter`, without training."""

    name = "numpy"

    def functions(self, plan: GuidePlan, dtype: str) -> Any:
        return NumpyFunctions(plan, dtype)


def adapter(name: str) -> Any:
    return NumpyAdapter() if name == "numpy" else base.get_adapter(name)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `"numpy"` a backend of posteriors and of saved runs."""
    monkeypatch.setattr(posterior_module, "get_adapter", adapter)
    monkeypatch.setattr(loading_module, "get_adapter", adapter)


def as_posterior(p: Problem, backend: str = "numpy") -> Posterior:
    """A posterior with the weights of a problem, as if it had been trained to them."""
    return Posterior(
        plan=p.plan,
        data=p.bound,
        backend=backend,
        weights=p.weights,
        tables=p.tables,
        dtype=p.dtype,
    )


def random_posterior(case: Case, dtype: str = "float64", scale: float = 0.2) -> Posterior:
    return as_posterior(problem(case, dtype, scale=scale))


def on_backend(posterior: Posterior, backend: str) -> Posterior:
    return replace(posterior, backend=backend)
