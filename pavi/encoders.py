"""What tells the copies of a latent apart: rows of a free table, or a deep set over their data.

Both give a Gaussian potential in the block's whitened coordinates. Its numbers are held in
reference coordinates, those of the prior at the centre of the guide (all noise zero), so that the
prior's m and s enter exactly wherever the parents are drawn (method.md, 4.3):

    precision = R V V' R,    shift = R V V' (l - t),    R = diag(s / s_c),  t = (m - m_c) / s_c
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from pavi import ops
from pavi.alignment import align, pool
from pavi.batch import Batch
from pavi.bijectors import DENSE_LIMIT, DiagonalPotential, GaussianPotential, ParameterSpec
from pavi.bijectors.base import linear
from pavi.family import Family
from pavi.graph import PlateGraph
from pavi.model import row_weights, with_lead
from pavi.plan import BlockPlan, Evidence, Factor, GuidePlan
from pavi.whitening import block_diagonal, merge_copies, split_copies

Array = Any
Params = Mapping[str, Array]

# V's diagonal is exp(raw - 1): raw zeros start a potential weak but not flat.
_LOG_DIAGONAL_START = -1.0


class PriorShift(NamedTuple):
    """Where the prior lies against its place at the guide's centre: t and R's diagonal."""

    location: Array
    scale: Array


def potential_width(dimension: int) -> int:
    """Numbers in a raw potential: its location, V's log-diagonal, V below the diagonal if dense."""
    below = dimension * (dimension - 1) // 2 if dimension <= DENSE_LIMIT else 0
    return 2 * dimension + below


def table_width(dimension: int, context_size: int) -> int:
    """Columns of a free table: a raw potential, and slopes of location and log diag V."""
    return potential_width(dimension) + 2 * dimension * context_size


def free_potential(rows: Array, context: Array | None, size: int, prior: PriorShift) -> Any:
    """The potential of a free table's rows (PAVI-F), bilinear in the centred context.

    Args:
        rows: `[*plates, table_width]`.
        context: base coordinates of the earlier blocks, `[S, *plates, c]`, or None.
        size: d.
        prior: shift of the prior, `[S, *plates, d]`.

    Returns:
        A potential `[S, *plates, d(, d)]`.
    """
    rows = ops.expand_dims(rows, 0)
    raw = rows[..., : potential_width(size)]
    if context is not None:
        count = ops.shape(context)[-1]
        slopes = rows[..., potential_width(size) :]
        slopes = ops.reshape(slopes, (*ops.shape(slopes)[:-1], 2 * size, count))
        moved = ops.sum(slopes * ops.expand_dims(context, -2), -1)
        lead = moved + raw[..., : 2 * size]
        rest = raw[..., 2 * size :]
        rest = ops.broadcast_to(rest, (*ops.shape(lead)[:-1], ops.shape(rest)[-1]))
        raw = ops.concat([lead, rest], -1)
    return potential(raw, size, prior)


def potential(raw: Array, size: int, prior: PriorShift) -> GaussianPotential | DiagonalPotential:
    """A potential from raw numbers `[..., potential_width]` in reference coordinates."""
    location = raw[..., :size]
    diagonal = ops.exp(raw[..., size : 2 * size] + _LOG_DIAGONAL_START)
    if size > DENSE_LIMIT:
        firm = diagonal * diagonal
        pull = firm * (location - prior.location)
        return DiagonalPotential(firm * prior.scale * prior.scale, prior.scale * pull)
    if size == 1:
        square = ops.expand_dims(diagonal * diagonal, -1)
    else:
        lower = _lower(diagonal, raw[..., 2 * size :], size)
        square = ops.sum(ops.expand_dims(lower, -2) * ops.expand_dims(lower, -3), -1)
    # eta = V V' (location - t): a step of the location has one length, however firm the potential.
    pull = ops.sum(square * ops.expand_dims(location - prior.location, -2), -1)
    precision = square * ops.expand_dims(prior.scale, -1) * ops.expand_dims(prior.scale, -2)
    return GaussianPotential(precision, prior.scale * pull)


