"""The examples and the README's model: what they state holds."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_backend import install, random_posterior
from scipy.stats import multivariate_normal
from varied_models import Case

from pavi import Family, components

REPOSITORY = Path(__file__).parents[1]


def example(name: str) -> dict[str, Any]:
    if (folder := str(REPOSITORY / "examples")) not in sys.path:
        sys.path.append(folder)
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


def test_numpyro_project_has_three_levels() -> None:
    pytest.importorskip("numpyro")
    import pavi

    functions = example("numpyro_project")
    scores = functions["simulate"](schools=5, classes=2, pupils=3, seed=0)
    graph, data = pavi.PlateGraph.from_numpyro(functions["model"], scores, 2)
    assert graph.variables["class_"].plates == ("schools", "classes")
    assert data.bind(graph).sizes == {"schools": 5, "classes": 2, "pupils": 3}
    draws = {site: np.zeros((2, 5, 2, 1)) for site in (*functions["GLOBALS"], "school")}
    assert "school 2" in functions["table"]({"pavi": draws})


def test_the_model_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    block = re.findall(
        r"^```python\n(.*?)^```", (REPOSITORY / "README.md").read_text(), re.S | re.M
    )[0]
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["data"].bind(names["graph"]).sizes == {"county": 85, "home": 919}


def random_posterior_of(graph: Any, data: Any) -> Any:
    """Of an example's model, with random weights on NumPy."""
    return random_posterior(Case(lambda: (graph, data), Family(hidden=4, encoding_size=3)))


def test_radon_slopes_hides_homes_and_finds_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch)
    functions = example("radon_slopes")
    hidden = np.array([3, 900, 41])
    posterior = random_posterior_of(functions["graph"](), functions["data"](hidden))
    assert posterior.data.sizes == {"county": 85, "home": 919}
    np.testing.assert_array_equal(
        np.nonzero(~posterior.data.masks["log_radon"])[0], np.sort(hidden)
    )
    assert "3 hidden homes: " in functions["report"](posterior, hidden, 50)
    functions["picture"](posterior, hidden, tmp_path / "slopes.png")
    assert (tmp_path / "slopes.png").stat().st_size > 10_000


def test_birds_gives_the_kind_of_each_site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("jax")
    install(monkeypatch)
    density = components._density("numpyro")
    monkeypatch.setattr(components, "_density", lambda _: density)
    functions = example("birds")
    posterior = random_posterior_of(functions["graph"](), functions["data"]())
    assert posterior.data.sizes == {"site": 235, "year": 9}
    text = functions["report"](posterior, 50)
    assert "Of 235 sites, " in text
    assert "43 counts are missing; " in text
    functions["picture"](posterior, tmp_path / "birds.png")
    assert (tmp_path / "birds.png").stat().st_size > 10_000


def test_pumps_compares_its_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("arviz")
    install(monkeypatch)
    functions = example("pumps")
    posteriors = {
        model: random_posterior_of(functions["graph"](model), functions["data"]())
        for model in functions["MODELS"]
    }
    assert len(functions["comparison"](posteriors).splitlines()) == 4
    own = posteriors["a rate for each"]
    assert "Against NUTS: " in functions["report"](own)
    assert len(functions["forecast"](own).rpartition(": ")[2].split()) == 10
    functions["picture"](own, tmp_path / "pumps.png")
    assert (tmp_path / "pumps.png").stat().st_size > 10_000


def test_cortex_makes_the_same_measurements_whatever_is_read_with_them() -> None:
    functions = example("cortex")
    truth = functions["Cortex"](subjects=5, vertices=30, networks=3)
    every = {"subject": np.arange(5), "session": np.arange(2), "vertex": np.arange(30)}
    some = {"subject": np.array([4, 1]), "session": np.array([1]), "vertex": np.array([7, 29, 0])}
    x = truth.rows(every)["x"]
    assert (x.shape, x.dtype.name) == ((5, 2, 30, functions["FEATURES"]), "float32")
    np.testing.assert_array_equal(truth.rows(some)["x"], x[np.ix_(*some.values())])
    bound = functions["data"](truth).bind(functions["graph"](3))
    assert bound.sizes == {"subject": 5, "session": 2, "vertex": 30}


def test_cortex_measures_the_profile_of_a_label_under_noise() -> None:
    functions = example("cortex")
    truth = functions["Cortex"](subjects=40, vertices=200, networks=3)
    subject, vertex = np.arange(40), np.arange(200)
    label = truth.labels(subject, vertex)
    x = truth.rows({"subject": subject, "session": np.arange(2), "vertex": vertex})["x"]
    shown = truth.profile[subject[:, None, None], np.arange(2)[:, None], label]
    noise = (x - shown) / functions["NOISE"]
    count = noise.size
    assert abs(noise.mean()) < 4 / np.sqrt(count)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / count)
    # Neighbouring features come from one pair of uniform numbers.
    half = noise.shape[-1] // 2
    assert abs((noise[..., :half] * noise[..., half:]).mean()) < 4 / np.sqrt(count / 2)
    logits = truth.logits(subject, vertex)
    chance = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for network in range(3):
        p = chance[..., network]
        error = np.sqrt((p * (1 - p)).sum() / 2) / p.size
        assert abs((label == network).mean() - p.mean()) < 4 * error


def test_cortex_runs_to_its_picture(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    functions = example("cortex")
    options = {"subjects": 8, "vertices": 40, "networks": 3, "batch": 8, "memory": 1}
    options |= {"steps": 400, "learning-rate": 0.003}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    functions["main"]([*arguments, "--folder", str(tmp_path)])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["latents"] == 4 + 3 * 64 * (1 + 8 + 16) + 3 * (40 + 8 * 40)
    assert found["label_accuracy"] > 0.8 * found["label_accuracy_of_the_truth"]
    assert (tmp_path / "maps.png").stat().st_size > 10_000
