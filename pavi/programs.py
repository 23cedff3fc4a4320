"""Compiled programs between runs: kept for the next run that they serve."""

from __future__ import annotations

from pavi.backends.base import Adapter, Program, Settings
from pavi.plan import GuidePlan


class Programs:
    """The programs that one trainer's runs have left behind, and those of the same options.

    A program has the state of its run, so that it serves one at a time.
    """

    def __init__(self) -> None:
        self._free: list[tuple[GuidePlan, Settings, Program]] = []

    def taken(self, adapter: Adapter, plan: GuidePlan, settings: Settings) -> Program:
        """A program of this plan that no run has, compiled before if there is one."""
        for kept in list(self._free):
            if kept[:2] == (plan.as_compiled, settings):
                try:
                    self._free.remove(kept)
                except ValueError:  # another thread's run was faster
                    continue
                return kept[2]
        return adapter.program(plan, settings)

    def give_back(self, plan: GuidePlan, settings: Settings, program: Program) -> None:
        """Keeps the program of a run that is over."""
        self._free.append((plan.as_compiled, settings, program))
