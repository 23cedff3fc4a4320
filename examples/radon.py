"""Radon in Minnesota: a varying intercept for each county, with the county's uranium.

Run it with `pavi fit examples/radon.py --backend numpyro` (or `--backend tfp`).

919 homes lie in 85 counties, from 1 to 116 homes a county. With j the county of home n,

    mu_alpha ~ Normal(0, 10)    beta ~ Normal(0, 10)    sigma_alpha, sigma_y ~ HalfNormal(1)
    alpha_j ~ Normal(mu_alpha, sigma_alpha)
    log_radon_n ~ Normal(alpha_j + beta_0 log_uppm_j + beta_1 floor_n, sigma_y)

The model and the data are those of posteriordb's `radon_hierarchical_intercept`; see
`data/ATTRIBUTION.md` beside this file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import pavi
from pavi import dist

CSV = Path(__file__).parent / "data" / "radon.csv"

# What `pavi fit` draws with intervals.
picture = {"variable": "alpha", "plate": "county"}


def graph() -> pavi.PlateGraph:
    """Returns the plate graph: homes within counties."""
    return pavi.PlateGraph(
        plates=[pavi.Plate("county"), pavi.Plate("home", within="county")],
        variables=[
            pavi.Covariate("log_uppm", plates="county"),
            pavi.Covariate("floor", plates="home"),
            pavi.Latent("mu_alpha", dist.Normal(0.0, 10.0)),
            pavi.Latent("beta", dist.Normal(0.0, 10.0), event=(2,)),
            pavi.Latent("sigma_alpha", dist.HalfNormal(1.0)),
            pavi.Latent("sigma_y", dist.HalfNormal(1.0)),
            pavi.Latent(
                "alpha",
                lambda mu_alpha, sigma_alpha: dist.Normal(mu_alpha, sigma_alpha),
                plates="county",
            ),
            pavi.Observed(
                "log_radon",
                lambda alpha, beta, sigma_y, log_uppm, floor: dist.Normal(
                    alpha + beta[..., 0] * log_uppm + beta[..., 1] * floor, sigma_y
                ),
                plates="home",
            ),
        ],
    )


def data() -> pavi.Data:
    """Reads the homes. Uranium is the county's: the first of its homes gives it."""
    homes = np.genfromtxt(CSV, delimiter=",", names=True)
    county, first_home, index = np.unique(
        homes["county"].astype(int), return_index=True, return_inverse=True
    )
    return pavi.Data(
        {
            "log_radon": homes["log_radon"],
            "floor": homes["floor"],
            "log_uppm": homes["log_uppm"][first_home],
        },
        members={"home": {"county": index}},
        coords={"county": county},
    )
