"""What is asked of an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pavi.errors import DataError
from pavi.integers import is_integer
from pavi.summaries import STATISTICS


@dataclass(frozen=True)
class Request:
    """What is to be written.

    Args:
        statistics: of `"mean"`, `"sd"` and `"quantiles"`.
        draws: how many draws to write.
        quantiles: which quantiles.
        num_samples: number of draws that the statistics are taken over.
        seed: seed of the noise.
        variables: latents, all where None.

    Raises:
        DataError: one of them is not what it can be.
    """

    statistics: Sequence[str] = STATISTICS
    draws: int = 0
    quantiles: Sequence[float] = (0.05, 0.5, 0.95)
    num_samples: int = 1000
    seed: int = 0
    variables: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.statistics, str) or not set(self.statistics) <= set(STATISTICS):
            raise DataError(
                f"export: statistics={self.statistics!r}: expected a list of "
                f"{', '.join(map(repr, STATISTICS))}."
            )
        for name, least in (("draws", 0), ("num_samples", 1), ("seed", None)):
            value = getattr(self, name)
            if not is_integer(value, least):
                kind = "an integer" if least is None else f"an integer of {least} or more"
                raise DataError(f"export: {name}={value!r}: expected {kind}.")
        if not self.statistics and not self.draws:
            raise DataError("export: neither statistics nor draws are asked for.")
        if self.statistics and self.draws > self.num_samples:
            raise DataError(
                f"export: draws={self.draws} are more than the num_samples={self.num_samples} that "
                f"the statistics are taken over; give num_samples={self.draws}."
            )
        levels = np.asarray(self.quantiles)
        given = levels.ndim == 1 and len(levels) > 0 and levels.dtype.kind in "iuf"
        inside = given and bool(np.all((levels >= 0) & (levels <= 1)))
        if "quantiles" in self.statistics and not inside:
            raise DataError(
                f"export: quantiles={self.quantiles!r}: expected a list of numbers between 0 and 1."
            )

    @property
    def total(self) -> int:
        """Draws that are made."""
        return int(self.num_samples if self.statistics else self.draws)

    @property
    def held(self) -> int:
        """Draws of a cell that are held until it is written."""
        return self.total if "quantiles" in self.statistics else int(self.draws)
