"""One fit under way: all that changes from call to call, and how it is kept and taken up again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np

from pavi.backends.base import Arrays, Program, Rates, Settings
from pavi.binding import BoundData
from pavi.drift import Drift
from pavi.feed import Drawn, Feed
from pavi.guide import initial_weights
from pavi.movement import Movement
from pavi.plan import GuidePlan
from pavi.prefixes import part_of, prefixed
from pavi.schedule import CHUNK, History, Schedule, Verdict, after_cooling, enough
from pavi.subsampling import Sampler
from pavi.tables import Table, TableSpace, TableStore
from pavi.visits import rarest


class _Rows(NamedTuple):
    """Rows of each table, all copies where the index is None."""

    indices: Mapping[str, np.ndarray | None]
    tables: Mapping[str, Table]


class _Ready(NamedTuple):
    """All that a call needs; `shared` says which of its rows the call before has, and where."""

    drawn: Drawn
    taken: dict[str, Table]
    shared: dict[str, tuple[np.ndarray, np.ndarray]]
    agreement: float


class _Record(NamedTuple):
    """A record under way: its rates, and the estimates of the calls so far.

    `schedule` is the schedule's state before it.
    """

    schedule: dict[str, Any]
    phase: int
    path: bool
    rates: Rates
    steps: int
    elbos: list[np.ndarray]


class Run:
    """A fit, a record of `CHUNK` steps at a time.

    Args:
        plan: the plan.
        data: the data.
        program: the plan's compiled program, which no other run has.
        sampler: draws the rows of each step; None where every step sees all of them.
        settings: what the compiled programs depend on.
        learning_rate: Adam's rate at its peak.
        seed: seed of weights, batches and noise.
        steps: number of steps, or `"auto"`.
        space: where the free tables are held; what is held in files is gone with the run.

    Attributes:
        program: the program, for another run once this one's results have been read.
        history: the ELBO so far.
        schedule: where it stands.

    Raises:
        PaviError: the free tables do not fit where they are to be held.
    """

    def __init__(
        self,
        plan: GuidePlan,
        data: BoundData,
        program: Program,
        sampler: Sampler | None,
        settings: Settings,
        learning_rate: float,
        seed: int,
        steps: int | Literal["auto"],
        space: TableSpace | None = None,
    ) -> None:
        self._plan, self._seed, self._sampler = plan, seed, sampler
        self._feed = Feed(plan, data, sampler, settings.dtype)
        self._tables = TableStore(plan, settings.dtype, space)
        self.program = program
        weights = initial_weights(plan, seed, settings.dtype)
        program.initialise(self._feed.resident, weights, seed)
        self._movement = Movement(plan, self._tables)
        self._drift = Drift(plan)
        self._size = self._feed.steps_per_call(CHUNK)
        self._calls = 0
        self._agreement = 0.0
        self._record: _Record | None = None
        # The last call's rows and what became of them, on their way into the tables.
        self._moved: _Rows | None = None
        self._before, self._start = 0.0, time.perf_counter()
        self._constant: Verdict | None = None
        self._latest = Verdict(False, "not fitted")
        self.history = History()
        self.schedule = Schedule(
            steps,
            learning_rate,
            settings.gradient,
            whole=sampler is None,
            num_particles=settings.num_particles,
        )
        self._host = ThreadPoolExecutor(1)
        self._upcoming: Future[_Ready] | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds, those before it was taken up again included."""
        return self._before + time.perf_counter() - self._start

    @property
    def taken(self) -> int:
        """Steps taken so far, those of a record under way included."""
        done = int(self.history.step[-1]) if len(self.history.step) else 0
        return done + (len(self._record.elbos) * self._size if self._record else 0)

    @property
    def finished(self) -> bool:
        """Whether all steps have been taken."""
        return self._record is None and self.schedule.finished

    @property
    def verdict(self) -> Verdict:
        """Whether the fit settled: judged before the rate fell, if it has."""
        if self._constant is None:
            return self._latest
        verdict = after_cooling(self.history, self._constant, self._plan.num_latents)
        if not verdict.converged:
            return verdict
        return enough(verdict, rarest(self._plan, self._sampler, self.taken, self._seed))

    def close(self) -> None:
        """Lets the thread that gathers rows go, once it has put the last call's into the tables."""
        self._host.shutdown(wait=True)

    def advance(self, pause: Callable[[], bool] = lambda: False) -> int:
        """Takes the steps of one record; returns how many.

        Between two calls it asks whether to pause, and if so returns 0; it goes on when it is
        called again.
        """
        record = self._record = self._record or self._begun()
        count = record.steps
        start = len(record.elbos)
        while (place := len(record.elbos) * self._size) < count:
            if len(record.elbos) > start and pause():
                return 0
            part = Rates(*(rate[place : place + self._size] for rate in record.rates))
            steps = min(self._size, count - place)
            ends = place + steps == count
            record.elbos.append(self._call(part, record.path, steps, ends=ends))
        self._record = None
        self.history.append(np.concatenate(record.elbos), record.phase)
        constant = self._constant is None
        if constant:
            # Averaging needs one basis, so the last change of it is before the cool-down.
            self.program.rebase(self._rebased)
        self._latest = self.schedule.consider(
            self.history, self._plan.num_latents, self._agreement, self._drift.travel
        )
        if constant:
            self._constant = self._latest if self.schedule.cooling else None
        return count

    def program_bytes(self) -> int | None:
        """Bytes that the compiled programs need, where the framework tells."""
        return self.program.memory()

    def fitted(self, *, averaged: bool = True) -> tuple[Arrays, Arrays]:
        """Weights and tables: averaged, or the last iterate."""
        self._settle()
        return self.program.weights(averaged=averaged), self._tables.values(averaged=averaged)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """All that another process needs to go on: JSON and arrays."""
        self._settle()
        description = {
            "calls": self._calls,
            "seconds": self.seconds,
            "schedule": self._record.schedule if self._record else self.schedule.state(),
            "latest": list(self._latest),
            "constant": list(self._constant) if self._constant else None,
        }
        parts: dict[str, Mapping[str, np.ndarray]] = {
            "program": self.program.state(),
            "tables": self._tables.packed,
            "history": vars(self.history),
            "movement": self._movement.state(),
            "drift": self._drift.state(),
        }
        if self._record and self._record.elbos:
            parts["record"] = {"elbo": np.concatenate(self._record.elbos)}
        arrays: Arrays = {}
        for name, own in parts.items():
            arrays |= prefixed(f"{name}:", own)
        return description, arrays

    def restore(self, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `state` returned; to be called before the first `advance`.

        Raises:
            KeyError: the state is not one of this run.
        """
        self.program.restore(part_of("program:", arrays))
        self._tables.restore(part_of("tables:", arrays))
        self._movement.restore(part_of("movement:", arrays))
        self._drift.restore(part_of("drift:", arrays))
        self.history = History(**part_of("history:", arrays))
        self.schedule.restore(description["schedule"])
        self._latest = Verdict(*description["latest"])
        constant = description["constant"]
        self._constant = Verdict(*constant) if constant else None
        self._calls, self._before = description["calls"], description["seconds"]
        if "record:elbo" in arrays:
            elbo = np.array(arrays["record:elbo"])
            self._record = self._begun()
            self._record.elbos.extend(elbo.reshape(-1, self._size))
        # The rows were watched before they were kept.
        self._upcoming = self._prepare(self._calls, watched=True)

    def _rebased(self, weights: Arrays) -> Arrays:
        self._drift.record(weights)
        return rebased(self._plan, weights)

    def _begun(self) -> _Record:
        before, phase, path = self.schedule.state(), self.schedule.phase, self.schedule.path
        return _Record(before, phase, path, *self.schedule.next_rates(), [])

    def _call(self, rates: Rates, path: bool, steps: int, *, ends: bool) -> np.ndarray:
        """One compiled call; meanwhile another thread readies the next one.

        `ends` says that it is the last one of its record.

        That thread writes back the rows of the call before and fetches those of the next, at random
        places of tables that may be large; rows of both are handed on directly.
        """
        ready = (self._upcoming or self._prepare(self._calls)).result()
        self._agreement = ready.agreement
        given = self._handed_on(ready)
        self._calls += 1
        self._upcoming = self._prepare(self._calls, ready.drawn.rows, watched=not ends)
        call = ready.drawn.call
        elbo, moved = self.program.run(call, given, rates, path=path, steps=steps)
        self._moved = _Rows(ready.drawn.rows, moved)
        return elbo

    def _handed_on(self, ready: _Ready) -> dict[str, Table]:
        """The tables' rows for a call, up to date with the call before it."""
        if self._moved is None:
            return ready.taken
        out = {}
        for name, table in ready.taken.items():
            moved, (here, there) = self._moved.tables[name], ready.shared[name]
            if ready.drawn.rows[name] is None:
                table = moved
            else:
                for mine, theirs in zip(table, moved, strict=True):
                    mine[here] = theirs[there]
            out[name] = table
        return out

    def _prepare(
        self,
        call: int,
        before: Mapping[str, np.ndarray | None] | None = None,
        *,
        watched: bool = False,
    ) -> Future[_Ready]:
        """Has the other thread ready a call, of which the one before it has the rows `before`."""
        pending = self._moved

        def ready() -> _Ready:
            if pending is not None:
                self._put(pending)
            if not watched:
                self._movement.record()
            drawn = self._feed.draw(self._seed, self._size, call * self._size)
            taken = {name: self._tables.take(name, index) for name, index in drawn.rows.items()}
            shared = {name: _shared(index, before, name) for name, index in drawn.rows.items()}
            return _Ready(drawn, taken, shared, self._movement.agreement)

        return self._host.submit(ready)

    def _put(self, rows: _Rows) -> None:
        for name, index in rows.indices.items():
            self._tables.put(name, index, rows.tables[name])

    def _settle(self) -> None:
        """Brings the tables up to date, between two calls."""
        if self._upcoming is not None:
            self._upcoming.result()
        if self._moved is not None:
            self._put(self._moved)


def rebased(plan: GuidePlan, weights: Arrays) -> Arrays:
    """Weights of the same guide, in which a step fits the posterior's present scale."""
    out = dict(weights)
    for block in plan.blocks:
        prefix = f"{block.name}/flow/"
        out |= prefixed(prefix, block.flow.rebase(part_of(prefix, weights)))
    return out


def _shared(
    rows: np.ndarray | None, before: Mapping[str, np.ndarray | None] | None, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Places of the rows that two calls have in common, in either; both are in order."""
    other = before[name] if before else None
    if rows is None or other is None:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing
    place = np.minimum(np.searchsorted(other, rows), len(other) - 1)
    here = np.flatnonzero(other[place] == rows)
    return here, place[here]
