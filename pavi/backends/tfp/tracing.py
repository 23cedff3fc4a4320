"""Operations of a TensorFlow graph as symbolic arrays; see `axes`.

`Tracer.symbol` follows a tensor back to the values of the parts. What depends on none of them is
computed, and is a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from pavi.backends.tfp import axes, indexing
from pavi.backends.tfp.axes import Symbol
from pavi.backends.tfp.operations import (
    ALONG,
    ELEMENTWISE,
    OF_FLOATS,
    OF_THE_SHAPE,
    PRODUCTS,
    REDUCTIONS,
    STATES,
    UNCHANGED,
)
from pavi.errors import GraphError


class Tracer:
    """Tensors of one graph as symbols.

    Args:
        graph: the graph.
        inputs: the placeholder of each part's value, by its name in the graph.
        captured: values of the tensors from outside of the graph, by the name of the placeholder.
    """

    def __init__(
        self, graph: Any, inputs: Mapping[str, Symbol], captured: Mapping[str, np.ndarray]
    ) -> None:
        self._graph, self._inputs = graph, inputs
        self._feeds = dict(captured)
        self._symbols: dict[str, Symbol] = {}
        self._constant: dict[str, bool] = {}
        self._session = tf.compat.v1.Session(graph=graph)
        self.part = ""

    def symbol(self, tensor: Any) -> Symbol:
        """The tensor as a symbol.

        Raises:
            GraphError: an operation that has no meaning for plates, or is not known here.
        """
        if not tf.is_tensor(tensor) or hasattr(tensor, "numpy"):
            return axes.known(tensor.numpy() if tf.is_tensor(tensor) else tensor)
        if tensor.name not in self._symbols:
            if tensor.name in self._inputs:
                found = self._inputs[tensor.name]
                if tensor.dtype == tf.bool:
                    # data are numbers
                    found = axes.elementwise("greater", found, axes.known(0.5), where=self.part)
            elif self._is_constant(tensor):
                found = axes.known(self._value(tensor))
            else:
                found = self._translated(tensor)
            self._symbols[tensor.name] = found
        return self._symbols[tensor.name]

    def close(self) -> None:
        """Frees the session that constants are computed in."""
        self._session.close()

    def _where(self, op: Any) -> str:
        return f"Part {self.part!r}, operation {op.type} ({op.name.rpartition('/')[2]})"

    def _is_constant(self, tensor: Any) -> bool:
        """Whether no value of a part is needed to compute it."""
        waiting = [tensor]
        while waiting:
            last = waiting[-1]
            name, op = last.name, last.op
            if name in self._constant:
                waiting.pop()
            elif op.type in OF_THE_SHAPE and all(i.shape.is_fully_defined() for i in op.inputs):
                self._constant[name] = True
            elif not op.inputs:
                self._constant[name] = name not in self._inputs
            else:
                unknown = [i for i in op.inputs if i.name not in self._constant]
                waiting += unknown
                if not unknown:
                    self._constant[name] = all(self._constant[i.name] for i in op.inputs)
        return self._constant[tensor.name]

    def _value(self, tensor: Any) -> np.ndarray:
        """A constant's value; shapes do not depend on the values of the parts."""
        self._refuse_state(tensor.op)
        feeds = dict(self._feeds)
        for name, symbol in self._inputs.items():
            placeholder = self._graph.get_tensor_by_name(name)
            shape = [1 if a is None else a.size for a in symbol.axes]
            feeds[name] = np.ones(shape, placeholder.dtype.as_numpy_dtype)
        return np.asarray(self._session.run(tensor, feeds))

    def _refuse_state(self, op: Any) -> None:
        seen, waiting = set(), [op]
        while waiting:
            op = waiting.pop()
            if op.type in STATES or any(t.dtype == tf.resource for t in op.outputs):
                raise GraphError(
                    f"{self._where(op)}: the distribution reads a tf.Variable, whose value would "
                    f"be fixed at what it is now. Pass a constant, as in variable.numpy(), or make "
                    f"it a part of the model."
                )
            if op.type.startswith(("Random", "StatelessRandom")):
                raise GraphError(
                    f"{self._where(op)}: the distribution draws random numbers of its own. Make "
                    f"them a part of the model."
                )
            if op.name not in seen:
                seen.add(op.name)
                waiting += [] if op.type in OF_THE_SHAPE else [i.op for i in op.inputs]

    def _translated(self, tensor: Any) -> Symbol:
        op = tensor.op
        where = self._where(op)
        if op.type in UNCHANGED:
            return self.symbol(op.inputs[0])
        if op.type in OF_FLOATS and tensor.dtype.is_integer:
            raise self._unknown(op)
        if op.type in ELEMENTWISE:
            terms = [self.symbol(i) for i in op.inputs]
            if op.type in ("Equal", "NotEqual") and op.inputs[0].dtype == tf.bool:
                terms = [axes.elementwise("number", term, where=where) for term in terms]
            return axes.elementwise(ELEMENTWISE[op.type], *terms, where=where)
        if op.type in REDUCTIONS:
            x, dimensions = self.symbol(op.inputs[0]), self._constant_input(op, 1)
            keep = bool(op.get_attr("keep_dims"))
            listed = np.atleast_1d(dimensions).astype(int).tolist()
            return axes.reduce(REDUCTIONS[op.type], x, listed, keep, where)
        if op.type in ALONG:
            x = self.symbol(op.inputs[0])
            d = int(self._constant_input(op, 1)) % x.rank if len(op.inputs) > 1 else x.rank - 1
            if op.type == "Cumsum" and (op.get_attr("exclusive") or op.get_attr("reverse")):
                raise self._unknown(op)
            return axes.Along(x.axes, ALONG[op.type], x, d, where)
        if op.type in PRODUCTS:
            return self._product(op, where)
        if op.type == "Unpack":
            return self._unstacked(tensor, where)
        if op.type in ("Split", "SplitV"):
            return self._split(tensor, where)
        rule = _RULES.get(op.type)
        if rule is None:
            raise self._unknown(op)
        return rule(self, op, where)

    def _unknown(self, op: Any) -> GraphError:
        return GraphError(
            f"{self._where(op)}: an operation that pavi cannot read. Write the distribution's "
            f"parameters with arithmetic, elementary functions, tf.gather with a constant index, "
            f"and sums and products over axes that are no plates; or write the model as a "
            f"pavi.PlateGraph."
        )

    def _constant_input(self, op: Any, place: int) -> np.ndarray:
        tensor = op.inputs[place]
        if not self._is_constant(tensor):
            raise GraphError(
                f"{self._where(op)}: its input {place} (an axis, an index or a shape) depends on "
                f"values of the model. Make it a constant."
            )
        return self._value(tensor)

    def _product(self, op: Any, where: str) -> Symbol:
        a, b = (self.symbol(i) for i in op.inputs)
        flags = ("transpose_a", "transpose_b") if op.type == "MatMul" else ("adj_x", "adj_y")
        index = None if any(map(op.get_attr, flags)) else indexing.chosen(a)
        if index is not None:
            return indexing.gathered(b, b.rank - 2, index, where)
        left, right = ["i", "k"], ["k", "j"]
        left = left[::-1] if op.get_attr(flags[0]) else left
        right = right[::-1] if op.get_attr(flags[1]) else right
        batch = [str(n) for n in range(max(a.rank, b.rank) - 2)]
        labels = [[*batch[len(batch) - (s.rank - 2) :], *own] for s, own in ((a, left), (b, right))]
        return axes.contract([a, b], labels, [*batch, "i", "j"], where)

    def _einsum(self, op: Any, where: str) -> Symbol:
        equation = op.get_attr("equation").decode().replace(" ", "")
        found = axes.einsum(equation, [self.symbol(i) for i in op.inputs], where)
        if found is None:
            raise self._unknown(op)
        return found

    def _cast(self, op: Any, where: str) -> Symbol:
        x, given, wanted = self.symbol(op.inputs[0]), op.inputs[0].dtype, op.outputs[0].dtype
        if given == wanted:
            return x
        if given == tf.bool and (wanted.is_floating or wanted.is_integer):
            return axes.elementwise("number", x, where=where)
        if wanted == tf.bool and (given.is_floating or given.is_integer):
            return axes.elementwise("not_equal", x, axes.known(0.0), where=where)
        if given.is_integer and (wanted.is_floating or wanted in (tf.int32, tf.int64)):
            return x
        if given.is_floating and wanted.is_floating:
            return x
        raise GraphError(
            f"{where}: casts values of the model from {given.name} to {wanted.name}, which pavi "
            f"cannot read. Leave them as they are, or tell cases apart by tf.where."
        )

    def _select(self, op: Any, where: str) -> Symbol:
        condition, *terms = (self.symbol(i) for i in op.inputs)
        if condition.rank == 1:
            # of the first version: a vector chooses among rows
            condition = axes.move(condition, [0, *[None] * (terms[0].rank - 1)])
        return axes.elementwise("where", condition, *terms, where=where)

    def _squared_difference(self, op: Any, where: str) -> Symbol:
        a, b = (self.symbol(i) for i in op.inputs)
        return axes.elementwise(
            "square", axes.elementwise("subtract", a, b, where=where), where=where
        )

    def _rsqrt(self, op: Any, where: str) -> Symbol:
        root = axes.elementwise("sqrt", self.symbol(op.inputs[0]), where=where)
        return axes.elementwise("reciprocal", root, where=where)

    def _pow(self, op: Any, where: str) -> Symbol:
        base, exponent = (self.symbol(i) for i in op.inputs)
        special = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal"}
        if isinstance(exponent, axes.Known) and exponent.value.size == 1:
            name = special.get(float(exponent.value.item()))
            if name:
                return axes.elementwise(name, base, where=where)
        return axes.elementwise("power", base, exponent, where=where)

    def _band(self, op: Any, where: str) -> Symbol:
        x = self.symbol(op.inputs[0])
        ones = tf.ones(axes.sizes(x)[-2:])
        mask = tf.linalg.band_part(ones, *(int(self._constant_input(op, i)) for i in (1, 2)))
        return axes.elementwise("multiply", x, axes.known(mask.numpy()), where=where)

    def _diagonal(self, op: Any, where: str) -> Symbol:
        x = self.symbol(op.inputs[0])
        size = axes.sizes(x)[-1]
        if len(op.outputs[0].shape) != x.rank + 1 or op.outputs[0].shape[-2] != size:
            raise self._unknown(op)
        column = axes.move(x, [*range(x.rank), None])
        return axes.elementwise("multiply", column, axes.known(np.eye(size)), where=where)

    def _cholesky(self, op: Any, where: str) -> Symbol:
        return axes.elementwise("cholesky", self.symbol(op.inputs[0]), where=where)

    def _add_n(self, op: Any, where: str) -> Symbol:
        terms = [self.symbol(i) for i in op.inputs]
        total = terms[0]
        for term in terms[1:]:
            total = axes.elementwise("add", total, term, where=where)
        return total

    def _reshape(self, op: Any, where: str) -> Symbol:
        return axes.reshaped(self.symbol(op.inputs[0]), _static(op.outputs[0].shape, where), where)

    def _expand_dims(self, op: Any, where: str) -> Symbol:
        x = self.symbol(op.inputs[0])
        place = int(np.ravel(self._constant_input(op, 1))[0]) % (x.rank + 1)
        sources: list[int | None] = list(range(x.rank))
        return axes.move(x, [*sources[:place], None, *sources[place:]])

    def _transpose(self, op: Any, where: str) -> Symbol:
        return axes.move(self.symbol(op.inputs[0]), self._constant_input(op, 1).tolist())

    def _broadcast(self, op: Any, where: str) -> Symbol:
        x, shape = self.symbol(op.inputs[0]), _static(op.outputs[0].shape, where)
        pairs = zip(reversed(axes.sizes(x)), reversed(shape), strict=False)
        if any(given not in (1, wanted) for given, wanted in pairs):
            raise self._unknown(op)
        return axes.broadcast_to(x, shape)

    def _strided_slice(self, op: Any, where: str) -> Symbol:
        x = self.symbol(op.inputs[0])
        begin, end, step = (self._constant_input(op, i).tolist() for i in (1, 2, 3))
        masks = {
            name: int(op.get_attr(f"{name}_mask"))
            for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
        }
        entries: list[Any] = []
        for i in range(len(begin)):
            bit = 1 << i
            if masks["ellipsis"] & bit:
                entries.append(Ellipsis)
            elif masks["new_axis"] & bit:
                entries.append(None)
            elif masks["shrink_axis"] & bit:
                entries.append(int(begin[i]))
            else:
                first = None if masks["begin"] & bit else begin[i]
                last = None if masks["end"] & bit else end[i]
                entries.append(slice(first, last, step[i]))
        taken = sum(entry is not None and entry is not Ellipsis for entry in entries)
        place = entries.index(Ellipsis) if Ellipsis in entries else len(entries)
        filling = [slice(None)] * (x.rank - taken)
        return indexing.sliced(x, [*entries[:place], *filling, *entries[place + 1 :]], where)

    def _gather(self, op: Any, where: str) -> Symbol:
        x, index = self.symbol(op.inputs[0]), self._constant_input(op, 1)
        d = int(self._constant_input(op, 2)) % x.rank
        if not op.get_attr("batch_dims"):
            return indexing.gathered(x, d, index, where)
        if index.ndim != 1 or x.axes[0] is None:
            raise self._unknown(op)
        return indexing.selected(x, 0, d, index, where)

    def _gather_nd(self, op: Any, where: str) -> Symbol:
        return indexing.gathered_nd(self.symbol(op.inputs[0]), self._constant_input(op, 1), where)

    def _unstacked(self, tensor: Any, where: str) -> Symbol:
        x = self.symbol(tensor.op.inputs[0])
        d = tensor.op.get_attr("axis") % x.rank
        return indexing.picked(x, d, tensor.value_index, where)

    def _split(self, tensor: Any, where: str) -> Symbol:
        op, place = tensor.op, tensor.value_index
        # the axis comes first where all are of one size, last where the sizes are given
        axis, value = (0, 1) if op.type == "Split" else (2, 0)
        x = self.symbol(op.inputs[value])
        d = int(np.ravel(self._constant_input(op, axis))[0]) % x.rank
        start = sum(int(output.shape[d]) for output in op.outputs[:place])
        return indexing.part_of(x, d, start, int(tensor.shape[d]), where)

    def _concat(self, op: Any, where: str) -> Symbol:
        parts = [self.symbol(i) for i in op.inputs[:-1]]
        d = int(self._constant_input(op, len(op.inputs) - 1)) % parts[0].rank
        return indexing.joined(parts, d, where)

    def _pack(self, op: Any, where: str) -> Symbol:
        rank = len(op.outputs[0].shape)
        d = op.get_attr("axis") % rank
        parts = []
        for tensor in op.inputs:
            part = self.symbol(tensor)
            own: list[int | None] = list(range(part.rank))
            parts.append(axes.move(part, [*own[:d], None, *own[d:]]))
        return indexing.joined(parts, d, where)


def _static(shape: Any, where: str) -> list[int]:
    if not shape.is_fully_defined():
        raise GraphError(f"{where}: its shape {shape} is not known before the model is run.")
    return [int(size) for size in shape]


_RULES: dict[str, Callable[[Tracer, Any, str], Symbol]] = {
    "Cast": Tracer._cast,
    "Select": Tracer._select,
    "Einsum": Tracer._einsum,
    "SquaredDifference": Tracer._squared_difference,
    "Rsqrt": Tracer._rsqrt,
    "Pow": Tracer._pow,
    "MatrixBandPart": Tracer._band,
    "MatrixDiagV3": Tracer._diagonal,
    "Cholesky": Tracer._cholesky,
    "AddN": Tracer._add_n,
    "Reshape": Tracer._reshape,
    "Squeeze": Tracer._reshape,
    "ExpandDims": Tracer._expand_dims,
    "Transpose": Tracer._transpose,
    "BroadcastTo": Tracer._broadcast,
    "Tile": Tracer._broadcast,
    "StridedSlice": Tracer._strided_slice,
    "GatherV2": Tracer._gather,
    "GatherNd": Tracer._gather_nd,
    "ConcatV2": Tracer._concat,
    "Pack": Tracer._pack,
}
