"""The shared reference cases as plate graphs; their data stay in the folder they are read from.

Each function takes the case's data, a dictionary of arrays, and returns the graph and the data that
bind it. The model in mathematics stands in the case's own README.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import discrete_cases as discrete
import gaussian_cases as gaussian
import numpy as np
from gaussian_cases import Bound, Values


@dataclass(frozen=True)
class Case:
    """A reference case.

    Args:
        build: the graph and its data.
        tolerance: the project's promise: mean error in reference sd, and sd ratio in
            [1 - tolerance, 1 / (1 - tolerance)].
        derived: quantities of the reference that are functions of the latents.
        first: whether it is one of the cases that the first milestone promises.
    """

    build: Callable[[Values], Bound]
    tolerance: float = 0.15
    derived: Callable[[Values], dict[str, np.ndarray]] = lambda draws: {}
    first: bool = False


def read(folder: Path) -> dict[str, Any]:
    """Data of a case, lists as arrays."""
    if (folder / "data.json").exists():
        raw = json.loads((folder / "data.json").read_text())
    else:
        with np.load(folder / "data.npz") as arrays:
            raw = dict(arrays)
    return {name: np.asarray(v) if isinstance(v, list) else v for name, v in raw.items()}


CASES: dict[str, Case] = {
    "radon_mn__hierarchical_intercept": Case(
        gaussian.radon_hierarchical_intercept, 0.10, first=True
    ),
    "eight_schools": Case(gaussian.eight_schools, first=True),
    "rats": Case(
        gaussian.rats,
        derived=lambda draws: {"alpha0": draws["mu_alpha"] - 22.0 * draws["mu_beta"]},
        first=True,
    ),
    "pastes_nested3": Case(gaussian.pastes, first=True),
    "penicillin_crossed2": Case(gaussian.penicillin, first=True),
    "gym_irt_1pl": Case(discrete.gym_irt_1pl, first=True),
    "bugs_inhalers": Case(
        discrete.bugs_inhalers, derived=lambda draws: {"sigma": np.sqrt(draws["sigmasq"])}
    ),
    "bugs_pump": Case(discrete.bugs_pump),
    "chem97_nested3": Case(gaussian.chem97),
    "glmm1_poisson_sites": Case(discrete.glmm1_poisson_sites),
    "glmm_poisson_years": Case(discrete.glmm_poisson_years),
    "gym_eight_schools": Case(gaussian.gym_eight_schools),
    "gym_radon_minnesota": Case(gaussian.gym_radon_minnesota),
    "irt_2pl": Case(discrete.irt_2pl),
    "radon_mn__variable_intercept_slope": Case(gaussian.radon_variable_intercept_slope),
    "scotssec_crossed2": Case(gaussian.scotssec),
    "surgical": Case(discrete.surgical, derived=discrete.surgical_derived),
    "verbagg": Case(discrete.verbagg),
}
