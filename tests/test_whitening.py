"""Whitening by the prior's location and scale, in the graph's order, with its log-determinant."""

from __future__ import annotations

import numpy as np
import pytest
from grounded import Setup
from small_models import bound, rng

from pavi import Data, Family, Latent, Observed, Plate, PlateGraph, dist, ops
from pavi.data import BoundData
from pavi.plan import BlockPlan
from pavi.whitening import (
    block_diagonal,
    from_whitened,
    merge_copies,
    prior_moments,
    split_copies,
    to_whitened,
)


def supports() -> BoundData:
    """One block of latents on many supports, each one's prior a function of those before it."""
    graph = PlateGraph(
        [Plate("group")],
        [
            Latent("mu", dist.Normal(0.3, 1.0)),
            Latent("a", lambda mu: dist.Normal(mu, 0.7), plates="group"),
            Latent("b", lambda a: dist.Normal(2.0 * a, ops.exp(0.3 * a)), plates="group", event=2),
            Latent("c", lambda a: dist.Gamma(2.0 + ops.exp(a), 3.0), plates="group"),
            Latent("d", lambda c: dist.Beta(1.0 + c, 2.0), plates="group"),
            Latent("e", lambda c, a: dist.Uniform(a, a + c), plates="group"),
            Latent("f", dist.Dirichlet(np.array([1.0, 2.0, 3.0])), plates="group", event=3),
            Latent("g", lambda c: dist.HalfNormal(c), plates="group"),
            Observed("y", lambda a, b: dist.Normal(a + b, 1.0), plates="group", event=2),
        ],
    )
    return Data({"y": rng(0).normal(size=(3, 2))}).bind(graph)


def block_and_values(
    data: BoundData, name: str, family: Family | None = None
) -> tuple[Setup, BlockPlan, dict[str, np.ndarray]]:
    setup = Setup(data, family)
    return setup, setup.plan.block(name), setup.sample(setup.noise(2, seed=1)).values


CASES = [
    ("supports", "group"),
    ("three levels, centred", "globals"),
    ("three levels, centred", "cask"),
    ("vector events", "group"),
    ("crossed, rows", "student"),
    ("crossed, own effects, dense", "row,column"),
]


def data_of(model: str) -> BoundData:
    return supports() if model == "supports" else bound(model)


@pytest.mark.parametrize(("model", "name"), CASES)
@pytest.mark.parametrize("structure", ["block", "prior", "mean_field"])
def test_whitening_and_back(model: str, name: str, structure: str) -> None:
    setup = Setup(data_of(model), Family(structure=structure))
    values = setup.sample(setup.noise(2, seed=1)).values
    latents = {s.name for s in Setup(data_of(model)).plan.block(name).slots}
    for block in setup.plan.blocks:
        if not latents & {slot.name for slot in block.slots}:
            continue
        w = rng(2).normal(size=(2, *(setup.bound.sizes[p] for p in block.plates), block.size))
        theta, log_det = from_whitened(setup.plan, block, w, values, setup.batch)
        assert list(theta) == [slot.name for slot in block.slots]
        back, inverse = to_whitened(setup.plan, block, {**values, **theta}, setup.batch)
        assert log_det.shape == w.shape[:-1]
        np.testing.assert_allclose(back, w, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(inverse, -log_det, rtol=1e-9)


@pytest.mark.parametrize(("model", "name"), CASES)
def test_log_determinant_is_that_of_the_jacobian(model: str, name: str) -> None:
    """By central differences in each copy's coordinates; a simplex by all entries but the last."""
    setup, block, values = block_and_values(data_of(model), name)
    shape = (2, *(setup.bound.sizes[p] for p in block.plates), block.size)
    w = 0.5 * rng(3).normal(size=shape)

    def flat(at: np.ndarray) -> np.ndarray:
        theta, _ = from_whitened(setup.plan, block, at, values, setup.batch)
        parts = []
        for slot in block.slots:
            part = theta[slot.name].reshape(*shape[:-1], -1)
            parts.append(part[..., : slot.size])
        return np.concatenate(parts, -1)

    steps = 1e-6 * np.eye(block.size)
    jacobian = np.stack([(flat(w + h) - flat(w - h)) / 2e-6 for h in steps], -1)
    _, log_det = from_whitened(setup.plan, block, w, values, setup.batch)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-6, atol=1e-6)
    # The map is triangular in the graph's order.
    assert np.abs(np.triu(jacobian, 1)).max() <= 1e-9 or model == "supports"


