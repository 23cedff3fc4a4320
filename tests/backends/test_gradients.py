"""Gradients of the ELBO on both backends: all there, the same, and untouched by padding."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from conftest import INSTALLED_BACKENDS
from dist.oracle import log_prob as oracle
from numpy.testing import assert_allclose
from varied_models import CASES, Case, Problem, long_vectors, problem, rng
from voices import Elbo

from pavi import Data, Family, Latent, Observed, Plate, PlateGraph, dist, objective
from pavi.batch import Batch
from pavi.encoders import site_potential
from pavi.subsampling import Sampler, Selection, gather

SAMPLES = 3
PATHS = {"path": True, "total": False}
# JAX compiles each of these.
COMPILED = ("nested, free", "dense", "poisson")


@cache
def gradients(backend: str, name: str, kind: str) -> tuple[Any, ...]:
    """The ELBO of a case and its gradients with respect to weights and rows."""
    p = problem(CASES[name])
    return Elbo(backend, p, PATHS[kind])(p.noise(SAMPLES))


def trained(p: Problem) -> set[str]:
    return {
        f"{block.name}/{name}"
        for block in p.plan.blocks
        for name, spec in block.parameters
        if spec.trainable
    }


@pytest.mark.parametrize(
    ("backend", "name", "kind"),
    [
        (backend, name, kind)
        for backend in INSTALLED_BACKENDS
        for name in (CASES if backend == "tfp" else COMPILED)
        for kind in (PATHS if backend == "tfp" or name == "poisson" else ("path",))
    ],
)
def test_every_weight_and_every_row_has_a_gradient(backend: str, name: str, kind: str) -> None:
    p = problem(CASES[name])
    _, weights, rows = gradients(backend, name, kind)
    for weight, gradient in weights.items():
        assert np.isfinite(gradient).all(), weight
        # The reference of an affine map is set by the trainer, never by gradients.
        assert gradient.any() == (weight in trained(p)), weight
    for block, gradient in rows.items():
        assert np.isfinite(gradient).all(), block
        assert gradient.any(axis=-1).all(), f"a row of {block} has no gradient"


@pytest.mark.parametrize("name", COMPILED)
def test_backends_have_the_same_gradient(name: str) -> None:
    for module in ("jax", "tensorflow"):
        pytest.importorskip(module)
    (value, *first), (other, *second) = (gradients(b, name, "path") for b in INSTALLED_BACKENDS)
    assert_allclose(value, other, rtol=1e-10)
    for mine, theirs in zip(first, second, strict=True):
        for key, gradient in mine.items():
            scale = max(1.0, float(np.abs(gradient).max()))
            assert_allclose(theirs[key], gradient, rtol=0, atol=1e-10 * scale, err_msg=key)


@pytest.mark.parametrize("name", ["poisson", "nested, free", "nested, deep set"])
def test_total_gradient_is_the_slope_of_the_elbo(name: str, backend: str) -> None:
    p = problem(CASES[name])
    _, weights, rows = gradients(backend, name, "total")
    chosen = trained(p)
    along = {n: rng(1).normal(size=w.shape) * (n in chosen) for n, w in p.weights.items()}
    across = {n: rng(2).normal(size=r.shape) for n, r in p.rows.items()}

    def elbo(step: float) -> float:
        moved = {n: w + step * along[n] for n, w in p.weights.items()}
        rows = {n: r + step * across[n] for n, r in p.rows.items()}
        samples = objective.elbo_samples(p.plan, oracle, moved, rows, p.noise(SAMPLES), p.batch)
        return float(np.mean(samples))

    slope = sum(np.sum(weights[n] * along[n]) for n in along)
    slope += sum(np.sum(rows[n] * across[n]) for n in across)
    assert_allclose((elbo(1e-6) - elbo(-1e-6)) / 2e-6, slope, rtol=1e-5)


def test_the_slope_at_the_nearest_gaussian_needs_none_of_its_own(backend: str) -> None:
    """The gradient at a held Gaussian is, on average, the slope of the ELBO: 4 standard errors."""
    p = problem(Case(long_vectors, Family(flow="auto")))
    assert p.plan.block("group").nearest
    name = next(n for n in p.weights if n.endswith("/loc"))
    gradient, pairs = Elbo(backend, p, False), []
    for seed in range(12):
        half = p.noise(200, seed)
        noise = {n: np.concatenate([eps, -eps]) for n, eps in half.items()}
        ends = []
        for step in (-1e-4, 1e-4):
            moved = p.weights | {name: p.weights[name] + step}
            own = objective.elbo_samples(p.plan, oracle, moved, p.rows, noise, p.batch)
            ends.append(np.mean(own))
        pairs.append((np.sum(gradient(noise)[1][name]), (ends[1] - ends[0]) / 2e-4))
    mine, true = np.array(pairs).T
    error = (mine - true).std(ddof=1) / np.sqrt(len(pairs))
    assert abs((mine - true).mean()) < 4.0 * error
    assert error < 0.25 * abs(true.mean())


def test_the_gradient_of_a_site_is_natural() -> None:
    """It is that of its mean parameters E[u] and E[u^2], a copy's own share of the objective's."""
    jax = pytest.importorskip("jax")
    size, copies = 40, 3
    m, s = rng(3).normal(size=(1, copies, size)), np.exp(rng(4).normal(size=(1, copies, size)))
    rows = np.abs(rng(5).normal(size=(copies, 2 * size)))
    weights = np.array([1.0, 2.5, 4.0])
    along = rng(6).normal(size=(2, copies, size))

    def objective_of(mean: Any, square: Any) -> Any:
        variance = square - mean**2
        return (weights[:, None] * (along[0] * mean**3 + along[1] * mean * variance)).sum()

    def of_rows(rows: Any) -> Any:
        own = site_potential(rows, weights, (m, s))
        mean, variance = own.shift / (1.0 + own.precision), 1.0 / (1.0 + own.precision)
        mean, variance = (m + s * mean)[0], (s * s * variance)[0]
        return objective_of(mean, mean**2 + variance)

    with jax.enable_x64(True):
        precision = s[0] ** -2.0 + rows[:, size:]
        mean = (m[0] / s[0] ** 2 + rows[:, :size]) / precision
        wanted = jax.grad(objective_of, argnums=(0, 1))(mean, mean**2 + 1.0 / precision)
        found = jax.grad(of_rows)(rows)
    expected = np.concatenate(wanted, 1) / weights[:, None]
    assert_allclose(found, expected, rtol=1e-8)


def test_pairs_of_draws_have_opposite_noise() -> None:
    """Where there are sites: the last of an odd number stands alone."""
    plain, paired = (problem(CASES[name]).plan for name in ("mixture", "mixture, sites"))
    assert (plain.paired, paired.paired) == (False, True)
    sizes = {"subject": 3, "site": 4}
    noise = objective.base_noise(paired, 5, sizes, lambda n: rng(0).normal(size=n))
    for part in noise.values():
        assert len(part) == 5
        np.testing.assert_array_equal(part[3:], -part[:2])
    single = objective.base_noise(plain, 5, sizes, lambda n: rng(0).normal(size=n))
    assert all(len(np.unique(np.abs(part))) == part.size for part in single.values())


def tiny() -> tuple[PlateGraph, Data]:
    graph = PlateGraph(
        [Plate("group")],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Latent("theta", lambda mu: dist.Normal(mu, 0.5), plates="group"),
            Observed("y", lambda theta: dist.Normal(theta, 0.7), plates="group"),
        ],
    )
    return graph, Data({"y": np.array([0.3, -1.0])})


def test_path_and_total_gradients_have_the_same_mean(backend: str) -> None:
    p = problem(Case(tiny, Family(flow="none", hidden=3)))
    path, total = (Elbo(backend, p, kind) for kind in (True, False))
    differences: dict[str, list[np.ndarray]] = {}
    for seed in range(40):
        noise = p.noise(200, seed)
        value, *first = path(noise)
        other, *second = total(noise)
        assert_allclose(value, other, rtol=1e-12)
        for mine, theirs in zip(first, second, strict=True):
            for key, gradient in mine.items():
                differences.setdefault(key, []).append(np.ravel(gradient - theirs[key]))
    for key, found in differences.items():
        error = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
        assert (np.abs(np.mean(found, axis=0)) <= 4.5 * error + 1e-12).all(), key


def test_path_gradient_vanishes_where_the_guide_is_exact(backend: str) -> None:
    # The potential of a linear Gaussian model is exact with the affine on top at the identity; the
    # globals have their own exact conditional only if their free affine is set to it.
    p = problem(Case(tiny, Family(flow="none", hidden=3, encoding="encoder")), scale=0.0)
    _, weights, _ = Elbo(backend, p, True)(p.noise(2))
    for key, gradient in weights.items():
        assert_allclose(gradient, np.zeros_like(gradient), atol=1e-10, err_msg=key)


def drawn(p: Problem, seed: int) -> tuple[Batch, dict[str, np.ndarray]]:
    """A batch of two counties with padded rows, and the rows of the tables in it."""
    sampler = Sampler(p.bound, {"county": 2}, p.dtype)
    selection = Selection(*({k: v[0] for k, v in part.items()} for part in sampler.draw(seed, 1)))
    batch = gather(p.bound.graph, p.batch, selection)
    return batch, {n: rows[selection.indices["county"]] for n, rows in p.rows.items()}


def with_other_padding(p: Problem, batch: Batch) -> Batch:
    """The same batch, with other numbers wherever a row is padding or a value is missing."""
    values = dict(batch.values)
    padding = batch.weights["home"] == 0
    missing = padding | (batch.masks["y"] == 0)
    assert padding.any()
    assert (missing & ~padding).any()
    values["y"] = np.where(missing, 7.3, values["y"])
    values["floor"] = np.where(padding, -4.1, values["floor"])
    members = dict(batch.members)
    members["home/county"] = np.where(padding, 1, members["home/county"]).astype(np.int32)
    return batch._replace(values=values, members=members)


def longer(batch: Batch) -> Batch:
    """The same batch, with three more padded homes."""

    def more(x: np.ndarray, fill: float) -> np.ndarray:
        return np.concatenate([x, np.full(3, fill, x.dtype)])

    return batch._replace(
        values={name: more(x, 2.2) for name, x in batch.values.items()},
        masks={name: more(x, 1.0) for name, x in batch.masks.items()},
        members={name: more(x, 1) for name, x in batch.members.items()},
        indices=dict(batch.indices) | {"home": more(batch.indices["home"], 11)},
        weights=dict(batch.weights) | {"home": more(batch.weights["home"], 0.0)},
    )


@pytest.mark.parametrize("name", ["nested, missing", "nested, deep set"])
def test_padding_changes_neither_elbo_nor_gradients(name: str, backend: str) -> None:
    p = problem(CASES[name])
    # Seeds whose counties hold missing values and leave rows to pad
    batch, rows = next(
        (batch, rows)
        for batch, rows in (drawn(p, seed) for seed in range(20))
        if (batch.weights["home"] == 0).any()
        and ((batch.masks["y"] == 0) & (batch.weights["home"] > 0)).any()
    )
    noise = p.noise(SAMPLES, batch=batch)
    run = Elbo(backend, p, True)
    value, *gradients = run(noise, rows, batch)
    # Another shape is compiled anew: once is enough.
    longest = longer(batch) if name == "nested, missing" else batch
    for changed in (with_other_padding(p, batch), longest):
        other, *others = run(noise, rows, changed)
        assert_allclose(other, value, rtol=1e-12)
        for mine, theirs in zip(gradients, others, strict=True):
            for key, gradient in mine.items():
                assert np.isfinite(theirs[key]).all()
                assert_allclose(theirs[key], gradient, rtol=1e-9, atol=1e-11, err_msg=key)
