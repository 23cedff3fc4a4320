"""Fits of a conjugate model, whose posterior and evidence are known, on each backend installed."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mapped_files import all_mapped, mapped_in
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize
from small_models import rng
from varied_models import CASES

import pavi
from pavi import Data, Family, Latent, Observed, Plate, PlateGraph, Posterior, dist
from pavi.checkpoint import Checkpoints
from pavi.errors import PaviError, StorageError
from pavi.run import Run, rebased
from pavi.schedule import CHUNK

FAMILY = Family(flow="none", hidden=4)
OWN, NOISE = 0.5, 0.7
LOG_TWO_PI = float(np.log(2.0 * np.pi))
COUNTS = [4, 1, 3, 2, 0, 6]


def model() -> tuple[PlateGraph, Data]:
    """Means of six ragged groups, one of them empty, around a common mean."""
    graph = PlateGraph(
        [Plate("group"), Plate("obs", within="group")],
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("theta", lambda mu: dist.Normal(mu, OWN), plates="group"),
            Observed("y", lambda theta: dist.Normal(theta, NOISE), plates="obs"),
        ],
    )
    member = rng(70).permutation(np.repeat(np.arange(len(COUNTS)), COUNTS))
    y = 3.0 + rng(71).normal(size=len(COUNTS))[member] + rng(72).normal(0.0, NOISE, len(member))
    return graph, Data({"y": y}, {"obs": {"group": member}}, {"group": len(COUNTS)})


@cache
def exact() -> tuple[float, np.ndarray, np.ndarray]:
    """Log evidence, and mean and sd of mu and of each theta, by conditioning one Gaussian."""
    data = model()[1]
    y, member = data.values["y"], data.members["obs"]["group"]
    # (mu, theta, y) = A z with z standard normal
    groups, n = len(COUNTS), len(y)
    above = np.zeros((1 + groups, 1 + groups + n))
    above[:, 0] = 2.0
    above[1:, 1 : 1 + groups] = OWN * np.eye(groups)
    below = above[1:][member]
    below[:, 1 + groups :] = NOISE * np.eye(n)
    covariance = below @ below.T
    gain = above @ below.T @ np.linalg.inv(covariance)
    posterior = above @ above.T - gain @ below @ above.T
    evidence = -0.5 * (
        y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(2 * np.pi * covariance).logabsdet
    )
    return float(evidence), gain @ y, np.sqrt(np.diag(posterior))


def fit(backend: str, **options: Any) -> Posterior:
    given = {"family": FAMILY, "progress": False, "steps": 17, **options}
    return pavi.fit(*model(), backend=backend, **given)


@cache
def fitted(backend: str, batch: int | None = None) -> Posterior:
    """A fit long enough to tell, with the whole data or with some of the groups a step."""
    reduced = None if batch is None else {"group": batch}
    return fit(backend, steps=4000, learning_rate=0.01, batch=reduced, num_particles=4)


def check_moments(posterior: Posterior, within: float) -> None:
    """Means within a share of the exact sd, sds within that share of themselves."""
    _, mean, sd = exact()
    for found, wanted, scale in (
        (posterior.mean(8000), mean, sd),
        (posterior.sd(8000), sd, sd),
    ):
        flat = np.append(found["mu"], found["theta"])
        assert_allclose(flat / scale, wanted / scale, rtol=0, atol=within)


# --- the answer ---------------------------------------------------------------------------------


def test_a_fit_of_a_conjugate_model_is_exact(backend: str) -> None:
    posterior = fitted(backend)
    value, error = posterior.elbo(4000)
    # The gap per latent that the default family may leave
    assert exact()[0] - value <= 0.001 * (1 + len(COUNTS)) + 4 * error
    assert value <= exact()[0] + 4 * error
    # log p - log q is nearly constant where q is exact.
    assert error < 0.001
    check_moments(posterior, 0.05)
    assert posterior.converged, posterior.verdict


def test_its_diagnosis_trusts_it_and_no_fit_of_a_tenth_of_its_steps(backend: str) -> None:
    found = fitted(backend).diagnose(num_samples=400)
    assert found.trusted, str(found)
    early = fit(backend, steps=400, learning_rate=0.01, num_particles=4)
    short = early.diagnose(num_samples=100)
    assert not short.trusted
    assert "not converged" in str(short)


def test_a_fit_in_batches_comes_to_the_same_posterior(backend: str) -> None:
    posterior = fitted(backend, 3)
    assert dict(posterior.plan.batch) == {"group": 3}
    value, error = posterior.elbo(4000)
    assert exact()[0] - value < 0.02 + 4 * error
    check_moments(posterior, 0.1)


def test_sites_of_long_vectors_come_to_the_exact_posterior(backend: str) -> None:
    """Of rows drawn a fifth at a time; nothing is known of the scale of the data."""
    random = np.random.default_rng(3)
    theta = 300.0 + 20.0 * random.normal(size=(6, 1, 40))
    y = theta + 15.0 * random.normal(size=(6, 40, 40))
    graph = PlateGraph(
        [Plate("group"), Plate("row")],
        [
            Latent("theta", dist.Normal(310.0, 20.0), plates="group", event=40),
            Observed(
                "y", lambda theta: dist.Normal(theta, 15.0), plates=("group", "row"), event=40
            ),
        ],
    )
    posterior = pavi.fit(
        graph, Data({"y": y}), backend=backend, batch={"row": 8}, steps=2000, progress=False
    )
    assert posterior.plan.block("group").site
    # 1 / sd^2 = 1 / 20^2 + 40 / 15^2
    precision = 20.0**-2 + 40 * 15.0**-2
    mean = (310.0 / 20.0**2 + y.sum(axis=1) / 15.0**2) / precision
    error = (posterior.mean(2000)["theta"] - mean) * precision**0.5
    assert np.sqrt((error**2).mean()) < 0.15
    ratio = posterior.sd(2000)["theta"] * precision**0.5
    assert np.sqrt(((ratio - 1.0) ** 2).mean()) < 0.05


def test_layers_take_a_bent_posterior_that_no_gaussian_can(backend: str) -> None:
    """A banana: of two globals all that is told is b + a^2."""
    y, sd = 0.5, 0.3
    graph = PlateGraph(
        [],
        [
            Latent("a", dist.Normal(0.0, 1.0)),
            Latent("b", dist.Normal(0.0, 1.0)),
            Observed("y", lambda a, b: dist.Normal(b + a * a, sd)),
        ],
    )
    grid = np.linspace(-6.0, 6.0, 1201)
    a, b = np.meshgrid(grid, grid, sparse=True)
    log_joint = -0.5 * (a**2 + b**2 + ((y - b - a**2) / sd) ** 2) - np.log(sd)
    evidence = np.log(np.exp(log_joint).sum() * (grid[1] - grid[0]) ** 2) - 1.5 * LOG_TWO_PI

    def negative_elbo(gaussian: np.ndarray) -> float:
        # a = m + s e,  b = n + k e + t f:  y - b - a^2 = r - u e - s^2 e^2 - t f
        m, n, k = gaussian[:3]
        s, t = np.exp(gaussian[3:])
        r, u = y - n - m**2, k + 2 * m * s
        misfit = (r - s**2) ** 2 + 2 * s**4 + u**2 + t**2
        prior = m**2 + s**2 + n**2 + k**2 + t**2
        expected = -0.5 * (prior + misfit / sd**2) - np.log(sd) - 1.5 * LOG_TWO_PI
        return -float(expected + 1.0 + LOG_TWO_PI + np.log(s * t))

    gaussian = -min(optimize.minimize(negative_elbo, start).fun for start in np.eye(5)[:3])
    family = Family(flow=["coupling", "spline"], hidden=4)
    posterior = pavi.fit(
        graph,
        Data({"y": y}),
        backend=backend,
        family=family,
        steps=600,
        learning_rate=0.02,
        seed=0,
        progress=False,
    )
    value, error = posterior.elbo(2000)
    assert gaussian < evidence - 0.5
    assert value - 4 * error > gaussian + 0.25
    assert value < evidence + 4 * error


def test_a_fit_says_what_it_was(backend: str) -> None:
    posterior = fitted(backend)
    assert posterior.backend == backend
    assert posterior.dtype == "float32"
    assert posterior.seconds > 0
    assert posterior.num_weights == posterior.plan.num_weights > 0
    history = posterior.history
    assert history.step[-1] == 4000
    assert (np.diff(history.step) <= CHUNK).all()
    assert history.elbo.shape == history.elbo_se.shape == history.step.shape
    assert history.elbo[-1] > history.elbo[0]
    assert history.phases() == {"approach": 0, "refining": 1000, "cool-down": 2400}
    assert posterior.plan.graph is posterior.graph


# --- seeds, steps, dtypes -----------------------------------------------------------------------


def bits(posterior: Posterior) -> dict[str, np.ndarray]:
    return {
        **posterior.weights,
        **posterior.tables,
        "elbo": posterior.history.elbo,
        "step": posterior.history.step,
    }


def test_same_seed_same_bits(backend: str) -> None:
    # In batches: rows, noise and weights all come from the seed.
    first, again, other = (fit(backend, seed=s, batch={"group": 3}) for s in (5, 5, 6))
    for name, value in bits(first).items():
        assert_array_equal(bits(again)[name], value, err_msg=name)
    assert (first.history.elbo != other.history.elbo).all()
    assert (first.weights["globals/flow/loc"] != other.weights["globals/flow/loc"]).any()
    # 17 steps: 4 of approach, 6 of refining, 7 of cooling down, whatever a compiled call holds.
    assert_array_equal(first.history.step, [4, 10, 17])
    assert not first.converged
    assert "17" in first.verdict or "10" in first.verdict
    assert "too few" in first.verdict


def test_double_precision_starts_where_single_does(backend: str) -> None:
    graph, data = model()
    double = fit(backend, dtype="float64", steps=3)
    arrays = {**double.weights, **double.tables}
    assert {value.dtype.name for value in arrays.values()} == {"float64"}
    assert {draw.dtype.name for draw in double.sample(2).values()} == {"float64"}
    starts = [
        pavi.Trainer(graph, data, backend=None, dtype=dtype).initial()  # type: ignore[arg-type]
        for dtype in ("float32", "float64")
    ]
    for name, value in starts[0].items():
        assert_array_equal(starts[1][name].astype("float32"), value)


def test_progress_is_shown_where_wanted(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    # The same program both times, one particle a step
    trainer = pavi.Trainer(*model(), backend=backend, family=FAMILY, num_particles=1)
    trainer.fit(3, progress=False)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "steps" not in shown.err
    trainer.fit(3, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    for part in ("ELBO", "+-", "3/3", "steps/s"):
        assert part in shown.err


# --- without a backend --------------------------------------------------------------------------


def test_particles_are_as_many_as_stay_cheap() -> None:
    small = pavi.Trainer(*model(), backend=None)
    assert small._settings.num_particles == 8
    assert pavi.Trainer(*model(), backend=None, num_particles=3)._settings.num_particles == 3
    graph = PlateGraph(
        [Plate("row")],
        [Latent("mu", dist.Normal(0.0, 1.0)), Observed("y", dist.Normal(0.0, 1.0), plates="row")],
    )
    data = Data({"y": np.zeros(100_000)})
    assert pavi.Trainer(graph, data, backend=None)._settings.num_particles == 1
    batched = pavi.Trainer(graph, data, backend=None, batch={"row": 10})
    assert batched._settings.num_particles == 8


def test_sites_want_draws_in_pairs() -> None:
    graph, data = CASES["mixture"].model()
    with pytest.raises(PaviError, match=r"num_particles=3.*even number, such as 4"):
        pavi.Trainer(graph, data, backend=None, num_particles=3)
    assert pavi.Trainer(graph, data, backend=None)._settings.num_particles % 2 == 0


def test_rebasing_leaves_the_guide_as_it_is() -> None:
    trainer = pavi.Trainer(*model(), backend=None, family=Family(hidden=4), dtype="float64")
    start = trainer.initial()
    moved = {
        name: value if "reference" in name else value + 0.3 * rng(73).normal(size=value.shape)
        for name, value in start.items()
    }
    found = rebased(trainer.plan, moved)
    assert found.keys() == moved.keys()
    for block in trainer.plan.blocks:
        prefix = f"{block.name}/flow/"
        own, other = (
            {k.removeprefix(prefix): v for k, v in w.items() if k.startswith(prefix)}
            for w in (moved, found)
        )
        x = rng(74).normal(size=(5, block.flow.size))
        width = block.flow.context_size
        context = rng(75).normal(size=(5, width)) if width else None
        for mine, theirs in zip(
            block.flow.forward_and_log_det(own, x, context),
            block.flow.forward_and_log_det(other, x, context),
            strict=True,
        ):
            assert_allclose(theirs, mine, rtol=1e-10, atol=1e-10)


# --- checkpoints --------------------------------------------------------------------------------


def test_an_interrupted_fit_goes_on_to_the_same_bits(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "family": Family(flow="none", hidden=4, encoding="encoder+free"),
        "batch": {"group": 3},
        "steps": 3 * CHUNK,
    }
    whole = fit(backend, **options)
    advance, records = Run.advance, []

    def interrupted(run: Run, pause: Any) -> int:
        records.append(None)
        count = advance(run, pause)
        if len(records) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return count

    monkeypatch.setattr(Run, "advance", interrupted)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        fit(backend, **options, checkpoint=tmp_path)
    signal.signal(signal.SIGINT, handler)
    monkeypatch.undo()
    assert len(records) == 2
    resumed = fit(backend, **options, checkpoint=tmp_path)
    assert_array_equal(resumed.history.elbo, whole.history.elbo)
    assert_array_equal(resumed.history.phase, whole.history.phase)
    for mine, theirs in ((resumed.weights, whole.weights), (resumed.tables, whole.tables)):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert_array_equal(mine[name], value, err_msg=name)
    with pytest.raises(StorageError, match="seed: 0 there, 1 here"):
        fit(backend, **options, checkpoint=tmp_path, seed=1)


def test_a_fit_with_tables_in_files_has_the_same_bits(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it goes on from a checkpoint; the files are gone with the posterior."""
    options = {
        "family": Family(flow="none", hidden=4, encoding="encoder+free"),
        "batch": {"group": 3},
        "steps": 2 * CHUNK,
    }
    wanted = fit(backend, **options)
    options |= {"table_memory": 0, "checkpoint": tmp_path}
    advance, records = Run.advance, []

    def cut_off(run: Run, pause: Any) -> int:
        records.append(None)
        if len(records) == 2:
            raise KeyboardInterrupt
        return advance(run)  # without a pause: each advance is one record

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", cut_off)
        patch.setattr(Checkpoints, "due", lambda _: True)
        with pytest.raises(KeyboardInterrupt):
            fit(backend, **options)
    (checkpoint,) = tmp_path.iterdir()
    found = fit(backend, **options)
    assert list(tmp_path.iterdir()) == [checkpoint]
    assert all_mapped(found.tables)
    assert_array_equal(found.history.elbo, wanted.history.elbo)
    for mine, theirs in ((found.weights, wanted.weights), (found.tables, wanted.tables)):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert_array_equal(mine[name], value, err_msg=name)
    assert_array_equal(found.sample(3)["theta"], wanted.sample(3)["theta"])
    assert mapped_in(tmp_path) > 0
    del found, mine
    assert mapped_in(tmp_path) == 0
