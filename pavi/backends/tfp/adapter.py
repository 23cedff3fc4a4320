"""The TFP backend's entry: what `get_adapter("tfp")` returns."""

from __future__ import annotations

from pavi.backends.base import Functions, Program, Settings
from pavi.backends.tfp.functions import TensorFlowFunctions
from pavi.backends.tfp.program import TensorFlowProgram
from pavi.batch import Batch
from pavi.plan import GuidePlan


class TFPAdapter:
    """Plans on TensorFlow, with the densities of TensorFlow Probability."""

    name = "tfp"

    def program(self, plan: GuidePlan, full: Batch, settings: Settings) -> Program:
        return TensorFlowProgram(plan, full, settings)

    def functions(self, plan: GuidePlan, dtype: str) -> Functions:
        return TensorFlowFunctions(plan, dtype)


ADAPTER = TFPAdapter()
