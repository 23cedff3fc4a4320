"""A posterior written to a Zarr store, cell by cell, at constant memory.

All cells are parts of the same joint draws: noise belongs to the seed and the ground element, see
`noise`, so that a cell meets the globals, and all else that it shares, as every other one does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from pavi.backends.base import Arrays
from pavi.batch import Batch
from pavi.cells import Cell, Grid, part, partable
from pavi.errors import DataError, did_you_mean
from pavi.export_request import Request
from pavi.export_store import Store, Target
from pavi.fingerprints import digest
from pavi.fitted import Fitted
from pavi.guide import Moments, noise_shapes
from pavi.integers import is_integer
from pavi.noise import Noise
from pavi.plan import GuidePlan
from pavi.summaries import STATISTICS, Summary
from pavi.tables import rows_of

T = TypeVar("T")

# Numbers that are drawn at once. What is made on the way to more of them leaves the processor's
# cache, and is memory that the system gives anew each time: they would cost twice as much each.
_NUMBERS = 1 << 17
# Fewest draws at once, where memory allows it: the noise of fewer would cost more each.
_DRAWS = 8
# Numbers of a chunk that each cell writes some rows of: it is read and written again by all.
_SHARED_CHUNK = 1 << 18
# A cell holds so many times what all cells share, and draw again.
_OWN_SHARE = 5
# Memory for one number that is drawn, in units of its dtype: noise in float64, of the next draws
# too, and what a compiled program makes of it, as measured with a natural encoding.
_TEMPORARIES = 80


class _Piece(NamedTuple):
    """Some draws of a cell, about to be made; `last` are its last ones."""

    cell: Cell
    names: tuple[str, ...]
    batch: Batch
    rows: Arrays
    noise: Arrays
    wanted: int
    last: bool


def export(
    fitted: Fitted, path: str | Path, request: Request, *, memory: int, progress: bool
) -> Path:
    """Writes a posterior; see `Posterior.export`."""
    if not is_integer(memory, 1):
        raise DataError(f"export: memory={memory!r}: expected a positive number of bytes.")
    work = _Work(fitted, request)
    store = Store(Path(path), work.identity())
    if store.complete:
        return store.path
    if store.layout is None:
        grid = work.grid(memory)
        cells, chunk = work.cells(grid), work.chunk(grid, memory)
        layout = {"lengths": grid.lengths, "draws_at_once": chunk}
        store.create(list(work.targets(grid)), work.coordinates(), layout, len(cells))
    else:
        # What is written was parted by the memory of then.
        grid = Grid(fitted.data, store.layout["lengths"])
        cells, chunk = work.cells(grid), int(store.layout["draws_at_once"])
    with tqdm(total=len(cells), initial=store.done, disable=not progress, unit=" cells") as bar:
        summaries: dict[str, Summary] = {}
        for piece in _ahead(work.pieces(grid, cells[store.done :], chunk)):
            drawn = work.drawn(piece)
            for name in piece.names:
                value = work.inside(name, piece, drawn.centre[name])
                spread = drawn.spread.get(name)
                if name not in summaries:
                    summaries[name] = Summary(value, request.statistics, request.held)
                within = None if spread is None else work.inside(name, piece, spread)
                summaries[name].add(value, within)
            if piece.last:
                for name, summary in summaries.items():
                    region = work.region(name, piece.cell)
                    for array, lead, content in work.results(name, summary):
                        store.write(array, (*lead, *region), content)
                summaries = {}
                store.advance()
                bar.update()
    store.finish()
    return store.path


class _Work:
    """One export: what is read, what is written where, and what it takes.

    Args:
        fitted: what to draw from.
        request: what to write.

    Raises:
        DataError: a variable is not a latent, or two arrays of the store would have one name.
    """

    def __init__(self, fitted: Fitted, request: Request) -> None:
        self._fitted, self._request = fitted, request
        self._graph = fitted.plan.graph
        latents = [latent.name for latent in self._graph.latents]
        self._names = list(request.variables) if request.variables is not None else latents
        for name in self._names:
            if name not in latents:
                raise DataError(
                    f"export: variables={self._names}: {name!r} is not a latent of this graph."
                    f"{did_you_mean(name, latents)}"
                )
        self._data = _data_read(fitted.plan)
        self._check_names()

    def identity(self) -> dict[str, Any]:
        """What the export is known by: another one may not go on with its store."""
        fitted, request = self._fitted, self._request
        quantiles = [float(q) for q in request.quantiles]
        arrays = {**fitted.weights, **{f"tables:{n}": t for n, t in fitted.tables.items()}}
        parts = [json.dumps(fitted.plan.family.to_json(), sort_keys=True)]
        parts += [f"{name} {digest(arrays[name], fitted.dtype)}" for name in sorted(arrays)]
        return {
            "graph": self._graph.fingerprint(),
            "posterior": sha256("\n".join(parts).encode()).hexdigest(),
            "data": fitted.data.fingerprint(fitted.dtype),
            "backend": fitted.backend,
            "dtype": fitted.dtype,
            "variables": self._names,
            "statistics": [s for s in STATISTICS if s in request.statistics],
            "quantiles": quantiles if "quantiles" in request.statistics else [],
            "draws": int(request.draws),
            "num_samples": request.total,
            "seed": int(request.seed),
        }

    # --- what is written ------------------------------------------------------------------------

    def targets(self, grid: Grid) -> Iterator[Target]:
        """The arrays of the store; a cell that parts a plate is one chunk along it."""
        sizes = self._fitted.data.sizes
        for name in self._names:
            variable = self._graph.variables[name]
            dims = (*variable.plates, *_event_dims(name, variable.event))
            shape = (*(sizes[p] for p in variable.plates), *variable.event)
            rows = [grid.lengths.get(p, -(-sizes[p] // grid.parts(p))) for p in variable.plates]
            for array, lead in self._arrays(name):
                chunks = [*lead.values(), *rows, *variable.event]
                for axis, plate in enumerate(variable.plates, len(lead)):
                    if grid.scatters(plate):
                        more = _SHARED_CHUNK // max(prod(chunks), 1)
                        chunks[axis] = min(sizes[plate], chunks[axis] * max(more, 1))
                yield Target(
                    array,
                    (*lead, *dims),
                    (*lead.values(), *shape),
                    tuple(chunks),
                    self._fitted.dtype,
                )

    def coordinates(self) -> dict[str, np.ndarray]:
        """Labels of the plates that have them, the draws' numbers and the quantiles' levels."""
        used = {p for name in self._names for p in self._graph.variables[name].plates}
        out = {p: _storable(v) for p, v in self._fitted.data.coords.items() if p in used}
        leads: dict[str, int] = {}
        for name in self._names:
            for _, lead in self._arrays(name):
                leads |= lead
        if "quantile" in leads:
            out["quantile"] = np.asarray(self._request.quantiles, np.float64)
        if "draw" in leads:
            out["draw"] = np.arange(self._request.draws)
        return out

    def results(
        self, name: str, summary: Summary
    ) -> Iterator[tuple[str, tuple[slice, ...], np.ndarray]]:
        """What is known of a latent: which array it goes to, its axes before the plates, itself."""
        for array, lead in self._arrays(name):
            match array.removeprefix(name):
                case "_mean":
                    value = summary.mean()
                case "_sd":
                    value = summary.sd()
                case "_quantile":
                    value = summary.quantiles(self._request.quantiles)
                case _:
                    value = summary.draws(self._request.draws)
            yield array, (slice(None),) * len(lead), value

    def region(self, name: str, cell: Cell) -> tuple[slice | np.ndarray, ...]:
        """Where a cell's rows of a latent lie, `[*plates, *event]`."""
        variable = self._graph.variables[name]
        rows = [cell.rows.get(plate, slice(None)) for plate in variable.plates]
        return (*rows, *(slice(None) for _ in variable.event))

    def inside(self, name: str, piece: _Piece, value: np.ndarray) -> np.ndarray:
        """A latent's draws in a piece without padding, `[wanted, *plates, *event]`."""
        plates = self._graph.variables[name].plates
        counts = [piece.cell.count(p) if p in piece.cell.rows else None for p in plates]
        return value[(slice(piece.wanted), *(slice(count) for count in counts))]

    def _arrays(self, name: str) -> Iterator[tuple[str, dict[str, int]]]:
        """The arrays of a latent, and the sizes of their axes before the plates."""
        request = self._request
        if "mean" in request.statistics:
            yield f"{name}_mean", {}
        if "sd" in request.statistics:
            yield f"{name}_sd", {}
        if "quantiles" in request.statistics:
            yield f"{name}_quantile", {"quantile": len(request.quantiles)}
        if request.draws:
            yield name, {"draw": int(request.draws)}

    def _check_names(self) -> None:
        taken = {"quantile": "an axis of the store", "draw": "an axis of the store"}
        named = [(p, f"the plate {p!r}") for p in self._graph.plates]
        for name in self._names:
            owner = f"the latent {name!r}"
            named += [(a, owner) for a, _ in self._arrays(name)]
            named += [(d, owner) for d in _event_dims(name, self._graph.variables[name].event)]
        for name, owner in named:
            if name in taken:
                raise DataError(
                    f"export: {owner} and {taken[name]} would both be called {name!r} in the "
                    "store; rename one, or leave it out by variables=[...]."
                )
            taken[name] = owner

    # --- what is drawn --------------------------------------------------------------------------

    def cells(self, grid: Grid) -> list[tuple[Cell, tuple[str, ...]]]:
        """The cells in which something is written, and which latents.

        Of plates that a latent does not lie on, the first cell writes it for all.
        """
        out = []
        for cell in grid.cells():
            names = []
            for name in self._names:
                plates = self._graph.variables[name].plates
                reach = self._graph.reach(plates)
                first = all(not at for plate, at in cell.place.items() if plate not in reach)
                if first and all(cell.count(p) for p in plates if p in cell.rows):
                    names.append(name)
            if names:
                out.append((cell, tuple(names)))
        return out

    def pieces(
        self, grid: Grid, cells: Iterable[tuple[Cell, tuple[str, ...]]], chunk: int
    ) -> Iterator[_Piece]:
        """What is drawn, cell by cell and some draws at a time; all pieces have one shape."""
        fitted, total = self._fitted, self._request.total
        for cell, names in cells:
            batch = grid.batch(cell, self._data, fitted.dtype)
            rows = rows_of(fitted.plan, fitted.tables, batch)
            noise = Noise(
                fitted.plan.blocks, fitted.data.sizes, batch.indices, int(self._request.seed)
            )
            for start in range(0, total, chunk):
                wanted = min(chunk, total - start)
                last = start + wanted == total
                yield _Piece(cell, names, batch, rows, noise.draw(chunk), wanted, last)

    def drawn(self, piece: _Piece) -> Moments:
        """The draws of a piece; where none are held, means and deviations that are known exactly.

        Of a latent that is Gaussian given the coarser ones only the latter need to be drawn.
        """
        fitted = self._fitted
        given = (fitted.weights, piece.rows, piece.noise, piece.batch)
        if self._request.held:
            return Moments(fitted.functions.sample(*given), {})
        return fitted.functions.moments(*given)

    # --- what it takes --------------------------------------------------------------------------

    def grid(self, memory: int) -> Grid:
        """Cells that are drawn fast, as far as they are within `memory`."""
        plan, data = self._fitted.plan, self._fitted.data
        roots = set(partable(plan, data))
        inside = {p: 0 if roots & self._graph.reach((p,)) else n for p, n in data.sizes.items()}
        draws = min(_DRAWS, self._request.total)
        wanted = max(_NUMBERS // draws, _OWN_SHARE * self._numbers(inside), 1)

        def cost(sizes: Mapping[str, int]) -> float:
            taken = self._held_bytes(sizes) + self._draw_bytes(sizes)
            return max(taken / memory, self._numbers(sizes) / wanted)

        return part(plan, data, cost, 1.0)

    def chunk(self, grid: Grid, memory: int) -> int:
        """How many draws of a cell to make at once.

        Raises:
            DataError: one draw at a time takes more than `memory`.
        """
        held, draw = self._held_bytes(grid.sizes), self._draw_bytes(grid.sizes)
        if held + draw > memory:
            least = sorted(p for p, n in grid.lengths.items() if n == 1)
            whole = [p for p in grid.sizes if not grid.parts(p) > 1]
            raise DataError(
                f"export: memory={memory} is less than the {held + draw} bytes that a cell takes, "
                f"which has one element of each of the plates {least}, all of {whole}, and "
                f"{self._request.held} draws held. Give memory={held + draw} or more, fewer "
                "num_samples or draws, or statistics=('mean', 'sd'), of which none are held."
            )
        total = self._request.total
        fast = max(_NUMBERS // max(self._numbers(grid.sizes), 1), _DRAWS)
        most = int(min(fast, (memory - held) // draw, total))
        # In as many parts, which are then of one size.
        return -(-total // -(-total // most))

    def _held_bytes(self, sizes: Mapping[str, int]) -> int:
        """The latents' draws that are held, and float64 sums."""
        numbers = 0
        for name in self._names:
            variable = self._graph.variables[name]
            numbers += prod((*(sizes[p] for p in variable.plates), *variable.event))
        return numbers * (self._request.held * np.dtype(self._fitted.dtype).itemsize + 3 * 8)

    def _draw_bytes(self, sizes: Mapping[str, int]) -> int:
        """One draw of a cell, while it is made."""
        return self._numbers(sizes) * _TEMPORARIES * np.dtype(self._fitted.dtype).itemsize

    def _numbers(self, sizes: Mapping[str, int]) -> int:
        """Numbers that one draw is made of: noise and data."""
        numbers = sum(prod(shape) for shape in noise_shapes(self._fitted.plan, 1, sizes).values())
        for name in self._data:
            variable = self._graph.variables[name]
            numbers += prod((*(sizes[p] for p in variable.plates), *variable.event))
        return numbers


def _data_read(plan: GuidePlan) -> frozenset[str]:
    """The data that draws depend on: the latents' covariates, and what encoders look at."""
    graph = plan.graph
    read = {f.observed for b in plan.blocks if b.evidence is not None for f in b.evidence.factors}
    children = {*read, *(latent.name for latent in graph.latents)}
    covariates = {c.name for c in graph.covariates}
    return frozenset(read.union(*(covariates & set(graph.variables[n].parents) for n in children)))


def _event_dims(name: str, event: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{name}_dim_{axis}" for axis in range(len(event)))


def _storable(labels: np.ndarray) -> np.ndarray:
    """Labels as a store can have them: those that are neither numbers nor dates, as strings."""
    return labels if labels.dtype.kind in "biufUM" else labels.astype(str)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each of them made while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, None)
        while (item := future.result()) is not None:
            future = pool.submit(next, items, None)
            yield item
