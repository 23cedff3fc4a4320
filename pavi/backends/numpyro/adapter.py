"""The NumPyro backend's entry: what `get_adapter("numpyro")` returns."""

from __future__ import annotations

from weakref import WeakValueDictionary

from pavi.backends.base import Arrays, Functions, HostObjects, Program, Settings
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
        # Posteriors of one plan share what was compiled, as long as one of them lives.
        self._functions: WeakValueDictionary[tuple[GuidePlan, str], JaxFunctions] = (
            WeakValueDictionary()
        )

    def program(self, plan: GuidePlan, settings: Settings) -> Program:
        return JaxProgram(plan, settings)

    def functions(self, plan: GuidePlan, dtype: str) -> Functions:
        key = (plan.as_compiled, dtype)
        found = self._functions.get(key)
        if found is None:
            found = self._functions[key] = JaxFunctions(plan, dtype)
        return found

    def host(self, plan: GuidePlan, weights: Arrays, tables: Arrays, batch: Batch) -> HostObjects:
        return HostObjects(make_model(plan.graph), make_guide(plan, weights, tables), batch)


ADAPTER = NumPyroAdapter()
