"""The examples and the README's model: what they state holds."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal

REPOSITORY = Path(__file__).parents[1]


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(REPOSITORY / "examples" / f"{name}.py"))


def test_random_effects_exact_answer_is_that_of_the_joint_gaussian() -> None:
    functions = example("random_effects")
    x = functions["simulate"](groups=4, observations=3, seed=0)
    answer = functions["exact"](x)
    groups, size, dimensions = x.shape

    # (mu, theta, x) = A (standard normals): mu is the first; theta_g adds one; x_gn one more.
    theta_of_x = np.repeat(np.eye(groups), size, axis=0)
    rows_mu = np.eye(1, 1 + groups + groups * size)
    rows_theta = np.hstack(
        [np.ones((groups, 1)), np.eye(groups), np.zeros((groups, groups * size))]
    )
    rows_x = np.hstack([np.ones((groups * size, 1)), theta_of_x, np.eye(groups * size)])
    latent = np.vstack([rows_mu, rows_theta])
    prior, cross, marginal = latent @ latent.T, latent @ rows_x.T, rows_x @ rows_x.T

    flat = x.reshape(-1, dimensions)
    evidence = multivariate_normal(np.zeros(len(marginal)), marginal)
    mean = cross @ np.linalg.solve(marginal, flat)
    sd = np.sqrt(np.diag(prior - cross @ np.linalg.solve(marginal, cross.T)))
    assert answer.log_evidence == pytest.approx(sum(evidence.logpdf(column) for column in flat.T))
    np.testing.assert_allclose(answer.mu_mean, mean[0])
    np.testing.assert_allclose(answer.mu_sd, sd[0])
    np.testing.assert_allclose(answer.theta_mean, mean[1:])
    np.testing.assert_allclose(answer.theta_sd, np.tile(sd[1:, None], dimensions))


def test_radon_has_its_homes_and_counties() -> None:
    functions = example("radon")
    bound = functions["data"]().bind(functions["graph"]())
    assert bound.sizes == {"county": 85, "home": 919}
    counts = np.bincount(bound.members["home"]["county"])
    assert (counts.min(), counts.max()) == (1, 116)


def test_radon_uranium_belongs_to_the_county() -> None:
    homes = np.genfromtxt(REPOSITORY / "examples" / "data" / "radon.csv", delimiter=",", names=True)
    for county in np.unique(homes["county"]):
        assert np.ptp(homes["log_uppm"][homes["county"] == county]) == 0


def test_the_model_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    block = re.findall(
        r"^```python\n(.*?)^```", (REPOSITORY / "README.md").read_text(), re.S | re.M
    )[0]
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["data"].bind(names["graph"]).sizes == {"county": 85, "home": 919}
