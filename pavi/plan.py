"""The lowered plan: what a backend adapter needs to run a guide, as frozen, printable data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

from pavi.bijectors import (
    DENSE_LIMIT,
    Bijector,
    Chain,
    ConditionalAffine,
    Identity,
    ParameterSpec,
)
from pavi.dist.supports import Real
from pavi.family import Family
from pavi.graph import PlateGraph

Recipe = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Slot:
    """One latent's place in its block's unconstrained vector."""

    name: str
    event: tuple[int, ...]
    unconstrained_event: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Unconstrained dimensions of one copy."""
        return prod(self.unconstrained_event)

    @property
    def stop(self) -> int:
        """End of the slot, exclusive."""
        return self.start + self.size


@dataclass(frozen=True)
class ContextSlot:
    """An earlier block whose base coordinates condition this one."""

    block: str
    recipe: Recipe
    size: int


@dataclass(frozen=True)
class Factor:
    """An observed variable that informs a block.

    Args:
        observed: its name.
        through: the blocks it depends on, among the target, the hidden and the crossed ones.
        levels: plates to pool over on the way from its rows up to the target.
    """

    observed: str
    through: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Evidence:
    """How the data's pull on a block is gathered (method.md, 4.3 and 4.4).

    Args:
        hidden: later blocks nested in the target, integrated out under their prior, finest first.
        crossed: later blocks that cross the target; they enter by their prior, which widens.
        factors: the observed variables below the target.
        newton_steps: number of linearisations.
        straight: whether the predictors are linear in the whitened coordinates of these blocks, so
            that their slopes are the same everywhere.
        exact: whether prior times potential is the exact law of the block given the earlier ones.
        canonical: whether its potential is the best one, up to the Newton steps left out.
    """

    hidden: tuple[str, ...]
    crossed: tuple[str, ...]
    factors: tuple[Factor, ...]
    newton_steps: int
    straight: bool
    exact: bool
    canonical: bool


def evidence_beyond(
    graph: PlateGraph, plates: tuple[str, ...], evidence: Evidence
) -> frozenset[str]:
    """Plates that the evidence of an element of `plates` is spread over.

    A batch that subsamples one of them holds a part of the evidence only.
    """
    below = (graph.reach(graph.variables[f.observed].plates) for f in evidence.factors)
    return frozenset().union(*below) - graph.reach(plates)


@dataclass(frozen=True)
class BlockPlan:
    """Latents with the same plates, their joint conditional density and its parameters.

    Args:
        name: the plates' names joined by `","`, or `"globals"`, or the variable's name.
        plates: the plates of its latents.
        slots: its latents, in the graph's order.
        copies: number of ground copies, `prod(sizes of the plates)`.
        joint: whether all copies together have one joint density (a small plate that crosses
            another one); its vector is then `copies * size` long, and has no plate axes.
        whitened: whether the prior's location and scale, given the parents drawn, whiten it.
        encoding: `"free"`, `"encoder"` or `"encoder+free"`.
        encoder: `"natural"` or `"deep_set"`, None for a free encoding.
        evidence: how data reach the encoder, None without one.
        partial: whether a batch may hold a part only of the data below an element.
        context: earlier blocks that condition it.
        flow: bijectors from the base noise to the potential's coordinates, first applied first.
        parameters: the shared weights.
        table_width: columns of the free table, 0 without one.
    """

    name: str
    plates: tuple[str, ...]
    slots: tuple[Slot, ...]
    copies: int
    joint: bool
    whitened: bool
    encoding: str
    encoder: str | None
    evidence: Evidence | None
    partial: bool
    context: tuple[ContextSlot, ...]
    flow: Bijector
    parameters: tuple[tuple[str, ParameterSpec], ...]
    table_width: int

    @property
    def size(self) -> int:
        """Unconstrained dimensions of one copy."""
        return self.slots[-1].stop

    @property
    def dimension(self) -> int:
        """Length of the vector that one draw of the density has."""
        return self.size * self.copies if self.joint else self.size

    @property
    def axes(self) -> tuple[str, ...]:
        """Plates that are axes of the block's vector: none for a joint block."""
        return () if self.joint else self.plates

    @property
    def context_size(self) -> int:
        """Length of the context vector."""
        return sum(slot.size for slot in self.context)

    @property
    def reference(self) -> bool:
        """Whether its potential is held relative to the prior at the guide's centre."""
        return self.encoder == "deep_set" or (self.free_potential and not self.site)

    @property
    def free_potential(self) -> bool:
        """Whether its free rows are potentials; else a row moves and scales its copy."""
        own = self.table_width > 0 or "potential" in dict(self.parameters)
        return own and self.encoder is None and self.whitened

    @property
    def site(self) -> bool:
        """Whether its potentials are the natural parameters of sites, see `encoders`."""
        single = self.joint or not self.plates
        return self.free_potential and not single and isinstance(self.flow, Identity)

    @property
    def nearest(self) -> bool:
        """Whether it is the Gaussian nearest to its law given the blocks above, not learned."""
        found = self.encoder == "natural" and isinstance(self.flow, Identity)
        return found and self.evidence is not None and not self.evidence.exact

    @property
    def elementwise(self) -> bool:
        """Whether each coordinate of the vector depends on its own base noise alone."""
        diagonal = self.site or (
            isinstance(self.flow, ConditionalAffine) and self.flow.rank == "diagonal"
        )
        dense = self.encoder is not None or self.free_potential
        return diagonal and (self.dimension == 1 or self.long or not dense)

    @property
    def long(self) -> bool:
        """Whether the vector of one copy is too long for a precision matrix."""
        return self.size > DENSE_LIMIT

    @property
    def num_latents(self) -> int:
        """Ground latent scalars, on the unconstrained scale."""
        return self.size * self.copies

    @property
    def num_weights(self) -> int:
        """Trained numbers: shared weights and the rows of the free table."""
        shared = sum(prod(spec.shape) for _, spec in self.parameters if spec.trainable)
        return shared + self.table_width * (1 if self.joint else self.copies)


