"""Fitting: one trainer for both backends, many steps in each compiled call."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from pavi.advancing import advance
from pavi.backends.base import Adapter, Arrays, Settings, get_adapter
from pavi.binding import BoundData, standards
from pavi.checkpoint import SECONDS, Checkpoints
from pavi.data import Data
from pavi.errors import PaviError
from pavi.family import Family
from pavi.forecast import Forecast, expect, probed
from pavi.graph import PlateGraph
from pavi.guide import initial_weights
from pavi.integers import is_integer
from pavi.lowering import lower
from pavi.objective import Gradient, Objective, resolved
from pavi.particles import particles
from pavi.posterior import Posterior
from pavi.programs import Programs
from pavi.progress import progress_bar
from pavi.run import Run
from pavi.subsampling import Sampler, check_batch
from pavi.tables import TABLE_MEMORY, TableSpace

DEFAULT_LEARNING_RATE = 0.005
# Changes where the meaning of a run's state does.
CHECKPOINT_FORMAT = 5


class Trainer:
    """Trains a plate-amortized guide; `fit` is its one-call form.

    Args:
        graph: the model.
        data: its data.
        backend: `"numpyro"` or `"tfp"`; None to look at the plan only.
        family: the variational family, `Family()` by default.
        batch: reduced cardinalities by plate, e.g. `{"county": 64}`; None for the full model.
        num_particles: draws of the guide at each step; by default 1, and up to 8 where the
            batch is small.
        learning_rate: Adam's rate at its peak.
        gradient: `"path"`, `"total"` (see `pavi.objective`), or `"auto"`: total in the
            approach, path from then on (see `pavi.schedule`).
        objective: the bound to raise: `"elbo"`; `"local"` or `"global"`, for importance weights of
            each group or of all latents, with 8 draws; a `pavi.Objective`; or `"auto"`: local
            weights where the guide of a group is a Gaussian that only approximates its law
            and is not learned, else the ELBO.
        seed: seed of weights, batches and noise; the same seed gives the same bits.
        dtype: `"float32"` or `"float64"`.
        table_memory: bytes of free tables, with their optimizer's state, to hold in memory. Larger
            ones are in files without a name, in the folder of the checkpoints or else of temporary
            files (`TMPDIR`), gone with the run, the fitted tables with the posterior.

    Raises:
        PaviError: data that do not fit the graph, an option that cannot be, a backend that is not
            installed.
    """

    def __init__(
        self,
        graph: PlateGraph,
        data: Data,
        *,
        backend: str | None,
        family: Family | None = None,
        batch: Mapping[str, int] | None = None,
        num_particles: int | None = None,
        learning_rate: float = DEFAULT_LEARNING_RATE,
        gradient: Gradient = "auto",
        objective: str | Objective = "auto",
        seed: int = 0,
        dtype: Literal["float32", "float64"] = "float32",
        table_memory: int = TABLE_MEMORY,
    ) -> None:
        if dtype not in ("float32", "float64"):
            raise PaviError(f"dtype={dtype!r}: expected 'float32' or 'float64'.")
        if gradient not in ("auto", "path", "total"):
            raise PaviError(f"gradient={gradient!r}: expected 'auto', 'path' or 'total'.")
        if num_particles is not None and not is_integer(num_particles, 1):
            raise PaviError(f"num_particles={num_particles!r}: expected a positive integer.")
        number = isinstance(learning_rate, int | float | np.number) and not isinstance(
            learning_rate, bool
        )
        if not (number and 0 < learning_rate < math.inf):
            raise PaviError(f"learning_rate={learning_rate!r}: expected a positive number.")
        if not isinstance(graph, PlateGraph):
            raise PaviError(f"graph: expected a pavi.PlateGraph, got a {type(graph).__name__}.")
        if batch is not None and not isinstance(batch, Mapping):
            raise PaviError(
                f"batch={batch!r}: expected reduced sizes by plate, as in batch={{'county': 64}}."
            )
        self._space = TableSpace(table_memory)
        self._adapter = get_adapter(backend) if backend is not None else None
        self._graph, self._family, self._batch = graph, family or Family(), dict(batch or {})
        self._objective = objective
        self._asked = Settings(int(num_particles or 0), gradient, dtype)
        self._learning_rate = float(learning_rate)
        self._programs = Programs()
        self._set(data, seed)

    def _set(self, data: Data, seed: int) -> None:
        """Takes the data, and all that depends on them."""
        if not is_integer(seed, 0) or seed >= 2**63:
            raise PaviError(f"seed={seed!r}: expected an integer between 0 and 2**63 - 1.")
        if not isinstance(data, Data):
            raise PaviError(f"data: expected a pavi.Data, got a {type(data).__name__}.")
        self._seed, dtype = int(seed), self._asked.dtype
        self.data: BoundData = data.bind(self._graph)
        sizes = self.data.sizes
        check_batch(self.data, self._batch)
        # A plate named at its full size is not subsampled.
        batch = {p: int(n) for p, n in self._batch.items() if n < sizes[p]}
        self.plan = lower(self._graph, self._family, sizes, batch, standards(self.data))
        self._sampler = Sampler(self.data, batch, dtype) if batch else None
        sizes = self._sampler.sizes if self._sampler else sizes
        bound = resolved(self._objective, self.plan)
        number = self._asked.num_particles or max(1, particles(self.plan, sizes) // bound.draws)
        if self.plan.paired and number % 2:
            raise PaviError(
                f"num_particles={number}: the free rows of long vectors need pairs of draws. "
                f"Give an even number, such as {number + 1}."
            )
        self._settings = replace(self._asked, num_particles=number, objective=bound)
        self._expected = expect(self.plan, self.data, sizes, number, dtype, self._space)

    def on(self, data: Data, *, seed: int = 0) -> Trainer:
        """A trainer of the same options on other data.

        It gives the posterior that a trainer of its own would. Where the data have the sizes of
        those before, it runs the programs that were compiled for these.

        Args:
            data: other data of the same graph.
            seed: seed of weights, batches and noise.

        Raises:
            PaviError: data that do not fit the graph.
        """
        other = copy.copy(self)
        other._set(data, seed)
        return other

    def initial(self) -> Arrays:
        """Weights before the first step."""
        return initial_weights(self.plan, self._seed, self._settings.dtype)

    def fit(
        self,
        steps: int | Literal["auto"] = "auto",
        *,
        progress: bool = True,
        checkpoint: str | Path | None = None,
        resume: bool = True,
        checkpoint_seconds: float = SECONDS,
    ) -> Posterior:
        """Trains and returns the posterior.

        Args:
            steps: number of steps, or `"auto"`: until the ELBO no longer rises by more than its
                noise, then a cool-down.
            progress: whether to show a progress bar.
            checkpoint: a folder for checkpoints; Ctrl-C and SIGTERM save one before they end the
                fit.
            resume: whether to go on from the newest checkpoint in the folder, if there is one: to
                the same bits as if the fit had never been interrupted.
            checkpoint_seconds: time between two checkpoints.

        Raises:
            PaviError: no backend, or a number of steps that is not positive.
            StorageError: a checkpoint of another run.
        """
        adapter = self._present_adapter()
        if steps != "auto" and not is_integer(steps, 1):
            raise PaviError(f"steps={steps!r}: expected a positive integer or 'auto'.")
        steps = steps if steps == "auto" else int(steps)
        self._expected.check()
        kept: Checkpoints | None = None
        found = None
        if checkpoint is not None:
            identity, memory = self._identity(steps), self._space.memory
            kept = Checkpoints(Path(checkpoint), identity, checkpoint_seconds, memory)
            if not resume:
                kept.clear()
            found = kept.latest()
        run = self.run(steps, checkpoint)
        try:
            if found is not None:
                run.restore(*found)
                found = None  # a mapped file has its place on the disk until it is let go of
            with progress_bar(run.schedule.expected, progress) as bar:
                advance(run, bar, kept)
        finally:
            run.close()
        weights, tables = run.fitted()
        self._programs.give_back(adapter, self.plan, self._settings, run.program)
        verdict = run.verdict
        return Posterior(
            plan=self.plan,
            data=self.data,
            backend=adapter.name,
            weights=weights,
            tables=tables,
            dtype=self._settings.dtype,
            history=run.history,
            converged=verdict.converged,
            verdict=verdict.reason,
            seconds=run.seconds,
        )

    def forecast(
        self,
        steps: int | Literal["auto"] = "auto",
        *,
        probe: bool = True,
        checkpoint: str | Path | None = None,
    ) -> Forecast:
        """What a fit will cost, after a short probe.

        Args:
            steps: number of steps of the fit, or `"auto"`.
            probe: whether to compile and take a few steps, for the time and the memory of one.
            checkpoint: the folder that the fit will have for checkpoints; nothing is left there.

        Raises:
            PaviError: the fit cannot be held in memory; or no backend to probe.
        """
        forecast = self._expected
        forecast.check()
        if not probe:
            return forecast
        run = self.run(steps, checkpoint)
        try:
            return probed(run, forecast, None if steps == "auto" else int(steps))
        finally:
            run.close()

    def run(self, steps: int | Literal["auto"], folder: str | Path | None = None) -> Run:
        """A fit at its beginning, to be advanced by hand, a record of steps at a time.

        Args:
            steps: number of steps, or `"auto"`.
            folder: of tables that are not held in memory; by default that of temporary files.

        Raises:
            PaviError: no backend, or no room for the free tables.
        """
        space = replace(self._space, folder=Path(folder)) if folder is not None else self._space
        return Run(
            self.plan,
            self.data,
            self._programs.taken(self._present_adapter(), self.plan, self._settings),
            self._sampler,
            self._settings,
            self._learning_rate,
            self._seed,
            steps,
            space,
        )

    def _present_adapter(self) -> Adapter:
        if self._adapter is None:
            raise PaviError("This Trainer has no backend; give backend='numpyro' or 'tfp'.")
        return self._adapter

    def _identity(self, steps: int | str) -> dict[str, Any]:
        """What a run is known by: all that its bits depend on."""
        return {
            "graph": self.plan.graph.fingerprint(),
            "data": self.data.fingerprint(self._settings.dtype),
            "family": self.plan.family.to_json(),
            "batch": dict(self.plan.batch),
            "settings": asdict(self._settings),
            "learning_rate": self._learning_rate,
            "seed": self._seed,
            "steps": steps,
            "backend": self._present_adapter().name,
            "format": CHECKPOINT_FORMAT,
        }


@overload
def fit(
    graph: PlateGraph,
    data: Data,
    *,
    backend: str,
    family: Family | None = ...,
    batch: Mapping[str, int] | None = ...,
    steps: int | Literal["auto"] = ...,
    num_particles: int | None = ...,
    learning_rate: float = ...,
    gradient: Gradient = ...,
    objective: str | Objective = ...,
    seed: int = ...,
    dtype: Literal["float32", "float64"] = ...,
    table_memory: int = ...,
    progress: bool = ...,
    checkpoint: str | Path | None = ...,
    resume: bool = ...,
    dry_run: Literal[False] = ...,
) -> Posterior: ...


@overload
def fit(
    graph: PlateGraph,
    data: Data,
    *,
    backend: str,
    family: Family | None = ...,
    batch: Mapping[str, int] | None = ...,
    steps: int | Literal["auto"] = ...,
    num_particles: int | None = ...,
    learning_rate: float = ...,
    gradient: Gradient = ...,
    objective: str | Objective = ...,
    seed: int = ...,
    dtype: Literal["float32", "float64"] = ...,
    table_memory: int = ...,
    progress: bool = ...,
    checkpoint: str | Path | None = ...,
    resume: bool = ...,
    dry_run: Literal[True],
) -> Forecast: ...


def fit(
    graph: PlateGraph,
    data: Data,
    *,
    backend: str,
    family: Family | None = None,
    batch: Mapping[str, int] | None = None,
    steps: int | Literal["auto"] = "auto",
    num_particles: int | None = None,
    learning_rate: float = DEFAULT_LEARNING_RATE,
    gradient: Gradient = "auto",
    objective: str | Objective = "auto",
    seed: int = 0,
    dtype: Literal["float32", "float64"] = "float32",
    table_memory: int = TABLE_MEMORY,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    resume: bool = True,
    dry_run: bool = False,
) -> Posterior | Forecast:
    """Fits a plate-amortized guide to a model and its data.

    Args:
        graph: the model.
        data: its data.
        backend: `"numpyro"` or `"tfp"`.
        family: the variational family.
        batch: reduced cardinalities by plate, e.g. `{"county": 64}`.
        steps: number of steps, or `"auto"`.
        num_particles: draws of the guide at each step; by default 1, and up to 8 where the
            batch is small.
        learning_rate: Adam's rate at its peak.
        gradient: `"auto"`, `"path"` or `"total"`.
        objective: `"auto"`, `"elbo"`, `"local"`, `"global"` or a `pavi.Objective`.
        seed: seed of everything random.
        dtype: `"float32"` or `"float64"`.
        table_memory: bytes of free tables to hold in memory; larger ones are in files.
        progress: whether to show a progress bar.
        checkpoint: a folder for checkpoints; Ctrl-C and SIGTERM save one before they end the fit.
        resume: whether to go on from the newest checkpoint in the folder, if there is one.
        dry_run: whether to say only what the fit will cost, after a short probe.

    Returns:
        The posterior, whose `converged` and `verdict` say whether to believe it; with `dry_run` a
        `Forecast`.

    Raises:
        PaviError: see `Trainer`.
    """
    trainer = Trainer(
        graph,
        data,
        backend=backend,
        family=family,
        batch=batch,
        num_particles=num_particles,
        learning_rate=learning_rate,
        gradient=gradient,
        objective=objective,
        seed=seed,
        dtype=dtype,
        table_memory=table_memory,
    )
    if dry_run:
        return trainer.forecast(steps, checkpoint=checkpoint)
    return trainer.fit(steps, progress=progress, checkpoint=checkpoint, resume=resume)
