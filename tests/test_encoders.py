"""What tells copies apart: the deep set's invariances, free rows, potentials from numbers."""

from __future__ import annotations

import numpy as np
import pytest
from grounded import Setup
from small_models import bound, rng

from pavi import Covariate, Data, Family, Latent, Observed, Plate, PlateGraph, dist
from pavi.bijectors import GaussianPotential, solve_potential
from pavi.data import BoundData
from pavi.encoders import (
    PriorShift,
    deep_set_potential,
    free_potential,
    initial_table,
    potential,
    potential_width,
    reference_shift,
    site_potential,
    table_width,
)
from pavi.subsampling import full_batch

DEEP_SET = Family(encoder="deep_set", encoding="encoder", encoding_size=3, hidden=5)


def groups(y: np.ndarray, x: np.ndarray, member: np.ndarray, count: int) -> BoundData:
    graph = PlateGraph(
        [Plate("group"), Plate("row", within="group")],
        [
            Covariate("x", plates="row", event=2),
            Latent("mu", dist.Normal(0.0, 1.0)),
            Latent("theta", lambda mu: dist.Normal(mu, 0.5), plates="group", event=2),
            Observed(
                "y",
                lambda theta, x: dist.Normal((theta * x).sum(-1, keepdims=True), 1.0),
                plates="row",
                event=1,
            ),
        ],
    )
    return Data({"y": y, "x": x}, {"row": {"group": member}}, {"group": count}).bind(graph)


def encode(
    data: BoundData, like: Setup | None = None, block: str = "group", family: Family = DEEP_SET
) -> tuple[GaussianPotential, Setup]:
    """The deep set's potential for each element, with the weights of another setup if given."""
    setup = Setup(data, family, spread=0.5, seed=1)
    plan_block = setup.plan.block(block)
    params = (like or setup).params
    own = {k[len(block) + 1 :]: v for k, v in params.items() if k.startswith(f"{block}/")}
    shape = (1, *(data.sizes[p] for p in plan_block.axes), plan_block.dimension)
    prior = PriorShift(np.zeros(shape), np.ones(shape))
    context = np.zeros((*shape[:-1], plan_block.context_size))
    return deep_set_potential(setup.plan, plan_block, own, context, setup.batch, prior), setup


def example() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    member = np.array([0, 2, 1, 0, 2, 2, 0, 2])
    return rng(2).normal(size=(8, 1)), rng(3).normal(size=(8, 2)), member


def test_deep_set_does_not_see_the_order_of_the_rows() -> None:
    y, x, member = example()
    one, setup = encode(groups(y, x, member, 4))
    order = rng(4).permutation(8)
    two, _ = encode(groups(y[order], x[order], member[order], 4), setup)
    for before, after in zip(one, two, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-12)


def test_deep_set_follows_the_order_of_the_groups() -> None:
    y, x, member = example()
    one, setup = encode(groups(y, x, member, 4))
    place = np.array([2, 0, 3, 1])
    two, _ = encode(groups(y, x, place[member], 4), setup)
    for before, after in zip(one, two, strict=True):
        np.testing.assert_allclose(after[:, place], before, rtol=1e-12)


def test_deep_set_depends_on_a_groups_own_rows_only() -> None:
    y, x, member = example()
    one, setup = encode(groups(y, x, member, 4))
    two, _ = encode(groups(y + 5.0 * (member == 2)[:, None], x, member, 4), setup)
    for before, after in zip(one, two, strict=True):
        np.testing.assert_array_equal(after[:, [0, 1, 3]], before[:, [0, 1, 3]])
        assert np.abs(after[:, 2] - before[:, 2]).max() > 1e-3


def test_deep_set_knows_how_many_rows_it_pooled() -> None:
    """The same rows twice have the same mean, but are more evidence."""
    y, x, member = example()
    once, setup = encode(groups(y, x, member, 4))
    twice, _ = encode(groups(np.tile(y, (2, 1)), np.tile(x, (2, 1)), np.tile(member, 2), 4), setup)
    changed = np.abs(twice.shift - once.shift).max((0, 2))
    assert (changed[:3] > 1e-3).all()
    assert changed[3] == 0.0  # no rows, twice


def test_deep_set_tells_an_empty_group_from_a_group_at_the_mean() -> None:
    y, x, member = example()
    y[2], x[2] = 0.0, 0.0
    out, _ = encode(groups(y, x, member, 4))
    assert np.abs(out.shift[:, 1] - out.shift[:, 3]).max() > 1e-3
    assert np.isfinite(out.precision).all()


