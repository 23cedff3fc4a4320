"""The NumPyro backend's entry: what `get_adapter("numpyro")` returns."""

from __future__ import annotations

from pavi.backends.base import Functions, Program, Settings
from pavi.backends.numpyro.functions import JaxFunctions
from pavi.backends.numpyro.program import JaxProgram
from pavi.batch import Batch
from pavi.plan import GuidePlan


class NumPyroAdapter:
    """Plans on JAX, with NumPyro's densities."""

    name = "numpyro"

    def program(self, plan: GuidePlan, full: Batch, settings: Settings) -> Program:
        return JaxProgram(plan, full, settings)

    def functions(self, plan: GuidePlan, dtype: str) -> Functions:
        return JaxFunctions(plan, dtype)


ADAPTER = NumPyroAdapter()
