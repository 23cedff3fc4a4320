"""Lowering a plate graph and a family to a guide plan: pure Python, no arrays of data."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from pavi.bijectors import Bijector, Chain, ConditionalAffine, MaskedAutoregressive
from pavi.encoders import deep_set_parameters, table_width
from pavi.errors import FamilyError
from pavi.family import Family
from pavi.graph import Latent, PlateGraph
from pavi.plan import (
    BlockPlan,
    ContextSlot,
    Evidence,
    Factor,
    GuidePlan,
    Slot,
    evidence_beyond,
)

_FLOW_LIMIT = 10
# Globals start well inside their prior: draws of a wide prior make gradients of no use.
_INITIAL_LOG_SCALE = -2.3
_CONTEXT_LIMIT = 24
_FULL_RANK_LIMIT = 8
_FULL_RANK_GLOBAL_LIMIT = 256
# Largest matrix of numbers that couple a block nested in a joint block to all of its elements.
_COUPLING_LIMIT = 1_000_000


def lower(
    graph: PlateGraph,
    family: Family,
    sizes: Mapping[str, int],
    batch: Mapping[str, int] | None = None,
    standards: Mapping[str, tuple[float, float]] | None = None,
) -> GuidePlan:
    """Lowers `graph` and `family` for plates of the given sizes.

    Args:
        graph: the model's template.
        family: the variational family.
        sizes: cardinality of every plate.
        batch: reduced cardinality of the plates that training subsamples.
        standards: mean and standard deviation of each data array (0 and 1 where absent).

    Returns:
        The plan, whose blocks go from coarse to fine.

    Raises:
        FamilyError: an override of an unknown variable, or options that the graph cannot have.
    """
    batch = dict(batch or {})
    if not graph.latents:
        raise FamilyError(
            f"The graph has no latents, so there is nothing to infer; its variables are "
            f"{list(graph.variables)}. Add a pavi.Latent."
        )
    for name in family.overrides:
        if name not in graph.variables or graph.variables[name].kind != "latent":
            raise FamilyError(f"Family(overrides=...): {name!r} is not a latent of this graph.")
    groups = _ordered(graph, _grouped(graph, family), sizes)
    joint = _joint_groups(graph, family, groups, sizes, batch)
    blocks: list[BlockPlan] = []
    for name, latents in groups.items():
        blocks.append(_block(graph, family, groups, joint, name, latents, sizes, batch, blocks))
    return GuidePlan(graph, family, dict(sizes), batch, dict(standards or {}), tuple(blocks))


def _slots(graph: PlateGraph, latents: tuple[Latent, ...]) -> tuple[Slot, ...]:
    slots: list[Slot] = []
    for latent in latents:
        spec = graph.probe[latent.name]
        rank = spec.event_rank
        split = len(latent.event) - rank
        unconstrained = (
            *latent.event[:split],
            *spec.support.unconstrained_event(latent.event[split:]),
        )
        start = slots[-1].stop if slots else 0
        slots.append(Slot(latent.name, latent.event, unconstrained, start))
    return tuple(slots)


def _grouped(graph: PlateGraph, family: Family) -> dict[str, tuple[Latent, ...]]:
    """Latents of the same plates form one block (method.md, 4.2)."""
    groups: dict[str, tuple[Latent, ...]] = {}
    for latent in graph.latents:
        name = ",".join(latent.plates) or "globals"
        if family.structure != "block":
            name = latent.name
        groups[name] = (*groups.get(name, ()), latent)
    return groups


def _plates(latents: tuple[Latent, ...]) -> tuple[str, ...]:
    return latents[0].plates


def _dimension(graph: PlateGraph, latents: tuple[Latent, ...], sizes: Mapping[str, int]) -> int:
    """Unconstrained dimensions of all copies of a block."""
    return prod(sizes[plate] for plate in _plates(latents)) * _slots(graph, latents)[-1].stop


def _ordered(
    graph: PlateGraph, groups: dict[str, tuple[Latent, ...]], sizes: Mapping[str, int]
) -> dict[str, tuple[Latent, ...]]:
    """Parents before children, owners before members; among the rest the smaller one first."""
    home = {latent.name: name for name, latents in groups.items() for latent in latents}

    def waits_for(name: str, other: str) -> bool:
        parents = {home[p] for latent in groups[name] for p in latent.parents if p in home}
        mine, theirs = _plates(groups[name]), _plates(groups[other])
        coarser = graph.determines(mine, theirs) and not graph.determines(theirs, mine)
        return other in parents or coarser

    ordered: dict[str, tuple[Latent, ...]] = {}
    while len(ordered) < len(groups):
        left = [name for name in groups if name not in ordered]
        ready = [n for n in left if not any(waits_for(n, o) for o in left if o != n)]
        if not ready:
            raise FamilyError(
                f"The latents of the blocks {left} depend on one another in both directions; "
                "use Family(structure='prior')."
            )
        first = min(
            ready, key=lambda n: (bool(_plates(groups[n])), _dimension(graph, groups[n], sizes))
        )
        ordered[first] = groups[first]
    return ordered


def _reach(
    graph: PlateGraph, home: Mapping[str, str], observed: str, later: frozenset[str]
) -> frozenset[str]:
    """Blocks among `later` that an observed variable depends on, through latents of `later`."""
    found: set[str] = set()
    stack = list(graph.variables[observed].parents)
    while stack:
        name = stack.pop()
        if home.get(name) in later:
            found.add(home[name])
            stack += graph.variables[name].parents
    return frozenset(found)


def _joint_groups(
    graph: PlateGraph,
    family: Family,
    groups: dict[str, tuple[Latent, ...]],
    sizes: Mapping[str, int],
    batch: Mapping[str, int],
) -> frozenset[str]:
    """Small blocks that cross another one: given the globals their copies are still dependent."""
    if family.structure != "block":
        return frozenset()
    home = {latent.name: name for name, latents in groups.items() for latent in latents}
    everything = frozenset(groups)
    joint: set[str] = set()
    for name, latents in groups.items():
        plates = _plates(latents)
        dimension = _dimension(graph, latents, sizes)
        if not plates or dimension > family.joint_limit or graph.reach(plates) & set(batch):
            continue
        position = list(groups).index(name)
        for observed in graph.observed:
            reach = _reach(graph, home, observed.name, everything)
            crossing = [
                other
                for other in reach
                if list(groups).index(other) > position
                and not graph.determines(_plates(groups[other]), plates)
            ]
            if name in reach and crossing:
                joint.add(name)
    return frozenset(joint)


def _evidence(
    graph: PlateGraph,
    family: Family,
    groups: dict[str, tuple[Latent, ...]],
    joint: frozenset[str],
    name: str,
    sizes: Mapping[str, int],
    encoder: str,
) -> Evidence | None:
    """Which observed variables inform a block, and which later blocks lie between."""
    home = {latent.name: group for group, latents in groups.items() for latent in latents}
    order = list(groups)
    later = frozenset(order[order.index(name) :])
    plates = _plates(groups[name])
    through: dict[str, tuple[str, ...]] = {}
    hidden: set[str] = set()
    crossed: set[str] = set()
    for observed in graph.observed:
        reach = _reach(graph, home, observed.name, later)
        usable = encoder != "natural" or graph.probe[observed.name].has_potential
        if name not in reach or not usable:
            continue
        through[observed.name] = tuple(sorted(reach, key=order.index))
        for other in reach - {name}:
            nested = graph.determines(_plates(groups[other]), plates)
            if name in joint:
                # Given a joint block, what crosses it is independent; what is nested in it is
                # integrated out too, unless its coupling to all the elements would be too large.
                coupling = _dimension(graph, groups[name], sizes) * _dimension(
                    graph, groups[other], sizes
                )
                (crossed if nested and coupling > _COUPLING_LIMIT else hidden).add(other)
            else:
                (hidden if nested else crossed).add(other)
    if not through:
        return None
    finest_first = sorted(hidden, key=order.index, reverse=True)
    return Evidence(
        hidden=tuple(finest_first),
        crossed=tuple(sorted(crossed, key=order.index)),
        factors=tuple(
            Factor(observed, names, _levels(graph, groups, observed, names, finest_first, plates))
            for observed, names in through.items()
        ),
        newton_steps=1
        if all(graph.probe[observed].quadratic for observed in through)
        else family.newton_steps,
    )


def _levels(
    graph: PlateGraph,
    groups: dict[str, tuple[Latent, ...]],
    observed: str,
    through: tuple[str, ...],
    finest_first: list[str],
    plates: tuple[str, ...],
) -> tuple[tuple[str, ...], ...]:
    """Plates on the way from an observed variable's rows, past the hidden blocks, to the target."""
    levels = [graph.variables[observed].plates]
    for between in (_plates(groups[name]) for name in finest_first if name in through):
        on_the_way = graph.determines(levels[-1], between) and graph.determines(between, plates)
        if between != levels[-1] and on_the_way:
            levels.append(between)
    return tuple(levels) if levels[-1] == plates else (*levels, plates)


