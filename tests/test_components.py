"""Responsibilities: the mean over draws of each component's share of the density."""

from __future__ import annotations

import numpy as np
import pytest
from complaints import data_error
from dist.oracle import log_prob
from numpy.testing import assert_allclose
from numpy_backend import install, random_posterior
from varied_models import CASES, Case

import pavi
from pavi import Data, Family, Latent, Observed, Plate, PlateGraph, Posterior, components, dist

COUNTS = np.array([0.0, 3.0, np.nan, 40.0, 1.0])
WEIGHTS = np.array([0.3, 0.2, 0.5])


def counts() -> tuple[PlateGraph, Data]:
    """Counts that are never, of a few, or of many; one is missing. Each has its own level."""

    def mixed(level: object, rate: object) -> dist.Spec:
        many = dist.NegativeBinomial(30.0 * rate, 2.0)
        return dist.Mixture(WEIGHTS, [dist.Poisson(1e-6), dist.Poisson(rate), many])

    graph = PlateGraph(
        [Plate("site")],
        [
            Latent("rate", dist.Gamma(4.0, 4.0)),
            Latent(
                "level",
                dist.Mixture([0.5, 0.5], [dist.Normal(-1.0, 1.0), dist.Normal(1.0, 0.5)]),
                plates="site",
            ),
            Observed("y", mixed, plates="site"),
        ],
    )
    return graph, Data({"y": COUNTS})


@pytest.fixture
def density(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Draws on NumPy, densities of each backend."""
    install(monkeypatch)
    found = components._density(backend)
    monkeypatch.setattr(components, "_density", lambda _: found)


@pytest.fixture
def of_counts() -> Posterior:
    return random_posterior(Case(counts, Family(hidden=4, encoding_size=3, flow="none")), "float32")


def shares(log_weights: np.ndarray, log_densities: list[np.ndarray]) -> np.ndarray:
    joint = np.exp(log_weights + np.stack(np.broadcast_arrays(*log_densities), -1))
    return joint / joint.sum(-1, keepdims=True)


@pytest.mark.usefixtures("density")
def test_they_are_the_components_shares_of_the_density(of_counts: Posterior) -> None:
    posterior = of_counts
    found = pavi.responsibilities(posterior, 50, seed=3)
    draws = {name: value.astype(float) for name, value in posterior.sample(50, seed=3).items()}

    rate, y = draws["rate"][:, None], np.nan_to_num(COUNTS)
    specs = dist.Poisson(1e-6), dist.Poisson(rate), dist.NegativeBinomial(30.0 * rate, 2.0)
    with np.errstate(divide="ignore"):
        expected = shares(np.log(WEIGHTS), [log_prob(spec, y) for spec in specs]).mean(0)
    expected[2] = WEIGHTS
    assert_allclose(found["y"], expected, rtol=2e-4, atol=1e-6)

    normals = dist.Normal(-1.0, 1.0), dist.Normal(1.0, 0.5)
    expected = shares(np.log([0.5, 0.5]), [log_prob(n, draws["level"]) for n in normals]).mean(0)
    assert_allclose(found["level"], expected, rtol=2e-4, atol=1e-6)
    assert list(pavi.responsibilities(posterior, 2, variables=["y"])) == ["y"]


@pytest.mark.usefixtures("density")
def test_a_vector_has_one_label() -> None:
    posterior = random_posterior(CASES["mixture"], "float32")
    found = pavi.responsibilities(posterior, 7)["y"]
    draws = {name: value.astype(float) for name, value in posterior.sample(7).items()}
    y = posterior.data.values["y"]
    logits, profile = draws["logits"], draws["profile"][:, :, None]
    log_p = [log_prob(dist.Normal(profile[..., k, :], 1.0), y).sum(-1) for k in range(2)]
    assert found.shape == (3, 4, 2)
    assert_allclose(found, shares(logits, log_p).mean(0), rtol=2e-4, atol=1e-6)


def test_what_is_no_mixture_is_refused(of_counts: Posterior) -> None:
    plain = random_posterior(CASES["poisson"])
    data_error(lambda: pavi.responsibilities(plain), "dist.Mixture", "'effect'")
    data_error(lambda: pavi.responsibilities(of_counts, variables=["rate"]), "'rate'", "'level'")
    data_error(lambda: pavi.responsibilities(of_counts, variables="y"), "list of names")
