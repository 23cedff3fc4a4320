"""The NumPyro backend's entry: what `get_adapter("numpyro")` returns."""

from __future__ import annotations

from pavi.backends.base import Arrays, Functions, HostObjects, Program, Settings, SharedFunctions
from pavi.backends.numpyro.functions import JaxFunctions
from pavi.backends.numpyro.guide import make_guide
from pavi.backends.numpyro.model import make_model
from pavi.backends.numpyro.program import JaxProgram
from pavi.batch import Batch
from pavi.plan import GuidePlan


class NumPyroAdapter:
    """Plans on JAX, with NumPyro's densities."""

    name = "numpyro"

    def __init__(self) -> None:
        self._functions = SharedFunctions(JaxFunctions)

    def program(self, plan: GuidePlan, settings: Settings) -> Program:
        return JaxProgram(plan, settings)

    def functions(self, plan: GuidePlan, dtype: str) -> Functions:
        return self._functions.of(plan, dtype)

    def host(self, plan: GuidePlan, weights: Arrays, tables: Arrays, batch: Batch) -> HostObjects:
        return HostObjects(make_model(plan.graph), make_guide(plan, weights, tables), batch)


ADAPTER = NumPyroAdapter()
