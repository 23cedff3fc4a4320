"""What tells two arrays, or two programs of JAX's, apart: their numbers, and not their text."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from hashlib import sha256
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

Array = Any

# Calls that are told by their body alone: the rules of their derivatives are made anew each time.
_BODIES = ("custom_jvp_call", "custom_vjp_call")


def identity(value: Array) -> Hashable:
    """Equal for arrays of equal numbers; a traced array is equal to itself alone."""
    if isinstance(value, jax.core.Tracer):
        return ("traced", id(value))
    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return (array.dtype.str, array.shape, sha256(np.ascontiguousarray(array).tobytes()).digest())


def program(jaxpr: Jaxpr, consts: Sequence[Array] = ()) -> Hashable:
    """Equal for programs of the same steps on the same constants."""
    return tuple(_steps(jaxpr, consts))


def settings(eqn: Any) -> Hashable:
    """The fixed parameters of one step, with the programs inside of them."""
    kept = ("call_jaxpr",) if eqn.primitive.name in _BODIES else sorted(eqn.params)
    return tuple((name, _frozen(eqn.params[name])) for name in kept if name in eqn.params)


def _steps(jaxpr: Jaxpr, consts: Sequence[Array]) -> Iterator[Hashable]:
    places: dict[Any, int] = {}

    def at(atom: Any) -> Hashable:
        if isinstance(atom, Literal):
            return identity(np.asarray(atom.val))
        return places.setdefault(atom, len(places))

    yield tuple((at(var), str(var.aval)) for var in (*jaxpr.constvars, *jaxpr.invars))
    yield tuple(map(identity, consts))
    for eqn in jaxpr.eqns:
        inputs, outputs = tuple(map(at, eqn.invars)), tuple(map(at, eqn.outvars))
        yield (eqn.primitive.name, inputs, outputs, settings(eqn))
    yield tuple(map(at, jaxpr.outvars))


def _frozen(value: Any) -> Hashable:
    if isinstance(value, ClosedJaxpr):
        return program(value.jaxpr, value.consts)
    if isinstance(value, Jaxpr):
        return program(value)
    if isinstance(value, np.ndarray | jax.Array):
        return identity(value)
    if isinstance(value, tuple | list):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple(sorted((str(k), _frozen(v)) for k, v in value.items()))
    # Whatever else is hashed by itself is kept by its key, that no other takes its identity.
    return (type(value), value) if isinstance(value, Hashable) else ("object", id(value))
