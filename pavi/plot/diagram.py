"""The plate diagram of a model, with what its guide conditions on, in Graphviz's language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pavi.errors import BackendError
from pavi.graph import PlateGraph, Variable
from pavi.plan import BlockPlan, GuidePlan
from pavi.plot.canvas import BLUE, imported

if TYPE_CHECKING:
    from typing import Any

    from pavi.posterior import Posterior

_PICTURES = (".svg", ".png", ".pdf")
_NODES = {
    "latent": "",
    "observed": " [style=filled, fillcolor=lightgrey]",
    "covariate": " [shape=plaintext]",
}
_LEGEND = "grey: observed; solid: the model; blue: the guide's blocks, and what conditions them"


def plates(model: PlateGraph | GuidePlan | Posterior) -> Any:
    """The plate diagram, as a `graphviz.Source`: its `.source` is the text in Graphviz's language.

    Boxes are plates. Where two of them cross, boxes cannot: what lies in both stands in a box of
    its own that names both. Grey nodes are observed, solid arrows are the model's. Of a plan, or of
    a posterior, the guide's dependencies are drawn too, blue and dashed: from what conditions a
    block of latents to the block. A block of several latents, which has one joint density, is a
    dashed box.

    A notebook shows the diagram, and `.render("model", format="svg")` writes it, where Graphviz's
    own program `dot` is installed.

    Args:
        model: a plate graph, a plan, or a posterior.

    Raises:
        BackendError: the package `graphviz` is not installed.
    """
    return imported("graphviz").Source(to_dot(model), filename="plates.dot")


def drawn(model: PlateGraph | GuidePlan | Posterior, suffix: str) -> bytes:
    """The diagram as the contents of a file with this suffix.

    Args:
        model: a plate graph, a plan, or a posterior.
        suffix: `".svg"`, `".png"` or `".pdf"`; of any other one the text.

    Raises:
        BackendError: a picture is wanted, but Graphviz or its package is not installed.
    """
    if suffix not in _PICTURES:
        return to_dot(model).encode()
    try:
        return bytes(plates(model).pipe(format=suffix[1:]))
    except imported("graphviz").ExecutableNotFound as error:
        raise BackendError(
            f"The diagram cannot be drawn as {suffix[1:]}: Graphviz's program dot is not on the "
            f"PATH. Install it (apt install graphviz, brew install graphviz, conda install "
            f"graphviz), or write its text to a file that ends in .dot and draw it elsewhere."
        ) from error


def to_dot(model: PlateGraph | GuidePlan | Posterior) -> str:
    """The text of `plates`, for which no package is needed."""
    if isinstance(model, PlateGraph):
        return _Diagram(model, None).text()
    plan = model if isinstance(model, GuidePlan) else model.plan
    return _Diagram(plan.graph, plan).text()


class _Diagram:
    """Boxes of variables, one in another, and the arrows between the variables.

    A box is known by the plates of which each of its elements has one.
    """

    def __init__(self, graph: PlateGraph, plan: GuidePlan | None) -> None:
        self._graph, self._plan = graph, plan
        self._variables: dict[frozenset[str], list[Variable]] = {frozenset(): []}
        self._labels: dict[frozenset[str], str] = {}
        for variable in graph.variables.values():
            # Owners have boxes around it, though nothing else lies in them.
            owners = (o for plate in variable.plates for o in reversed(graph.owners(plate)))
            for plates in (*((owner,) for owner in owners), variable.plates):
                box = graph.reach(plates)
                self._variables.setdefault(box, [])
                self._labels.setdefault(box, self._label(plates))
            self._variables[graph.reach(variable.plates)].append(variable)
        self._around = {box: _enclosing(box, self._variables) for box in self._variables}

    def text(self) -> str:
        """The diagram."""
        lines = ["digraph model {", "  rankdir=TB; compound=true; fontsize=10;"]
        lines.append("  node [shape=ellipse, fontsize=12];")
        if self._plan is not None:
            lines.append(f"  label={_quote(_LEGEND)}; labelloc=b;")
        lines += self._box(frozenset(), 1)
        lines += [
            f"  {_quote(parent)} -> {_quote(variable.name)};"
            for variable in self._graph.variables.values()
            for parent in variable.parents
        ]
        if self._plan is not None:
            lines += [line for block in self._plan.blocks for line in self._conditions(block)]
        return "\n".join([*lines, "}"]) + "\n"

    def _label(self, plates: Sequence[str]) -> str:
        """`home (919)`, or `subject x vertex (20 x 500)` where plates cross."""
        crossed = [self._graph.plates[plate].within for plate in plates]
        within = "".join(f" within {' and '.join(w)}" for w in crossed if len(w) > 1)
        sizes = {} if self._plan is None else self._plan.sizes
        count = " x ".join(f"{sizes[p]:,}" for p in plates if p in sizes)
        return " x ".join(plates) + within + (f" ({count})" if count else "")

    def _box(self, box: frozenset[str], depth: int) -> list[str]:
        """Lines of a box, of the blocks and variables in it and of the boxes in it."""
        pad, inner = "  " * depth, "  " * (depth + bool(box))
        lines = []
        if box:
            name = _quote(f"cluster_{' '.join(sorted(box))}")
            lines.append(f"{pad}subgraph {name} {{")
            lines.append(f"{inner}label={_quote(self._labels[box])}; labeljust=r; labelloc=b;")
        blocks = () if self._plan is None else self._plan.blocks
        joint = [b for b in blocks if len(b.slots) > 1 and self._graph.reach(b.plates) == box]
        for block in joint:
            lines.append(f"{inner}subgraph {_cluster(block)} {{")
            lines.append(f'{inner}  label=""; style="dashed,rounded"; color="{BLUE}";')
            lines += [f"{inner}  {_quote(slot.name)};" for slot in block.slots]
            lines.append(f"{inner}}}")
        grouped = {slot.name for block in joint for slot in block.slots}
        lines += [
            f"{inner}{_quote(variable.name)}{_NODES[variable.kind]};"
            for variable in self._variables[box]
            if variable.name not in grouped
        ]
        for other, around in self._around.items():
            if other and around == box:
                lines += self._box(other, depth + bool(box))
        return [*lines, f"{pad}}}"] if box else lines

    def _conditions(self, block: BlockPlan) -> list[str]:
        """Arrows to a block: from the earlier blocks and from the data that its encoding sees."""
        plan = self._plan
        sources = [] if plan is None else [plan.block(slot.block) for slot in block.context]
        factors = () if block.evidence is None else block.evidence.factors
        style = f'style=dashed, color="{BLUE}", constraint=false'
        head = f"{style}, lhead={_cluster(block)}" if len(block.slots) > 1 else style
        target = _quote(block.slots[0].name)
        lines = []
        for source in sources:
            tail = f", ltail={_cluster(source)}" if len(source.slots) > 1 else ""
            lines.append(f"  {_quote(source.slots[-1].name)} -> {target} [{head}{tail}];")
        observed = dict.fromkeys(factor.observed for factor in factors)
        return [*lines, *(f"  {_quote(name)} -> {target} [{head}];" for name in observed)]


def _enclosing(box: frozenset[str], boxes: Mapping[frozenset[str], object]) -> frozenset[str]:
    """The largest box that strictly holds this one, or none where two of them cross."""
    around = [other for other in boxes if other < box]
    largest = max(around, key=len, default=frozenset())
    return largest if all(other <= largest for other in around) else frozenset()


def _cluster(block: BlockPlan) -> str:
    return _quote(f"cluster_block {block.name}")


def _quote(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
