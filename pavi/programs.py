"""What fits leave behind compiled: kept for the next one that it serves."""

from __future__ import annotations

from threading import Lock

from pavi.backends.base import Adapter, Functions, Program, Settings
from pavi.plan import GuidePlan

_Key = tuple[GuidePlan, Settings]


class Programs:
    """The compiled programs of one trainer, and of those of the same options on other data.

    A program has the state of its run, so that it serves one at a time; the draws of its posteriors
    have none, and live as long as this.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._free: dict[_Key, list[Program]] = {}
        self._functions: dict[_Key, Functions] = {}

    def taken(self, adapter: Adapter, plan: GuidePlan, settings: Settings) -> Program:
        """A program of this plan that no run has, compiled before if there is one."""
        key = (plan.as_compiled, settings)
        with self._lock:
            if self._free.get(key):
                return self._free[key].pop()
        return adapter.program(plan, settings)

    def give_back(
        self, adapter: Adapter, plan: GuidePlan, settings: Settings, program: Program
    ) -> None:
        """Keeps the program of a run that is over."""
        key = (plan.as_compiled, settings)
        with self._lock:
            self._free.setdefault(key, []).append(program)
            self._functions[key] = adapter.functions(plan, settings.dtype)
