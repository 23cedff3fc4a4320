"""A NumPyro model read from one run: its sites, and their parameters as a graph of array functions.

Provenance is the data flow of a jaxpr whose inputs are the latents: what does not depend on them is
known, and is evaluated only where it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from keyword import iskeyword
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as npd
from jax.extend.core import Literal

from pavi.backends.numpyro.identity import identity, program, settings
from pavi.backends.numpyro.runs import Model, batch_shape, run
from pavi.backends.numpyro.specs import Parts, parts, stripped
from pavi.backends.numpyro.values import Known, Node, Value
from pavi.errors import GraphError
from pavi.plates import GLOBALS

Array = Any

# Functions of JAX's that are one step of an expression, and not the jaxpr inside of them.
_WHOLE = {"softplus": jax.nn.softplus}


@dataclass(frozen=True)
class Site:
    """A sample site of the model.

    Attributes:
        name: its name as an identifier, as the graph has it.
        site: its name in the model.
        fn: its distribution, as the model gave it; its arrays are of no use outside the trace.
        plates: its plates, from the leftmost axis to the rightmost, with their axes (negative).
        coupled: plates of the model that are none here: their elements are one draw.
        batch_shape: shape of the copies.
        event_shape: shape of one draw.
        kind: "latent", "observed" or "enumerated".
        repeats: the factor of its log density that its subsampled plates make.
    """

    name: str
    site: str
    fn: npd.Distribution
    plates: tuple[tuple[str, int], ...]
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]
    kind: str
    repeats: float
    coupled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What one run of a model tells.

    Attributes:
        sites: the sample sites, in the order of the run.
        sizes: full size of each plate.
        indices: the rows of each plate that the run saw.
        parts: what the spec of each site is made of, its arrays being values of the graph, at
            `[*batch shape, *event]` with the event axes of a parameter; None where there is none.
        observed: the values of the observed sites.
        masks: which draws of a site count, `[*batch shape, *event]` without the axes of one draw.
        scales: factors of a site's log density other than its plates', `[*batch shape]`.
    """

    sites: dict[str, Site]
    sizes: dict[str, int]
    indices: dict[str, Array]
    parts: dict[str, Parts | None]
    observed: dict[str, Value]
    masks: dict[str, Value]
    scales: dict[str, Value]


def coupled(reading: Reading, plates: Collection[str]) -> Reading:
    """A reading in which the copies along these plates are elements of one draw."""
    sites = {
        name: replace(
            site,
            plates=tuple((p, dim) for p, dim in site.plates if p not in plates),
            coupled=(*site.coupled, *(p for p, _ in site.plates if p in plates)),
        )
        for name, site in reading.sites.items()
    }
    return replace(reading, sites=sites)


def identifier(name: str) -> str:
    """The name of a site or a plate as a graph can have it: `layer.weight` as `layer_weight`."""
    plain = re.sub(r"\W", "_", name)
    plain = plain if plain.isidentifier() else f"_{plain}"
    return f"{plain}_" if iskeyword(plain) or plain == GLOBALS else plain


def read(
    model: Model,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    observed: Mapping[str, Any] | None = None,
) -> Reading:
    """Reads a model from its runs on these arguments.

    Args:
        model: the model.
        args: its arguments.
        kwargs: its named arguments.
        data: values of plates (their indices) and of params, by site.
        observed: values of sites that stand for observed ones, where the arguments leave them out.
    """
    given = {**(data or {}), **(observed or {})}
    first = run(model, args, kwargs, given)
    _check_names(n for n, site in first.items() if site["type"] in ("sample", "plate"))
    sites: dict[str, Site] = {}
    for name, site in first.items():
        if site["type"] == "sample":
            sites[identifier(name)] = _site(site, first, name in (observed or {}))
    given |= {n: s["value"] for n, s in first.items() if s["type"] in ("param", "mutable")}
    free = {s.site: first[s.site]["value"] for s in sites.values() if s.kind != "observed"}
    layout: dict[str, Parts | None] = {}

    def outputs(values: dict[str, Array]) -> dict[str, dict[str, Array]]:
        trace = run(model, args, kwargs, {**given, **values})
        out: dict[str, dict[str, Array]] = {}
        for name, site in sites.items():
            layout[name], out[name] = _arrays(site, trace[site.site])
        return out

    closed, shapes = jax.make_jaxpr(outputs, return_shape=True)(free)
    leaves = [
        Node("latent", (), jnp.shape(value), {}, identifier(name), jnp.result_type(value))
        for name, value in sorted(free.items())
    ]
    known = [_known(const) for const in closed.consts]
    values = iter(_flattened(closed.jaxpr, known, leaves))
    found = jax.tree.unflatten(jax.tree.structure(shapes), list(values))
    result: dict[str, Parts | None] = {}
    for name, made in layout.items():
        if made is not None:
            arrays = {k: (found[name][k], rank) for k, (_, rank) in made.parameters.items()}
            made = Parts(made.kind, arrays, made.settings)
        result[name] = made
    plates = {n: s for n, s in first.items() if s["type"] == "plate"}
    return Reading(
        sites,
        {identifier(name): int(site["args"][0]) for name, site in plates.items()},
        {identifier(name): site["value"] for name, site in plates.items()},
        result,
        {n: found[n][" value"] for n, s in sites.items() if s.kind == "observed"},
        {n: own[" mask"] for n, own in found.items() if " mask" in own},
        {n: own[" scale"] for n, own in found.items() if " scale" in own},
    )


