"""A fitted posterior: draws, moments, densities, and posteriors of elements never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from pavi import elements, storage
from pavi.arviz_export import to_arviz
from pavi.backends.base import Arrays, Functions, HostObjects, get_adapter
from pavi.binding import BoundData
from pavi.correction import corrected
from pavi.data import Data
from pavi.description import description
from pavi.diagnosis import Asked, Diagnosis, Verdict, diagnose
from pavi.encoding import encoded
from pavi.errors import DataError
from pavi.export import export
from pavi.export_request import Request
from pavi.fitted import Fitted, check_draws
from pavi.graph import PlateGraph
from pavi.matching import Relation
from pavi.plan import GuidePlan
from pavi.prediction import Request as Predicted
from pavi.prediction import predict
from pavi.prefixes import prefixed
from pavi.schedule import History
from pavi.summaries import STATISTICS, Summary


@dataclass(frozen=True, repr=False)
class Posterior:
    """The result of `pavi.fit`: the README shows its use, `docs/method.md` what is computed.

    Attributes:
        plan: the lowered plan.
        data: the data it was fitted to.
        backend: `"numpyro"` or `"tfp"`; weights are the same arrays on both.
        weights: shared weights, `{"block/...": array}`.
        tables: free tables, `{block: [copies + 1, columns]}`.
        dtype: floating dtype of the run.
        history: the ELBO along the fit.
        converged: whether the fit settled.
        verdict: why, in words.
        seconds: wall-clock seconds of the fit.
        trained_on: the data of the training, where `encode` put others in their place.
    """

    plan: GuidePlan
    data: BoundData
    backend: str
    weights: Arrays
    tables: Arrays
    dtype: str = "float32"
    history: History = field(default_factory=History)
    converged: bool = False
    verdict: str = "not fitted"
    seconds: float = 0.0
    trained_on: BoundData | None = None

    @property
    def graph(self) -> PlateGraph:
        """The model."""
        return self.plan.graph

    @property
    def num_weights(self) -> int:
        """Trained numbers."""
        return self.plan.num_weights

    @property
    def coords(self) -> dict[str, np.ndarray]:
        """Labels of the elements of each plate that the data label."""
        return dict(self.data.coords)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{plate}={size:,}" for plate, size in self.data.sizes.items())
        history = self.history
        last = (
            f"last ELBO {history.elbo[-1]:.3f} (standard error {history.elbo_se[-1]:.3f})"
            if len(history.elbo)
            else "no ELBO"
        )
        lines = [
            f"Posterior on {self.backend} in {self.dtype}",
            f"  {self.plan.num_latents:,} latents: "
            + shorten(", ".join(v.name for v in self.graph.latents), 60, placeholder=" ..."),
            f"  {self.num_weights:,} weights; {f'plates {sizes}' if sizes else 'no plates'}",
            f"  {'converged' if self.converged else 'NOT converged'}: {self.verdict}",
            f"  {last}",
        ]
        return "\n".join(lines)

    @cached_property
    def _functions(self) -> Functions:
        return get_adapter(self.backend).functions(self.plan, self.dtype)

    @cached_property
    def _fitted(self) -> Fitted:
        parts = (self.plan, self.data, self._functions, self.weights, self.tables)
        return Fitted(*parts, self.backend, self.dtype)

    def sample(
        self,
        num_samples: int,
        *,
        seed: int = 0,
        variables: Sequence[str] | None = None,
        plates: Mapping[str, Sequence[Any]] | None = None,
        importance: int = 0,
    ) -> Arrays:
        """Joint draws of the latents.

        The noise is drawn on the host: with the same weights and seed, both backends give the same
        draws, and what is drawn in parts, by `plates`, are parts of the same joint draws.

        Args:
            num_samples: number of draws.
            seed: seed of the noise.
            variables: latents to return, all by default.
            plates: elements to keep, by position or by label, `{"county": [3, 5]}` or
                `{"county": ["Aitkin", "Anoka"]}`, and what lies within them: a plate that is named
                has these elements, in this order; a plate within it, such as the homes of these
                counties, has their members, in the order of the data. Integers are positions, also
                of a plate whose labels are integers.
            importance: how many draws of each group to choose one from, by Pareto-smoothed weights,
                at each draw of the latents outside the groups: 32, say, where `diagnose` finds a
                gap. It corrects a group's shape and width given the others, at so many times the
                cost of the groups asked for; 0 leaves the guide's own draws.

        Returns:
            `{name: [num_samples, *plates, *event]}`.

        Raises:
            DataError: an unknown variable, plate or label, an element out of range, no draws; no
                groups to weigh.
        """
        names = self._latent_names(variables)
        if importance != 0:
            check_draws(num_samples, seed)
            asked = (int(num_samples), importance, int(seed), names, plates or {})
            return corrected(self._fitted, *asked)
        chosen = elements.chosen(self.data, plates or {})
        kept = elements.kept(self.data, chosen)
        fitted = self._fitted
        batch = fitted.part(chosen)
        places = {p: elements.places(batch.indices[p], index) for p, index in kept.items()}
        out: Arrays = {}
        start = 0
        for drawn in fitted.draws(num_samples, seed, batch):
            for name in names:
                value = elements.taken(drawn[name], self.graph.variables[name].plates, places)
                if not start:
                    # Filled chunk by chunk: parts to be joined would take the memory twice.
                    out[name] = np.empty((num_samples, *value.shape[1:]), value.dtype)
                out[name][start : start + len(value)] = value
            start += len(value)
        return out

    def _latent_names(self, variables: Sequence[str] | None) -> list[str]:
        known = [latent.name for latent in self.graph.latents]
        for name in variables or ():
            if name not in known:
                raise DataError(f"{name!r} is not a latent of this graph; it has {known}.")
        return list(variables) if variables is not None else known

    def predict(
        self,
        num_samples: int,
        *,
        data: Data | None = None,
        groups: Mapping[str, Relation] | None = None,
        variables: Sequence[str] | None = None,
        latents: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> Arrays:
        """Posterior predictive draws of what is observed.

        Without `data`, of the fit's own rows: replications, and for missing outcomes imputations.
        With `data`, of their rows; nothing is inferred from their outcomes, which may be left out.
        A latent of a group that the fit knows is drawn from the posterior, one of a new group from
        its prior given the draws of the coarser ones. To infer new groups from outcomes that they
        have: `posterior.encode(data).predict(...)`. The draws are the same on both backends, and
        go with those of `sample` of this seed.

        Args:
            num_samples: number of draws.
            data: rows to predict, with their covariates and members.
            groups: how the elements of a plate of `data` with latents relate to those of the fit.
                `"known"`, the default: all are the fit's, matched by their labels (`coords`), or by
                their positions if they have none and are as many. `"new"`: none is. `"mixed"`:
                those with a label of the fit's are known, the others new. Or the position in the
                fit of each, with -1 for new ones: `{"county": [3, 0, -1]}`.
            variables: observed variables to draw and latents to return with them; all observed
                ones by default. One that depends on an observed variable which is not drawn is
                given its values in the data.
            latents: draws to predict from, `{name: [num_samples, *plates, *event]}` of every latent
                of the fit, as `sample` gives them.
            seed: seed of the noise. Rows at the same positions of two data sets have the same noise
                by the same seed, so that what was changed alone makes their draws differ.

        Returns:
            `{name: [num_samples, *plates, *event]}`, counts and categories as integers. What is
            censored is predicted as if nothing were.

        Raises:
            DataError: which group is which cannot be told, or something else in the data or the
                arguments is not what it can be.
        """
        request = Predicted(num_samples, data, groups, latents, variables, seed)
        return predict(self._fitted, request)

    def mean(self, num_samples: int = 4000, *, seed: int = 0) -> Arrays:
        """Posterior means `{name: [*plates, *event]}`, from `num_samples` draws."""
        return {name: first for name, (first, _) in self._moments(num_samples, seed).items()}

    def sd(self, num_samples: int = 4000, *, seed: int = 0) -> Arrays:
        """Posterior standard deviations `{name: [*plates, *event]}`."""
        return {name: sd for name, (_, sd) in self._moments(num_samples, seed).items()}

    def _moments(self, num_samples: int, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Means and standard deviations, chunk by chunk, in float64."""
        out: dict[str, Summary] = {}
        for drawn in self._fitted.draws(num_samples, seed, self._fitted.full):
            for name, value in drawn.items():
                if name not in out:
                    out[name] = Summary(value, ("mean", "sd"), held=0)
                out[name].add(value)
        return {name: (summary.mean(), summary.sd()) for name, summary in out.items()}

    def quantile(
        self, q: float | Sequence[float], num_samples: int = 4000, *, seed: int = 0
    ) -> Arrays:
        """Posterior quantiles: `{name: [*plates, *event]}`, or `[len(q), ...]` for several."""
        if not np.all((np.asarray(q) >= 0) & (np.asarray(q) <= 1)):
            raise DataError(f"q={q!r}: expected numbers between 0 and 1.")
        draws = self.sample(num_samples, seed=seed)
        return {name: np.quantile(value, q, axis=0) for name, value in draws.items()}

    def export(
        self,
        path: str | Path,
        *,
        statistics: Sequence[str] = STATISTICS,
        draws: int = 0,
        quantiles: Sequence[float] = (0.05, 0.5, 0.95),
        num_samples: int = 1000,
        seed: int = 0,
        variables: Sequence[str] | None = None,
        memory: int = 1 << 28,
        progress: bool = True,
    ) -> Path:
        """Writes the posterior to a Zarr store, at constant memory; `xarray.open_zarr` reads it.

        Of a latent `theta`: `theta_mean`, `theta_sd`, `theta_quantile` and, with `draws`, `theta`,
        named by plates, all of the joint draws that `sample` gives with this seed. Called again
        with the same arguments, an export that was cut off goes on; until all is written, the
        store's attribute `complete` is false.

        Args:
            path: a folder, new or of the same export.
            statistics: of `"mean"`, `"sd"` and `"quantiles"`. Without quantiles and draws, a latent
                that is Gaussian given the coarser ones adds no noise of its own to the first two.
            draws: how many of the draws to write.
            quantiles: which quantiles.
            num_samples: number of draws that the statistics are taken over.
            seed: seed of the noise.
            variables: latents to write, all by default.
            memory: about how many bytes to take.
            progress: whether to show a progress bar.

        Raises:
            DataError: an argument is not what it can be, or a cell takes more than `memory`.
            StorageError: the folder holds something else, or cannot be written to.
        """
        request = Request(statistics, draws, quantiles, num_samples, seed, variables)
        return export(self._fitted, path, request, memory=memory, progress=progress)

    def to_arviz(
        self,
        num_samples: int = 1000,
        *,
        log_likelihood: bool = True,
        predictive: bool = False,
        seed: int = 0,
    ) -> Any:
        """The posterior as the installed ArviZ takes it: `InferenceData`, a `DataTree` from 1.0 on.

        One chain of the draws that `sample` gives, with plates as dimensions and labels as
        coordinates. `sample_stats` holds log p(data, draw) and log q(draw), by whose ratio
        `loo_approximate_posterior` corrects for the approximation. README: what the groups are.

        Args:
            num_samples: number of draws.
            log_likelihood: whether to hold that of each observed element; missing ones have none.
            predictive: whether to hold draws of `predict`.
            seed: seed of the noise.

        Raises:
            BackendError: ArviZ is not installed.
        """
        return to_arviz(
            self._fitted,
            num_samples,
            log_likelihood=log_likelihood,
            predictive=predictive,
            seed=seed,
            attributes={"inference_library": "pavi-vi", "verdict": self.verdict},
        )

    def diagnose(
        self,
        *,
        num_samples: int = 1000,
        groups: int | Mapping[str, Sequence[Any]] = 500,
        seed: int = 0,
    ) -> Diagnosis:
        """How far this posterior can be trusted; printing what is returned says it in words.

        Args:
            num_samples: draws that each Pareto k-hat is taken from, 100 at least.
            groups: how many elements of a plate with latents to look at, chosen at random where
                there are more, or which, by position or label: `{"county": ["Aitkin"]}`. The cost
                does not grow with the others.
            seed: seed of the noise, and of the choice.

        Raises:
            DataError: an argument is not what it can be.
            BackendError: arviz-stats is not installed.
        """
        verdict = Verdict(self.converged, self.verdict, self.history)
        asked = Asked(num_samples, groups, seed)
        return diagnose(self._fitted, verdict, asked, trained_on=self.trained_on)

    def elbo(self, num_samples: int = 1000, *, seed: int = 0) -> tuple[float, float]:
        """The ELBO of the full model, and the standard error of that estimate."""
        return self._fitted.elbo(num_samples, seed)

    def log_prob(self, values: Mapping[str, Any]) -> np.ndarray:
        """Log q of joint draws of all latents.

        Args:
            values: `{name: [num_samples, *plates, *event]}`, every latent.

        Returns:
            `[num_samples]`.

        Raises:
            DataError: a missing latent or a wrong shape.
        """
        fitted = self._fitted
        arrays = fitted.checked(values, "log_prob")
        return fitted.functions.log_prob(
            self.weights, fitted.rows(fitted.full), arrays, fitted.full
        )

    def encode(self, data: Data) -> Posterior:
        """The posterior of other data of the same model, with no training.

        Globals that are encoded freely, as by default, keep the posterior they were trained to;
        with an encoder they follow the new data. Every latent in plates gets its encoding from the
        new data; elements never seen have no free residual. Outcomes may all be missing, or be left
        out: of new groups without any, the posterior is the prior given the globals.

        Args:
            data: other data for the same graph; plates may have other sizes.

        Raises:
            FamilyError: a latent in plates that the encoder does not cover.
        """
        bound = data.bind(self.graph, need_outcomes=False)
        plan, tables = encoded(self.plan, bound, self.dtype)
        return replace(
            self,
            plan=plan,
            data=bound,
            tables=tables,
            verdict=f"encoded with weights trained on other data; {self.verdict}",
            trained_on=self.trained_on or self.data,
        )

    def host(self) -> HostObjects:
        """The backend's own objects: its model, its guide, and the batch both are about.

        Returns:
            With NumPyro: a model and a guide to call with the batch, for `SVI`, `Predictive` or
            `MCMC`. With TFP: the `tfd.JointDistribution` of the model and the surrogate posterior,
            of trainable variables; both hold the batch already. The guide starts at this
            posterior's weights; training it further leaves this posterior as it is.
        """
        adapter = get_adapter(self.backend)
        return adapter.host(self.plan, self.weights, self.tables, self._fitted.full)

    def save(self, folder: str | Path) -> None:
        """Writes the run to a folder: weights in safetensors, the rest in JSON; atomically."""
        arrays = prefixed("weights:", self.weights) | prefixed("tables:", self.tables)
        facts = {
            name: getattr(self, name) for name in ("backend", "converged", "verdict", "seconds")
        }
        run = description(self.plan, self.data, self.dtype, self.history, facts)
        storage.write(Path(folder), run, arrays)