def site_potential(
    rows: Array, weights: Array | None, moments: tuple[Array, Array]
) -> DiagonalPotential:
    """The potential of sites: Gaussian factors of u, the unconstrained value, whatever its prior.

        exp(-1/2 L u^2 + h u),    u = m + s w

    Rows of zeros are no factors at all. The gradient of a row is not that of its numbers h and L,
    but of the mean parameters E[u] and E[u^2] that they give q (-L/2 is the natural parameter of
    u^2): that is the natural gradient of h and -L/2 (arXiv 1703.04265, eq. 6), with nothing to
    invert. `tables.moved_rows` goes along it.

    Args:
        rows: `[*plates, 2 d]`: h, then L.
        weights: how many copies each copy stands for, `[*plates]`; its gradient is its own.
        moments: m and s of the prior, `[S, *plates, d]`.
    """
    mean, scale = moments
    size = ops.shape(mean)[-1]
    held = ops.expand_dims(ops.stop_gradient(rows), 0)
    moved = ops.expand_dims(rows, 0) - held
    if weights is not None:
        some = ops.maximum(weights, ops.zeros_like(weights) + 1e-6)
        moved = moved / ops.expand_dims(ops.expand_dims(some, -1), 0)
    shift, precision = held[..., :size], held[..., size:]
    # Of w: a = s^2 L, b = s (h - L m); q(w) = N(b / (1 + a), 1 / (1 + a))
    own = scale * scale * precision
    pull = scale * (shift - precision * mean)
    centre = pull / (1.0 + own)
    # dE[u] and dE[u^2], both 0: dVar u = dE[u^2] - 2 E[u] dE[u]
    first, second = moved[..., :size], moved[..., size:]
    variance = (second - 2.0 * (mean + scale * centre) * first) / (scale * scale)
    # d(1 + a) = -(1 + a)^2 dVar w;  db = (1 + a) dE[w] + E[w] d(1 + a)
    firmer = -(1.0 + own) * (1.0 + own) * variance
    return DiagonalPotential(own + firmer, pull + (1.0 + own) * first / scale + centre * firmer)


def _lower(diagonal: Array, packed: Array, size: int) -> Array:
    """Lower triangular `[..., d, d]` from its diagonal and its entries below it, row by row.

    The latter are in units of their row's diagonal: however firm a potential, steps are as long.
    """
    rows = []
    for i in range(size):
        start, own = i * (i - 1) // 2, diagonal[..., i : i + 1]
        row = [own * packed[..., start : start + i], own]
        zeros = [ops.zeros_like(diagonal[..., i + 1 :])]
        rows.append(ops.concat(row + zeros, -1))
    return ops.stack(rows, -2)


def _inputs(graph: PlateGraph, observed: str) -> int:
    """Number of features of a row: its value and its covariates."""
    variable = graph.variables[observed]
    covariates = [graph.variables[p] for p in variable.parents]
    events = [variable.event, *(c.event for c in covariates if c.kind == "covariate")]
    return sum(prod(event) for event in events)


def deep_set_parameters(
    graph: PlateGraph, family: Family, evidence: Evidence, size: int, context_size: int
) -> dict[str, ParameterSpec]:
    """Weights of the deep set of a block: one network a level, and the head for one copy."""
    hidden, width = family.hidden, family.encoding_size
    specs: dict[str, ParameterSpec] = {}
    for factor in evidence.factors:
        inputs = _inputs(graph, factor.observed)
        for level, _ in enumerate(factor.levels[:-1] or factor.levels):
            key = f"encoder/{factor.observed}/{level}"
            specs[f"{key}/w0"] = ParameterSpec((inputs, hidden), "normal", inputs**-0.5)
            specs[f"{key}/b0"] = ParameterSpec((hidden,))
            specs[f"{key}/w1"] = ParameterSpec((hidden, width), "normal", hidden**-0.5)
            inputs = width + 1
    inputs = len(evidence.factors) * (width + 1) + context_size
    outputs = potential_width(size)
    specs["head/w0"] = ParameterSpec((inputs, hidden), "normal", inputs**-0.5)
    specs["head/b0"] = ParameterSpec((hidden,))
    specs["head/w1"] = ParameterSpec((hidden, outputs), "normal", 0.1 * hidden**-0.5)
    specs["head/b1"] = ParameterSpec((outputs,))
    return specs


