"""How data reach each block of a guide: which observed variables, by way of which other blocks.

The natural encoding reads the model itself: it moves a block's latents and looks at the predictors
of the likelihoods. So much of it as needs no data is found out here, once, on placeholders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from pavi.bijectors import DENSE_LIMIT
from pavi.dist.real import Normal
from pavi.effect import effect_of, moves
from pavi.family import Family
from pavi.graph import Latent, PlateGraph
from pavi.plan import Evidence, Factor, Slot

# Largest matrix of numbers that couple a block nested in a joint block to all of its elements.
_COUPLING_LIMIT = 1_000_000


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
        return prod(self.sizes[plate] for plate in self.plates(name)) * self.size(name)

    def size(self, name: str) -> int:
        """Unconstrained dimensions of one copy of a block."""
        return slots(self.graph, self.latents[name])[-1].stop

    def long(self, name: str) -> bool:
        """Whether the vector of one copy of a block is too long for a precision matrix."""
        return self.size(name) > DENSE_LIMIT

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
    linear = straight = canonical = True
    for observed in graph.observed:
        reach = groups.below(observed.name, later)
        if name not in reach:
            continue
        if encoder == "natural" and any(map(groups.long, reach)):
            # Each coordinate is moved in turn, and matrices couple all of them.
            left_out.append(observed.name)
            continue
        moving = {latent.name for block in reach for latent in groups.latents[block]}
        effect = effect_of(graph, observed.name, moving)
        above = groups.ancestors(observed.name, later)
        own = [latent.name for latent in groups.latents[name] if latent.name in above]
        informed = [latent for latent in own if moves(graph, latent, effect)]
        aligned = graph.determines(observed.plates, plates)
        if len(informed) < len(own) or not aligned:
            left_out.append(observed.name)
        if aligned and (informed or encoder != "natural"):
            through[observed.name] = tuple(sorted(reach, key=order.index))
            linear, straight = linear and effect.linear, straight and effect.straight
            canonical = canonical and effect.canonical
    if not through:
        return Found(None, tuple(left_out))
    hidden, crossed = _between(groups, name, through)
    finest_first = sorted(hidden, key=order.index, reverse=True)
    # Normal given the earlier blocks, and seen whole: what the likelihoods are decides the rest.
    whole = not (left_out or crossed) and all(
        isinstance(graph.probe[latent.name], Normal)
        for block in (name, *hidden)
        for latent in groups.latents[block]
    )
    evidence = Evidence(
        hidden=tuple(finest_first),
        crossed=tuple(sorted(crossed, key=order.index)),
        factors=tuple(
            Factor(observed, names, _levels(groups, observed, names, finest_first, plates))
            for observed, names in through.items()
        ),
        newton_steps=1 if linear else family.newton_steps,
        straight=straight,
        exact=whole and linear and straight,
        canonical=whole and canonical and straight,
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
