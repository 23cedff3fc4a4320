"""Gaussian random effects, with the exact answer beside ours.

Run it with `pavi fit examples/random_effects.py --backend numpyro` (or `--backend tfp`).

G groups of N observations in D dimensions, all scales known and equal to one:

    mu ~ Normal(0, 1)    theta_g ~ Normal(mu, 1)    x_gn ~ Normal(theta_g, 1)

Everything is Gaussian, so the evidence log p(x) and the posterior have a closed form, see `exact`.
The ELBO is at most the evidence. Their difference is the Kullback-Leibler divergence of the fitted
posterior from the exact one: zero only if the two are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import pavi
from pavi import dist

DIMENSIONS = 2

# What `pavi fit` draws with intervals.
picture = {"variable": "theta", "plate": "group"}


def graph() -> pavi.PlateGraph:
    """Returns the plate graph: a dense array of groups by observations."""
    return pavi.PlateGraph(
        plates=[pavi.Plate("group"), pavi.Plate("observation")],
        variables=[
            pavi.Latent("mu", dist.Normal(0.0, 1.0), event=(DIMENSIONS,)),
            pavi.Latent(
                "theta", lambda mu: dist.Normal(mu, 1.0), plates="group", event=(DIMENSIONS,)
            ),
            pavi.Observed(
                "x",
                lambda theta: dist.Normal(theta, 1.0),
                plates=("group", "observation"),
                event=(DIMENSIONS,),
            ),
        ],
    )


def simulate(groups: int, observations: int, seed: int) -> np.ndarray:
    """Draws x [groups, observations, DIMENSIONS] from the model."""
    generator = np.random.default_rng(seed)
    mu = generator.normal(size=DIMENSIONS)
    theta = mu + generator.normal(size=(groups, DIMENSIONS))
    return theta[:, None, :] + generator.normal(size=(groups, observations, DIMENSIONS))


def data(groups: int = 100, observations: int = 50, seed: int = 0) -> pavi.Data:
    """Returns simulated data."""
    return pavi.Data({"x": simulate(groups, observations, seed)})


@dataclass(frozen=True)
class Exact:
    """The evidence, and the mean and sd of each latent's exact posterior."""

    log_evidence: float
    mu_mean: np.ndarray  # [event]
    mu_sd: np.ndarray  # [event]
    theta_mean: np.ndarray  # [group, event]
    theta_sd: np.ndarray  # [group, event]


def exact(x: np.ndarray) -> Exact:
    """Returns the closed form for x [group, observation, event], independent over the event."""
    groups, size, dimensions = x.shape
    mean = x.mean(axis=1)
    # p(x_g | theta_g) = prod_n N(x_gn; theta_g, 1)
    #                  = (2 pi)^(-(N-1)/2) N^(-1/2) exp(-1/2 sum_n (x_gn - xbar_g)^2)
    #                    N(xbar_g; theta_g, 1/N)
    within = -0.5 * (
        groups * dimensions * ((size - 1) * np.log(2 * np.pi) + np.log(size))
        + np.square(x - mean[:, None]).sum()
    )
    # xbar_g | mu ~ N(mu, v),  v = 1 + 1/N
    # mu | x ~ N(m, 1/L),  L = 1 + G/v,  m = sum_g xbar_g / (v L)
    variance = 1.0 + 1.0 / size
    precision = 1.0 + groups / variance
    mu_mean = mean.sum(axis=0) / (variance * precision)
    # p(xbar) = prod_g N(xbar_g; 0, v) L^(-1/2) exp(L m^2 / 2)
    between = -0.5 * (
        groups * dimensions * np.log(2 * np.pi * variance)
        + np.square(mean).sum() / variance
        + dimensions * np.log(precision)
        - precision * np.square(mu_mean).sum()
    )
    # theta_g | mu, x ~ N((mu + N xbar_g) / (N + 1), 1 / (N + 1)), with mu integrated out
    theta_mean = (mu_mean + size * mean) / (size + 1)
    theta_variance = 1.0 / (size + 1) + 1.0 / (precision * (size + 1) ** 2)
    return Exact(
        log_evidence=float(within + between),
        mu_mean=mu_mean,
        mu_sd=np.full(dimensions, precision**-0.5),
        theta_mean=theta_mean,
        theta_sd=np.full((groups, dimensions), theta_variance**0.5),
    )


def report(posterior: pavi.Posterior) -> None:
    """Prints the exact answer beside the fitted one."""
    answer = exact(np.asarray(posterior.data.values["x"], dtype=np.float64))
    elbo, error = posterior.elbo(1000)
    latents = answer.mu_mean.size + answer.theta_mean.size
    gap = (answer.log_evidence - elbo) / latents
    print(f"exact log evidence {answer.log_evidence:.3f}")
    print(f"KL gap {gap:.6f} nats per latent (standard error {error / latents:.6f})")

    draws = posterior.sample(20_000, seed=1)
    for name in ("mu", "theta"):
        mean, sd = getattr(answer, f"{name}_mean"), getattr(answer, f"{name}_sd")
        distance = np.abs(draws[name].mean(axis=0) - mean) / sd
        ratio = draws[name].std(axis=0, ddof=1) / sd
        print(
            f"{name}: mean off by at most {distance.max():.3f} exact sd; "
            f"sd {ratio.min():.3f} to {ratio.max():.3f} of the exact sd"
        )