def deep_set_potential(
    plan: GuidePlan,
    block: BlockPlan,
    params: Params,
    context: Array | None,
    batch: Batch,
    prior: PriorShift,
) -> GaussianPotential | DiagonalPotential:
    """The potential from a mean-pooled deep set that is given the count and the mask (PAVI-E).

    A joint block's potential has a factor for each copy; its flow couples them.
    """
    encodings = []
    for factor in block.evidence.factors if block.evidence else ():
        encodings.append(_deep_set(plan, block, params, factor, batch))
    encoding = ops.expand_dims(ops.concat(encodings, -1), 0)
    if context is not None:
        leading = ops.shape(context)[:-1]
        if block.joint:
            leading = (*leading, *ops.shape(encoding)[1:-1])
            samples, width = ops.shape(context)
            context = ops.reshape(context, (samples, *(1,) * len(block.plates), width))
            context = ops.broadcast_to(context, (*leading, width))
        encoding = ops.broadcast_to(encoding, (*leading, ops.shape(encoding)[-1]))
        encoding = ops.concat([encoding, context], -1)
    hidden = ops.tanh(linear(encoding, params["head/w0"]) + params["head/b0"])
    raw = linear(hidden, params["head/w1"]) + params["head/b1"]
    per_copy = PriorShift(*(split_copies(block, part, batch) for part in prior))
    own = potential(raw, block.size, per_copy)
    shift = merge_copies(block, own.shift)
    if isinstance(own, DiagonalPotential):
        return DiagonalPotential(merge_copies(block, own.precision), shift)
    return GaussianPotential(block_diagonal(block, own.precision), shift)


def _deep_set(
    plan: GuidePlan, block: BlockPlan, params: Params, factor: Factor, batch: Batch
) -> Array:
    """One encoding for each element of the block, `[*plates, width + 1]`."""
    graph, observed, levels = plan.graph, factor.observed, factor.levels
    variable = graph.variables[observed]
    sizes = {p: ops.shape(index)[0] for p, index in batch.indices.items()}
    features = [_feature(plan, observed, observed, sizes, batch)]
    features += [
        _feature(plan, parent, observed, sizes, batch)
        for parent in variable.parents
        if graph.variables[parent].kind == "covariate"
    ]
    h = ops.concat(features, -1)
    weights = row_weights(graph, observed, batch, importance=block.partial)
    present = ops.zeros_like(h[..., 0]) + 1.0
    if weights is not None:
        extra = len(ops.shape(weights)) - len(variable.plates)
        if extra:
            # A row with some of its event missing counts by the share that is there.
            weights = ops.mean(weights, tuple(range(len(variable.plates), len(ops.shape(weights)))))
        present = present * weights
    count = ops.expand_dims(present, -1)
    for level, plates in enumerate(levels[:-1] or levels):
        key = f"encoder/{observed}/{level}"
        h = ops.tanh(linear(h, params[f"{key}/w0"]) + params[f"{key}/b0"])
        h = linear(h, params[f"{key}/w1"]) * count
        recipe = graph.alignment(levels[min(level + 1, len(levels) - 1)], plates)
        h = pool(h, recipe, plates, sizes, batch.members, trailing=1)
        count = pool(count, recipe, plates, sizes, batch.members, trailing=1)
        # The mean of what is there; an element without children has the encoding 0.
        h = ops.concat([h / ops.maximum(count, ops.zeros_like(count) + 1e-6), ops.log1p(count)], -1)
        count = ops.cast(count > 0, h)
    return h


def _feature(
    plan: GuidePlan, name: str, child: str, sizes: Mapping[str, int], batch: Batch
) -> Array:
    """Standardised values of a data array at the rows of `child`, `[*plates, features]`."""
    graph = plan.graph
    variable, plates = graph.variables[name], graph.variables[child].plates
    mean, scale = plan.standards.get(name, (0.0, 1.0))
    value = (batch.values[name] - mean) / scale
    mask = batch.masks.get(name)
    if mask is not None:
        value = value * ops.reshape(
            mask, (*ops.shape(mask), *(1,) * (len(ops.shape(value)) - len(ops.shape(mask))))
        )
    recipe = graph.alignment(variable.plates, plates)
    rank = len(variable.event)
    value = align(value, recipe, plates, batch.members, event_rank=rank, child_event_rank=0)
    value = with_lead(value, 0, len(plates) + rank)
    full = tuple(sizes[p] for p in plates)
    return ops.broadcast_to(
        ops.reshape(value, (*ops.shape(value)[: len(plates)], prod(variable.event))),
        (*full, prod(variable.event)),
    )


def reference_shift(moments: tuple[Array, Array], centre: tuple[Array, Array]) -> PriorShift:
    """The prior's place against its place at the guide's centre."""
    mean, scale = moments
    centre_mean, centre_scale = centre
    return PriorShift((mean - centre_mean) / centre_scale, scale / centre_scale)


def initial_table(copies: int, width: int, dtype: Any) -> np.ndarray:
    """A free table of zeros; its last row is for padding and for elements never seen."""
    return np.zeros((copies + 1, width), dtype=dtype)
