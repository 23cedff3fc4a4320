"""The variational family at work: sample it, and evaluate it, block by block from coarse to fine.

    eps ~ N(0, I) -> flow(eps; context) -> residual -> prior times potential -> whitening -> link

Everything that conditions a block (earlier blocks' values and base noise, data, weights) is
gathered in one function that both directions share: sampling and evaluation cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pavi import ops
from pavi.alignment import align, product
from pavi.batch import Batch
from pavi.bijectors import (
    DiagonalPotential,
    GaussianPotential,
    PseudoConjugateAffine,
    initial_parameters,
    solve_potential,
)
from pavi.encoders import (
    PriorShift,
    deep_set_potential,
    free_potential,
    reference_shift,
    site_potential,
)
from pavi.model import weighted_sum
from pavi.plan import BlockPlan, GuidePlan
from pavi.potentials import natural_potential
from pavi.prefixes import part_of, prefixed
from pavi.whitening import (
    from_whitened,
    merge_copies,
    prior_moments,
    split_copies,
    to_whitened,
)

Array = Any
Params = Mapping[str, Array]

_LOG_2_PI = float(np.log(2.0 * np.pi))


class _Evidence(NamedTuple):
    """The natural encoding of a block: its potential, and what an affine that corrects it sees."""

    potential: GaussianPotential
    features: Array | None


class Draw(NamedTuple):
    """Draws of a guide on a batch.

    Attributes:
        values: `{latent: [S, *plates, *event]}`.
        base: the standard normal noise behind them, `{block: [S, *axes, dimension]}`.
        whitened: the whitened coordinates in between, `{block: [S, *axes, dimension]}`.
        prior_log_det: log |d theta / d w| of whitening and links, `{block: [S, *axes]}`.
        log_prob: log q of each copy's vector, `{block: [S, *axes]}`.
        evidence: natural encodings at these values; they have no weights, so that whoever evaluates
            the draw may use them again.
    """

    values: dict[str, Array]
    base: dict[str, Array]
    whitened: dict[str, Array]
    prior_log_det: dict[str, Array]
    log_prob: dict[str, Array]
    evidence: dict[str, _Evidence]


class _Conditional(NamedTuple):
    """What conditions one block's density."""

    params: dict[str, Array]
    context: Array | None
    potential: GaussianPotential | DiagonalPotential | None
    residual: Array | None


