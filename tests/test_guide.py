"""The guide on NumPy: sampling and evaluation are inverse, and densities are those of the draws."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from varied_models import CASES, Problem, problem

from pavi import guide

SAMPLES = 3
names = pytest.mark.parametrize("name", CASES)


def draw(p: Problem, noise: dict[str, np.ndarray]) -> guide.Draw:
    return guide.sample(p.plan, p.weights, p.rows, noise, p.batch)


@names
def test_evaluating_a_draw_gives_back_its_noise_and_density(name: str) -> None:
    p = problem(CASES[name])
    noise = p.noise(SAMPLES)
    drawn = draw(p, noise)
    again = guide.log_prob(p.plan, p.weights, p.rows, drawn.values, p.batch)
    known = guide.evaluate(p.plan, p.weights, p.rows, drawn, p.batch)
    for block in p.plan.blocks:
        shape = noise[block.name].shape[:-1]
        assert drawn.log_prob[block.name].shape == shape
        for other in (again, known):
            assert_allclose(other.base[block.name], noise[block.name], atol=1e-9)
            assert_allclose(other.log_prob[block.name], drawn.log_prob[block.name], rtol=1e-9)


@names
def test_draws_have_the_variables_shapes_and_supports(name: str) -> None:
    p = problem(CASES[name])
    drawn = draw(p, p.noise(SAMPLES))
    for latent in p.bound.graph.latents:
        plates = [p.bound.sizes[plate] for plate in latent.plates]
        assert drawn.values[latent.name].shape == (SAMPLES, *plates, *latent.event)
        support = p.bound.graph.probe[latent.name].support
        assert np.all(support.contains(drawn.values[latent.name])), latent.name


@names
def test_moments_are_those_of_the_draws_given_the_earlier_blocks(name: str) -> None:
    # theta = theta(0) + M eps: eps and -eps give its mean, unit vectors the columns of M
    p = problem(CASES[name])
    noise = p.noise(SAMPLES)
    found = guide.moments(p.plan, p.weights, p.rows, noise, p.batch)
    values = draw(p, noise).values
    assert found.centre.keys() == values.keys()
    for block in p.plan.blocks:
        names = [slot.name for slot in block.slots]
        if not p.plan.gaussian(block):
            assert not found.spread.keys() & set(names)
            for latent in names:
                assert_allclose(found.centre[latent], values[latent])
            continue
        eps = noise[block.name]
        there, back = (draw(p, {**noise, block.name: sign * eps}).values for sign in (1, -1))
        square = dict.fromkeys(names, 0.0)
        for unit in np.eye(block.dimension):
            moved = draw(p, {**noise, block.name: np.zeros_like(eps) + unit}).values
            for latent in names:
                square[latent] = square[latent] + (moved[latent] - found.centre[latent]) ** 2
        for latent in names:
            assert_allclose(found.centre[latent], (there[latent] + back[latent]) / 2, atol=1e-10)
            assert_allclose(found.spread[latent], np.sqrt(square[latent]), rtol=1e-8)


# Of these models every latent has as many dimensions as its unconstrained vector.
FULL = [name for name in CASES if name not in ("simplex", "cholesky")]


@pytest.mark.parametrize("name", FULL)
def test_log_q_is_the_noise_density_over_the_jacobian(name: str) -> None:
    # log q(theta) = log N(eps; 0, I) - log |det d theta / d eps|, the Jacobian by differences
    p = problem(CASES[name])
    shapes = {n: e.shape[1:] for n, e in p.noise(1).items()}
    sizes = {n: int(np.prod(shape)) for n, shape in shapes.items()}
    start = np.concatenate([e.ravel() for e in p.noise(1).values()])

    def values(flat: np.ndarray) -> np.ndarray:
        parts = np.split(flat, np.cumsum(list(sizes.values()))[:-1], axis=1)
        noise = {
            n: part.reshape(-1, *shape)
            for part, (n, shape) in zip(parts, shapes.items(), strict=True)
        }
        drawn = draw(p, noise).values
        return np.concatenate([v.reshape(len(flat), -1) for v in drawn.values()], axis=1)

    step = 1e-6 * np.eye(len(start))
    jacobian = (values(start + step) - values(start - step)) / 2e-6
    assert jacobian.shape[0] == jacobian.shape[1]
    wanted = -0.5 * np.sum(start**2 + np.log(2 * np.pi)) - np.linalg.slogdet(jacobian)[1]
    found = guide.weighted_log_prob(p.plan, draw(p, p.noise(1)), p.batch)
    assert_allclose(found, [wanted], rtol=1e-6, atol=1e-5)


@names
def test_draws_do_not_depend_on_each_other(name: str) -> None:
    p = problem(CASES[name])
    noise = p.noise(SAMPLES)
    together = draw(p, noise)
    alone = draw(p, {n: e[1:2] for n, e in noise.items()})
    for key, value in alone.values.items():
        assert_allclose(value, together.values[key][1:2], rtol=1e-12, atol=1e-12)
    for key, value in alone.log_prob.items():
        assert_allclose(value, together.log_prob[key][1:2], rtol=1e-10, atol=1e-10)


@names
def test_a_block_depends_on_earlier_noise_alone(name: str) -> None:
    p = problem(CASES[name])
    noise = p.noise(SAMPLES)
    before = draw(p, noise)
    for last in p.plan.blocks:
        after = draw(p, {**noise, last.name: noise[last.name] + 0.5})
        position = p.plan.blocks.index(last)
        for block in p.plan.blocks[:position]:
            for slot in block.slots:
                assert_allclose(after.values[slot.name], before.values[slot.name], rtol=0, atol=0)
        assert any((after.values[s.name] != before.values[s.name]).any() for s in last.slots)


@pytest.mark.parametrize("name", ["nested, missing", "nested, free", "nested, deep set"])
def test_what_is_below_follows_what_is_above(name: str) -> None:
    # The mean field's counties do not move with the globals; the others' do.
    p = problem(CASES[name])
    noise = p.noise(SAMPLES)
    moved = {**noise, "globals": noise["globals"] + 0.5}
    assert (draw(p, noise).values["effect"] != draw(p, moved).values["effect"]).all()
    q = problem(CASES["nested, mean field"])
    noise = q.noise(SAMPLES)
    moved = {**noise, "mu": noise["mu"] + 0.5}
    assert_allclose(draw(q, noise).values["effect"], draw(q, moved).values["effect"], rtol=0)


def test_weights_of_a_batch_scale_its_density() -> None:
    p = problem(CASES["nested, missing"])
    drawn = draw(p, p.noise(SAMPLES))
    batch = p.batch
    weights = dict(batch.weights) | {"county": np.arange(5.0)}
    scaled = guide.weighted_log_prob(p.plan, drawn, batch._replace(weights=weights))
    wanted = drawn.log_prob["globals"] + drawn.log_prob["county"] @ np.arange(5.0)
    assert_allclose(scaled, wanted, rtol=1e-12)


@names
def test_noise_has_the_shapes_of_the_blocks(name: str) -> None:
    p = problem(CASES[name])
    shapes = guide.noise_shapes(p.plan, 2, p.bound.sizes)
    for block in p.plan.blocks:
        axes = [p.bound.sizes[plate] for plate in block.axes]
        assert shapes[block.name] == (2, *axes, block.dimension)
    assert sum(np.prod(shape) for shape in shapes.values()) == 2 * p.plan.num_latents
