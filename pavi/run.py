"""One fit under way: all that changes from call to call, and how it is kept and taken up again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from pavi.backends.base import Adapter, Arrays, Rates, Settings
from pavi.bijectors import initial_parameters
from pavi.binding import BoundData
from pavi.feed import Drawn, Feed
from pavi.movement import Movement
from pavi.plan import GuidePlan
from pavi.schedule import CHUNK, History, Schedule, Verdict, after_cooling
from pavi.subsampling import Sampler
from pavi.tables import TableStore


class Run:
    """A fit, a record of `CHUNK` steps at a time.

    Args:
        plan: the plan.
        data: the data.
        adapter: the backend.
        sampler: draws the rows of each step; None where every step sees all of them.
        settings: what the compiled programs depend on.
        learning_rate: Adam's rate at its peak.
        seed: seed of weights, batches and noise.
        steps: number of steps, or `"auto"`.
    """

    def __init__(
        self,
        plan: GuidePlan,
        data: BoundData,
        adapter: Adapter,
        sampler: Sampler | None,
        settings: Settings,
        learning_rate: float,
        seed: int,
        steps: int | Literal["auto"],
    ) -> None:
        self._plan, self._seed = plan, seed
        self._feed = Feed(plan, data, sampler, settings.dtype)
        self._tables = TableStore(plan, settings.dtype)
        self._program = adapter.program(plan, self._feed.resident, settings)
        self._program.initialise(initial_weights(plan, seed, settings.dtype), seed)
        self._movement = Movement(plan, self._tables)
        self._size = self._feed.steps_per_call(CHUNK)
        self._calls = 0
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
        self._upcoming: Future[Drawn] | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds, those before it was taken up again included."""
        return self._before + time.perf_counter() - self._start

    @property
    def verdict(self) -> Verdict:
        """Whether the fit settled: judged before the rate fell, if it has."""
        if self._constant is None:
            return self._latest
        return after_cooling(self.history, self._constant, self._plan.num_latents)

    def close(self) -> None:
        """Lets the thread that gathers rows go."""
        self._host.shutdown(wait=True, cancel_futures=True)

    def advance(self) -> int:
        """Takes the steps of one record; returns how many."""
        path = self.schedule.path
        rates, count = self.schedule.next_rates()
        elbos = []
        for place in range(0, CHUNK, self._size):
            part = Rates(*(rate[place : place + self._size] for rate in rates))
            elbos.append(self._call(part, path))
        self.history.append(np.concatenate(elbos)[:count])
        self._movement.record()
        self._latest = self.schedule.consider(
            self.history, self._plan.num_latents, self._movement.agreement()
        )
        if not self.schedule.cooling or self._constant is None:
            # Averaging needs one basis, so the last change of it is before the cool-down.
            self._program.rebase(self._rebased)
            self._constant = self._latest if self.schedule.cooling else None
        return count

    def fitted(self) -> tuple[Arrays, Arrays]:
        """Averaged weights and tables."""
        return self._program.weights(averaged=True), self._tables.values(averaged=True)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """All that another process needs to go on, between two records: JSON and arrays."""
        description = {
            "calls": self._calls,
            "seconds": self.seconds,
            "schedule": self.schedule.state(),
            "latest": list(self._latest),
            "constant": list(self._constant) if self._constant else None,
        }
        parts: dict[str, Mapping[str, np.ndarray]] = {
            "program": self._program.state(),
            "tables": self._tables.packed,
            "history": vars(self.history),
            "movement": self._movement.state(),
        }
        arrays = {f"{part}:{name}": x for part, own in parts.items() for name, x in own.items()}
        return description, arrays

    def restore(self, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `state` returned; to be called before the first `advance`.

        Raises:
            KeyError: the state is not one of this run.
        """

        def part(name: str) -> Arrays:
            own = f"{name}:"
            return {k.removeprefix(own): v for k, v in arrays.items() if k.startswith(own)}

        self._program.restore(part("program"))
        self._tables.restore(part("tables"))
        self._movement.restore(part("movement"))
        self.history = History(**part("history"))
        self.schedule.restore(description["schedule"])
        self._latest = Verdict(*description["latest"])
        constant = description["constant"]
        self._constant = Verdict(*constant) if constant else None
        self._calls, self._before = description["calls"], description["seconds"]

    def _call(self, rates: Rates, path: bool) -> np.ndarray:
        """One compiled call; the next one's rows are gathered meanwhile."""
        upcoming = self._upcoming or self._gather(self._calls)
        call, rows = upcoming.result()
        self._calls += 1
        self._upcoming = self._gather(self._calls)
        given = {name: self._tables.take(name, index) for name, index in rows.items()}
        elbo, moved = self._program.run(call, given, rates, path=path)
        for name, index in rows.items():
            self._tables.put(name, index, moved[name])
        return elbo

    def _gather(self, call: int) -> Future[Drawn]:
        # A stream of its own for each call: where a run goes on, its position is a number.
        rng = np.random.default_rng([self._seed, 1, call])
        return self._host.submit(self._feed.draw, rng, self._size)

    def _rebased(self, weights: Arrays) -> Arrays:
        """Weights of the same guide, in which a step fits the posterior's present scale."""
        out = dict(weights)
        for block in self._plan.blocks:
            prefix = f"{block.name}/flow/"
            own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            out |= {prefix + name: value for name, value in block.flow.rebase(own).items()}
        return out


def initial_weights(plan: GuidePlan, seed: int, dtype: str) -> Arrays:
    """Shared weights before the first step."""
    rng = np.random.default_rng(seed)
    weights: Arrays = {}
    for block in plan.blocks:
        drawn = initial_parameters(dict(block.parameters), rng, dtype)
        weights |= {f"{block.name}/{name}": value for name, value in drawn.items()}
    return weights