def test_deep_set_leaves_missing_rows_out() -> None:
    """A missing row is as if it were not there, whatever its covariates are."""
    y, x, member = example()
    missing = y.copy()
    missing[[1, 6]] = np.nan
    one, setup = encode(groups(missing, x, member, 4))
    kept = np.delete(np.arange(8), [1, 6])
    two, _ = encode(groups(y[kept], x[kept], member[kept], 4), setup)
    moved = x.copy()
    moved[[1, 6]] = 9.0
    three, _ = encode(groups(missing, moved, member, 4), setup)
    for a, b, c in zip(one, two, three, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
        np.testing.assert_allclose(a, c, rtol=1e-12)


def test_deep_set_standardises_by_the_plans_constants_not_by_the_batch() -> None:
    y, x, member = example()
    data = groups(y, x, member, 4)
    standards = {"y": (0.3, 2.0), "x": (-1.0, 0.5)}
    setup = Setup(data, DEEP_SET, spread=0.5, seed=1, standards=standards)
    scaled = groups((y - 0.3) / 2.0, (x + 1.0) / 0.5, member, 4)
    plain, _ = encode(scaled, setup)
    block = setup.plan.block("group")
    own = {k[6:]: v for k, v in setup.params.items() if k.startswith("group/")}
    prior = PriorShift(np.zeros((1, 4, 2)), np.ones((1, 4, 2)))
    out = deep_set_potential(setup.plan, block, own, np.zeros((1, 4, 1)), setup.batch, prior)
    for a, b in zip(out, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


@pytest.mark.parametrize("model", ["three levels, centred", "three levels, additive"])
def test_deep_set_pools_level_by_level(model: str) -> None:
    """Tests, casks, batch: neither the order of a cask's tests nor that of the casks matters."""
    data = bound(model)
    one, setup = encode(data, block="batch")
    factor = setup.plan.block("batch").evidence.factors[0]
    assert factor.levels == (("test",), ("cask",), ("batch",))
    casks, tests = rng(5).permutation(6), rng(6).permutation(12)
    members = {
        "cask": {"batch": data.members["cask"]["batch"][casks]},
        "test": {"cask": np.argsort(casks)[data.members["test"]["cask"]][tests]},
    }
    moved = Data({"y": data.values["y"][tests]}, members).bind(data.graph)
    two, _ = encode(moved, setup, block="batch")
    for before, after in zip(one, two, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-10)
    # But it does matter which tests share a cask.
    other = {**members, "test": {"cask": np.roll(members["test"]["cask"], 1)}}
    three, _ = encode(Data({"y": data.values["y"][tests]}, other).bind(data.graph), setup, "batch")
    assert np.abs(three.shift - one.shift).max() > 1e-6


@pytest.mark.parametrize("model", ["crossed, dense", "crossed, rows", "region over crossed"])
def test_deep_set_of_a_joint_block_has_a_factor_for_each_copy(model: str) -> None:
    data = bound(model)
    setup = Setup(data, DEEP_SET)
    (block, *_) = (b for b in setup.plan.blocks if b.joint and b.encoder == "deep_set")
    out, _ = encode(data, block=block.name)
    assert out.shift.shape == (1, block.dimension)
    same = np.kron(np.eye(block.copies), np.ones((block.size, block.size)))
    assert (out.precision[0][same == 0] == 0.0).all()
    assert np.linalg.eigvalsh(out.precision[0]).min() > 0.0


# --- potentials from raw numbers ----------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_raw_potential_is_a_factor_with_a_positive_definite_precision(size: int) -> None:
    """Precision V V' from a lower triangular V, its rows in units of their diagonals."""
    raw = rng(7).normal(size=(3, potential_width(size)))
    prior = PriorShift(np.zeros((3, size)), np.ones((3, size)))
    precision, shift = potential(raw, size, prior)
    lower = np.zeros((3, size, size))
    lower[:, *np.tril_indices(size, -1)] = raw[:, 2 * size :]
    lower[:, np.arange(size), np.arange(size)] = 1.0
    lower *= np.exp(raw[:, size : 2 * size, None] - 1.0)
    np.testing.assert_allclose(precision, lower @ np.swapaxes(lower, -1, -2), rtol=1e-12)
    located = np.linalg.solve(precision, shift[..., None])[..., 0]
    np.testing.assert_allclose(located, raw[:, :size], rtol=1e-7)


@pytest.mark.parametrize("size", [1, 3])
def test_a_potential_stays_in_place_where_the_prior_moves(size: int) -> None:
    """Prior times potential, for the prior N(m, s^2), is the product of the two densities.

    The potential's numbers are held in coordinates of the prior at the centre, (m_c, s_c).
    """
    raw = rng(8).normal(size=potential_width(size))
    m, m_c = rng(9).normal(size=(2, size))
    s, s_c = np.exp(rng(10).normal(size=(2, size)))
    at_centre = potential(raw, size, PriorShift(np.zeros(size), np.ones(size)))
    mean, cholesky = solve_potential(potential(raw, size, reference_shift((m, s), (m_c, s_c))))
    covariance = np.linalg.inv(cholesky @ cholesky.T)
    # In unconstrained units: the potential's precision and shift, then the prior's added.
    precision = at_centre.precision / np.outer(s_c, s_c)
    shift = at_centre.shift / s_c + precision @ m_c
    expected = np.linalg.inv(np.diag(s**-2.0) + precision)
    np.testing.assert_allclose(np.outer(s, s) * covariance, expected, rtol=1e-9)
    np.testing.assert_allclose(m + s * mean, expected @ (shift + m / s**2), rtol=1e-9)


def test_a_site_is_a_factor_of_the_value_whatever_its_prior() -> None:
    size = 40
    rows = np.abs(rng(13).normal(size=(5, 2 * size)))
    shift, precision = rows[:, :size], rows[:, size:]
    m, s = rng(14).normal(size=(3, 5, size)), np.exp(rng(15).normal(size=(3, 5, size)))
    own = site_potential(rows, None, (m, s))
    mean, variance = own.shift / (1.0 + own.precision), 1.0 / (1.0 + own.precision)
    expected = 1.0 / (s**-2.0 + precision)
    np.testing.assert_allclose(s * s * variance, expected, rtol=1e-10)
    np.testing.assert_allclose(m + s * mean, expected * (shift + m / s**2), rtol=1e-9)


def test_a_site_of_zeros_leaves_the_prior() -> None:
    m, s = rng(16).normal(size=(2, 3, 40)), np.exp(rng(17).normal(size=(2, 3, 40)))
    own = site_potential(np.zeros((3, 80)), np.ones(3), (m, s))
    assert not own.precision.any()
    assert not own.shift.any()


@pytest.mark.parametrize("context_size", [0, 2])
def test_free_rows_are_bilinear_in_the_context(context_size: int) -> None:
    size, width = 2, table_width(2, context_size)
    rows = rng(11).normal(size=(5, width))
    prior = PriorShift(np.zeros((3, 5, size)), np.ones((3, 5, size)))
    context = rng(12).normal(size=(3, 5, context_size)) if context_size else None
    precision, shift = free_potential(rows, context, size, prior)
    for copy in range(5):
        raw = rows[copy, : potential_width(size)]
        for draw in range(3):
            moved = raw.copy()
            if context is not None:
                slopes = rows[copy, potential_width(size) :].reshape(2 * size, context_size)
                moved[: 2 * size] += slopes @ context[draw, copy]
            one = potential(moved, size, PriorShift(np.zeros(size), np.ones(size)))
            at = (draw if context_size else 0, copy)
            np.testing.assert_allclose(precision[at], one.precision, rtol=1e-12)
            np.testing.assert_allclose(shift[at], one.shift, rtol=1e-12)


def test_a_new_table_is_zero_with_a_row_for_padding() -> None:
    table = initial_table(4, 7, np.float32)
    assert table.shape == (5, 7)
    assert table.dtype == np.float32
    assert not table.any()


def test_zero_rows_start_weak_but_not_flat() -> None:
    prior = PriorShift(np.zeros((1, 2)), np.ones((1, 2)))
    precision, shift = potential(np.zeros((1, potential_width(2))), 2, prior)
    np.testing.assert_allclose(precision[0], np.exp(-2.0) * np.eye(2))
    np.testing.assert_array_equal(shift, np.zeros((1, 2)))


def test_a_free_guide_follows_the_prior_of_its_parents() -> None:
    """With zero rows a group's mean moves with the mean drawn for its parent, as the prior does."""
    setup = Setup(bound("county"), Family(encoding="free"))
    noise = setup.noise(4, seed=13)
    noise["county"] = np.zeros_like(noise["county"])
    values = setup.sample(noise).values
    centre = setup.sample({k: np.zeros_like(v[:1]) for k, v in noise.items()}).values
    mu, scale = values["mu"][:, None], values["county_scale"][:, None]
    # A potential of precision exp(-2) / s_c^2 at the prior's place at the centre, m_c.
    pull = np.exp(-2.0) / centre["county_scale"] ** 2
    expected = (mu / scale**2 + pull * centre["mu"]) / (1.0 / scale**2 + pull)
    np.testing.assert_allclose(values["effect"], np.broadcast_to(expected, (4, 5)), rtol=1e-9)


def test_batches_of_one_dtype_stay_in_it() -> None:
    data = bound("three levels, centred")
    setup = Setup(data, DEEP_SET)
    batch = full_batch(data, "float32")
    block = setup.plan.block("batch")
    own = {k[6:]: np.float32(v) for k, v in setup.params.items() if k.startswith("batch/")}
    shape = (1, 3, 1)
    prior = PriorShift(np.zeros(shape, np.float32), np.ones(shape, np.float32))
    context = np.zeros((1, 3, block.context_size), np.float32)
    out = deep_set_potential(setup.plan, block, own, context, batch, prior)
    assert {part.dtype.name for part in out} == {"float32"}
