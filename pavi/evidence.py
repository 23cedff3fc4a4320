"""How data reach each block of a guide: which observed variables, by way of which other blocks.

The natural encoding reads the model itself: it moves a block's latents and looks at the predictors
of the likelihoods. So much of it as needs no data is found out here, once, on placeholders.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from pavi.bijectors import DENSE_LIMIT
from pavi.dist.real import Normal
from pavi.dist.supports import Real
from pavi.family import Family
from pavi.graph import Latent, PlateGraph
from pavi.plan import Evidence, Factor, Slot
from pavi.probing import FIRST, aligned_shape, placeholder

# Largest matrix of numbers that couple a block nested in a joint block to all of its elements.
_COUPLING_LIMIT = 1_000_000
# Size of the moves by which a predictor's slope and curvature are told from rounding.
_MOVE, _SAME = 0.25, 1e-9
# Places at which a predictor has to be straight to be taken for it.
_TRIALS = 12


@dataclass(frozen=True)
class Groups:
    """The latents of each block, in the order in which a guide draws them.

    Attributes:
        graph: the model.
        latents: latents of each block, by its name.
        sizes: cardinality of every plate.
        joint: blocks whose copies have one joint density.
    """

    graph: PlateGraph
    latents: Mapping[str, tuple[Latent, ...]]
    sizes: Mapping[str, int]
    joint: frozenset[str] = field(default=frozenset())

    @property
    def order(self) -> list[str]:
        """Names of the blocks, in order."""
        return list(self.latents)

    @property
    def home(self) -> dict[str, str]:
        """The block of each latent."""
        return {latent.name: name for name, group in self.latents.items() for latent in group}

    def plates(self, name: str) -> tuple[str, ...]:
        """The plates of a block."""
        return self.latents[name][0].plates

    def dimension(self, name: str) -> int:
        """Unconstrained dimensions of all copies of a block."""
        copies = prod(self.sizes[plate] for plate in self.plates(name))
        return copies * slots(self.graph, self.latents[name])[-1].stop

    def long(self, name: str) -> bool:
        """Whether the vector of one copy of a block is too long for a precision matrix."""
        return slots(self.graph, self.latents[name])[-1].stop > DENSE_LIMIT

    def below(self, observed: str, later: frozenset[str]) -> frozenset[str]:
        """Blocks among `later` that an observed variable depends on, through latents of `later`."""
        return frozenset(self.home[latent] for latent in self.ancestors(observed, later))

    def ancestors(self, observed: str, later: frozenset[str]) -> frozenset[str]:
        """Latents of the blocks `later` that an observed variable depends on through such."""
        found: set[str] = set()
        stack, home = list(self.graph.variables[observed].parents), self.home
        while stack:
            name = stack.pop()
            if home.get(name) in later and name not in found:
                found.add(name)
                stack += self.graph.variables[name].parents
        return frozenset(found)


@dataclass(frozen=True)
class Found:
    """What a search for evidence found.

    Attributes:
        evidence: how data reach the block; None where none do.
        left_out: observed variables below the block of which the natural encoding tells it nothing,
            or not all.
    """

    evidence: Evidence | None
    left_out: tuple[str, ...]


def slots(graph: PlateGraph, latents: tuple[Latent, ...]) -> tuple[Slot, ...]:
    """The places of latents in the unconstrained vector of one copy of their block."""
    out: list[Slot] = []
    for latent in latents:
        spec = graph.probe[latent.name]
        split = len(latent.event) - spec.event_rank
        unconstrained = (
            *latent.event[:split],
            *spec.support.unconstrained_event(latent.event[split:]),
        )
        out.append(Slot(latent.name, latent.event, unconstrained, out[-1].stop if out else 0))
    return tuple(out)


def joint_groups(groups: Groups, family: Family, batch: Mapping[str, int]) -> frozenset[str]:
    """Small blocks that cross another one: given the globals their copies are still dependent."""
    if family.structure != "block":
        return frozenset()
    graph, everything = groups.graph, frozenset(groups.latents)
    joint: set[str] = set()
    for position, name in enumerate(groups.order):
        plates = groups.plates(name)
        if not plates or groups.long(name) or groups.dimension(name) > family.joint_limit:
            continue
        if graph.reach(plates) & set(batch):
            continue
        later = groups.order[position + 1 :]
        for observed in graph.observed:
            reach = groups.below(observed.name, everything)
            crosses = any(
                other in reach and not graph.determines(groups.plates(other), plates)
                for other in later
            )
            if name in reach and crosses:
                joint.add(name)
    return frozenset(joint)


def find_evidence(groups: Groups, family: Family, name: str, encoder: str) -> Found:
    """Which observed variables inform a block, and which later blocks lie between.

    Args:
        groups: all blocks, in order.
        family: the variational family.
        name: the block.
        encoder: `"natural"` or `"deep_set"`: the former leaves out what tells it nothing.
    """
    graph, order = groups.graph, groups.order
    later = frozenset(order[order.index(name) :])
    plates = groups.plates(name)
    through: dict[str, tuple[str, ...]] = {}
    left_out: list[str] = []
    linear = straight = True
    for observed in graph.observed:
        reach = groups.below(observed.name, later)
        if name not in reach:
            continue
        if encoder == "natural" and any(map(groups.long, reach)):
            # Each coordinate is moved in turn, and matrices couple all of them.
            left_out.append(observed.name)
            continue
        effect = _effect(groups, observed.name, reach)
        above = groups.ancestors(observed.name, later)
        own = [latent.name for latent in groups.latents[name] if latent.name in above]
        informed = [latent for latent in own if _moves(graph, latent, effect)]
        aligned = graph.determines(observed.plates, plates)
        if len(informed) < len(own) or not aligned:
            left_out.append(observed.name)
        if aligned and (informed or encoder != "natural"):
            through[observed.name] = tuple(sorted(reach, key=order.index))
            linear, straight = linear and effect.linear, straight and effect.straight
    if not through:
        return Found(None, tuple(left_out))
    hidden, crossed = _between(groups, name, through)
    finest_first = sorted(hidden, key=order.index, reverse=True)
    evidence = Evidence(
        hidden=tuple(finest_first),
        crossed=tuple(sorted(crossed, key=order.index)),
        factors=tuple(
            Factor(observed, names, _levels(groups, observed, names, finest_first, plates))
            for observed, names in through.items()
        ),
        newton_steps=1 if linear else family.newton_steps,
        straight=straight,
        exact=linear
        and straight
        and not (left_out or crossed)
        and all(
            isinstance(graph.probe[latent.name], Normal)
            for block in (name, *hidden)
            for latent in groups.latents[block]
        ),
    )
    return Found(evidence, tuple(left_out))


def _between(
    groups: Groups, name: str, through: Mapping[str, tuple[str, ...]]
) -> tuple[frozenset[str], frozenset[str]]:
    """The later blocks to integrate out exactly, and those that enter by their prior only.

    Elimination holds, for each pair of blocks that share data, a matrix for each element of the
    finer one: of two blocks that cross each other only one can be eliminated, unless the first is
    held jointly, with a column for each of its elements.
    """
    graph, order = groups.graph, groups.order
    plates = groups.plates(name)

    def together(earlier: str, later: str) -> bool:
        joint = earlier in groups.joint and (name in groups.joint or not plates)
        return joint or graph.determines(groups.plates(later), groups.plates(earlier))

    kept: list[str] = [name]
    crossed: set[str] = set()
    met = sorted({b for names in through.values() for b in names if b != name}, key=order.index)
    for block in met:
        factors = [observed for observed, names in through.items() if block in names]
        own = groups.plates(block)
        reachable = all(graph.determines(graph.variables[o].plates, own) for o in factors)
        coupling = groups.dimension(name) * groups.dimension(block)
        # What is nested in a joint block is coupled to all of its elements.
        large = (
            name in groups.joint and graph.determines(own, plates) and coupling > _COUPLING_LIMIT
        )
        linked = _linked(block, name, through)
        if reachable and not large and all(together(k, block) for k in kept if k in linked):
            kept.append(block)
        else:
            crossed.add(block)
    return frozenset(kept[1:]), frozenset(crossed)


def _linked(block: str, target: str, through: Mapping[str, tuple[str, ...]]) -> set[str]:
    """The target, and the blocks that share data with `block`, at first or at several removes."""
    linked = {block}
    while True:
        wider = linked.union(
            *(set(names) - {target} for names in through.values() if linked & set(names))
        )
        if wider == linked:
            return linked | {target}
        linked = wider


def _levels(
    groups: Groups,
    observed: str,
    through: tuple[str, ...],
    finest_first: list[str],
    plates: tuple[str, ...],
) -> tuple[tuple[str, ...], ...]:
    """Plates on the way from an observed variable's rows, past the hidden blocks, to the target."""
    graph = groups.graph
    levels = [graph.variables[observed].plates]
    for between in (groups.plates(name) for name in finest_first if name in through):
        on_the_way = graph.determines(levels[-1], between) and graph.determines(between, plates)
        if between != levels[-1] and on_the_way:
            levels.append(between)
    return tuple(levels) if levels[-1] == plates else (*levels, plates)


