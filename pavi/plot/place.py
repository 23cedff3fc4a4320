"""Which of a latent's numbers a picture shows: one number for each element of one plate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pavi import elements
from pavi.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from pavi.binding import BoundData
    from pavi.posterior import Posterior


@dataclass(frozen=True)
class Place:
    """One component of a latent, along one of its plates.

    Attributes:
        variable: the latent.
        plates: its plates.
        plate: the one that the picture goes along.
        others: position of the element of each other plate.
        component: which element of the event.
        name: the latent with its component, `theta[1]`.
        where: the elements of the other plates, in words.
        labels: labels of the plate's elements, or their positions.
    """

    variable: str
    plates: tuple[str, ...]
    plate: str
    others: Mapping[str, int]
    component: tuple[int, ...]
    name: str
    where: str
    labels: np.ndarray

    @property
    def _event(self) -> Any:
        return (..., *self.component)

    def copies(self, array: np.ndarray) -> np.ndarray:
        """`[*lead, *plates]` along the plate, `[*lead, plate]`."""
        index = (slice(None) if p == self.plate else self.others[p] for p in self.plates)
        return array[(..., *index)]

    def along(self, array: np.ndarray) -> np.ndarray:
        """`[*lead, *plates, *event]` along the plate, `[*lead, plate]`."""
        return self.copies(array[self._event])

    def checked(self, array: Any, argument: str) -> np.ndarray:
        """`[plate]` numbers that were given.

        Raises:
            DataError: they have another shape.
        """
        out = np.asarray(array, np.float64)
        if out.shape != (len(self.labels),):
            raise DataError(
                f"{argument} has shape {out.shape}; expected ({len(self.labels)},), one number "
                f"for each {self.plate} in the order of the data."
            )
        return out

    def draws(
        self, posterior: Posterior, chosen: np.ndarray, num_samples: int, seed: int
    ) -> np.ndarray:
        """Draws of some elements, `[num_samples, chosen]`, drawn without the others."""
        plates: dict[str, Any] = {self.plate: chosen} | {p: [i] for p, i in self.others.items()}
        drawn = posterior.sample(num_samples, seed=seed, variables=[self.variable], plates=plates)
        value = drawn[self.variable][self._event]
        return value.reshape(len(value), -1).astype(np.float64)


def place_of(
    posterior: Posterior,
    variable: str,
    plate: str | None,
    at: Mapping[str, Any] | None,
    component: int | tuple[int, ...] | None,
) -> Place:
    """What is meant by these names.

    Args:
        posterior: the posterior.
        variable: a latent in plates.
        plate: which of its plates; the last by default.
        at: the element of each of its other plates, by position or by label; the first by default.
        component: which element of its event; the first by default.

    Raises:
        DataError: a name, an element or a component that there is not.
    """
    graph, data = posterior.graph, posterior.data
    grouped = {v.name: v for v in graph.latents if v.plates}
    if variable not in grouped:
        raise DataError(
            f"{variable!r} is no latent in plates, of which groups could be drawn."
            f"{did_you_mean(variable, grouped)}"
        )
    plates, event = grouped[variable].plates, grouped[variable].event
    plate = plates[-1] if plate is None else plate
    for name in (plate, *(at or {})):
        if name not in plates:
            raise DataError(f"{variable!r} is not on plate {name!r}.{did_you_mean(name, plates)}")
    others = {p: _position(data, p, (at or {}).get(p, 0)) for p in plates if p != plate}
    index = (0,) * len(event) if component is None else component
    index = index if isinstance(index, tuple) else (index,)
    inside = len(index) == len(event) and all(0 <= i < n for i, n in zip(index, event, strict=True))
    if not inside:
        raise DataError(
            f"component={component!r}: {variable!r} has event {event}. Give "
            + ("a position in it." if event else "none: it is a scalar.")
        )
    labels = data.coords.get(plate)
    return Place(
        variable=variable,
        plates=plates,
        plate=plate,
        others=others,
        component=index,
        name=f"{variable}[{','.join(map(str, index))}]" if event else variable,
        where="".join(f", {p} {data.coords.get(p, range(i + 1))[i]}" for p, i in others.items()),
        labels=np.arange(data.sizes[plate]) if labels is None else np.asarray(labels),
    )


def _position(data: BoundData, plate: str, element: Any) -> int:
    return int(elements.chosen(data, {plate: [element]})[plate][0])