def _check_names(names: Iterable[str]) -> None:
    """Raises where two names of a model are one identifier."""
    taken: dict[str, str] = {}
    for name in names:
        other = taken.setdefault(identifier(name), name)
        if other != name:
            raise GraphError(
                f"The names {other!r} and {name!r} of the model's sites and plates are both "
                f"{identifier(name)!r} as identifiers of a plate graph. Rename one of them."
            )


def _arrays(site: Site, trace: Mapping[str, Any]) -> tuple[Parts | None, dict[str, Array]]:
    """What a site's spec is made of, and all its arrays in one run."""
    fn, masks = stripped(trace["fn"])
    made, own = parts(fn), {}
    full = (*site.batch_shape, *site.event_shape)
    lead = full[: len(full) - fn.event_dim]
    if made is not None:
        for key, (value, rank) in made.parameters.items():
            own[key] = _to_full(value, lead, rank)
    if site.kind == "observed":
        own[" value"] = jnp.broadcast_to(jnp.asarray(trace["value"]), full)
    for mask, rank in masks:
        # Whatever is masked whole has the mask for each of its elements.
        elements = jnp.reshape(mask, (*jnp.shape(mask), *(1,) * (rank - fn.event_dim)))
        own[" mask"] = own.get(" mask", True) & jnp.broadcast_to(elements, lead)
    scale = trace["scale"]
    if scale is not None and not _is_number(scale, site.repeats):
        own[" scale"] = jnp.broadcast_to(jnp.asarray(scale) / site.repeats, site.batch_shape)
    return made, own


def _site(site: Mapping[str, Any], trace: Mapping[str, Any], stands: bool) -> Site:
    fn = site["fn"]
    frames = sorted(site["cond_indep_stack"], key=lambda frame: frame.dim)
    subsampled = 1.0
    for frame in frames:
        plate = trace.get(frame.name)
        if plate is not None and plate["args"][0] != frame.size:
            subsampled *= plate["args"][0] / frame.size
    kind = "observed" if site["is_observed"] or stands else "latent"
    if kind == "latent" and fn.support.is_discrete:
        kind = "enumerated"
    return Site(
        identifier(site["name"]),
        site["name"],
        fn,
        tuple((identifier(frame.name), frame.dim) for frame in frames),
        batch_shape(site),
        tuple(fn.event_shape),
        kind,
        subsampled,
    )


def _is_number(value: Any, number: float) -> bool:
    return isinstance(value, int | float) and abs(value / number - 1.0) < 1e-9


def _to_full(value: Array, lead: tuple[int, ...], rank: int) -> Array:
    """A parameter at every copy, `[*lead (size or 1), *its own axes]`."""
    value = jnp.asarray(value)
    return jnp.reshape(value, ((1,) * (len(lead) + rank - value.ndim) + value.shape))


def _known(value: Any) -> Known:
    return Known(np.shape(value), lambda: value, origin=lambda: identity(value))