def test_location_scale_prior_is_whitened_exactly() -> None:
    setup, block, values = block_and_values(bound("three levels, centred"), "cask")
    w = rng(4).normal(size=(2, 6, 1))
    theta, _ = from_whitened(setup.plan, block, w, values, setup.batch)
    owner = setup.bound.members["cask"]["batch"]
    expected = values["effect"][:, owner] + values["cask_scale"][:, None] * w[..., 0]
    np.testing.assert_allclose(theta["strength"], expected, rtol=1e-12)


def test_a_prior_that_is_not_location_scale_has_mean_0_and_sd_1_in_w() -> None:
    """The unconstrained value's moments: log of a Gamma, logit of a Beta, 200,000 draws, seed 5."""
    graph = PlateGraph(
        [Plate("draw")],
        [
            Latent("rate", dist.Gamma(3.0, 0.5), plates="draw"),
            Latent("share", dist.Beta(2.0, 5.0), plates="draw"),
            Latent("scale", dist.HalfNormal(2.0), plates="draw"),
            Observed("y", lambda rate: dist.Normal(rate, 1.0), plates="draw"),
        ],
    )
    n = 200_000
    setup = Setup(Data({"y": np.zeros(n)}).bind(graph))
    random = rng(5)
    values = {
        "rate": random.gamma(3.0, 2.0, size=(1, n)),
        "share": random.beta(2.0, 5.0, size=(1, n)),
        "scale": np.abs(random.normal(0.0, 2.0, size=(1, n))),
    }
    (block,) = setup.plan.blocks
    w, _ = to_whitened(setup.plan, block, values, setup.batch)
    np.testing.assert_allclose(w[0].mean(0), 0.0, atol=0.01)
    np.testing.assert_allclose(w[0].std(0), 1.0, atol=0.01)


def test_prior_moments_hold_the_blocks_own_w_at_zero() -> None:
    setup, block, values = block_and_values(supports(), "group")
    like = np.zeros((2, 3, block.size))
    mean, scale = prior_moments(setup.plan, block, values, setup.batch, like)
    a = np.broadcast_to(values["mu"][:, None], (2, 3))
    np.testing.assert_allclose(mean[..., 0], a)
    np.testing.assert_allclose(scale[..., 0], 0.7)
    np.testing.assert_allclose(mean[..., 1:3], 2.0 * a[..., None] + np.zeros(2))
    np.testing.assert_allclose(scale[..., 1:3], np.exp(0.3 * a)[..., None] + np.zeros(2))
    assert mean.shape == scale.shape == like.shape
    assert (scale > 0.0).all()


def test_mean_field_has_constant_moments() -> None:
    """Its coordinates do not depend on the parents drawn, on the unconstrained scale."""
    setup = Setup(bound("three levels, centred"), Family(structure="mean_field"))
    block = setup.plan.block("strength")
    assert not block.whitened
    values = setup.sample(setup.noise(2, seed=6)).values
    shifted = {k: v + 1.0 for k, v in values.items()}
    w = rng(7).normal(size=(2, 6, 1))
    one, log_det = from_whitened(setup.plan, block, w, values, setup.batch)
    two, log_det_two = from_whitened(setup.plan, block, w, shifted, setup.batch)
    np.testing.assert_array_equal(one["strength"], two["strength"])
    np.testing.assert_array_equal(log_det, log_det_two)


def test_copies_of_a_joint_block_are_split_and_merged() -> None:
    setup = Setup(bound("crossed, rows"))
    joint, apart = setup.plan.block("student"), setup.plan.block("lecturer")
    vector = rng(8).normal(size=(4, joint.dimension))
    split = split_copies(joint, vector, setup.batch)
    assert split.shape == (4, 3, 2)
    np.testing.assert_array_equal(merge_copies(joint, split), vector)
    other = rng(9).normal(size=(4, 5, 2))
    assert split_copies(apart, other, setup.batch) is other
    assert merge_copies(apart, other) is other


def test_block_diagonal_of_the_copies() -> None:
    setup = Setup(bound("crossed, rows"))
    joint, apart = setup.plan.block("student"), setup.plan.block("lecturer")
    square = rng(10).normal(size=(4, 3, 2, 2))
    dense = block_diagonal(joint, square)
    assert dense.shape == (4, 6, 6)
    for i in range(3):
        for j in range(3):
            part = dense[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            np.testing.assert_array_equal(part, square[:, i] if i == j else np.zeros((4, 2, 2)))
    assert block_diagonal(apart, square) is square