def _one_option(family: Family, latents: tuple[Latent, ...], option: str) -> str:
    values = {family.of(latent.name, option) for latent in latents}
    overridden = {
        str(family.overrides[latent.name][option])
        for latent in latents
        if option in family.overrides.get(latent.name, {})
    }
    if len(overridden) > 1:
        raise FamilyError(
            f"The latents {[latent.name for latent in latents]} lie in one block but ask for "
            f"different {option}s {sorted(overridden)}; give all of them the same one or use "
            "Family(structure='prior')."
        )
    return overridden.pop() if overridden else str(values.pop())


def _block(
    graph: PlateGraph,
    family: Family,
    groups: dict[str, tuple[Latent, ...]],
    joint: frozenset[str],
    name: str,
    latents: tuple[Latent, ...],
    sizes: Mapping[str, int],
    batch: Mapping[str, int],
    earlier: list[BlockPlan],
) -> BlockPlan:
    plates, slots = _plates(latents), _slots(graph, latents)
    size = slots[-1].stop
    copies = prod(sizes[plate] for plate in plates)
    is_joint = name in joint
    dimension = size * copies if is_joint else size
    mean_field = family.structure == "mean_field"
    encoding = _one_option(family, latents, "encoding")
    encoder = _one_option(family, latents, "encoder")
    evidence = None if mean_field else _evidence(graph, family, groups, joint, name, sizes, encoder)
    partial = evidence is not None and bool(evidence_beyond(graph, plates, evidence) & set(batch))
    if encoding == "auto":
        usable = plates and evidence and not partial
        few = copies <= family.residual_limit and not is_joint
        encoding = ("encoder+free" if few else "encoder") if usable else "free"
    if encoding != "free" and evidence is None:
        encoding = "free"
    if encoding == "free":
        evidence = None
    context = () if mean_field else _context(graph, family, plates, is_joint, latents, earlier)
    context_size = sum(slot.size for slot in context)
    natural = encoding != "free" and encoder == "natural"
    single = is_joint or not plates
    flow = _flow(
        family,
        _one_option(family, latents, "flow"),
        dimension,
        single,
        natural,
        context_size,
        mean_field,
    )
    parameters = {f"flow/{key}": spec for key, spec in flow.parameter_specs().items()}
    if encoding != "free" and encoder == "deep_set" and evidence:
        parameters |= deep_set_parameters(graph, family, evidence, size, context_size)
    return BlockPlan(
        name=name,
        plates=plates,
        slots=slots,
        copies=copies,
        joint=is_joint,
        whitened=not mean_field,
        encoding=encoding,
        encoder=encoder if encoding != "free" else None,
        evidence=evidence,
        partial=evidence is not None and partial,
        context=context,
        flow=flow,
        parameters=tuple(parameters.items()),
        table_width=_table_width(encoding, single, mean_field, dimension, context_size),
    )


