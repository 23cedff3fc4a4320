"""Plate-amortized variational inference: one plate graph, two backends.

The names below are resolved when they are first used, so that `import pavi` stays fast and loads
neither JAX nor TensorFlow; a backend is imported by the fit that asks for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pavi import dist, ops, plot
    from pavi.calibrating import calibrate
    from pavi.calibration import Calibration
    from pavi.components import responsibilities
    from pavi.data import Data
    from pavi.errors import (
        BackendError,
        DataError,
        FamilyError,
        GraphError,
        PaviError,
        PaviWarning,
        StorageError,
    )
    from pavi.family import Family
    from pavi.graph import Covariate, Latent, Observed, Plate, PlateGraph
    from pavi.loading import load
    from pavi.objective import Objective
    from pavi.posterior import Posterior
    from pavi.trainer import Trainer, fit

__version__ = "0.1.0"

__all__ = [
    "Plate",
    "Latent",
    "Observed",
    "Covariate",
    "PlateGraph",
    "Data",
    "Family",
    "Objective",
    "Trainer",
    "fit",
    "Posterior",
    "load",
    "responsibilities",
    "calibrate",
    "Calibration",
    "PaviError",
    "GraphError",
    "DataError",
    "FamilyError",
    "BackendError",
    "StorageError",
    "PaviWarning",
    "dist",
    "ops",
    "plot",
    "__version__",
]

# public name -> the module that defines it
_HOMES = {
    "Plate": "pavi.graph",
    "Latent": "pavi.graph",
    "Observed": "pavi.graph",
    "Covariate": "pavi.graph",
    "PlateGraph": "pavi.graph",
    "Data": "pavi.data",
    "Family": "pavi.family",
    "Trainer": "pavi.trainer",
    "fit": "pavi.trainer",
    "Posterior": "pavi.posterior",
    "Objective": "pavi.objective",
    "load": "pavi.loading",
    "responsibilities": "pavi.components",
    "calibrate": "pavi.calibrating",
    "Calibration": "pavi.calibration",
    "PaviError": "pavi.errors",
    "GraphError": "pavi.errors",
    "DataError": "pavi.errors",
    "FamilyError": "pavi.errors",
    "BackendError": "pavi.errors",
    "StorageError": "pavi.errors",
    "PaviWarning": "pavi.errors",
}
_SUBMODULES = ("dist", "ops", "plot")


def __getattr__(name: str) -> Any:
    """Resolves a public name on first use and keeps it."""
    if name in _SUBMODULES:
        return import_module(f"pavi.{name}")  # the import binds the name in this module
    if name not in _HOMES:
        raise AttributeError(f"module 'pavi' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
