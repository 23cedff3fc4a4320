"""The network that gives a layer its transformers' raw parameters, with a linear path beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from pavi import ops
from pavi.bijectors.base import Array, ParameterSpec, Params, linear
from pavi.errors import FamilyError


def check_hidden(hidden: Sequence[int]) -> None:
    """Raises unless there is a hidden layer and each has a unit."""
    if not hidden or min(hidden) < 1:
        raise FamilyError(f"Expected one hidden width or more, all >= 1; got {hidden}.")


def conditioner_specs(
    inputs: int, context_size: int, hidden: Sequence[int], outputs: int
) -> dict[str, ParameterSpec]:
    """Weights of a tanh network of `inputs` dimensions and a context, whose last layers are zero.

    Where there is nothing to see, all that is left is the bias of the outputs.
    """
    specs: dict[str, ParameterSpec] = {}
    fan_in = inputs + context_size
    if fan_in:
        scale = 1.0 / math.sqrt(fan_in)
        if inputs:
            specs["input/weight"] = ParameterSpec((inputs, hidden[0]), "normal", scale)
            specs["skip/weight"] = ParameterSpec((inputs, outputs))
        if context_size:
            specs["input/context"] = ParameterSpec((context_size, hidden[0]), "normal", scale)
            specs["skip/context"] = ParameterSpec((context_size, outputs))
        specs["input/bias"] = ParameterSpec((hidden[0],))
        for layer, (n, m) in enumerate(pairwise(hidden), 1):
            specs[f"hidden{layer}/weight"] = ParameterSpec((n, m), "normal", 1 / math.sqrt(n))
            specs[f"hidden{layer}/bias"] = ParameterSpec((m,))
        specs["output/weight"] = ParameterSpec((hidden[-1], outputs))
    specs["output/bias"] = ParameterSpec((outputs,))
    return {name: replace(spec, refines=True) for name, spec in specs.items()}


def first_terms(params: Params, context: Any) -> tuple[Array, Array]:
    """What the inputs do not enter: `[..., hidden[0]]` of the first layer, `[..., outputs]`."""
    if "input/bias" not in params:
        return None, params["output/bias"]
    first, last = params["input/bias"], params["output/bias"]
    if context is None:
        return first, last
    first = first + linear(context, params["input/context"])
    return first, last + linear(context, params["skip/context"])


def conditioner(params: Params, x: Array, context: Any) -> Array:
    """The network in one pass: x `[..., inputs]` and a context to `[..., outputs]`."""
    base, skip = first_terms(params, context)
    if base is None:
        return skip
    if "input/weight" in params:
        base = base + linear(x, params["input/weight"])
        skip = skip + linear(x, params["skip/weight"])
    h, layer = ops.tanh(base), 1
    while f"hidden{layer}/weight" in params:
        h = ops.tanh(linear(h, params[f"hidden{layer}/weight"]) + params[f"hidden{layer}/bias"])
        layer += 1
    return skip + linear(h, params["output/weight"])