@dataclass(frozen=True)
class GuidePlan:
    """A plate graph and a family, lowered for plates of known sizes.

    `batch` holds the reduced cardinalities, `standards` the mean and standard deviation of the
    data, by which a deep set's inputs are standardised. Printing it shows the blocks, what
    conditions them, how data reach them, and their weights.
    """

    graph: PlateGraph
    family: Family
    sizes: Mapping[str, int] = field(hash=False)
    batch: Mapping[str, int] = field(hash=False)
    standards: Mapping[str, tuple[float, float]] = field(hash=False)
    blocks: tuple[BlockPlan, ...]

    def block(self, name: str) -> BlockPlan:
        """The block of that name."""
        return next(block for block in self.blocks if block.name == name)

    def block_of(self, variable: str) -> BlockPlan:
        """The block that a latent lies in."""
        return next(b for b in self.blocks if any(s.name == variable for s in b.slots))

    @property
    def as_compiled(self) -> GuidePlan:
        """The plan as far as compiled programs know it: the same for all data of these sizes.

        The standards of a deep set's inputs are part of its program.
        """
        deep = any(block.encoder == "deep_set" for block in self.blocks)
        return self if deep else replace(self, standards={})

    @property
    def num_latents(self) -> int:
        """Ground latent scalars, on the unconstrained scale."""
        return sum(block.num_latents for block in self.blocks)

    @property
    def num_weights(self) -> int:
        """Trained numbers of the whole guide."""
        return sum(block.num_weights for block in self.blocks)

    def gaussian(self, block: BlockPlan) -> bool:
        """Whether the latents of a block are Gaussian given the earlier blocks, and apart."""
        own = {slot.name for slot in block.slots}
        straight = all(
            isinstance(self.graph.probe[name].support, Real)
            and not own & set(self.graph.variables[name].parents)
            for name in own
        )
        affine = isinstance(block.flow, ConditionalAffine | Identity) and not block.joint
        return straight and affine and (block.elementwise or block.dimension <= DENSE_LIMIT)

    def share(self, block: BlockPlan) -> float:
        """The part of the data below a copy that a batch which holds the copy has of it."""
        shares = [1.0]
        for observed in self.graph.observed:
            if not self.graph.determines(observed.plates, block.plates):
                continue
            share = 1.0
            for plate in self.graph.reach(observed.plates) - self.graph.reach(block.plates):
                if plate in self.batch:
                    within = [p for p in self.graph.owners(plate) if p in self.batch]
                    owners = prod(self.sizes[p] for p in within)
                    share *= min(1.0, self.batch[plate] * owners / self.sizes[plate])
            shares.append(share)
        return min(shares)

    @property
    def paired(self) -> bool:
        """Whether draws come in pairs of opposite noise.

        The noise of a batch's gradient would drown what one draw tells of a curvature; between the
        two of a pair it cancels.
        """
        return any(block.site for block in self.blocks)

    @cached_property
    def refining(self) -> frozenset[str]:
        """Weights `"block/..."` and tables `"block"` that refine a shape found before.

        Those of autoregressive layers, and all that corrects a natural encoding.
        """
        names: set[str] = set()
        for block in self.blocks:
            natural = block.encoder == "natural"
            # Where a potential of its own could place and narrow a block, nothing else is to.
            placed = natural or (block.joint and block.free_potential)
            names |= {
                f"{block.name}/{n}"
                for n, s in block.parameters
                if s.refines or (placed and n != "potential")
            }
            if natural:
                names.add(block.name)
        return frozenset(names)

    def __str__(self) -> str:
        sizes = ", ".join(f"{plate}={size:,}" for plate, size in self.sizes.items())
        lines = [
            f"GuidePlan: {self.num_latents:,} latents, {self.num_weights:,} weights"
            + (f"; plates {sizes}" if sizes else "")
        ]
        for block in self.blocks:
            lines += [f"  {line}" for line in describe_block(self, block)]
        lines.append("  likelihood")
        for variable in self.graph.observed:
            lines.append(f"    {variable.name}: scale {_scale(self, variable.plates)}")
            for parent in variable.parents:
                lines.append(f"      {_gather(self, parent, variable.plates)}")
        return "\n".join(lines)