@dataclass(frozen=True)
class _Effect:
    """How a likelihood's predictors depend on latents.

    Attributes:
        parents: the latents that it is a function of and that move a predictor.
        straight: whether all predictors are linear in the latents of the blocks concerned.
        linear: whether the log likelihood is quadratic in them besides.
    """

    parents: frozenset[str]
    straight: bool
    linear: bool


def _moves(graph: PlateGraph, latent: str, effect: _Effect) -> bool:
    """Whether a latent moves a predictor, itself or through the latents that it is a parent of."""
    return latent in effect.parents or any(
        graph.variables[child].kind == "latent" and _moves(graph, child, effect)
        for child in graph.children(latent)
    )


def _effect(groups: Groups, observed: str, blocks: frozenset[str]) -> _Effect:
    """Probes the predictors of a likelihood, moving the latents of `blocks`."""
    graph = groups.graph
    variable, probe = graph.variables[observed], graph.probe
    if not probe[observed].has_potential:
        return _Effect(frozenset(), False, False)
    moving = {latent.name for name in blocks for latent in groups.latents[name]}
    rng = np.random.default_rng(0)
    start: dict[str, Any] = {}
    step: dict[str, Any] = {}
    for name in variable.parents:
        parent = graph.variables[name]
        shape = aligned_shape(parent, variable, graph.plates, FIRST)
        if name in probe:
            support = probe[name].support
            start[name] = placeholder(support, shape)
            step[name] = _move(rng, start[name], isinstance(support, Real))
        else:
            start[name] = rng.uniform(0.5, 1.5, shape)
    if graph.covariates and not _evaluates(graph, observed, start):
        # A covariate that is an index or a count.
        start |= {n: np.ones_like(start[n]) for n in start if n not in probe}
    centre = _predictors(graph, observed, start)
    parents: set[str] = set()
    for name in step:
        moved = _predictors(graph, observed, start | {name: start[name] + step[name]})
        if name in moving and any(_differ(a, b) for a, b in zip(centre, moved, strict=True)):
            parents.add(name)
    # A latent's prior is its whitening: it is taken to be linear in its real parents.
    above = {q for name in moving for q in graph.variables[name].parents if q in moving}
    straight = linear = all(isinstance(probe[p].support, Real) for p in parents | above)
    if straight:
        curved, others = _bent(graph, observed, start, parents)
        straight = not curved and all(_placed(graph, name, moving) for name in moving)
        linear = probe[observed].quadratic and not curved and not others
    return _Effect(frozenset(parents), straight, linear)


