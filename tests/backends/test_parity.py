"""Same weights, same noise: NumPy, JAX and TensorFlow agree (invariant 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
from dist.oracle import log_prob as oracle
from numpy.testing import assert_allclose
from varied_models import CASES, Problem, problem
from voices import host_log_prob, on

from pavi import guide, objective
from pavi.backends.base import get_adapter
from pavi.batch import Batch
from pavi.model import pointwise_terms

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
SAMPLES = 3
# float32 compiles once more; these meet every likelihood, link and encoding between them.
SINGLE = ("nested, missing", "nested, free", "dense", "poisson", "ordered")
Tree = Any


def everything(p: Problem, log_prob: Any) -> Callable[..., Tree]:
    """Draws, their log q as drawn and as evaluated from the values alone, and the ELBO."""

    def run(weights: Tree, rows: Tree, noise: Tree, batch: Batch) -> Tree:
        draw = guide.sample(p.plan, weights, rows, noise, batch)
        again = guide.log_prob(p.plan, weights, rows, draw.values, batch)
        elbo = objective.elbo_samples(p.plan, log_prob, weights, rows, noise, batch)
        log_p = pointwise_terms(p.plan.graph, log_prob, draw.values, batch)
        return {
            "values": draw.values,
            "log q": draw.log_prob,
            "log q again": again.log_prob,
            "base again": again.base,
            "elbo": {"": elbo},
            "log p": log_p,
        }

    return run


def doubled(tree: Tree) -> Tree:
    """Every floating array of nested dicts in float64."""
    if isinstance(tree, Mapping):
        return {key: doubled(value) for key, value in tree.items()}
    if isinstance(tree, Batch):
        return Batch(*(doubled(part) for part in tree))
    return tree.astype(np.float64) if tree.dtype.kind == "f" else tree


@cache
def reference(name: str, dtype: str) -> tuple[Problem, Tree]:
    """A problem in a dtype, and what NumPy makes of the same numbers in float64."""
    p = problem(CASES[name], dtype)
    arguments = (p.weights, p.rows, p.noise(SAMPLES), p.batch)
    return p, everything(p, oracle)(*(doubled(argument) for argument in arguments))


def check(found: Tree, wanted: Tree, dtype: str) -> None:
    for part, arrays in wanted.items():
        for name, array in arrays.items():
            scale = max(1.0, float(np.abs(array).max()))
            assert found[part][name].dtype == dtype, (part, name)
            assert found[part][name].shape == array.shape, (part, name)
            assert_allclose(
                found[part][name],
                array,
                rtol=0,
                atol=TOLERANCE[dtype] * scale,
                err_msg=f"{part} {name}",
            )


@pytest.mark.parametrize("name", CASES)
def test_backend_agrees_with_numpy_in_float64(name: str, backend: str) -> None:
    p, wanted = reference(name, "float64")
    run = on(backend, everything(p, host_log_prob(backend)), "float64")
    check(run(p.weights, p.rows, p.noise(SAMPLES), p.batch), wanted, "float64")


@pytest.mark.parametrize("name", SINGLE)
def test_backend_agrees_with_numpy_in_float32(name: str, backend: str) -> None:
    p, wanted = reference(name, "float32")
    run = on(backend, everything(p, host_log_prob(backend)), "float32")
    check(run(p.weights, p.rows, p.noise(SAMPLES), p.batch), wanted, "float32")


@pytest.mark.parametrize("name", ["nested, affine flow", "nested, spline"])
def test_log_density_and_elbo_through_flows_agree_in_float32(name: str, backend: str) -> None:
    p, wanted = reference(name, "float32")
    run = on(backend, everything(p, host_log_prob(backend)), "float32")
    found = run(p.weights, p.rows, p.noise(SAMPLES), p.batch)
    for part in ("log q", "log q again", "elbo"):
        assert_allclose(
            *(
                sum(np.reshape(x, (SAMPLES, -1)).sum(1) for x in side[part].values())
                for side in (found, wanted)
            ),
            rtol=TOLERANCE["float32"],
            err_msg=part,
        )


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_compiled_functions_agree_with_numpy(backend: str, dtype: str) -> None:
    p, wanted = reference("poisson", dtype)
    functions = get_adapter(backend).functions(p.plan, dtype)
    noise = p.noise(SAMPLES)
    values = functions.sample(p.weights, p.rows, noise, p.batch)
    elbo = functions.elbo(p.weights, p.rows, noise, p.batch)
    check({"values": values, "elbo": {"": elbo}}, {k: wanted[k] for k in ("values", "elbo")}, dtype)
    total = sum(q.reshape(SAMPLES, -1).sum(1) for q in wanted["log q"].values())
    log_q = functions.log_prob(p.weights, p.rows, values, p.batch)
    assert_allclose(log_q, total, rtol=10 * TOLERANCE[dtype])
    terms = functions.terms(p.weights, p.rows, noise, p.batch)
    found = {"values": terms.values, "log p": terms.log_p, "log q": terms.log_q}
    check(found, {k: wanted[k] for k in found}, dtype)
    # Arrays of another dtype are brought to the run's.
    again = functions.sample(doubled(p.weights), doubled(p.rows), doubled(noise), p.batch)
    for name, value in values.items():
        assert_allclose(again[name], value, rtol=0, atol=0)
