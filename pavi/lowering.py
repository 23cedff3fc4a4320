"""Lowering a plate graph and a family to a guide plan: pure Python, no arrays of data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Literal

from pavi.bijectors import (
    DENSE_LIMIT,
    Bijector,
    Chain,
    ConditionalAffine,
    Identity,
    Inverse,
    MaskedAutoregressive,
    ParameterSpec,
    SplineCoupling,
)
from pavi.encoders import deep_set_parameters, table_width
from pavi.errors import FamilyError
from pavi.evidence import Found, Groups, find_evidence, joint_groups, slots
from pavi.family import Family
from pavi.graph import Latent, PlateGraph
from pavi.plan import BlockPlan, ContextSlot, Evidence, GuidePlan, evidence_beyond
from pavi.plates import GLOBALS

_FLOW_LIMIT = 10
# Globals start well inside their prior: draws of a wide prior make gradients of no use.
_INITIAL_LOG_SCALE = -2.3
_CONTEXT_LIMIT = 24
_FULL_RANK_LIMIT = 8
# Of the Gaussian nearest to a law the ELBO's slope is taken to be 0: each step doubles the digits
# that this is right to. With 3 the scales of 21 effects a group, of 10 binary rows each, were 5 %
# off; with 5 the divergence from the nearest is 1e-5 nats at twice the scale.
_NEAREST_STEPS = 5
_FULL_RANK_GLOBAL_LIMIT = 256


def lower(
    graph: PlateGraph,
    family: Family,
    sizes: Mapping[str, int],
    batch: Mapping[str, int] | None = None,
    standards: Mapping[str, tuple[float, float]] | None = None,
    *,
    like: GuidePlan | None = None,
) -> GuidePlan:
    """Lowers `graph` and `family` for plates of the given sizes.

    Args:
        graph: the model's template.
        family: the variational family.
        sizes: cardinality of every plate.
        batch: reduced cardinality of the plates that training subsamples.
        standards: mean and standard deviation of each data array (0 and 1 where absent).
        like: a plan of the same graph and family, whose order of the blocks, joint blocks and
            encodings are kept: they depend on sizes otherwise.

    Returns:
        The plan, whose blocks go from coarse to fine.

    Raises:
        FamilyError: no family, an override of an unknown variable, options that the graph cannot
            have.
    """
    if not isinstance(family, Family):
        raise FamilyError(
            f"family={family!r} is a {type(family).__name__}, wanted a pavi.Family. Write "
            f"family=pavi.Family(...), with the options in the brackets."
        )
    batch = dict(batch or {})
    if not graph.latents:
        raise FamilyError(
            f"The graph has no latents, so there is nothing to infer; its variables are "
            f"{list(graph.variables)}. Add a pavi.Latent."
        )
    for name in family.overrides:
        if name not in graph.variables or graph.variables[name].kind != "latent":
            raise FamilyError(f"Family(overrides=...): {name!r} is not a latent of this graph.")
    latents = _grouped(graph, family)
    if like is None:
        groups = Groups(graph, _ordered(Groups(graph, latents, sizes)), sizes)
        joint = joint_groups(groups, family, batch)
    else:
        groups = Groups(graph, {b.name: latents[b.name] for b in like.blocks}, sizes)
        joint = frozenset(b.name for b in like.blocks if b.joint)
    groups = replace(groups, joint=joint)
    blocks: list[BlockPlan] = []
    for name in groups.order:
        blocks.append(_block(groups, family, name, batch, blocks, like))
    return GuidePlan(graph, family, dict(sizes), batch, dict(standards or {}), tuple(blocks))


def _grouped(graph: PlateGraph, family: Family) -> dict[str, tuple[Latent, ...]]:
    """Latents of the same plates form one block (method.md, 4.2), if asked for the same options."""
    groups: dict[str, tuple[Latent, ...]] = {}
    names: dict[tuple[object, ...], str] = {}
    for latent in graph.latents:
        plates = ",".join(latent.plates) or GLOBALS
        options = tuple(family.of(latent.name, o) for o in ("encoding", "encoder", "flow"))
        taken = family.structure != "block" or plates in groups
        name = names.setdefault((plates, options), latent.name if taken else plates)
        if family.structure != "block":
            name = latent.name
        groups[name] = (*groups.get(name, ()), latent)
    return groups


def _ordered(groups: Groups) -> dict[str, tuple[Latent, ...]]:
    """Parents before children, owners before members; among the rest the smaller one first."""
    graph, home = groups.graph, groups.home

    def waits_for(name: str, other: str) -> bool:
        parents = {home[p] for latent in groups.latents[name] for p in latent.parents if p in home}
        mine, theirs = groups.plates(name), groups.plates(other)
        coarser = graph.determines(mine, theirs) and not graph.determines(theirs, mine)
        return other in parents or coarser

    ordered: dict[str, tuple[Latent, ...]] = {}
    while len(ordered) < len(groups.latents):
        left = [name for name in groups.latents if name not in ordered]
        ready = [n for n in left if not any(waits_for(n, o) for o in left if o != n)]
        if not ready:
            raise FamilyError(
                f"The latents of the blocks {left} depend on one another in both directions; "
                "use Family(structure='prior')."
            )
        # Long vectors go before what they cross: no natural encoding integrates them out.
        first = min(
            ready,
            key=lambda n: (bool(groups.plates(n)), not groups.long(n), groups.dimension(n)),
        )
        ordered[first] = groups.latents[first]
    return ordered


def _block(
    groups: Groups,
    family: Family,
    name: str,
    batch: Mapping[str, int],
    earlier: list[BlockPlan],
    like: GuidePlan | None,
) -> BlockPlan:
    graph, latents = groups.graph, groups.latents[name]
    plates, places = groups.plates(name), slots(graph, latents)
    size = places[-1].stop
    copies = prod(groups.sizes[plate] for plate in plates)
    is_joint = name in groups.joint
    dimension = size * copies if is_joint else size
    mean_field = family.structure == "mean_field"
    settled = like.block(name).encoding if like else None
    encoding, encoder, evidence = _encoding(groups, family, name, batch, settled)
    beyond = evidence_beyond(graph, plates, evidence) if evidence else frozenset()
    partial = bool(beyond & set(batch))
    natural = encoder == "natural"
    exact = evidence is not None and _leaves_nothing(evidence, size)
    exact = exact and natural and encoding == "encoder"
    if beyond & set(like.batch if like else batch):
        exact = False
    asked = family.of(latents[0].name, "flow")
    # Sites share nothing; what is exact already leaves nothing to be learned.
    single = is_joint or not plates
    sites = encoding == "free" and not single and not mean_field and groups.long(name)
    bare = asked == "auto" and (sites or exact)
    if bare and evidence and not evidence.exact:
        steps = max(evidence.newton_steps, _NEAREST_STEPS)
        evidence = replace(evidence, newton_steps=steps)
    # Slopes of a long vector in its context would be longer still.
    apart = mean_field or groups.long(name) or (bare and exact)
    context = () if apart else _context(graph, family, plates, is_joint, latents, earlier)
    context_size = sum(slot.size for slot in context)
    # A potential has the dependence on the prior's scale that no affine has. Its only copy's row is
    # a weight; an affine beside it would be free to undo it.
    placed = is_joint and encoding == "free" and dimension <= DENSE_LIMIT
    if bare:
        flow: Bijector = Identity(dimension)
    else:
        flow = _flow(
            family,
            asked,
            dimension,
            single,
            natural,
            context_size,
            mean_field,
            placed=placed,
        )
    parameters = {f"flow/{key}": spec for key, spec in flow.parameter_specs().items()}
    if placed:
        parameters["potential"] = ParameterSpec((table_width(dimension, context_size),))
    if encoder == "deep_set" and evidence:
        parameters |= deep_set_parameters(graph, family, evidence, size, context_size)
    return BlockPlan(
        name=name,
        plates=plates,
        slots=places,
        copies=copies,
        joint=is_joint,
        whitened=not mean_field,
        encoding=encoding,
        encoder=encoder,
        evidence=evidence,
        partial=partial,
        context=context,
        flow=flow,
        parameters=tuple(parameters.items()),
        table_width=_table_width(encoding, single, mean_field, dimension, context_size),
    )


def _encoding(
    groups: Groups, family: Family, name: str, batch: Mapping[str, int], settled: str | None
) -> tuple[str, str | None, Evidence | None]:
    """What tells a block's copies apart: its encoding, its encoder, and how data reach it.

    Raises:
        FamilyError: an encoding asked for by name that the block cannot have.
    """
    latents, plates = groups.latents[name], groups.plates(name)
    asked, encoder = (family.of(latents[0].name, option) for option in ("encoding", "encoder"))
    about = f"the latents {', '.join(repr(v.name) for v in latents)} on plates {plates}"
    if asked == "free" or family.structure == "mean_field":
        if asked in ("encoder", "encoder+free"):
            raise FamilyError(
                f"Family(encoding={asked!r}) for {about}: structure='mean_field' has no encoder. "
                "Use structure='block' or 'prior', or encoding='free'."
            )
        return "free", None, None
    found = find_evidence(groups, family, name, "natural")
    # The flow of a block of one copy has weights of its own to make up for what is not read.
    single = not plates or name in groups.joint
    gaps = found.evidence is None or (found.left_out and not single)
    if encoder == "auto":
        unread = found.evidence is None or (asked == "encoder" and gaps)
        encoder = "deep_set" if unread and asked != "auto" else "natural"
    elif encoder == "natural" and asked != "auto" and gaps:
        _check_natural(found, asked, about)
    if encoder == "deep_set":
        found = find_evidence(groups, family, name, encoder)
    evidence = found.evidence
    if settled is not None:
        evidence, asked = (None if settled == "free" else evidence), settled
    elif asked == "auto":
        beyond = evidence_beyond(groups.graph, plates, evidence) if evidence else frozenset()
        if not plates or beyond & set(batch):
            evidence = None
        copies = prod(groups.sizes[plate] for plate in plates)
        exact = evidence is not None and _leaves_nothing(evidence, groups.size(name))
        few = copies <= family.residual_limit and name not in groups.joint and not exact
        asked = "encoder+free" if few or (encoder == "natural" and gaps) else "encoder"
    # Where no data lie below, nothing could be encoded: the posterior is the prior, moved.
    return (asked, encoder, evidence) if evidence else ("free", None, None)


def _leaves_nothing(evidence: Evidence, size: int) -> bool:
    """Whether prior times potential leaves nothing to be learned for a copy of so many dimensions.

    The best Gaussian of a long vector is near to its law, and an affine map that would correct it
    has so many weights that batches make it tremble.
    """
    return evidence.exact or (evidence.canonical and size > _FULL_RANK_LIMIT)


def _check_natural(found: Found, asked: str, about: str) -> None:
    """Raises where the natural encoder was asked for by name and would leave out data."""
    if not found.left_out or (found.evidence and asked == "encoder+free"):
        return
    unread = ", ".join(map(repr, found.left_out))
    raise FamilyError(
        f"Family(encoding={asked!r}, encoder='natural') for {about}: the natural encoder cannot "
        f"read all that the likelihood of {unread} says about them. Use encoder='deep_set'"
        + (", or encoding='encoder+free'." if found.evidence else ".")
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
    flow: str | tuple[str, ...],
    dimension: int,
    single: bool,
    natural: bool,
    context_size: int,
    mean_field: bool,
    *,
    placed: bool,
) -> Bijector:
    """Base noise -> layers -> affine unless a potential is all, in that order."""
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
    last = Identity(dimension, seen) if placed else affine
    if flow == "none":
        return last
    names = (flow if isinstance(flow, tuple) else (flow,)) * family.layers
    layers = [
        _layer(name, dimension, seen, family.hidden, reverse=place % 2 == 1)
        for place, name in enumerate(names)
    ]
    return Chain((*layers, last))


def _layer(name: str, size: int, context_size: int, hidden: int, *, reverse: bool) -> Bijector:
    """The layer of one of the names of `Family(flow=[...])`."""
    if name == "coupling":
        return SplineCoupling(size, context_size, (hidden,), reverse=reverse)
    transformer: Literal["spline", "affine"] = "spline" if name == "spline" else "affine"
    layer = MaskedAutoregressive(size, context_size, (hidden,), transformer, reverse=reverse)
    return Inverse(layer) if name == "iaf" else layer


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