def describe_block(plan: GuidePlan, block: BlockPlan) -> list[str]:
    """Lines that show one block: latents, alignments, context, encoding, flow and weights."""
    kind = "joint over all copies" if block.joint else "one density, shared by the copies"
    plates = ", ".join(block.plates) or "no plates"
    size = f"{block.copies:,} x {block.size} latents"
    lines = [f"block {block.name} [{plates}]: {size}, {kind}, {block.num_weights:,} weights"]
    for slot in block.slots:
        variable = plan.graph.variables[slot.name]
        support = type(plan.graph.probe[slot.name].support).__name__
        lines.append(
            f"  {slot.name}{list(slot.event) or ''} on {support}, scale "
            f"{_scale(plan, variable.plates)}"
        )
        lines += [f"    {_gather(plan, parent, variable.plates)}" for parent in variable.parents]
    if block.context:
        given = ", ".join(f"{c.block}{_via(c.recipe)}" for c in block.context)
        lines.append(f"  given {given}")
    how = block.encoding + (f" ({block.encoder})" if block.encoder else "")
    rows = "sites" if block.site else "table"
    table = f", {rows} of {block.table_width} columns" if block.table_width else ""
    lines.append(f"  encoding {how}{table}")
    if block.evidence is not None:
        for factor in block.evidence.factors:
            others = [name for name in factor.through if name != block.name]
            inside = f" through {', '.join(others)}" if others else ""
            lines.append(f"    evidence of {factor.observed}{inside}")
    if block.encoder == "natural" and isinstance(block.flow, Identity):
        how = "the Gaussian nearest to its law" if block.nearest else "exact"
        lines.append(f"  {how} given the latents above")
    else:
        lines.append(f"  flow {_flow(block.flow)}")
    return lines


def _flow(flow: Bijector) -> str:
    members = flow.bijectors if isinstance(flow, Chain) else (flow,)
    return " -> ".join(
        f"{member.label}({member.size}"
        + (f", context {member.context_size})" if member.context_size else ")")
        for member in members
    )


def _via(recipe: Recipe) -> str:
    moved = [f"{owner} by membership of {child}" for owner, child in recipe if owner != child]
    return f" ({', '.join(moved)})" if moved else ""


def _gather(plan: GuidePlan, parent: str, plates: tuple[str, ...]) -> str:
    recipe = plan.graph.alignment(plan.graph.variables[parent].plates, plates)
    return f"<- {parent}{_via(recipe)}"


def _scale(plan: GuidePlan, plates: tuple[str, ...]) -> str:
    """The factor N / N^r of the reduced objective, in words (paper, eq. 8)."""
    factors = []
    for plate in plates:
        for name in (plate, *plan.graph.owners(plate)):
            if name not in plan.batch:
                continue
            within = [owner for owner in plan.graph.owners(name) if owner in plan.batch]
            # A plate within a plate that is drawn has so many rows drawn of each owner.
            size, of = ("n", f" of each {within[0]}") if within else (f"{plan.sizes[name]}", "")
            factors.append(f"{size}/{plan.batch[name]} ({name}{of})")
    return " x ".join(factors) or "1"