def _context(
    graph: PlateGraph,
    family: Family,
    plates: tuple[str, ...],
    is_joint: bool,
    latents: tuple[Latent, ...],
    earlier: list[BlockPlan],
) -> tuple[ContextSlot, ...]:
    """Earlier blocks whose element is determined by this block's element."""
    parents = {parent for latent in latents for parent in latent.parents}
    slots: list[ContextSlot] = []
    for block in earlier:
        if family.structure == "prior" and not parents & {slot.name for slot in block.slots}:
            continue
        if block.dimension > _CONTEXT_LIMIT or (is_joint and block.axes):
            continue
        if block.axes and not graph.determines(plates, block.axes):
            continue
        recipe = graph.alignment(block.axes, plates) if block.axes else ()
        slots.append(ContextSlot(block.name, recipe, block.dimension))
    return tuple(slots)


def _flow(
    family: Family,
    flow: str,
    dimension: int,
    single: bool,
    natural: bool,
    context_size: int,
    mean_field: bool,
) -> Bijector:
    """Base noise -> autoregressive layers -> affine, in that order."""
    if mean_field:
        return ConditionalAffine(dimension, rank="diagonal")
    if flow == "auto":
        flow = "spline" if single and dimension <= _FLOW_LIMIT else "none"
    # A natural encoding already says where and how wide; the affine sees it and corrects it.
    seen = context_size + (2 * dimension if natural and not single else 0)
    limit = _FULL_RANK_GLOBAL_LIMIT if single else _FULL_RANK_LIMIT
    affine = ConditionalAffine(
        dimension,
        context_size=seen,
        hidden=0 if single or not seen else family.hidden,
        rank="full" if dimension <= limit else "diagonal",
        initial_log_scale=0.0 if natural or not single else _INITIAL_LOG_SCALE,
    )
    if flow == "none":
        return affine
    layers: list[Bijector] = [
        MaskedAutoregressive(
            dimension,
            context_size=seen,
            hidden=(family.hidden,),
            transformer="spline" if flow == "spline" else "affine",
            reverse=layer % 2 == 1,
        )
        for layer in range(family.layers)
    ]
    return Chain((*layers, affine))


def _table_width(
    encoding: str, single: bool, mean_field: bool, dimension: int, context_size: int
) -> int:
    """Columns of the free table: a potential and its slope in the context, or a residual.

    A block of one copy has none: the flow's own weights are its free row.
    """
    if single:
        return 0
    if encoding == "free" and not mean_field:
        return table_width(dimension, context_size)
    return 0 if encoding == "encoder" else 2 * dimension