def _bent(
    graph: PlateGraph, observed: str, start: Mapping[str, Any], parents: Collection[str]
) -> tuple[bool, bool]:
    """Whether a predictor is curved in real latents, and whether one but the first moves at all.

    A predictor may have pieces: places, moves and covariates are of many sizes and both signs.
    """
    rng = np.random.default_rng(1)
    latents = set(graph.probe)

    def numbers(shape: tuple[int, ...]) -> np.ndarray:
        return rng.normal(size=shape) * 10.0 ** rng.uniform(-1.0, 2.0, shape)

    curved = others = False
    for trial in range(_TRIALS):
        place = dict(start)
        if trial:
            moved = {n: numbers(np.shape(v)) for n, v in start.items() if n not in latents}
            # A covariate may have to be an index or a count.
            if _evaluates(graph, observed, {**start, **moved}):
                place |= moved
            place |= {name: numbers(np.shape(start[name])) for name in parents}
        step = {name: numbers(np.shape(start[name])) for name in parents}
        centre, there, back = (
            _predictors(graph, observed, {**place, **{n: place[n] + s * step[n] for n in parents}})
            for s in (0.0, 1.0, -1.0)
        )
        for order, of in enumerate(zip(there, back, centre, strict=True)):
            a, b, c = np.broadcast_arrays(*of)
            # Far out a rate may overflow: that tells nothing.
            told = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
            curved = curved or _differ(a[told] + b[told], 2.0 * c[told])
            others = others or (order > 0 and _differ(a[told], c[told]))
    return curved, others


def _placed(graph: PlateGraph, name: str, moving: Collection[str]) -> bool:
    """Whether a latent's prior is linear in those of its parents that move, its scale constant."""
    variable, probe = graph.variables[name], graph.probe
    above = [parent for parent in variable.parents if parent in moving]
    if not above:
        return True
    start: dict[str, Any] = {}
    for parent in variable.parents:
        shape = aligned_shape(graph.variables[parent], variable, graph.plates, FIRST)
        known = parent not in probe
        start[parent] = np.ones(shape) if known else placeholder(probe[parent].support, shape)
    moments = []
    for size in (0.0, _MOVE, -_MOVE):
        values = start | {parent: start[parent] + size for parent in above}
        moments.append(graph.spec(name, values).unconstrained_moments())
    (place, scale), (ahead, wider), (behind, _) = moments
    return not _differ(ahead + behind, 2.0 * np.asarray(place)) and not _differ(scale, wider)


def _move(rng: np.random.Generator, value: np.ndarray, real: bool) -> np.ndarray:
    """A move that differs from element to element; small where the support has bounds."""
    size = _MOVE if real else 0.01 * _MOVE
    outwards = np.where(value < 0, -1.0, 1.0)
    return size * rng.uniform(0.5, 1.0, np.shape(value)) * outwards


def _evaluates(graph: PlateGraph, observed: str, values: Mapping[str, Any]) -> bool:
    try:
        return all(np.isfinite(p).all() for p in _predictors(graph, observed, values))
    except Exception:
        return False


def _predictors(graph: PlateGraph, observed: str, values: Mapping[str, Any]) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        predictors = graph.spec(observed, values).predictors()
    return [np.asarray(p, np.float64) for p in predictors]


def _differ(a: Any, b: Any) -> bool:
    with np.errstate(all="ignore"):
        close = np.abs(a - b) <= _SAME * (1.0 + np.abs(a) + np.abs(b))
    return not bool(np.all(close | (np.isnan(a) & np.isnan(b))))
