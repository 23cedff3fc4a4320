"""The known arrays of a model that its graph takes as covariates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pavi.backends.numpyro.values import Known
from pavi.graph import Covariate


@dataclass
class Covariates:
    """The known arrays that sites' parameters take, as covariates."""

    names: Callable[[Known], str | None]
    taken: set[str]
    variables: dict[str, Covariate] = field(default_factory=dict)
    arrays: dict[str, Callable[[], Any]] = field(default_factory=dict)
    _found: dict[tuple[Any, ...], str] = field(default_factory=dict)
    _kept: list[Known] = field(default_factory=list)

    def of(self, known: Known, plates: Sequence[str], order: Sequence[int], site: str) -> Covariate:
        """The covariate of an array.

        Args:
            known: the array.
            plates: plates of its first axes in `order`.
            order: its axes that are kept, those of plates first.
            site: the site that takes it, for a name.
        """
        key = (id(known), tuple(plates), tuple(order))
        if key not in self._found:
            stem = self.names(known) or f"{site}_known"
            name, count = stem, 1
            while name in self.taken:
                count += 1
                name = f"{stem}_{count}"
            self.taken.add(name)
            self._found[key] = name
            self._kept.append(known)
            event = tuple(known.shape[a] for a in order[len(plates) :])
            self.variables[name] = Covariate(name, plates=tuple(plates), event=event)
            self.arrays[name] = lambda: _oriented(known.value, order)
        return self.variables[self._found[key]]


def _oriented(value: Any, order: Sequence[int]) -> Any:
    rest = [a for a in range(np.ndim(value)) if a not in order]
    moved = value.transpose((*order, *rest)) if np.ndim(value) else value
    return moved.reshape(moved.shape[: len(order)])