def _flattened(jaxpr: Any, consts: Sequence[Value], inputs: Sequence[Value]) -> list[Value]:
    """The values of a jaxpr's outputs, the jaxprs inside of it taken apart too."""
    env: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
    env |= dict(zip(jaxpr.invars, inputs, strict=True))

    def at(atom: Any) -> Value:
        # A literal may be of a type of JAX's own, without the methods of an array.
        return _known(np.asarray(atom.val)) if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        given = [at(atom) for atom in eqn.invars]
        inner = _inner(eqn)
        if all(isinstance(value, Known) for value in given):
            env |= dict(zip(eqn.outvars, _evaluated(eqn, given), strict=True))
        elif inner is not None:
            consts_of = [_known(c) for c in getattr(inner, "consts", ())]
            body = getattr(inner, "jaxpr", inner)
            env |= dict(zip(eqn.outvars, _flattened(body, consts_of, given), strict=True))
        elif eqn.primitive.name == "pad" and given[0].shape == tuple(eqn.outvars[0].aval.shape):
            env[eqn.outvars[0]] = given[0]  # nothing is added, as in jnp.diag
        elif eqn.primitive.name == "stack":
            env[eqn.outvars[0]] = _stacked(given, eqn.params["axis"], eqn.outvars[0].aval.shape)
        else:
            name = eqn.params["name"] if eqn.primitive.name == "jit" else eqn.primitive.name
            for i, var in enumerate(eqn.outvars):
                label = name if len(eqn.outvars) == 1 else f"{name}[{i}]"
                shape, dtype = tuple(var.aval.shape), var.aval.dtype
                env[var] = Node(label, tuple(given), shape, eqn.params, dtype=dtype)
    return [at(atom) for atom in jaxpr.outvars]


def _stacked(given: Sequence[Value], axis: int, shape: tuple[int, ...]) -> Node:
    """What `jnp.stack` was before it became one function: a new axis, and a concatenation."""
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    places = tuple(a for a in range(len(shape)) if a != axis)
    apart: list[Value] = []
    for value in given:
        if isinstance(value, Known):
            apart.append(value.then(one, ("stack", axis), lambda array: array.reshape(one)))
        else:
            params = {"broadcast_dimensions": places}
            apart.append(Node("broadcast_in_dim", (value,), one, params, dtype=value.dtype))
    dtype = next(value.dtype for value in given if isinstance(value, Node))
    return Node("concatenate", tuple(apart), shape, {"dimension": axis}, dtype=dtype)


def _inner(eqn: Any) -> Any:
    """The jaxpr inside of a call; None for a function to be taken as a whole."""
    if eqn.primitive.name in ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint"):
        return None if _is_whole(eqn) else eqn.params.get("jaxpr")
    if eqn.primitive.name in ("custom_jvp_call", "custom_vjp_call"):
        return eqn.params.get("call_jaxpr")
    return None


def _is_whole(eqn: Any) -> bool:
    """Whether a call is one of JAX's own functions, and not another of its name."""
    own = _WHOLE.get(eqn.params.get("name", ""))
    if own is None or len(eqn.invars) != 1:
        return False
    aval = eqn.invars[0].aval
    (call,) = jax.make_jaxpr(own)(jax.ShapeDtypeStruct(aval.shape, aval.dtype)).jaxpr.eqns
    inside, body = call.params.get("jaxpr"), eqn.params["jaxpr"]
    return program(inside.jaxpr, inside.consts) == program(body.jaxpr, body.consts)


def _bound(eqn: Any, values: Sequence[Array]) -> list[Array]:
    # Older versions of JAX take functions apart here, newer ones do not.
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = found if isinstance(found, tuple) else ((), found)
    out = eqn.primitive.bind(*functions, *values, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def _evaluated(eqn: Any, given: Sequence[Value]) -> list[Known]:
    """The outputs of a function of known arrays, evaluated together when one is asked for."""
    done: list[Array] = []

    def compute() -> list[Array]:
        if not done:
            values = [value.value for value in given if isinstance(value, Known)]
            if any(isinstance(value, jax.core.Tracer) for value in values):
                done.extend(_bound(eqn, values))
            else:
                with jax.ensure_compile_time_eval():
                    done.extend(_bound(eqn, values))
        return done

    def pick(i: int) -> Callable[[], Array]:
        return lambda: compute()[i]

    origins = [value for value in given if isinstance(value, Known)]
    name, number = eqn.primitive.name, None
    columns: tuple[Known, ...] = ()
    if name == "broadcast_in_dim":
        number = origins[0] if prod(origins[0].shape) == 1 else origins[0].number
    elif name == "convert_element_type" and origins[0].number is not None:
        (number,) = _evaluated(eqn, [origins[0].number])
    elif name == "concatenate" and eqn.params["dimension"] == len(origins[0].shape) - 1:
        columns = tuple(origins) if all(v.shape[-1] == 1 for v in origins) else ()

    def made(i: int) -> Callable[[], Any]:
        return lambda: (
            i,
            name,
            settings(eqn),
            *(value.origin for value in origins),
        )

    return [
        Known(v.aval.shape, pick(i), number, made(i), columns) for i, v in enumerate(eqn.outvars)
    ]
