"""Fixtures and settings for every test. A backend's tests run where that backend is installed."""

from __future__ import annotations

import os

# Before anything imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from hypothesis import settings

# Compilation makes a first example slow, and CI should see the same examples as a desk.
settings.register_profile("pavi", deadline=None, derandomize=True)
settings.load_profile("pavi")

_REQUIRED = {
    "numpyro": ("jax", "numpyro", "optax", "threadpoolctl"),
    "tfp": ("tensorflow", "tensorflow_probability", "tf_keras"),
}
INSTALLED_BACKENDS = tuple(
    name for name, modules in _REQUIRED.items() if all(find_spec(module) for module in modules)
)


@pytest.fixture(params=INSTALLED_BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend; the test runs once for each that is installed."""
    return request.param


@pytest.fixture
def strict_rank() -> Iterator[None]:
    """Makes JAX raise where arrays of different ranks are broadcast against each other."""
    jax = pytest.importorskip("jax")
    before = jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_rank_promotion", "raise")
    yield
    jax.config.update("jax_numpy_rank_promotion", before)
