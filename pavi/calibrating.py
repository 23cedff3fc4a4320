"""Simulation-based calibration: whether posteriors of data from the prior cover what made them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np

from pavi.calibration import Calibration
from pavi.errors import PaviError
from pavi.family import Family
from pavi.graph import Latent, PlateGraph
from pavi.integers import is_integer
from pavi.objective import Gradient, Objective
from pavi.posterior import Posterior
from pavi.progress import progress_bar
from pavi.ranks import ranked
from pavi.simulation import Seeds, design, seeds
from pavi.trainer import DEFAULT_LEARNING_RATE, Trainer

# With fewer data sets an envelope holds nearly anything.
FEWEST = 20


class _One(NamedTuple):
    """What became of one data set."""

    ranks: dict[str, np.ndarray]
    fixed: dict[str, np.ndarray]
    copies: dict[str, int]
    converged: bool
    finite: bool
    seconds: float


def calibrate(
    graph: PlateGraph,
    sizes: Mapping[str, int],
    *,
    backend: str,
    members: Mapping[str, Mapping[str, Any]] | None = None,
    covariates: Mapping[str, Any] | None = None,
    family: Family | None = None,
    batch: Mapping[str, int] | None = None,
    steps: int | Literal["auto"] = "auto",
    num_particles: int | None = None,
    learning_rate: float = DEFAULT_LEARNING_RATE,
    gradient: Gradient = "auto",
    objective: str | Objective = "auto",
    dtype: Literal["float32", "float64"] = "float32",
    datasets: int = 200,
    draws: int = 999,
    probability: float = 0.95,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> Calibration:
    """Fits data sets that were simulated from the prior, and ranks what made them.

    Simulation-based calibration (Talts et al. 2018): where the posterior is right, the rank of the
    truth among its draws is uniform, of all data sets together, and a 90 % interval holds the truth
    in 90 % of them. It tells of the posterior as an answer to the model, in the range of data sets
    that the prior expects, and not whether the model is right.

    Every data set is fitted anew, as `pavi.fit` would fit it, encoder families too: their weights
    are trained on the data that they answer for. Compilation happens once (with a deep-set encoder,
    whose program holds the data's scale, each time), so that small models cost seconds a data set.

    Args:
        graph: the model, with a proper prior for every latent.
        sizes: number of elements of each plate in a simulated data set: a reduced model.
        backend: `"numpyro"` or `"tfp"`.
        members: memberships, as in `Data`; those left out are balanced: rows in blocks of one
            size for each owner, and where plates cross, each pair of owners in turn.
        covariates: arrays of covariates; those left out are standard normal, new in each data set.
        family: see `fit`, as for all options of this name there.
        batch: reduced cardinalities by plate.
        steps: number of steps, or `"auto"`.
        num_particles: draws of the guide at each step.
        learning_rate: Adam's rate at its peak.
        gradient: `"auto"`, `"path"` or `"total"`.
        objective: the bound to raise.
        dtype: `"float32"` or `"float64"`.
        datasets: number of data sets. With 200, a bias of 0.3 standard deviations or a width that
            is off by 20 % is mostly found.
        draws: posterior draws to rank among; one less than a multiple of 20, so that exactly 50 and
            90 % of uniform ranks lie within the intervals.
        probability: that a calibrated model passes.
        seed: seed of everything random. Each data set has a seed of its own, so that the result
            depends neither on `workers` nor on how many data sets come after.
        workers: fits at once, each in a thread of its own and with programs of its own.
        progress: whether to show a progress bar.

    Returns:
        Ranks, envelopes, bias, width and coverage; printing it shows a report.

    Raises:
        DataError: a prior that cannot be drawn from, a plate without a size, data that do not fit.
        PaviError: an option that cannot be.
    """
    if not isinstance(graph, PlateGraph):
        raise PaviError(f"graph: expected a pavi.PlateGraph, got a {type(graph).__name__}.")
    _check(datasets, draws, probability, seed, workers)
    made = design(graph, sizes, members, covariates)
    # What is wrong is told before anything is compiled.
    first = Trainer(
        graph,
        made.simulate(seeds(seed, 0).data)[1],
        backend=backend,
        family=family,
        batch=batch,
        num_particles=num_particles,
        learning_rate=learning_rate,
        gradient=gradient,
        objective=objective,
        dtype=dtype,
    )

    def one(place: int) -> _One:
        own = seeds(seed, place)
        truth, data = made.simulate(own.data)
        posterior = first.on(data, seed=own.fit).fit(steps, progress=False)
        return _ranked(posterior, truth, draws, own)

    found = _all(one, datasets, workers, progress)
    names = [latent.name for latent in graph.latents]
    return Calibration(
        design=made,
        seed=int(seed),
        num_draws=int(draws),
        probability=float(probability),
        all_ranks={name: np.stack([each.ranks[name] for each in found]) for name in names},
        fixed={name: np.all([each.fixed[name] for each in found], axis=0) for name in names},
        copies={name: np.array([each.copies[name] for each in found]) for name in names},
        rows={latent.name: made.rows(latent) for latent in graph.latents if latent.plates},
        converged=np.array([each.converged for each in found]),
        finite=np.array([each.finite for each in found]),
        seconds=np.array([each.seconds for each in found]),
    )


def _check(
    datasets: object, draws: object, probability: object, seed: object, workers: object
) -> None:
    if not is_integer(datasets, FEWEST):
        raise PaviError(
            f"datasets={datasets!r}: expected an integer of {FEWEST} at least. An envelope of "
            f"fewer ranks holds nearly anything; 200 tell a width that is off by 20 %."
        )
    if not is_integer(draws, 19) or (draws + 1) % 20:
        raise PaviError(
            f"draws={draws!r}: expected one less than a multiple of 20, such as 499 or 999, so "
            f"that 50 and 90 % of uniform ranks lie within the intervals."
        )
    if not isinstance(probability, float) or not 0.0 < probability < 1.0:
        raise PaviError(f"probability={probability!r}: expected one between 0 and 1.")
    if not is_integer(seed, 0):
        raise PaviError(f"seed={seed!r}: expected an integer of 0 or more.")
    if not is_integer(workers, 1):
        raise PaviError(f"workers={workers!r}: expected a positive integer.")


def _all(one: Callable[[int], _One], datasets: int, workers: int, progress: bool) -> list[_One]:
    """The results of all data sets, in order."""
    with progress_bar(datasets, progress, unit="data sets") as bar:

        def watched(place: int) -> _One:
            found = one(place)
            bar.update(1)
            return found

        if workers == 1:
            return [watched(place) for place in range(datasets)]
        with ThreadPoolExecutor(workers) as threads:
            futures = [threads.submit(watched, place) for place in range(datasets)]
            try:
                return [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()


def _ranked(
    posterior: Posterior,
    truth: Mapping[str, np.ndarray],
    num_draws: int,
    seeds: Seeds,
) -> _One:
    """Ranks of the truth among draws of a posterior, and the copy of each latent to test."""
    draws, rng = posterior.sample(num_draws, seed=seeds.draws), np.random.default_rng(seeds.ranks)
    ranks, fixed, copies = {}, {}, {}
    for latent in posterior.graph.latents:
        name, plates = latent.name, tuple(range(len(latent.plates)))
        found = ranked(truth[name], draws[name], rng)
        ranks[name], fixed[name] = found.rank.astype(np.int32), np.all(found.fixed, axis=plates)
        copies[name] = int(rng.integers(_number(latent, truth[name])))
    finite = all(bool(np.isfinite(value).all()) for value in draws.values())
    return _One(ranks, fixed, copies, posterior.converged, finite, posterior.seconds)


def _number(latent: Latent, value: np.ndarray) -> int:
    """Copies of a latent."""
    return int(np.prod(value.shape[: len(latent.plates)]))
