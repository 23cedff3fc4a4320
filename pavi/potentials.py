"""Natural-parameter pooling: the data's pull on a block as a Gaussian potential.

For each observed row the likelihood is replaced by a Gaussian factor of its predictor f: with score
g and expected information h at f,

    log p(x | f + df) ~ g df - h df^2 / 2.

The predictor is linearised in the whitened coordinates z of the blocks it depends on,
f(z) ~ f0 + J (z - z0) (`pavi.linearisation`), so that each row emits natural parameters

    precision J' h J,    shift J' (g + h J z0),

which add over rows: the evidence of a group of 1 and of a group of 10,000 pass the same weights.
Blocks that lie between the target and the data are integrated out under their standard normal
prior, finest first, by Gaussian elimination; for a linear Gaussian model the result is exact
(method.md, 4.3 and 4.4). Likelihoods that are not Gaussian are linearised anew at the mean found,
where score and information are expected ones under the Gaussian law of the predictor that was
found with it: the fixed point is the best Gaussian where the information is the likelihood's own
curvature (Opper and Archambeau, *The variational Gaussian approximation revisited*, Neural
Computation 21, 2009, eq. 16 to 18).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from pavi import ops
from pavi.alignment import align, pool
from pavi.batch import Batch
from pavi.bijectors import GaussianPotential, solve_potential
from pavi.expectation import Posterior, expected, known, variance
from pavi.linearisation import Rows, at_origin, at_rows, linearise
from pavi.plan import BlockPlan, Evidence, GuidePlan, Recipe
from pavi.whitening import block_diagonal, merge_copies, split_copies

Array = Any


@dataclass
class _Factors:
    """Pairwise Gaussian factors between blocks; every entry is summed over rows already.

    `precision[a]` is `[S, *axes of a, d_a, d_a]`; `cross[a, b]`, with a finer than b, is
    `[S, *axes of a, d_a, d_b]`; `shift[a]` is `[S, *axes of a, d_a]`; d is a block's dimension.
    """

    precision: dict[str, Array] = field(default_factory=dict)
    shift: dict[str, Array] = field(default_factory=dict)
    cross: dict[tuple[str, str], Array] = field(default_factory=dict)

    def add(self, table: dict[Any, Array], key: Any, value: Array) -> None:
        table[key] = table[key] + value if key in table else value


@dataclass
class _Eliminated:
    """What is left of a block that was integrated out: enough to find its mean afterwards."""

    cholesky: Array
    shift: Array
    cross: dict[str, Array]


def natural_potential(
    plan: GuidePlan, block: BlockPlan, values: Mapping[str, Array], batch: Batch, like: Array
) -> GaussianPotential:
    """The potential of the data on a block, given the latents of the earlier blocks.

    Args:
        plan: the plan.
        block: the target, with `evidence`.
        values: latents of the earlier blocks, `[S, *plates, *event]`.
        batch: the batch.
        like: an array `[S, *axes, dimension]` of the block's shape (its values are not read).

    Returns:
        Precision `[S, *axes, dimension, dimension]` and shift `[S, *axes, dimension]` in the
        block's whitened coordinates.
    """
    evidence = _evidence_of(block)
    if block.plates and not block.joint:
        # Seen from an element of the target, the copies of what is nested in it stand alone.
        plan = replace(plan, blocks=tuple(replace(b, joint=False) for b in plan.blocks))
    hidden = [plan.block(name) for name in evidence.hidden]
    crossed = [plan.block(name) for name in evidence.crossed]
    blocks = sorted([block, *hidden, *crossed], key=plan.blocks.index)
    samples = ops.shape(like)[0]
    origin = {b.name: _zeros(b, samples, batch, like) for b in blocks}
    potential = GaussianPotential(like, like)
    start = linearise(plan, evidence, blocks, origin, values, batch, importance=block.partial)
    posterior: Posterior | None = None
    for step in range(evidence.newton_steps):
        if not step:
            rows = start
        elif evidence.straight:
            rows = [at_origin(plan, part, origin, batch) for part in start]
        else:
            rows = linearise(
                plan, evidence, blocks, origin, values, batch, importance=block.partial
            )
        factors = _pooled(plan, block, rows, origin, batch, posterior)
        eliminated = {b.name: _eliminate(plan, factors, b, batch) for b in hidden}
        potential = GaussianPotential(factors.precision[block.name], factors.shift[block.name])
        if step + 1 < evidence.newton_steps:
            mean, cholesky = solve_potential(potential)
            means = {block.name: mean}
            for b in reversed(hidden):
                means[b.name] = _mean(plan, b, eliminated[b.name], means, batch)
            origin |= {name: split_copies(plan.block(name), m, batch) for name, m in means.items()}
            posterior = [
                known(b, eliminated[b.name].cholesky, eliminated[b.name].cross)
                for b in hidden
                if not b.joint
            ]
            if not block.joint:
                posterior.append(known(block, cholesky, {}))
    return potential


def _zeros(block: BlockPlan, samples: int, batch: Batch, like: Array) -> Array:
    sizes = [ops.shape(batch.indices[plate])[0] for plate in block.plates]
    return ops.asarray(np.zeros((samples, *sizes, block.size)), like=like)


def _pooled(
    plan: GuidePlan,
    target: BlockPlan,
    rows: list[Rows],
    origin: Mapping[str, Array],
    batch: Batch,
    posterior: Posterior | None,
) -> _Factors:
    """Gaussian factors of all observed rows, pooled to the elements of the blocks."""
    evidence = _evidence_of(target)
    factors = _Factors()
    for part in rows:
        _add_rows(plan, target, part, origin, batch, factors, posterior)
    for b in (target, *(plan.block(name) for name in evidence.hidden)):
        if b.name not in factors.precision:
            # No predictor moves with this block: it keeps its prior.
            flat = merge_copies(b, ops.zeros_like(origin[b.name]))
            factors.shift[b.name] = flat
            factors.precision[b.name] = ops.expand_dims(flat, -1) * ops.expand_dims(flat, -2)
    return factors


def _add_rows(
    plan: GuidePlan,
    target: BlockPlan,
    rows: Rows,
    origin: Mapping[str, Array],
    batch: Batch,
    factors: _Factors,
    posterior: Posterior | None,
) -> None:
    """Adds the factors of one observed variable; no `posterior` is known in the first step."""
    observed, spec, value, rank = rows.factor.observed, rows.spec, rows.value, rows.rank
    weights = rows.weights
    plates, through = plan.graph.variables[observed].plates, rows.factor.through
    start = rows.centres
    if posterior is None and not spec.quadratic:
        guesses = spec.data_predictors(value)
        start = tuple(
            c if g is None else g + ops.zeros_like(c)
            for c, g in zip(rows.centres, guesses, strict=True)
        )
    at_points = spec.with_predictors(start)
    pulls = at_points.score_and_information(value) if posterior is None or spec.quadratic else ()
    crossed = _evidence_of(target).crossed
    for i, (parts, c, s) in enumerate(zip(rows.slopes, rows.centres, start, strict=True)):
        if parts is None:
            continue
        if posterior is None or pulls:
            score, information = pulls[i]
        else:
            spread = variance(plan, parts, posterior, plates, rank, batch)
            score, information = expected(rows, i, spread)
        gradient = (score + information * (s - c))[0]
        information = information[0]
        if weights is not None:
            shape = (1, *ops.shape(weights), *(1,) * (rank - 2 - len(ops.shape(weights))))
            gradient = gradient * ops.reshape(weights, shape)
            information = information * ops.reshape(weights, shape)
        for name in crossed:
            if name in parts:
                # A block that crosses the target is not known yet: h <- h / (1 + h J J').
                wide = 1.0 + information * ops.sum(parts[name] * parts[name], -1)
                gradient, information = gradient / wide, information / wide
        kept = [n for n in through if n not in crossed]
        for name in kept:
            offset = at_rows(plan, name, origin[name], plates, rank, batch)
            gradient = gradient + information * ops.sum(parts[name] * offset, -1)
        scored = _Scored(plates, gradient, information, rows.merged)
        _pool_rows(plan, scored, kept, parts, batch, factors)


def _evidence_of(block: BlockPlan) -> Evidence:
    if block.evidence is None:
        raise ValueError(f"Block {block.name} has no evidence.")
    return block.evidence


def _transposed(x: Array) -> Array:
    rank = len(ops.shape(x))
    return ops.transpose(x, (*range(rank - 2), rank - 1, rank - 2))


@dataclass(frozen=True)
class _Scored:
    """Scores and information of the rows of an observed variable, `[S, *plates, *event]`.

    `merged` are the axes along which all rows are one; their entries count for all of them.
    """

    plates: tuple[str, ...]
    gradient: Array
    information: Array
    merged: frozenset[int]


def _pool_rows(
    plan: GuidePlan,
    rows: _Scored,
    names: list[str],
    parts: Mapping[str, Array],
    batch: Batch,
    factors: _Factors,
) -> None:
    """Sums `J' h J` and `J' g` over event axes and into the elements of each block."""
    plates, gradient, information = rows.plates, rows.gradient, rows.information
    sizes = {p: ops.shape(index)[0] for p, index in batch.indices.items()}
    rank = len(ops.shape(gradient))
    blocks = [plan.block(n) for n in names]

    def pooled(x: Array, *jacobians: Array, recipe: Recipe) -> Array:
        """Sum of x times the outer product of the Jacobians, over rows and event axes."""
        kept = {child for _, child in recipe}
        apart = [1 + i for i, plate in enumerate(plates) if plate not in kept]
        summed = [*apart, *range(1 + len(plates), rank)]
        # J' (sum h) J, not sum (J' h J), along the axes that no Jacobian varies along.
        early = tuple(
            a
            for a in summed
            if ops.shape(x)[a] > 1 and all(ops.shape(j)[a] == 1 for j in jacobians)
        )
        x = ops.sum(x, axis=early, keepdims=True) if early else x
        trailing = len(jacobians)
        event = tuple(range(1 + len(plates), rank))
        first, *second = jacobians
        x = ops.expand_dims(x, -1) * first
        if second and len(event) == 1 and ops.shape(x)[-2] > 1:
            # A product of matrices is made once; a sum is made anew for all that reads it.
            x = ops.matmul(_transposed(x), second[0])
        else:
            if second:
                x = ops.expand_dims(x, -1) * ops.expand_dims(second[0], -2)
            x = ops.sum(x, axis=event) if event else x
        shape = ops.shape(x)
        one = {*early, *rows.merged}
        full = tuple(1 if 1 + i in one else sizes[p] for i, p in enumerate(plates))
        wanted = (shape[0], *full, *shape[len(shape) - trailing :])
        x = x if shape == wanted else ops.broadcast_to(x, wanted)
        return pool(x, recipe, plates, sizes, batch.members, trailing=trailing)

    for i, b in enumerate(blocks):
        mine = parts[b.name]
        recipe = plan.graph.alignment(b.plates, plates)
        shift = pooled(gradient, mine, recipe=recipe)
        square = pooled(information, mine, mine, recipe=recipe)
        factors.add(factors.shift, b.name, merge_copies(b, shift))
        factors.add(factors.precision, b.name, block_diagonal(b, square))
        for other in blocks[:i]:
            theirs = parts[other.name]
            if other.joint:
                # Plates that b's rows lie in already are placed afterwards, not summed over.
                apart = tuple(q for q in other.plates if not plan.graph.determines(b.plates, (q,)))
                joined = recipe + plan.graph.alignment(apart, plates)
                both = pooled(information, mine, theirs, recipe=joined)
                both = _joint_columns(plan, b, other, apart, both, batch)
            elif plan.graph.determines(b.plates, other.plates):
                both = pooled(information, mine, theirs, recipe=recipe)
            else:
                continue
            if b.joint:
                both = ops.reshape(both, (ops.shape(both)[0], b.dimension, ops.shape(both)[-1]))
            factors.add(factors.cross, (b.name, other.name), both)


def _joint_columns(
    plan: GuidePlan,
    block: BlockPlan,
    other: BlockPlan,
    apart: tuple[str, ...],
    both: Array,
    batch: Batch,
) -> Array:
    """`[S, *plates, *apart, d, d_other]` as `[S, *plates, d, dimension of other]`.

    `apart` are the plates of the joint block `other` that `both` has axes of; along each of its
    other plates a row of `block` has one element, whose columns are its own.
    """
    first = 1 + len(block.plates)
    for axis, q in enumerate(other.plates):
        if q in apart:
            continue
        ((_, p),) = plan.graph.alignment((q,), block.plates)
        count = ops.shape(batch.indices[q])[0]
        position = np.arange(count) if p == q else batch.members[f"{p}/{q}"]
        both = ops.expand_dims(both, first + axis)
        axes = [1] * len(ops.shape(both))
        axes[1 + block.plates.index(p)] = ops.shape(batch.indices[p])[0]
        axes[first + axis] = count
        both = both * ops.reshape(ops.one_hot(position, count, like=both), tuple(axes))
    shape = ops.shape(both)
    last = len(shape) - 2
    both = ops.transpose(both, (*range(first), last, *range(first, last), last + 1))
    return ops.reshape(both, (*shape[:first], shape[last], other.dimension))


def _eliminate(plan: GuidePlan, factors: _Factors, block: BlockPlan, batch: Batch) -> _Eliminated:
    """Integrates a block out under its standard normal prior (a Schur complement)."""
    sizes = {p: ops.shape(index)[0] for p, index in batch.indices.items()}
    others = {b: x for (a, b), x in factors.cross.items() if a == block.name}
    potential = GaussianPotential(factors.precision.pop(block.name), factors.shift.pop(block.name))
    # A = I + P_hh = L L';  X_b = L^{-1} P_hb;  y = L^{-1} eta_h
    _, cholesky = solve_potential(potential)
    y = ops.solve_triangular(cholesky, ops.expand_dims(potential.shift, -1))
    solved = {b: ops.solve_triangular(cholesky, x) for b, x in others.items()}
    names = sorted(solved, key=lambda n: [b.name for b in plan.blocks].index(n))
    for i, name in enumerate(names):
        b = plan.block(name)
        # P_bb -= X_b' X_b;  eta_b -= X_b' y
        square = _gram(plan, block, b, solved[name], solved[name], sizes, batch)
        factors.add(factors.precision, name, -square)
        pulled = _gram(plan, block, b, solved[name], y, sizes, batch)
        factors.add(factors.shift, name, -pulled[..., 0])
        for coarser in names[:i]:
            # P_bc -= X_b' X_c, for c coarser than b
            both = _gram(plan, block, b, solved[name], solved[coarser], sizes, batch)
            factors.add(factors.cross, (name, coarser), -both)
    for name in others:
        del factors.cross[block.name, name]
    return _Eliminated(cholesky, y, solved)


def _gram(
    plan: GuidePlan,
    block: BlockPlan,
    target: BlockPlan,
    left: Array,
    right: Array,
    sizes: Mapping[str, int],
    batch: Batch,
) -> Array:
    """`left' right` of each element of `block`, summed into the elements of `target`."""
    if target.joint:
        samples, width = ops.shape(left)[0], ops.shape(right)[-1]
        rows = prod(ops.shape(left)[1:-1])
        left = ops.reshape(left, (samples, rows, target.dimension))
        right = ops.reshape(right, (samples, rows, width))
        return ops.matmul(ops.transpose(left, (0, 2, 1)), right)
    product = ops.sum(ops.expand_dims(left, -1) * ops.expand_dims(right, -2), -3)
    recipe = plan.graph.alignment(target.axes, block.axes)
    return pool(product, recipe, block.axes, sizes, batch.members, trailing=2)


def _mean(
    plan: GuidePlan,
    block: BlockPlan,
    eliminated: _Eliminated,
    means: Mapping[str, Array],
    batch: Batch,
) -> Array:
    """Mean of a block that was integrated out, given the means of the coarser ones."""
    # w_h = L^{-T} (y - sum_b X_b w_b)
    right = eliminated.shift[..., 0]
    for name, cross in eliminated.cross.items():
        other = plan.block(name)
        mean = means[name]
        if other.joint:
            shape = (ops.shape(mean)[0], *(1,) * (len(ops.shape(right)) - 1), other.dimension)
            mean = ops.reshape(mean, shape)
        else:
            recipe = plan.graph.alignment(other.axes, block.axes)
            mean = align(mean, recipe, block.axes, batch.members, event_rank=1, child_event_rank=0)
            mean = ops.expand_dims(mean, -2)
        right = right - ops.sum(cross * mean, -1)
    column = ops.expand_dims(right, -1)
    return ops.solve_triangular(eliminated.cholesky, column, transpose=True)[..., 0]
