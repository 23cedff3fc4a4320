"""What a backend adapter provides, and how it is found. No framework is imported here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from weakref import WeakValueDictionary

import numpy as np

from pavi.batch import Batch
from pavi.errors import BackendError
from pavi.feed import Call
from pavi.guide import Moments
from pavi.objective import ELBO, Gradient, Objective, Terms
from pavi.plan import GuidePlan
from pavi.tables import Table

Arrays = dict[str, np.ndarray]

BACKENDS = ("numpyro", "tfp")


@dataclass(frozen=True)
class Settings:
    """What a compiled program depends on besides the plan.

    Args:
        num_particles: draws of the guide at each step.
        gradient: the estimator asked for.
        dtype: `"float32"` or `"float64"`.
        objective: the bound to raise.
    """

    num_particles: int
    gradient: Gradient
    dtype: str
    objective: Objective = ELBO


class Stage(NamedTuple):
    """What the steps of a program do that follow one of the two estimators.

    Attributes:
        raised: the bound.
        held: weights and tables that are not trained.
    """

    raised: Objective
    held: frozenset[str]


def stage(plan: GuidePlan, settings: Settings, *, path: bool) -> Stage:
    """The approach, or what comes after it.

    In the approach what refines is held, so that the compiler need not differentiate it, and the
    ELBO is raised: it is the bound that falls most steeply towards the posterior.
    """
    if settings.gradient == "auto" and not path:
        return Stage(ELBO, plan.refining)
    return Stage(settings.objective, frozenset())


class Rates(NamedTuple):
    """What changes from step to step, `[steps]` each.

    Attributes:
        learning: learning rate.
        averaging: weight of the new iterate in the running average; 0 leaves the average alone.
        refine: 1 where the weights that refine the guide's shape are trained, 0 where held.
    """

    learning: np.ndarray
    averaging: np.ndarray
    refine: np.ndarray


class Program(Protocol):
    """A plan compiled for training: many steps in one call, data passed as arguments.

    It serves one run after another, of the same plan on other data too.
    """

    def initialise(self, resident: Batch, weights: Arrays, seed: int) -> None:
        """Begins a run: its data, its weights, its random state; the optimizer starts at rest.

        Args:
            resident: the part of the batch that all steps share.
            weights: the shared weights.
            seed: seed of the noise.
        """

    def run(
        self,
        call: Call | None,
        tables: dict[str, Table],
        rates: Rates,
        *,
        path: bool,
        steps: int | None = None,
    ) -> tuple[np.ndarray, dict[str, Table]]:
        """Takes the first of `len(rates.learning)` steps that there are rows and rates for.

        Args:
            call: the rows of each step; None where every step sees all of them.
            tables: the rows of the free tables that the steps touch.
            rates: what changes from step to step.
            path: whether the gradient leaves out the score of q, see `objective`.
            steps: how many to take, all of them by default; the same program takes any number.

        Returns:
            The ELBO estimate of each step, the mean of its draws, NaN where the step was left out;
            and the rows of the tables afterwards.
        """

    def rebase(self, function: Callable[[Arrays], Arrays]) -> None:
        """Re-expresses the weights on the host; the dense optimizer starts at rest again."""

    def weights(self, *, averaged: bool) -> Arrays:
        """The shared weights: their running average, or the last iterate."""

    def memory(self) -> int | None:
        """Bytes that the programs compiled so far need, None where the framework does not tell."""

    def state(self) -> Arrays:
        """All that changes from step to step besides the tables, for `restore`."""

    def restore(self, state: Arrays) -> None:
        """Goes on from what `state` returned; to be called after `initialise`.

        Raises:
            KeyError: the state is not one of this program.
        """


class Functions(Protocol):
    """A plan's densities and draws, compiled; arrays go in and come out as NumPy's."""

    def sample(self, weights: Arrays, rows: Arrays, noise: Arrays, batch: Batch) -> Arrays:
        """Latents `{name: [S, *plates, *event]}` from standard normal noise."""

    def moments(self, weights: Arrays, rows: Arrays, noise: Arrays, batch: Batch) -> Moments:
        """As `sample`, with exact moments of what is Gaussian given the earlier blocks' draws."""

    def log_prob(self, weights: Arrays, rows: Arrays, values: Arrays, batch: Batch) -> np.ndarray:
        """Log q of each draw, `[S]`."""

    def elbo(self, weights: Arrays, rows: Arrays, noise: Arrays, batch: Batch) -> np.ndarray:
        """One-draw estimates of the ELBO of the batch, `[S]`."""

    def terms(self, weights: Arrays, rows: Arrays, noise: Arrays, batch: Batch) -> Terms:
        """Draws as of `sample`, with the terms of their ELBO, neither weighted nor summed."""


class SharedFunctions:
    """Compiled functions, which posteriors of one plan share as long as one of them lives.

    Args:
        make: compiles those of a plan in a dtype.
    """

    def __init__(self, make: Callable[[GuidePlan, str], Functions]) -> None:
        self._make = make
        self._made: WeakValueDictionary[tuple[GuidePlan, str], Functions] = WeakValueDictionary()

    def of(self, plan: GuidePlan, dtype: str) -> Functions:
        """Those of a plan."""
        key = (plan.as_compiled, dtype)
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = self._make(plan, dtype)
        return found


class HostObjects(NamedTuple):
    """A backend's own model and guide, and the batch of arrays they are about."""

    model: Any
    guide: Any
    batch: Batch


class Adapter(Protocol):
    """One backend: programs and functions of a plan."""

    name: str

    def program(self, plan: GuidePlan, settings: Settings) -> Program:
        """Compiles training, at its first steps."""

    def functions(self, plan: GuidePlan, dtype: str) -> Functions:
        """Compiles sampling and evaluation."""

    def host(self, plan: GuidePlan, weights: Arrays, tables: Arrays, batch: Batch) -> HostObjects:
        """The backend's own model and guide, at the given weights."""


_NEEDS: Mapping[str, tuple[str, ...]] = {
    "numpyro": ("jax", "numpyro", "optax", "threadpoolctl"),
    "tfp": ("tensorflow", "tensorflow_probability", "tf_keras"),
}


def get_adapter(name: str) -> Adapter:
    """The adapter of a backend, which is imported now.

    Raises:
        BackendError: an unknown name, or a backend that is not installed or does not import.
    """
    if name not in BACKENDS:
        raise BackendError(f"Unknown backend {name!r}; choose one of {', '.join(BACKENDS)}.")
    try:
        for package in _NEEDS[name]:
            importlib.import_module(package)
    except Exception as error:
        # Versions that do not fit each other fail to import with errors of every kind.
        raise BackendError(
            f"Backend {name!r} cannot be used here: {error}. Install its extra, "
            f"pip install 'pavi-vi[{name}]', or run `pavi doctor`."
        ) from error
    adapter: Adapter = importlib.import_module(f"pavi.backends.{name}.adapter").ADAPTER
    return adapter
