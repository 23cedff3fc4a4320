"""The TFP backend's entry: what `get_adapter("tfp")` returns."""

from __future__ import annotations

from pavi.backends.base import Arrays, Functions, HostObjects, Program, Settings, SharedFunctions
from pavi.backends.tfp.functions import TensorFlowFunctions
from pavi.backends.tfp.guide import make_surrogate
from pavi.backends.tfp.model import make_joint_distribution
from pavi.backends.tfp.program import TensorFlowProgram
from pavi.batch import Batch
from pavi.plan import GuidePlan


class TFPAdapter:
    """Plans on TensorFlow, with the densities of TensorFlow Probability."""

    name = "tfp"

    def __init__(self) -> None:
        self._functions = SharedFunctions(TensorFlowFunctions)

    def program(self, plan: GuidePlan, settings: Settings) -> Program:
        return TensorFlowProgram(plan, settings)

    def functions(self, plan: GuidePlan, dtype: str) -> Functions:
        return self._functions.of(plan, dtype)

    def host(self, plan: GuidePlan, weights: Arrays, tables: Arrays, batch: Batch) -> HostObjects:
        model = make_joint_distribution(plan.graph, batch)
        return HostObjects(model, make_surrogate(plan, weights, tables, batch), batch)


ADAPTER = TFPAdapter()
