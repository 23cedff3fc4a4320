"""Every mistake in asking for a fit is named, before anything is compiled; no backend needed."""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from complaints import _raises, data_error
from numpy_backend import NumpyAdapter
from small_models import county, crossed_rows

import pavi
from pavi import trainer as trainer_module


class Untrained(NumpyAdapter):
    """A backend whose compilation would be a bug: no mistake may get that far."""

    def program(self, *arguments: object) -> Any:
        raise AssertionError("the mistake was not found before compilation")


@pytest.fixture
def no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "get_adapter", lambda name: Untrained())


def fit(**options: Any) -> Callable[[], object]:
    return lambda: pavi.fit(*county(), **{"backend": "numpyro", "progress": False, **options})


def complaint(build: Callable[[], object], *parts: str) -> None:
    _raises(pavi.PaviError, build, parts)


# --- options ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_backend")
@pytest.mark.parametrize("steps", [0, -1, 1.5, 100.0, True, "many", None, np.nan])
def test_a_number_of_steps_that_is_none(steps: Any) -> None:
    complaint(fit(steps=steps), f"steps={steps!r}", "positive integer", "'auto'")


@pytest.mark.usefixtures("no_backend")
@pytest.mark.parametrize("number", [0, -2, 1.5, True, "two"])
def test_a_number_of_particles_that_is_none(number: Any) -> None:
    complaint(fit(num_particles=number), f"num_particles={number!r}", "positive integer")


@pytest.mark.usefixtures("no_backend")
@pytest.mark.parametrize("rate", [0, 0.0, -0.01, float("nan"), float("inf"), "fast", None, True])
def test_a_learning_rate_that_is_none(rate: Any) -> None:
    complaint(fit(learning_rate=rate), f"learning_rate={rate!r}", "positive number")


@pytest.mark.usefixtures("no_backend")
@pytest.mark.parametrize("dtype", ["float16", "double", np.float32, None])
def test_a_dtype_that_is_none(dtype: Any) -> None:
    complaint(fit(dtype=dtype), f"dtype={dtype!r}", "'float32'", "'float64'")


@pytest.mark.usefixtures("no_backend")
def test_a_gradient_that_is_none() -> None:
    complaint(fit(gradient="natural"), "gradient='natural'", "'auto', 'path' or 'total'")


@pytest.mark.usefixtures("no_backend")
@pytest.mark.parametrize("seed", [-1, 1.5, "one", None, True, 2**63])
def test_a_seed_that_is_none(seed: Any) -> None:
    complaint(fit(seed=seed), f"seed={seed!r}", "integer")


@pytest.mark.usefixtures("no_backend")
def test_a_graph_and_data_that_are_none() -> None:
    graph, data = county()
    complaint(lambda: pavi.fit(graph, data.values, backend="numpyro"), "data", "pavi.Data", "dict")  # type: ignore[arg-type]
    complaint(lambda: pavi.fit("county", data, backend="numpyro"), "graph", "PlateGraph", "str")  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_backend")
def test_data_of_another_graph() -> None:
    graph, _ = county()
    data_error(lambda: pavi.fit(graph, crossed_rows()[1], backend="tfp"), "'floor'")


@pytest.mark.usefixtures("no_backend")
def test_a_family_of_another_graph() -> None:
    family = pavi.Family(overrides={"efect": {"encoding": "free"}})
    complaint(fit(family=family), "'efect'", "latent")


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_backend")
def test_a_batch_that_names_no_plate() -> None:
    complaint(fit(batch=50), "batch=50", "by plate")


@pytest.mark.usefixtures("no_backend")
def test_a_batch_of_an_unknown_plate() -> None:
    data_error(fit(batch={"town": 2}), "batch={'town': 2}", "'county'", "'home'")


@pytest.mark.usefixtures("no_backend")
@pytest.mark.parametrize("count", [0, -1, 2.0, True, "2"])
def test_a_batch_that_is_no_number(count: Any) -> None:
    data_error(fit(batch={"county": count}), f"{{'county': {count!r}}}", "between 1 and 5")


@pytest.mark.usefixtures("no_backend")
def test_a_batch_larger_than_its_plate() -> None:
    data_error(fit(batch={"county": 6}), "batch={'county': 6}", "has 5 elements", "leave 'county'")
    data_error(fit(batch={"county": 2, "home": 12}), "'home': 12", "has 11 elements")


def test_a_batch_as_large_as_its_plate_is_none() -> None:
    graph, data = county()
    whole = pavi.Trainer(graph, data, backend=None, batch={"county": 5})
    assert dict(whole.plan.batch) == {}
    part = pavi.Trainer(graph, data, backend=None, batch={"county": 5, "home": 2})
    assert dict(part.plan.batch) == {"home": 2}


# --- backends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torch", "jax", "NumPyro", ""])
def test_an_unknown_backend(name: str) -> None:
    with pytest.raises(pavi.BackendError, match=f"Unknown backend {name!r}.*numpyro, tfp"):
        fit(backend=name)()


def test_no_backend() -> None:
    graph, data = county()
    complaint(
        pavi.Trainer(graph, data, backend=None).fit, "no backend", "backend='numpyro' or 'tfp'"
    )


@pytest.mark.parametrize(
    ("backend", "package"),
    [
        ("numpyro", "jax"),
        ("numpyro", "optax"),
        ("numpyro", "threadpoolctl"),
        ("tfp", "tensorflow"),
        ("tfp", "tf_keras"),
    ],
)
def test_a_backend_that_is_not_installed(
    backend: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.import_module

    def missing(name: str, *rest: Any) -> ModuleType:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        # The packages before it may be missing here too.
        before = ("jax", "numpyro", "optax", "tensorflow")
        return ModuleType(name) if name in before else found(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    if package == "tf_keras":
        monkeypatch.setitem(sys.modules, "tensorflow_probability", ModuleType("probability"))
        found = lambda name, *rest: sys.modules[name]  # noqa: E731
    complaint(
        fit(backend=backend), f"'{backend}'", package, f"pip install 'pavi-vi[{backend}]'", "doctor"
    )


@pytest.mark.parametrize("backend", ["numpyro", "tfp"])
def test_a_backend_that_does_not_import(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As where one of its own imports is of a version that it cannot use
    def broken(name: str, *_: Any) -> ModuleType:
        raise AttributeError(f"module {name!r} has no attribute 'x'")

    monkeypatch.setattr(importlib, "import_module", broken)
    complaint(fit(backend=backend), f"'{backend}'", "no attribute", "doctor")


def test_nothing_is_imported_by_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong option is told at once, not after half a minute of imports."""
    importing = builtins.__import__

    def watched(name: str, *rest: Any) -> Any:
        assert name.partition(".")[0] not in ("jax", "tensorflow", "numpyro", "tf_keras"), name
        return importing(name, *rest)

    def no_module(name: str, *_: Any) -> ModuleType:
        raise AssertionError(name)

    monkeypatch.setattr(builtins, "__import__", watched)
    monkeypatch.setattr(importlib, "import_module", no_module)
    complaint(fit(dtype="float16"), "dtype")
    complaint(fit(learning_rate=-1.0), "learning_rate")
