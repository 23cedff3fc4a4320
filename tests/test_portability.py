"""A model that runs on NumPy's arrays alone is refused, with what to write instead."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from complaints import graph_error
from numpy.testing import assert_array_equal

import pavi
from pavi import Covariate, Data, Latent, Observed, Plate, PlateGraph, dist, ops
from pavi.ops.placeholder import Placeholder, PlaceholderOps


def graph(function: Callable[..., dist.Spec]) -> PlateGraph:
    return PlateGraph(
        [Plate("row")],
        [
            Covariate("x", plates="row"),
            Latent("a", dist.Normal(0.0, 1.0)),
            Latent("u", dist.Normal(0.0, 1.0), plates="row"),
            Observed("y", function, plates="row"),
        ],
    )


@pytest.mark.parametrize(
    ("function", "instead"),
    [
        (lambda x, a, u: dist.Poisson(x * np.exp(a + u)), "pavi.ops.exp "),
        (lambda u: dist.Normal(np.where(u > 0, u, 0.0), 1.0), "pavi.ops.where "),
        (lambda u: dist.Normal(np.stack([u, u]).sum(0), 1.0), "pavi.ops.stack "),
        (lambda u: dist.Normal(np.concatenate([u, u]), 1.0), "pavi.ops.concat "),
        (lambda u: dist.Normal(np.arctan(u), 1.0), "pavi.ops,"),
        # what pavi.ops returns is an array of the backend too
        (lambda u: dist.Normal(0.0, np.sqrt(ops.exp(u))), "pavi.ops.sqrt "),
        # NumPy's functions of the covariates alone are no better
        (lambda x: dist.Poisson(np.exp(x)), "pavi.ops.exp "),
    ],
)
def test_a_function_of_numpy_is_refused(function: Callable[..., dist.Spec], instead: str) -> None:
    graph_error(lambda: graph(function), "observed 'y'", "('row',)", "NumPy's", instead)


def test_a_function_of_scipy_is_refused() -> None:
    special = pytest.importorskip("scipy.special")
    graph_error(
        lambda: graph(lambda u: dist.Bernoulli(probs=special.expit(u))), "expit", "pavi.ops.sigmoid"
    )


@pytest.mark.parametrize("function", [math.exp, float, int])
def test_a_function_of_one_number_is_refused(function: Callable[[Any], float]) -> None:
    graph_error(
        lambda: graph(lambda u: dist.Normal(function(u), 1.0)), "'y'", "one number", "ops.exp(x)"
    )


def in_place(u: Any) -> dist.Normal:
    u += 1.0
    u **= 2
    return dist.Normal(u, 1.0)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, u: dist.Normal(a**2 + abs(u) ** 0.5 + 2.0**a + np.float64(2.0) ** u, 1.0),
        lambda a, u: dist.Normal(-u // 2.0 % 3.0 + 1.0 / (1.0 + a * a), 1.0),
        lambda a, u: dist.Normal(ops.where((u > a) & ~(u <= 0.0), u, 0.0), 1.0),
        lambda a, u: (
            dist.Normal(ops.stack([u, u + a]) @ np.ones(2), 1.0)
            if np.ndim(u) == 1
            else dist.Normal(ops.stack([u, u + a]) @ np.ones((u.shape[-1], 1)), 1.0)
        ),
        lambda u: dist.Normal(u.clip(0.0, 1.0).std() + u.mean() + u.sum() + u.max(), 1.0),
        lambda u: dist.Normal(u, 1.0 if f"{u} {u!r}" else np.shape(u)),
        in_place,
    ],
)
def test_operators_methods_and_shapes_are_not(function: Callable[..., Any]) -> None:
    x = np.linspace(-0.9, 0.9, 6).reshape(3, 2)

    def spec(kind: type[np.ndarray]) -> Any:
        values = {"a": x[:, :1], "u": x}
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        with np.errstate(invalid="ignore"):
            return function(**{name: values[name].copy().view(kind) for name in names})

    found, expected = spec(Placeholder).loc, spec(np.ndarray).loc
    assert_array_equal(np.asarray(found), expected)
    assert not isinstance(found, np.ndarray) or type(found) is Placeholder


def test_no_placeholder_is_left_in_a_graph() -> None:
    weights = np.full(2, 0.5)
    built = graph(
        lambda a, u: dist.Mixture(weights, (dist.Normal(a + u, 1.0), dist.Normal(u, 2.0)))
    )
    for component in built.probe["y"].components:  # type: ignore[attr-defined]
        assert type(component.loc) is np.ndarray
    censored = graph(lambda x, u: dist.Censored(dist.Normal(u, 1.0), x)).probe["y"]
    assert type(censored.base.loc) is np.ndarray  # type: ignore[attr-defined]


def test_pavi_ops_on_placeholders_are_those_on_numpy() -> None:
    x = np.linspace(0.1, 0.9, 6).reshape(3, 2)
    stand_in = x.view(Placeholder)
    assert isinstance(ops.namespace(1.0, stand_in), PlaceholderOps)
    for function in (ops.exp, ops.softmax, ops.lgamma, ops.zeros_like, ops.logsumexp):
        assert_array_equal(np.asarray(function(stand_in)), function(x))
    assert type(ops.softmax(stand_in)) is Placeholder
    assert type(ops.to_numpy(stand_in)) is np.ndarray
    assert ops.shape(stand_in) == (3, 2)
    assert_array_equal(np.asarray(ops.concat([stand_in, x])), ops.concat([x, x]))


@pytest.mark.parametrize(
    "function",
    [
        lambda u: dist.Poisson(np.exp(np.asarray(u))),
        lambda u: dist.Poisson(np.asarray(u).tolist()),
    ],
)
def test_what_only_a_backend_finds_out_names_the_variable_too(
    function: Callable[..., dist.Spec], backend: str
) -> None:
    data = Data({"x": np.ones(3), "y": np.ones(3)})
    graph_error(
        lambda: pavi.fit(graph(function), data, backend=backend, steps=2, progress=False),
        "'y'",
        "backend",
        "pavi.ops",
    )
