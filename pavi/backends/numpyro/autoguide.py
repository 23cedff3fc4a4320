"""A plate-amortized guide of any NumPyro model, as `numpyro.infer.autoguide` has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.initialization import init_to_median

from pavi.backends.numpyro.agreement import (
    check_same,
    check_values,
    enumerated,
    is_latent,
    is_observed,
    warn_unused,
)
from pavi.backends.numpyro.arguments import encoded
from pavi.backends.numpyro.calls import ModelLayout, batch_of, default_dtype
from pavi.backends.numpyro.drawing import Kept, computed
from pavi.backends.numpyro.guide import GuideSites
from pavi.backends.numpyro.identity import identity
from pavi.backends.numpyro.portable import (
    Portable,
    check_indices,
    portable,
    to_rows,
    warn_unread,
)
from pavi.backends.numpyro.runs import array_arguments, inconsistent, run
from pavi.backends.numpyro.tracing import identifier, read
from pavi.encoders import initial_table
from pavi.family import Family
from pavi.graph import PlateGraph
from pavi.guide import initial_weights
from pavi.lowering import lower
from pavi.plan import GuidePlan
from pavi.whitening import to_whitened

Array = Any

# What a step of the weights that refine a shape counts for, beside those that find it.
REFINING_PACE = 0.1
# Draws behind medians and quantiles, and the seed of their noise.
QUANTILE_DRAWS, QUANTILE_SEED = 2000, 0
# Plans that are kept: one for each form that the arguments have had of late.
PLANS = 16


class AutoPAVI(AutoGuide):
    """A guide with one conditional density for each kind of latent, shared by all its copies.

    Plates, what lies within what, supports and dependencies are read from a run of the model; each
    latent's copies are told apart by the observed values below them, a free table, or both. Use it
    as any class of `numpyro.infer.autoguide`::

        guide = AutoPAVI(model)
        svi = SVI(model, guide, optax.adam(1e-2), Trace_ELBO())

    The observed values are those of the arguments that it is called with, so that its posterior is
    one of these data: `sample_posterior`, `median` and `quantiles` take the model's arguments, and
    without them use those of the first call. In `Predictive(model, guide=guide, ...)` without
    observed values those of the first call stand in, if it was not subsampled.

    Args:
        model: a NumPyro model.
        family: the variational family; by default `pavi.Family()`. A family without free tables,
            `pavi.Family(encoding="encoder")`, allows plates to change their size between calls.
        prefix: begins the names of params and of auxiliary sites.
        init_loc_fn: where latents on no plate start.
        encode: what the encoder sees: names of observed sites, all of them if none is named; and of
            array arguments of the model, beside those that flow into these sites. It is a deep set
            that looks at arguments, `pavi.Family(encoder="deep_set")`: the natural encoder
            evaluates the likelihood itself, and there is no more to see.
        create_plates: as in every `AutoGuide`.
    """

    model: Any
    prototype_trace: Any

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        family: Family | None = None,
        prefix: str = "auto",
        init_loc_fn: Callable[..., Any] = init_to_median,
        encode: Iterable[str] | None = None,
        create_plates: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(model, prefix=prefix, init_loc_fn=init_loc_fn, create_plates=create_plates)
        self.family = Family() if family is None else family
        self.encode = None if encode is None else tuple(encode)
        self._plan: GuidePlan | None = None
        self._unread: dict[str, str] = {}
        self._coupled: frozenset[str] = frozenset()
        self._plans: dict[Any, GuidePlan] = {}
        self._weights: dict[str, np.ndarray] = {}
        self._arguments: tuple[Any, Any] | None = None
        self._observed: dict[str, Array] = {}
        self._kept = Kept()

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Array]:
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        return self._sampled(args, kwargs, whole=False)[0]

    def sample_posterior(
        self,
        rng_key: Array,
        params: Mapping[str, Array],
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> dict[str, Array]:
        """Draws of the latents of the whole model, with its deterministic sites.

        Where the arguments hold a batch alone, and no data of a plate's other rows, they are draws
        of the latents of this batch.

        Args:
            rng_key: a key.
            params: the guide's params.
            args: the model's arguments; those of the first call if there are none.
            sample_shape: leading axes of the draws.
            kwargs: the model's named arguments.

        Returns:
            `{site: [*sample_shape, *shape of the site with its plates whole]}`.
        """
        args, kwargs = self._given(args, kwargs)
        self._check_params(params)
        drawn = self._drawn(args, kwargs, many=bool(sample_shape))
        if not sample_shape:
            return dict(drawn(rng_key, dict(params)))
        draws = drawn(jax.random.split(rng_key, prod(sample_shape)), dict(params))
        return {n: jnp.reshape(x, (*sample_shape, *x.shape[1:])) for n, x in draws.items()}

    def _drawn(self, args: Any, kwargs: Any, *, many: bool) -> Callable[..., Any]:
        """Draws on these arguments, `(key, params) -> {site: value}`; compiled once for a while."""
        rows = self._whole_rows(args, kwargs)
        whole = rows is not None
        said = computed(self.model, args, kwargs, rows or {})
        arrays = array_arguments(self.model, args, kwargs)
        seen = [arrays[name] for name in self.encode or () if name in arrays]
        # Rows of `create_plates` are in no program of the model's.
        fixed = whole or self.create_plates is None
        untraced = not any(isinstance(array, jax.core.Tracer) for array in seen)
        kept = (
            (many, said, *map(identity, seen)) if said is not None and fixed and untraced else None
        )

        def one(key: Array, params: Mapping[str, Array]) -> dict[str, Array]:
            with handlers.block(), handlers.seed(rng_seed=key), handlers.substitute(data=params):
                values, known = self._sampled(args, kwargs, whole=whole)
            trace = run(self.model, args, kwargs, {**known, **params, **values})
            fixed = {n: s["value"] for n, s in trace.items() if s["type"] == "deterministic"}
            return {**values, **fixed}

        return self._kept.of(kept, lambda: jax.jit(jax.vmap(one, (0, None)) if many else one))

    def _whole_rows(self, args: Any, kwargs: Any) -> dict[str, Array] | None:
        """All rows of the model's plates; None where it runs on the batch alone that it has."""
        plates = [s for s in run(self.model, args, kwargs, {}).values() if s["type"] == "plate"]
        rows = {s["name"]: jnp.arange(s["args"][0]) for s in plates}
        try:
            run(self.model, args, kwargs, rows)
        except (TypeError, ValueError):
            # JAX raises either for shapes that disagree. On the batch's rows the model has run.
            return None
        return rows

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "_kept": Kept(), "_plans": {}}
        if self._plan is not None:
            graph = self._plan.graph
            parts = list(graph.plates.values()), list(graph.variables.values())
            state["_plan"] = (parts, dict(self._plan.sizes), dict(self._plan.batch))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._plan is not None:
            parts, sizes, batch = state["_plan"]
            self._plan = lower(PlateGraph(*parts), self.family, sizes, batch)

    def quantiles(
        self, params: Mapping[str, Array], quantiles: Any, *args: Any, **kwargs: Any
    ) -> dict[str, Array]:
        """Quantiles of each site over 2000 draws of a fixed key, `{site: [quantiles, *shape]}`."""
        key = jax.random.key(QUANTILE_SEED)
        draws = self.sample_posterior(key, params, *args, sample_shape=(QUANTILE_DRAWS,), **kwargs)
        levels = jnp.asarray(quantiles, dtype=float)
        return {name: jnp.quantile(value, levels, axis=0) for name, value in draws.items()}

    def median(self, params: Mapping[str, Array], *args: Any, **kwargs: Any) -> dict[str, Array]:
        """Median of each site over 2000 draws of a fixed key."""
        return self.quantiles(params, 0.5, *args, **kwargs)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        first = run(self.model, args, kwargs, {})
        if repeated := inconsistent(first):
            raise AssertionError(repeated)  # as NumPyro's guides do, where the sites are latent
        check_values(first)
        summed = enumerated(first)
        model = self.model
        if summed:
            seeded = handlers.seed(model, rng_seed=0)
            self.model = handlers.block(seeded, hide_fn=lambda s: s["name"] in summed)
        try:
            super()._setup_prototype(*args, **kwargs)
        finally:
            self.model = model
        latents = [n for n, s in self.prototype_trace.items() if is_latent(s)]
        if not latents:
            self.prototype_trace = None
            raise RuntimeError(
                f"{type(self).__name__} found no latent variables; Use an empty guide instead"
            )
        sites = first.items()
        self._observed = {n: s["value"] for n, s in sites if is_observed(s)}
        arrays = array_arguments(self.model, args, kwargs)
        for name in self.encode or ():
            if name not in self._observed and name not in arrays:
                self.prototype_trace = None
                raise ValueError(
                    f"AutoPAVI(encode=...): {name!r} is no observed site of the model, of which "
                    f"there are {sorted(self._observed)}, and no array among its arguments, which "
                    f"are {sorted(arrays)}."
                )
        self._arguments = (args, dict(kwargs))
        found = self._read(args, kwargs, {n: s["value"] for n, s in sites if s["type"] == "plate"})
        check_indices(found)
        warn_unread(found)
        self._unread, self._coupled = dict(found.unread), found.coupled
        self._plan = self._lowered(found)
        self._weights = initial_weights(self._plan, 0, str(default_dtype()))
        if self.init_loc_fn is not init_to_median:
            warn_unused(self.init_loc_fn, first)
            with handlers.block():
                self._start_at(self._postprocess_fn(self._init_locs), found)

    def _start_at(self, values: Mapping[str, Array], found: Portable) -> None:
        """Moves the guide's centre, for the latents on no plate, to values of theirs."""
        plan, sites = self._lowered(found), found.reading.sites
        rows = {
            v.name: to_rows(jnp.asarray(values[sites[v.name].site]), sites[v.name])[None]
            for v in plan.graph.latents
        }
        for block in plan.blocks:
            names = [n for n in self._weights if n.startswith(f"{block.name}/flow/")]
            names = [n for n in names if n.endswith("reference_loc")]
            if block.plates or not names:
                continue
            whitened, _ = to_whitened(plan, block, rows, batch_of(found))
            if not isinstance(whitened, jax.core.Tracer):
                self._weights[names[0]] = np.asarray(whitened[0], self._weights[names[0]].dtype)

    def _sampled(
        self, args: Any, kwargs: Any, *, whole: bool
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """The sites of one call, and the rows of each plate and the model's params behind them."""
        stand_ins = self._stand_ins(args, kwargs)
        trace = run(self.model, args, kwargs, stand_ins)
        dims = {f.name: f.dim for s in trace.values() for f in s.get("cond_indep_stack", ())}
        plates = self._opened(trace, dims, args, kwargs, whole=whole)
        known: dict[str, Array] = {}
        for name, plate in plates.items():
            with plate as rows:
                known[name] = rows
        for name, site in trace.items():
            if site["type"] == "param":
                known[name] = numpyro.param(name, *site["args"], **site["kwargs"])
        found = self._read(args, kwargs, known, stand_ins)
        plan = self._lowered(found)
        batch = batch_of(found)
        tables = {
            b.name: initial_table(b.copies, b.table_width, default_dtype())
            for b in plan.blocks
            if b.table_width
        }
        order = [identifier(n) for n, s in self.prototype_trace.items() if is_latent(s)]
        plain_dims = {identifier(name): dim for name, dim in dims.items()}
        plain_plates = {identifier(name): plate for name, plate in plates.items()}
        layout = ModelLayout(plain_dims, plain_plates, found.reading.sites)
        sites = GuideSites(layout, f"{self.prefix}_", order, pace=REFINING_PACE)
        return sites.sample(plan, self._weights, tables, batch), known

    def _opened(
        self, trace: Mapping[str, Any], dims: Mapping[str, int], args: Any, kwargs: Any, whole: bool
    ) -> dict[str, numpyro.plate]:
        """The plates of one call: those of `create_plates`, and the model's others."""
        plates: dict[str, numpyro.plate] = {}
        if self.create_plates is not None and not whole:
            made = self.create_plates(*args, **kwargs)
            made = [made] if isinstance(made, numpyro.plate) else list(made)
            plates = {plate.name: plate for plate in made}
        for name, site in sorted(trace.items()):
            if site["type"] == "plate" and name not in plates and name in dims:
                size, part = site["args"]
                plates[name] = numpyro.plate(name, size, None if whole else part, dim=dims[name])
        return plates

    def _read(
        self,
        args: Any,
        kwargs: Any,
        known: Mapping[str, Array],
        stand_ins: Mapping[str, Array] | None = None,
    ) -> Portable:
        reading = read(self.model, args, kwargs, known, stand_ins)
        named = set(self.encode or ())
        for name in set(self._observed) - named if named & set(self._observed) else ():
            reading.sites.pop(identifier(name), None)
            reading.parts.pop(identifier(name), None)
        arrays = array_arguments(self.model, args, kwargs)
        seen = {n: x for n, x in arrays.items() if n in named - set(self._observed)}
        # What the first call could not read is not read later, where an index may be traced.
        found = portable(reading, unread=self._unread, together=self._coupled)
        return encoded(found, seen)

    def _lowered(self, found: Portable) -> GuidePlan:
        """The plan of one call, with the weights and the tables of the first one."""
        rows = {plate: len(found.reading.indices[plate]) for plate in found.graph.plates}
        batch = {p: n for p, n in rows.items() if n < found.sizes[p]}
        key = (found.graph.fingerprint(), *sorted(found.sizes.items()), *sorted(batch.items()))
        if key in self._plans:
            return self._plans[key]
        first = self._plan
        # What a whole pass lowers to must have the weights of the steps that subsample.
        drawn = batch if first is None else first.batch
        plan = lower(found.graph, self.family, found.sizes, drawn, like=first)
        if first is not None:
            check_same(first, plan)
        self._plans[key] = plan
        if len(self._plans) > PLANS:
            self._plans.pop(next(iter(self._plans)))
        return plan

    def _stand_ins(self, args: Any, kwargs: Any) -> dict[str, Array]:
        """Values of the sites that were observed in the first call and are not in this one."""
        trace = run(self.model, args, kwargs, {})
        out: dict[str, Array] = {}
        for name, value in self._observed.items():
            site = trace.get(name)
            if site is None or site["is_observed"]:
                continue
            part = any(
                s["type"] == "plate" and s["value"].shape[0] < s["args"][0] for s in trace.values()
            )
            shape = site["fn"].shape()
            if part or np.shape(value) != shape or isinstance(value, jax.core.Tracer):
                raise ValueError(
                    f"The site {name!r} has no observed value in this call, and its posterior is "
                    f"one of its data. Draw with guide.sample_posterior(key, params, *args) on "
                    f"arguments with data, and use Predictive(model, posterior_samples=...)."
                )
            out[name] = value
        return out

    def _given(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if self.prototype_trace is None or self._arguments is None:
            raise RuntimeError(
                f"{type(self).__name__} has not seen its model yet. Call `svi.init(key, *args)` or "
                f"the guide first."
            )
        if not args and not kwargs:
            args, kwargs = self._arguments
            if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((args, kwargs))):
                raise ValueError("The first call was traced. Pass the model's arguments here.")
        # A row index is traced from here on, and picks nothing of an array of NumPy's.
        return jax.tree.map(_on_jax, (tuple(args), dict(kwargs)))

    def _check_params(self, params: Mapping[str, Array]) -> None:
        for name, weight in self._weights.items():
            full = f"{self.prefix}_{name}"
            if full not in params or np.shape(params[full]) != weight.shape:
                given = np.shape(params[full]) if full in params else "none"
                raise ValueError(
                    f"The params are those of another guide: {full!r} has the shape {weight.shape} "
                    f"here, given {given}. Pass svi.get_params(state) of this guide."
                )


def _on_jax(value: Any) -> Any:
    return jnp.asarray(value) if isinstance(value, np.ndarray) else value
