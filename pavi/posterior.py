"""A fitted posterior: draws, moments, densities, and posteriors of elements never seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from pavi import elements, storage
from pavi.backends.base import Arrays, Functions, HostObjects, get_adapter
from pavi.batch import Batch
from pavi.binding import BoundData
from pavi.cells import whole_plates
from pavi.data import Data
from pavi.encoders import initial_table
from pavi.errors import DataError, FamilyError
from pavi.export import Fitted, export
from pavi.export_request import Request
from pavi.graph import PlateGraph
from pavi.guide import noise_shapes
from pavi.integers import is_integer
from pavi.lowering import lower
from pavi.noise import Noise
from pavi.plan import GuidePlan
from pavi.prefixes import prefixed
from pavi.schedule import History
from pavi.subsampling import full_batch, subset
from pavi.summaries import STATISTICS, Summary
from pavi.tables import rows_of

# Numbers held at once while drawing, per chunk of draws.
_CHUNK_NUMBERS = 20_000_000
_MAX_CHUNK = 500


@dataclass(frozen=True, repr=False)
class Posterior:
    """The result of `pavi.fit`: the README shows its use, `docs/method.md` what is computed.

    Attributes:
        plan: the lowered plan.
        data: the data it was fitted to.
        backend: `"numpyro"` or `"tfp"`; weights are the same arrays on both.
        weights: shared weights, `{"block/...": array}`.
        tables: free tables, `{block: [copies + 1, columns]}`.
        dtype: floating dtype of the run.
        history: the ELBO along the fit.
        converged: whether the fit settled.
        verdict: why, in words.
        seconds: wall-clock seconds of the fit.
    """

    plan: GuidePlan
    data: BoundData
    backend: str
    weights: Arrays
    tables: Arrays
    dtype: str = "float32"
    history: History = field(default_factory=History)
    converged: bool = False
    verdict: str = "not fitted"
    seconds: float = 0.0

    @property
    def graph(self) -> PlateGraph:
        """The model."""
        return self.plan.graph

    @property
    def num_weights(self) -> int:
        """Trained numbers."""
        return self.plan.num_weights

    @property
    def coords(self) -> dict[str, np.ndarray]:
        """Labels of the elements of each plate that the data label."""
        return dict(self.data.coords)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{plate}={size:,}" for plate, size in self.data.sizes.items())
        history = self.history
        last = (
            f"last ELBO {history.elbo[-1]:.3f} (standard error {history.elbo_se[-1]:.3f})"
            if len(history.elbo)
            else "no ELBO"
        )
        lines = [
            f"Posterior on {self.backend} in {self.dtype}",
            f"  {self.plan.num_latents:,} latents: "
            + shorten(", ".join(v.name for v in self.graph.latents), 60, placeholder=" ..."),
            f"  {self.num_weights:,} weights; {f'plates {sizes}' if sizes else 'no plates'}",
            f"  {'converged' if self.converged else 'NOT converged'}: {self.verdict}",
            f"  {last}",
        ]
        return "\n".join(lines)

    @cached_property
    def _functions(self) -> Functions:
        return get_adapter(self.backend).functions(self.plan, self.dtype)

    @cached_property
    def _full(self) -> Batch:
        return full_batch(self.data, self.dtype)

    def _rows(self, batch: Batch) -> Arrays:
        """Rows of the free tables in a batch, `{block: [*plates, columns]}`."""
        return rows_of(self.plan, self.tables, batch)

    def _chunks(self, num_samples: int, seed: int, batch: Batch) -> Iterator[tuple[Arrays, int]]:
        """Noise in chunks of one size, and how many of each chunk's draws are wanted."""
        if not is_integer(num_samples, 1):
            raise DataError(f"num_samples={num_samples!r}: expected a positive integer.")
        if not is_integer(seed):
            raise DataError(f"seed={seed!r}: expected an integer.")
        sizes = {plate: len(index) for plate, index in batch.indices.items()}
        shapes = noise_shapes(self.plan, 1, sizes)
        rows = sum(prod(np.shape(v)) for v in batch.values.values())
        numbers = rows + sum(prod(shape) for shape in shapes.values())
        chunk = int(np.clip(_CHUNK_NUMBERS // (4 * numbers), 1, _MAX_CHUNK))
        chunk = min(chunk, num_samples)
        noise = Noise(self.plan, self.data.sizes, batch.indices, int(seed))
        for start in range(0, num_samples, chunk):
            yield noise.draw(chunk), min(chunk, num_samples - start)

    def sample(
        self,
        num_samples: int,
        *,
        seed: int = 0,
        variables: Sequence[str] | None = None,
        plates: Mapping[str, Sequence[Any]] | None = None,
    ) -> Arrays:
        """Joint draws of the latents.

        The noise is drawn on the host: with the same weights and seed, both backends give the same
        draws, and what is drawn in parts, by `plates`, are parts of the same joint draws.

        Args:
            num_samples: number of draws.
            seed: seed of the noise.
            variables: latents to return, all by default.
            plates: elements to keep, by position or by label, `{"county": [3, 5]}` or
                `{"county": ["Aitkin", "Anoka"]}`, and what lies within them: a plate that is named
                has these elements, in this order; a plate within it, such as the homes of these
                counties, has their members, in the order of the data. Integers are positions, also
                of a plate whose labels are integers.

        Returns:
            `{name: [num_samples, *plates, *event]}`.

        Raises:
            DataError: an unknown variable, plate or label, an element out of range, no draws.
        """
        names = self._latent_names(variables)
        chosen = elements.chosen(self.data, plates or {})
        kept = elements.kept(self.data, chosen)
        batch = self._reduced(chosen)
        places = {p: elements.places(batch.indices[p], index) for p, index in kept.items()}
        rows = self._rows(batch)
        out: Arrays = {}
        start = 0
        for noise, wanted in self._chunks(num_samples, seed, batch):
            drawn = self._functions.sample(self.weights, rows, noise, batch)
            for name in names:
                value = drawn[name][:wanted]
                for axis, plate in enumerate(self.graph.variables[name].plates):
                    if plate in places:
                        value = np.take(value, places[plate], axis=1 + axis)
                if not start:
                    # Filled chunk by chunk: parts to be joined would take the memory twice.
                    out[name] = np.empty((num_samples, *value.shape[1:]), value.dtype)
                out[name][start : start + wanted] = value
            start += wanted
        return out

    def _latent_names(self, variables: Sequence[str] | None) -> list[str]:
        known = [latent.name for latent in self.graph.latents]
        for name in variables or ():
            if name not in known:
                raise DataError(f"{name!r} is not a latent of this graph; it has {known}.")
        return list(variables) if variables is not None else known

    def _reduced(self, chosen: Mapping[str, np.ndarray]) -> Batch:
        """A batch to draw the chosen elements on; it may hold others."""
        whole = whole_plates(self.plan)
        part = {plate: index for plate, index in chosen.items() if plate not in whole}
        # What lies within a reduced plate is reduced with it.
        for plate in list(part):
            if any(owner in part for owner in self.graph.owners(plate)):
                del part[plate]
        return subset(self.data, part, self.dtype) if part else self._full

    def mean(self, num_samples: int = 4000, *, seed: int = 0) -> Arrays:
        """Posterior means `{name: [*plates, *event]}`, from `num_samples` draws."""
        return {name: first for name, (first, _) in self._moments(num_samples, seed).items()}

    def sd(self, num_samples: int = 4000, *, seed: int = 0) -> Arrays:
        """Posterior standard deviations `{name: [*plates, *event]}`."""
        return {name: sd for name, (_, sd) in self._moments(num_samples, seed).items()}

    def _moments(self, num_samples: int, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Means and standard deviations, chunk by chunk, in float64."""
        out: dict[str, Summary] = {}
        for noise, wanted in self._chunks(num_samples, seed, self._full):
            drawn = self._functions.sample(self.weights, self._rows(self._full), noise, self._full)
            for name, value in drawn.items():
                if name not in out:
                    out[name] = Summary(value, ("mean", "sd"), held=0)
                out[name].add(value[:wanted])
        return {name: (summary.mean(), summary.sd()) for name, summary in out.items()}

    def quantile(
        self, q: float | Sequence[float], num_samples: int = 4000, *, seed: int = 0
    ) -> Arrays:
        """Posterior quantiles: `{name: [*plates, *event]}`, or `[len(q), ...]` for several."""
        if not np.all((np.asarray(q) >= 0) & (np.asarray(q) <= 1)):
            raise DataError(f"q={q!r}: expected numbers between 0 and 1.")
        draws = self.sample(num_samples, seed=seed)
        return {name: np.quantile(value, q, axis=0) for name, value in draws.items()}

    def export(
        self,
        path: str | Path,
        *,
        statistics: Sequence[str] = STATISTICS,
        draws: int = 0,
        quantiles: Sequence[float] = (0.05, 0.5, 0.95),
        num_samples: int = 1000,
        seed: int = 0,
        variables: Sequence[str] | None = None,
        memory: int = 1 << 28,
        progress: bool = True,
    ) -> Path:
        """Writes the posterior to a Zarr store, at constant memory; `xarray.open_zarr` reads it.

        Of a latent `theta`: `theta_mean`, `theta_sd`, `theta_quantile` and, with `draws`, `theta`,
        named by plates, all of the joint draws that `sample` gives with this seed. Called again
        with the same arguments, an export that was cut off goes on; until all is written, the
        store's attribute `complete` is false.

        Args:
            path: a folder, new or of the same export.
            statistics: of `"mean"`, `"sd"` and `"quantiles"`. Without quantiles and draws, a latent
                that is Gaussian given the coarser ones adds no noise of its own to the first two.
            draws: how many of the draws to write.
            quantiles: which quantiles.
            num_samples: number of draws that the statistics are taken over.
            seed: seed of the noise.
            variables: latents to write, all by default.
            memory: about how many bytes to take.
            progress: whether to show a progress bar.

        Raises:
            DataError: an argument is not what it can be, or a cell takes more than `memory`.
            StorageError: the folder holds something else, or cannot be written to.
        """
        request = Request(statistics, draws, quantiles, num_samples, seed, variables)
        parts = (self.plan, self.data, self._functions, self.weights, self.tables)
        fitted = Fitted(*parts, self.backend, self.dtype)
        return export(fitted, path, request, memory=memory, progress=progress)

    def elbo(self, num_samples: int = 1000, *, seed: int = 0) -> tuple[float, float]:
        """The ELBO of the full model, and the standard error of that estimate."""
        rows = self._rows(self._full)
        draws = np.concatenate(
            [
                self._functions.elbo(self.weights, rows, noise, self._full)[:wanted]
                for noise, wanted in self._chunks(num_samples, seed, self._full)
            ]
        ).astype(np.float64)
        error = draws.std(ddof=1) / np.sqrt(len(draws)) if len(draws) > 1 else float("nan")
        return float(draws.mean()), float(error)

    def log_prob(self, values: Mapping[str, Any]) -> np.ndarray:
        """Log q of joint draws of all latents.

        Args:
            values: `{name: [num_samples, *plates, *event]}`, every latent.

        Returns:
            `[num_samples]`.

        Raises:
            DataError: a missing latent or a wrong shape.
        """
        arrays: Arrays = {}
        count: int | None = None
        for latent in self.graph.latents:
            if latent.name not in values:
                raise DataError(f"log_prob needs every latent; {latent.name!r} is missing.")
            value = np.asarray(values[latent.name], self.dtype)
            shape = (*(self.data.sizes[p] for p in latent.plates), *latent.event)
            if value.shape[1:] != shape or not value.ndim or count not in (None, len(value)):
                raise DataError(
                    f"log_prob: {latent.name!r} has shape {value.shape}; expected "
                    f"[{'num_samples' if count is None else count}, "
                    f"{', '.join(map(str, shape))}] (plates {latent.plates}, event {latent.event})."
                )
            count = len(value)
            arrays[latent.name] = value
        rows = self._rows(self._full)
        return self._functions.log_prob(self.weights, rows, arrays, self._full)

    def encode(self, data: Data) -> Posterior:
        """The posterior of other data of the same model, with no training.

        Globals that are encoded freely, as by default, keep the posterior they were trained to;
        with an encoder they follow the new data. Every latent in plates gets its encoding from the
        new data; elements never seen have no free residual. Outcomes may all be missing: of new
        groups without any, the posterior is the prior given the globals.

        Args:
            data: other data for the same graph; plates may have other sizes.

        Raises:
            FamilyError: a latent in plates that the encoder does not cover.
        """
        bound = data.bind(self.graph, need_outcomes=False)
        for block in self.plan.blocks:
            if block.plates and block.encoding == "free":
                names = ", ".join(repr(slot.name) for slot in block.slots)
                raise FamilyError(
                    f"encode: {names} on plates {block.plates} is encoded freely, one row for each "
                    "element seen in training, so that new ones have no posterior; fit with "
                    f"Family(encoding='encoder'), or override it for {names}."
                )
        plan = lower(
            self.graph, self.plan.family, bound.sizes, {}, self.plan.standards, like=self.plan
        )
        for old, new in zip(self.plan.blocks, plan.blocks, strict=True):
            if old.parameters != new.parameters or old.joint != new.joint:
                raise FamilyError(
                    f"encode: block {old.name} is joint over the {old.copies} elements of "
                    f"{old.plates}, of which the new data have {new.copies}; fit with "
                    "Family(joint_limit=0) to encode other elements of these plates."
                )
        tables = {
            block.name: initial_table(block.copies, block.table_width, self.dtype)
            for block in plan.blocks
            if block.table_width
        }
        return replace(
            self,
            plan=plan,
            data=bound,
            tables=tables,
            verdict=f"encoded with weights trained on other data; {self.verdict}",
        )

    def host(self) -> HostObjects:
        """The backend's own objects: its model, its guide, and the batch both are about.

        Returns:
            With NumPyro: a model and a guide to call with the batch, for `SVI`, `Predictive` or
            `MCMC`. With TFP: the `tfd.JointDistribution` of the model and the surrogate posterior,
            of trainable variables; both hold the batch already. The guide starts at this
            posterior's weights; training it further leaves this posterior as it is.
        """
        adapter = get_adapter(self.backend)
        return adapter.host(self.plan, self.weights, self.tables, self._full)

    def save(self, folder: str | Path) -> None:
        """Writes the run to a folder: weights in safetensors, the rest in JSON; atomically."""
        arrays = prefixed("weights:", self.weights) | prefixed("tables:", self.tables)
        storage.write(Path(folder), self._description(), arrays)

    def _description(self) -> dict[str, Any]:
        """What a run says of itself besides its arrays, as JSON has it."""
        plan, history = self.plan, self.history
        return {
            "graph": plan.graph.fingerprint(),
            "variables": list(plan.graph.variables),
            "data": self.data.fingerprint(self.dtype),
            "arrays": self.data.fingerprints(self.dtype),
            "sizes": dict(plan.sizes),
            "batch": dict(plan.batch),
            "standards": {name: list(pair) for name, pair in plan.standards.items()},
            "family": plan.family.to_json(),
            "blocks": [[block.name, block.joint, block.encoding] for block in plan.blocks],
            "backend": self.backend,
            "dtype": self.dtype,
            "converged": self.converged,
            "verdict": self.verdict,
            "seconds": self.seconds,
            "history": {
                "step": history.step.tolist(),
                "elbo": _numbers(history.elbo),
                "elbo_se": _numbers(history.elbo_se),
            },
        }


def _numbers(array: np.ndarray) -> list[float | None]:
    """JSON has no NaN: null stands for it."""
    return [float(x) if np.isfinite(x) else None for x in array]
