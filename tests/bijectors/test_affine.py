"""What each weight of the affine bijectors does, and the exact posterior of a conjugate model."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import random_weights

from pavi.bijectors import (
    ConditionalAffine,
    DiagonalPotential,
    GaussianPotential,
    PseudoConjugateAffine,
    initial_parameters,
    solve_potential,
)
from pavi.bijectors.affine import strictly_lower


def dense(bijector: ConditionalAffine, params: dict[str, np.ndarray]) -> np.ndarray:
    """L, read from the images of the basis."""
    images, _ = bijector.forward_and_log_det(params, np.eye(bijector.size))
    origin, _ = bijector.forward_and_log_det(params, np.zeros(bijector.size))
    return (images - origin).T


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_the_matrix_is_lower_triangular_and_uses_every_weight_once(size: int) -> None:
    bijector = ConditionalAffine(size)
    rng = np.random.default_rng(0)
    specs = bijector.parameter_specs()
    start = initial_parameters(specs, rng, "float64")
    params = {
        name: rng.standard_normal(spec.shape) if spec.trainable else start[name]
        for name, spec in specs.items()
    }
    matrix = dense(bijector, params)
    np.testing.assert_allclose(matrix, np.tril(matrix), atol=1e-12)
    np.testing.assert_allclose(np.diag(matrix), np.exp(params["log_diagonal"]))
    if size > 1:
        below = matrix[np.tril_indices(size, -1)]
        np.testing.assert_allclose(np.sort(below), np.sort(params["off_diagonal"]), atol=1e-12)
        np.testing.assert_allclose(
            strictly_lower(params["off_diagonal"], size), np.tril(matrix, -1), atol=1e-12
        )
    # y = r + R (loc + L x)
    origin, _ = bijector.forward_and_log_det(params, np.zeros(size))
    np.testing.assert_allclose(origin, params["loc"])
    moved = random_weights(specs, rng)
    moved |= {name: params[name] for name in specs if specs[name].trainable}
    reference = moved["reference_scale"] if size > 1 else np.diag(moved["reference_scale"])
    np.testing.assert_allclose(dense(bijector, moved), reference @ matrix, atol=1e-12)
    origin, _ = bijector.forward_and_log_det(moved, np.zeros(size))
    np.testing.assert_allclose(origin, moved["reference_loc"] + reference @ params["loc"])


@pytest.mark.parametrize("rank", ["full", "diagonal"])
def test_rebase_makes_the_steps_as_long_as_the_posterior_is_wide(rank: str) -> None:
    bijector = ConditionalAffine(4, rank=rank)
    params = random_weights(bijector.parameter_specs(), np.random.default_rng(0), 0.7)
    before = dense(bijector, params)
    far = bijector.rebase(params)
    way = far["reference_loc"] - params["reference_loc"]
    assert np.linalg.norm(way) > 0.1
    # R R' = (R L)(R L)' + way way', of which the diagonal rank keeps the diagonal
    square = before @ before.T + np.outer(way, way)
    if rank == "diagonal":
        np.testing.assert_allclose(far["reference_scale"] ** 2, np.diag(square))
    else:
        np.testing.assert_allclose(
            far["reference_scale"] @ far["reference_scale"].T, square, atol=1e-12
        )
    # At home the reference is the whole scale, and the free part the identity.
    home = bijector.rebase(far)
    np.testing.assert_allclose(home["log_diagonal"], 0.0, atol=1e-12)
    reference = home["reference_scale"]
    np.testing.assert_allclose(
        before, np.diag(reference) if rank == "diagonal" else reference, atol=1e-12
    )


def ill_conditioned(log_diagonal: list[float], loc: list[float]) -> dict[str, np.ndarray]:
    params = initial_parameters(
        ConditionalAffine(2).parameter_specs(), np.random.default_rng(0), "float64"
    )
    given = {"log_diagonal": log_diagonal, "off_diagonal": [-1.0], "loc": loc}
    return params | {name: np.array(value) for name, value in given.items()}


@pytest.mark.parametrize("loc", [[0.0, 0.0], [0.5, -2.0]])
def test_rebase_of_a_nearly_singular_scale(loc: list[float]) -> None:
    # The scale's condition number is 1e9; that of its square would be beyond float64.
    bijector, params = ConditionalAffine(2), ill_conditioned([0.0, -21.0], loc)
    rebased = bijector.rebase(params)
    assert_same_map(bijector, rebased, params)
    np.testing.assert_array_equal(rebased["loc"], 0.0)
    assert (np.diag(rebased["reference_scale"]) > 0).all()
    np.testing.assert_array_equal(rebased["reference_scale"][0, 1], 0.0)


@pytest.mark.parametrize("rank", ["full", "diagonal"])
@pytest.mark.parametrize("log_scale", [-800.0, 800.0, np.nan])
def test_rebase_keeps_the_reference_where_no_other_one_can_be(rank: str, log_scale: float) -> None:
    bijector = ConditionalAffine(2, rank=rank)
    params = random_weights(bijector.parameter_specs(), np.random.default_rng(0), 0.7)
    params["loc"] = np.zeros(2)
    params["log_diagonal"] = np.array([0.0, log_scale])
    rebased = bijector.rebase(params)
    assert rebased.keys() == params.keys()
    for name, value in params.items():
        np.testing.assert_array_equal(rebased[name], value)
    # A scale that float64 holds and float32 does not
    single = {name: value.astype(np.float32) for name, value in params.items()}
    single["log_diagonal"] = np.array([0.0, -110.0], np.float32)
    for name, value in bijector.rebase(single).items():
        np.testing.assert_array_equal(value, single[name])
        assert value.dtype == np.float32


def assert_same_map(
    bijector: ConditionalAffine, mine: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> None:
    points = np.random.default_rng(1).standard_normal((5, bijector.size))
    for a, b in zip(
        bijector.forward_and_log_det(mine, points),
        bijector.forward_and_log_det(theirs, points),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_the_diagonal_rank_has_no_other_weights() -> None:
    specs = ConditionalAffine(100, 2, hidden=4, rank="diagonal").parameter_specs()
    assert "off_diagonal" not in specs
    assert specs["context_weight"].shape == (2, 200)
    assert specs["output_weight"].shape == (4, 200)


def test_a_diagonal_potential_is_a_potential_of_a_diagonal_matrix() -> None:
    rng = np.random.default_rng(0)
    precision, shift, x = rng.random((5, 4)), rng.normal(size=(5, 4)), rng.normal(size=(3, 5, 4))
    bijector = PseudoConjugateAffine(4)
    dense = GaussianPotential(precision[..., None] * np.eye(4), shift)
    for way in ("forward_and_log_det", "inverse_and_log_det"):
        found, wanted = (
            getattr(bijector, way)({}, x, given)
            for given in (DiagonalPotential(precision, shift), dense)
        )
        for mine, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 3, 10])
def test_the_conjugate_bijector_gives_the_exact_posterior(size: int) -> None:
    # w ~ N(0, I) seen through y = A w + noise of variance v: the potential is A'A / v, A'y / v.
    rng = np.random.default_rng(size)
    design, variance = rng.standard_normal((20, size)), 0.7
    y = rng.standard_normal(20)
    potential = GaussianPotential(design.T @ design / variance, design.T @ y / variance)
    covariance = np.eye(size) - design.T @ np.linalg.solve(
        design @ design.T + variance * np.eye(20), design
    )
    mean = design.T @ np.linalg.solve(design @ design.T + variance * np.eye(20), y)

    solved_mean, cholesky = solve_potential(potential)
    np.testing.assert_allclose(solved_mean, mean, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.inv(cholesky @ cholesky.T), covariance, atol=1e-12)

    bijector = PseudoConjugateAffine(size)
    origin, log_det = bijector.forward_and_log_det({}, np.zeros(size), potential)
    images, _ = bijector.forward_and_log_det({}, np.eye(size), potential)
    root = (images - origin).T
    np.testing.assert_allclose(origin, mean, rtol=1e-9)
    np.testing.assert_allclose(root @ root.T, covariance, atol=1e-12)
    np.testing.assert_allclose(2.0 * log_det, np.linalg.slogdet(covariance).logabsdet)
