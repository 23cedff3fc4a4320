"""Other data under a fitted plan: encoded with the weights as they are, with no training."""

from __future__ import annotations

import numpy as np

from pavi.binding import BoundData
from pavi.encoders import initial_table
from pavi.errors import FamilyError
from pavi.lowering import lower
from pavi.plan import GuidePlan


def encoded(
    plan: GuidePlan, bound: BoundData, dtype: str
) -> tuple[GuidePlan, dict[str, np.ndarray]]:
    """The plan of other data of the same model, and tables without residuals.

    Raises:
        FamilyError: a latent in plates that the encoder does not cover.
    """
    for block in plan.blocks:
        if block.plates and block.encoding == "free":
            names = ", ".join(repr(slot.name) for slot in block.slots)
            raise FamilyError(
                f"encode: {names} on plates {block.plates} is encoded freely, one row for each "
                "element seen in training, so that new ones have no posterior; fit with "
                f"Family(encoding='encoder'), or override it for {names}."
            )
    new_plan = lower(plan.graph, plan.family, bound.sizes, {}, plan.standards, like=plan)
    for old, new in zip(plan.blocks, new_plan.blocks, strict=True):
        if old.parameters != new.parameters or old.joint != new.joint:
            raise FamilyError(
                f"encode: block {old.name} is joint over the {old.copies} elements of "
                f"{old.plates}, of which the new data have {new.copies}; fit with "
                "Family(joint_limit=0) to encode other elements of these plates."
            )
    tables = {
        block.name: initial_table(block.copies, block.table_width, dtype)
        for block in new_plan.blocks
        if block.table_width
    }
    return new_plan, tables