def noise_shapes(
    plan: GuidePlan, samples: int, sizes: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the standard normal noise of `samples` draws on plates of the given sizes."""
    return {
        block.name: (samples, *(sizes[p] for p in block.axes), block.dimension)
        for block in plan.blocks
    }


def initial_weights(plan: GuidePlan, seed: int, dtype: str) -> dict[str, Array]:
    """Shared weights before the first step."""
    rng = np.random.default_rng(seed)
    weights: dict[str, Array] = {}
    for block in plan.blocks:
        drawn = initial_parameters(dict(block.parameters), rng, dtype)
        weights |= prefixed(f"{block.name}/", drawn)
    return weights


def sample(
    plan: GuidePlan, params: Params, rows: Params, noise: Mapping[str, Array], batch: Batch
) -> Draw:
    """Draws from the guide by reparametrisation.

    Args:
        plan: the plan.
        params: shared weights, `{"block/...": array}`.
        rows: rows of the free tables that belong to the batch, `{block: [*plates, columns]}`.
        noise: standard normal noise, `{block: [S, *axes, dimension]}`.
        batch: the batch.

    Returns:
        The draws, with their log density.
    """
    centre = _centre(plan, params, rows, noise, batch)
    draw = Draw({}, {}, {}, {}, {}, {})
    for block in plan.blocks:
        eps, name = noise[block.name], block.name
        given = _condition(plan, block, params, rows, draw, centre, batch, eps)
        w, log_det = _forward(block, given, eps)
        copies = split_copies(block, w, batch)
        values, log_det_prior = from_whitened(plan, block, copies, draw.values, batch)
        draw.values.update(values)
        draw.base[name], draw.whitened[name] = eps, w
        draw.prior_log_det[name] = _total(block, log_det_prior)
        # log q(theta) = log N(eps; 0, I) - log |d theta / d eps|
        draw.log_prob[name] = standard_normal(eps) - log_det - draw.prior_log_det[name]
    return draw


class Moments(NamedTuple):
    """What is known of the latents given those of the blocks before them.

    Attributes:
        centre: mean of each latent that is Gaussian given the earlier blocks, a draw of each other
            one, `{latent: [S, *plates, *event]}`.
        spread: standard deviations of the former.
    """

    centre: dict[str, Array]
    spread: dict[str, Array]


def moments(
    plan: GuidePlan, params: Params, rows: Params, noise: Mapping[str, Array], batch: Batch
) -> Moments:
    """As `sample`, with the exact moments of what is Gaussian given the earlier blocks' draws."""
    draw = sample(plan, params, rows, noise, batch)
    centre = _centre(plan, params, rows, noise, batch)
    out = Moments(dict(draw.values), {})
    for block in filter(plan.gaussian, plan.blocks):
        eps = ops.zeros_like(noise[block.name])
        given = _condition(plan, block, params, rows, draw, centre, batch, eps)
        w, _ = _forward(block, given, eps)
        if block.elementwise:
            spread = ops.abs(_forward(block, given, eps + 1.0)[0] - w)
        else:
            # w = w(0) + W eps: the columns of W all at once, Var w_i = sum_j W_ij^2
            shape = (block.dimension, *(1,) * (len(ops.shape(eps)) - 1), block.dimension)
            units = ops.asarray(np.eye(block.dimension).reshape(shape), like=eps)
            columns = _forward(block, given, ops.expand_dims(eps, 0) + units)[0] - w
            spread = ops.sqrt(ops.sum(columns * columns, 0))
        out.centre.update(from_whitened(plan, block, w, draw.values, batch)[0])
        _, scale = prior_moments(plan, block, draw.values, batch, w)
        for slot in block.slots:
            own = (scale * spread)[..., slot.start : slot.stop]
            out.spread[slot.name] = ops.reshape(own, (*ops.shape(w)[:-1], *slot.event))
    return out


def log_prob(
    plan: GuidePlan, params: Params, rows: Params, values: Mapping[str, Array], batch: Batch
) -> Draw:
    """Evaluates the guide at given values, `{latent: [S, *plates, *event]}`; see `sample`."""
    whitened: dict[str, Array] = {}
    prior_log_det: dict[str, Array] = {}
    for block in plan.blocks:
        w, log_det = to_whitened(plan, block, values, batch)
        whitened[block.name] = merge_copies(block, w)
        prior_log_det[block.name] = -_total(block, log_det)
    draw = Draw(dict(values), {}, whitened, prior_log_det, {}, {})
    return evaluate(plan, params, rows, draw, batch)


def evaluate(plan: GuidePlan, params: Params, rows: Params, draw: Draw, batch: Batch) -> Draw:
    """The guide's log density at a draw, whoever drew it.

    The draw's own whitened coordinates are used: recovering them from the values would divide by
    the prior's scale, and lose all digits where a group scale is drawn close to 0.
    """
    centre = _centre(plan, params, rows, draw.whitened, batch)
    out = draw._replace(base={}, log_prob={})
    for block in plan.blocks:
        w = draw.whitened[block.name]
        given = _condition(plan, block, params, rows, out, centre, batch, w)
        eps, log_det = _inverse(block, given, w)
        if block.name in draw.base:
            # The value is known to the last digit; only the gradient comes from the inverse.
            eps = draw.base[block.name] + (eps - ops.stop_gradient(eps))
        out.base[block.name] = eps
        out.log_prob[block.name] = standard_normal(eps) + log_det - draw.prior_log_det[block.name]
    return out


def weighted_log_prob(plan: GuidePlan, draw: Draw, batch: Batch) -> Array:
    """Log q of each draw, each copy's term standing for N_i / N_i^r copies: `[S]`."""
    total: Array = 0.0
    for block in plan.blocks:
        total = total + weighted_sum(draw.log_prob[block.name], batch, block.axes)
    return total


def _condition(
    plan: GuidePlan,
    block: BlockPlan,
    params: Params,
    rows: Params,
    draw: Draw,
    centre: Draw | None,
    batch: Batch,
    like: Array,
) -> _Conditional:
    """Gathers what a block's density depends on; `like` is `[S, *axes, dimension]`.

    `draw` holds the earlier blocks.
    """
    values = draw.values
    own = part_of(f"{block.name}/", params)
    context = _context(block, draw.base, batch, like)
    potential: GaussianPotential | DiagonalPotential | None = None
    residual: Array | None = None
    if block.encoder == "natural":
        if block.name not in draw.evidence:
            draw.evidence[block.name] = _evidence(plan, block, values, batch, like)
        potential, features = draw.evidence[block.name]
        if features is not None:
            context = features if context is None else ops.concat([context, features], -1)
    elif block.site:
        prior_at = prior_moments(plan, block, values, batch, like)
        weights = product(batch.weights, block.axes)
        potential = site_potential(rows[block.name], weights, prior_at)
    elif block.reference:
        prior = _prior_shift(plan, block, values, centre, batch, like)
        if block.encoder == "deep_set":
            potential = deep_set_potential(plan, block, own, context, batch, prior)
        else:
            row = own["potential"] if block.joint else rows[block.name]
            potential = free_potential(row, context, block.dimension, prior)
    if block.table_width and not block.free_potential:
        residual = ops.expand_dims(rows[block.name], 0)
    return _Conditional(own, context, potential, residual)


def _evidence(
    plan: GuidePlan, block: BlockPlan, values: Mapping[str, Array], batch: Batch, like: Array
) -> _Evidence:
    """The natural encoding of a block given the latents of the earlier ones."""
    if block.nearest:
        # At the best Gaussian the ELBO's slope along the Gaussian is 0: what is left is that at
        # the draws, dL/dz = E[d log p(y | z, w) / dz], and Newton's steps need no derivative.
        values = {name: ops.stop_gradient(value) for name, value in values.items()}
    before = plan.blocks[: plan.blocks.index(block)]
    above = [values[slot.name] for b in before for slot in b.slots]
    # Draws that stand at one draw of the blocks above have one potential.
    lead = max((ops.shape(value)[0] for value in above), default=1)
    potential = natural_potential(plan, block, values, batch, like[:lead])
    if not block.axes or not block.flow.context_size:
        return _Evidence(potential, None)
    # Where the evidence puts the copy, and how firmly: seen by the affine that corrects it.
    mean, cholesky = solve_potential(potential)
    firm = [ops.log(cholesky[..., i, i]) for i in range(block.dimension)]
    features = ops.concat([ops.arcsinh(mean), ops.stack(firm, -1)], -1)
    return _Evidence(
        potential, ops.broadcast_to(features, (*ops.shape(like)[:-1], 2 * block.dimension))
    )


def _context(
    block: BlockPlan, base: Mapping[str, Array], batch: Batch, like: Array
) -> Array | None:
    """Base noise of the earlier blocks at this block's copies, `[S, *axes, context size]`."""
    parts = []
    leading = ops.shape(like)[:-1]
    for slot in block.context:
        part = align(
            base[slot.block],
            slot.recipe,
            block.axes,
            batch.members,
            event_rank=1,
            child_event_rank=1,
        )
        parts.append(ops.broadcast_to(part, (*leading, slot.size)))
    return ops.concat(parts, -1) if parts else None


def _prior_shift(
    plan: GuidePlan,
    block: BlockPlan,
    values: Mapping[str, Array],
    centre: Draw | None,
    batch: Batch,
    like: Array,
) -> PriorShift:
    """Where the block's prior lies against its place at the centre of the guide."""
    per_copy = split_copies(block, like, batch)
    moments = prior_moments(plan, block, values, batch, per_copy)
    at_centre = prior_moments(plan, block, centre.values if centre else values, batch, per_copy[:1])
    shift = reference_shift(moments, at_centre)
    return PriorShift(*(merge_copies(block, part) for part in shift))


def _centre(
    plan: GuidePlan, params: Params, rows: Params, like: Mapping[str, Array], batch: Batch
) -> Draw | None:
    """One draw with all noise zero, where a potential is held relative to it."""
    if not any(block.reference for block in plan.blocks):
        return None
    sizes = {plate: ops.shape(index)[0] for plate, index in batch.indices.items()}
    anchor = next(iter(like.values()))
    draw = Draw({}, {}, {}, {}, {}, {})
    for block in plan.blocks:
        shape = noise_shapes(plan, 1, sizes)[block.name]
        eps = ops.asarray(np.zeros(shape), like=anchor)
        given = _condition(plan, block, params, rows, draw, draw, batch, eps)
        w, _ = _forward(block, given, eps)
        copies = split_copies(block, w, batch)
        draw.values.update(from_whitened(plan, block, copies, draw.values, batch)[0])
        draw.base[block.name] = eps
    return draw


def _forward(block: BlockPlan, given: _Conditional, eps: Array) -> tuple[Array, Array]:
    x, log_det = block.flow.forward_and_log_det(part_of("flow/", given.params), eps, given.context)
    if given.residual is not None:
        # The residual row moves and scales a copy in units of its own posterior.
        location, log_scale = _residual(block, given.residual)
        x = location + ops.exp(log_scale) * x
        log_det = log_det + ops.sum(log_scale, -1)
    if given.potential is not None:
        conjugate = PseudoConjugateAffine(block.dimension)
        x, extra = conjugate.forward_and_log_det({}, x, given.potential)
        log_det = log_det + extra
    return x, log_det


def _inverse(block: BlockPlan, given: _Conditional, w: Array) -> tuple[Array, Array]:
    log_det: Array = 0.0
    if given.potential is not None:
        conjugate = PseudoConjugateAffine(block.dimension)
        w, log_det = conjugate.inverse_and_log_det({}, w, given.potential)
    if given.residual is not None:
        location, log_scale = _residual(block, given.residual)
        w = (w - location) * ops.exp(-log_scale)
        log_det = log_det - ops.sum(log_scale, -1)
    eps, extra = block.flow.inverse_and_log_det(part_of("flow/", given.params), w, given.context)
    return eps, log_det + extra


def _residual(block: BlockPlan, row: Array) -> tuple[Array, Array]:
    return row[..., : block.dimension], row[..., block.dimension :]


def standard_normal(eps: Array) -> Array:
    """Log N(eps; 0, I), summed over the vector."""
    return -0.5 * ops.sum(eps * eps + _LOG_2_PI, -1)


def _total(block: BlockPlan, log_det: Array) -> Array:
    """A joint block's log-determinant over all of its copies; others unchanged."""
    if not block.joint:
        return log_det
    rank = len(ops.shape(log_det))
    return ops.sum(log_det, axis=tuple(range(rank - len(block.plates), rank)))
