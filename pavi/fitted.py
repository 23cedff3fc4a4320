"""A fitted guide on its data: what everything that a posterior answers is drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from pavi.backends.base import Arrays, Functions
from pavi.batch import Batch
from pavi.binding import BoundData
from pavi.cells import whole_plates
from pavi.errors import DataError
from pavi.guide import noise_shapes
from pavi.integers import is_integer
from pavi.noise import Noise
from pavi.plan import GuidePlan
from pavi.subsampling import full_batch, subset
from pavi.tables import rows_of

# Numbers held at once while drawing, per chunk of draws.
_CHUNK_NUMBERS = 20_000_000
_MAX_CHUNK = 500


@dataclass(frozen=True, eq=False)
class Fitted:
    """A plan at its weights, on the data it was fitted to.

    Attributes:
        plan: the lowered plan.
        data: the data.
        functions: the plan's draws and densities on a backend.
        weights: shared weights, `{"block/...": array}`.
        tables: free tables, `{block: [copies + 1, columns]}`.
        backend: the backend's name.
        dtype: floating dtype of the run.
    """

    plan: GuidePlan
    data: BoundData
    functions: Functions
    weights: Arrays
    tables: Arrays
    backend: str
    dtype: str

    @cached_property
    def full(self) -> Batch:
        """All of the data."""
        return full_batch(self.data, self.dtype)

    def part(self, chosen: Mapping[str, np.ndarray]) -> Batch:
        """A batch to draw the chosen elements on, by plate; it may hold others."""
        whole = whole_plates(self.plan)
        part = {plate: index for plate, index in chosen.items() if plate not in whole}
        # What lies within a reduced plate is reduced with it.
        for plate in list(part):
            if any(owner in part for owner in self.plan.graph.owners(plate)):
                del part[plate]
        return subset(self.data, part, self.dtype) if part else self.full

    def rows(self, batch: Batch) -> Arrays:
        """Rows of the free tables in a batch, `{block: [*plates, columns]}`."""
        return rows_of(self.plan, self.tables, batch)

    def chunk(self, num_samples: int, batch: Batch, *, beside: int = 0) -> int:
        """How many draws to hold at once; see `chunks`."""
        sizes = {plate: len(index) for plate, index in batch.indices.items()}
        shapes = noise_shapes(self.plan, 1, sizes)
        rows = sum(prod(np.shape(v)) for v in batch.values.values())
        numbers = beside + rows + sum(prod(shape) for shape in shapes.values())
        chunk = int(np.clip(_CHUNK_NUMBERS // (4 * numbers), 1, _MAX_CHUNK))
        return min(chunk, num_samples)

    def chunks(
        self, num_samples: int, seed: int, batch: Batch, *, beside: int = 0
    ) -> Iterator[tuple[Arrays, int]]:
        """Noise in chunks of one size, and how many of each chunk's draws are wanted.

        Args:
            num_samples: number of draws.
            seed: seed of the noise.
            batch: what is drawn on.
            beside: how many other numbers are held for each draw.
        """
        check_draws(num_samples, seed)
        chunk = self.chunk(num_samples, batch, beside=beside)
        noise = Noise(self.plan.blocks, self.data.sizes, batch.indices, int(seed))
        for start in range(0, num_samples, chunk):
            yield noise.draw(chunk), min(chunk, num_samples - start)

    def draws(
        self, num_samples: int, seed: int, batch: Batch, *, beside: int = 0
    ) -> Iterator[Arrays]:
        """Joint draws of the latents, `{name: [some, *plates, *event]}`, chunk by chunk."""
        rows = self.rows(batch)
        for noise, wanted in self.chunks(num_samples, seed, batch, beside=beside):
            drawn = self.functions.sample(self.weights, rows, noise, batch)
            yield {name: value[:wanted] for name, value in drawn.items()}

    def elbo(self, num_samples: int, seed: int) -> tuple[float, float]:
        """The ELBO of the full model, and the standard error of that estimate."""
        rows = self.rows(self.full)
        draws = np.concatenate(
            [
                self.functions.elbo(self.weights, rows, noise, self.full)[:wanted]
                for noise, wanted in self.chunks(num_samples, seed, self.full)
            ]
        ).astype(np.float64)
        error = draws.std(ddof=1) / np.sqrt(len(draws)) if len(draws) > 1 else float("nan")
        return float(draws.mean()), float(error)

    def checked(self, values: Mapping[str, Any], asked: str) -> Arrays:
        """Joint draws of all latents, `{name: [S, *plates, *event]}`, in the run's dtype.

        Args:
            values: the draws.
            asked: what they are given to, for the message.

        Raises:
            DataError: a missing latent or a wrong shape.
        """
        arrays: Arrays = {}
        count: int | None = None
        for latent in self.plan.graph.latents:
            if latent.name not in values:
                raise DataError(f"{asked} needs every latent; {latent.name!r} is missing.")
            value = np.asarray(values[latent.name], self.dtype)
            shape = (*(self.data.sizes[p] for p in latent.plates), *latent.event)
            if value.shape[1:] != shape or not value.ndim or count not in (None, len(value)):
                raise DataError(
                    f"{asked}: {latent.name!r} has shape {value.shape}; expected "
                    f"[{'num_samples' if count is None else count}, "
                    f"{', '.join(map(str, shape))}] (plates {latent.plates}, event {latent.event})."
                )
            count = len(value)
            arrays[latent.name] = value
        return arrays


def check_draws(num_samples: object, seed: object) -> None:
    """Raises unless so many draws of this seed can be asked for."""
    if not is_integer(num_samples, 1):
        raise DataError(f"num_samples={num_samples!r}: expected a positive integer.")
    if not is_integer(seed):
        raise DataError(f"seed={seed!r}: expected an integer.")
