"""Small models and families of every likelihood, support, encoding and structure, with weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from random_weights import random_weights
from small_models import MODELS, Model, rng

from pavi import Covariate, Data, Family, Latent, Observed, Plate, PlateGraph, dist, guide, ops
from pavi.batch import Batch
from pavi.data import BoundData
from pavi.dist import supports
from pavi.lowering import lower
from pavi.plan import GuidePlan
from pavi.subsampling import full_batch

Array = np.ndarray
PLATES = [Plate("group"), Plate("obs", within="group")]
MEMBERS = {"obs": {"group": np.array([0, 2, 1, 0, 2, 2, 2, 0, 0])}}


def _grouped(latents: list[Latent], observed: Observed, y: Array, x: Array | None = None) -> Model:
    covariates = [] if x is None else [Covariate("x", plates="obs")]
    values = {observed.name: y} if x is None else {observed.name: y, "x": x}
    graph = PlateGraph(PLATES, [*covariates, *latents, observed])
    return graph, Data(values, MEMBERS, {"group": 4})


def poisson() -> Model:
    """Counts with a Gamma prior on the spread and a missing count; group 3 has no data."""
    y = rng(40).poisson(3.0, 9).astype(float)
    y[4] = np.nan
    return _grouped(
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Latent("spread", dist.Gamma(2.0, 3.0)),
            Latent("effect", lambda mu, spread: dist.Normal(mu, spread), plates="group"),
        ],
        Observed("y", lambda effect: dist.Poisson(log_rate=effect), plates="obs"),
        y,
    )


def bernoulli() -> Model:
    """Logistic regression with an intercept a group, heavy-tailed."""
    return _grouped(
        [
            Latent("slope", dist.StudentT(4.0, 0.0, 1.0)),
            Latent("spread", dist.HalfCauchy(1.0)),
            Latent("effect", lambda spread: dist.Normal(0.0, spread), plates="group"),
        ],
        Observed(
            "y", lambda effect, slope, x: dist.Bernoulli(logits=effect + slope * x), plates="obs"
        ),
        rng(41).integers(2, size=9).astype(float),
        rng(42).normal(size=9),
    )


def ordered() -> Model:
    """Grades in four classes, cut by an ordered vector under a flat prior."""
    return _grouped(
        [
            Latent("cuts", dist.Flat(supports.ORDERED), event=3),
            Latent("spread", dist.LogNormal(-0.5, 0.5)),
            Latent("effect", lambda spread: dist.Normal(0.0, spread), plates="group"),
        ],
        Observed("y", lambda effect, cuts: dist.OrderedLogistic(effect, cuts), plates="obs"),
        rng(43).integers(4, size=9).astype(float),
    )


def simplex() -> Model:
    """A composition and a probability for each group, an interval for the globals."""
    return _grouped(
        [
            Latent("weights", dist.Dirichlet(np.array([2.0, 1.0, 1.5])), event=3, plates="group"),
            Latent("chance", dist.Beta(2.0, 3.0), plates="group"),
            Latent("shift", dist.Uniform(-1.0, 2.0)),
        ],
        Observed(
            "y",
            lambda weights, chance, shift: dist.Normal(
                ops.sum(weights * np.arange(3.0), -1) * chance + shift, 0.7
            ),
            plates="obs",
        ),
        rng(44).normal(size=9),
    )


def cholesky() -> Model:
    """A correlated pair a group: scales, a correlation factor, negative binomial counts."""
    return _grouped(
        [
            Latent("factor", dist.LKJCholesky(2, 2.0), event=(2, 2)),
            Latent("scales", dist.InverseGamma(3.0, 2.0), event=2),
            Latent("extra", dist.Exponential(1.0)),
            Latent(
                "pair",
                lambda factor, scales: dist.MultivariateNormal(
                    ops.zeros_like(scales), ops.expand_dims(scales, -1) * factor
                ),
                plates="group",
                event=2,
            ),
        ],
        Observed(
            "y",
            lambda pair, extra, x: dist.NegativeBinomial(
                ops.exp(pair[..., 0] + pair[..., 1] * x), extra + 0.1
            ),
            plates="obs",
        ),
        rng(45).poisson(2.0, 9).astype(float),
        rng(46).normal(size=9),
    )


def dense() -> Model:
    """A latent on two dense plates, a network a subject."""
    graph = PlateGraph(
        [Plate("subject"), Plate("vertex")],
        [
            Latent("mu", dist.Normal(0.0, 1.0), plates="vertex"),
            Latent("spread", dist.HalfNormal(1.0)),
            Latent("z", lambda mu, spread: dist.Normal(mu, spread), plates=("subject", "vertex")),
            Observed("y", lambda z: dist.Normal(z, 0.5), plates=("subject", "vertex"), event=2),
        ],
    )
    y = rng(47).normal(size=(3, 4, 2))
    y[1, 2, 0] = np.nan
    return graph, Data({"y": y})


def mixture() -> Model:
    """Long profiles of each subject, of which every site shows one: labels summed out."""
    graph = PlateGraph(
        [Plate("subject"), Plate("site")],
        [
            Latent("map", dist.Normal(0.0, 1.5), plates="site", event=2),
            Latent("mean", dist.Normal(0.0, 1.0), event=2),
            Latent(
                "profile",
                lambda mean: dist.Normal(mean[..., None] * np.ones(18), 0.4),
                plates="subject",
                event=(2, 18),
            ),
            Latent(
                "logits", lambda map: dist.Normal(map, 0.7), plates=("subject", "site"), event=2
            ),
            Observed(
                "y",
                lambda logits, profile: dist.Mixture(
                    ops.softmax(logits),
                    [dist.Normal(profile[..., k, :], 1.0) for k in range(2)],
                    reinterpreted_batch_ndims=1,
                ),
                plates=("subject", "site"),
                event=18,
            ),
        ],
    )
    return graph, Data({"y": rng(48).normal(size=(3, 4, 18))})


@dataclass(frozen=True)
class Case:
    """A model and a family that is small enough to compile at once."""

    model: Callable[[], Model]
    family: Family


def long_vectors() -> tuple[PlateGraph, Data]:
    """Binary rows of groups with nine effects each: their Gaussian is not learned."""
    graph = PlateGraph(
        [Plate("group"), Plate("row", within="group")],
        [
            Covariate("x", plates="row", event=(9,)),
            Latent("scale", dist.HalfNormal(1.0)),
            Latent("b", lambda scale: dist.Normal(0.0, scale), plates="group", event=(9,)),
            Observed("y", lambda b, x: dist.Bernoulli(logits=ops.sum(b * x, -1)), plates="row"),
        ],
    )
    values = {"x": rng(0).normal(size=(12, 9)), "y": rng(1).integers(0, 2, 12).astype(float)}
    return graph, Data(values, {"row": {"group": np.arange(12) // 4}})


def _family(**options: object) -> Family:
    return Family(**{"hidden": 5, "encoding_size": 3, "flow": "none", **options})


COUNTY = MODELS["county, missing"]
CASES: dict[str, Case] = {
    "nested, exact": Case(COUNTY, _family(flow="auto")),
    "nested, missing": Case(COUNTY, _family(overrides={"effect": {"encoding": "encoder+free"}})),
    "nested, spline": Case(COUNTY, _family(flow="spline", encoding="encoder")),
    "nested, affine flow": Case(MODELS["vector events"], _family(flow="affine", layers=2)),
    "nested, free": Case(COUNTY, _family(encoding="free")),
    "nested, deep set": Case(COUNTY, _family(encoder="deep_set", encoding="encoder+free")),
    "nested, prior": Case(COUNTY, _family(structure="prior")),
    "nested, mean field": Case(COUNTY, _family(structure="mean_field")),
    "three levels": Case(MODELS["three levels, centred"], _family()),
    "dense": Case(dense, _family()),
    "crossed, dense": Case(MODELS["crossed, dense"], _family()),
    "crossed, joint block": Case(MODELS["crossed, rows"], _family(encoding="encoder")),
    "crossed, no joint block": Case(MODELS["crossed, rows"], _family(joint_limit=0)),
    "poisson": Case(poisson, _family()),
    "bernoulli": Case(bernoulli, _family()),
    "ordered": Case(ordered, _family()),
    "simplex": Case(simplex, _family(encoding="encoder")),
    "cholesky": Case(cholesky, _family()),
    "mixture": Case(mixture, _family()),
    "mixture, sites": Case(mixture, _family(overrides={"profile": {"flow": "auto"}})),
}


@dataclass(frozen=True)
class Problem:
    """A plan with weights, rows of its tables, noise and data, all NumPy."""

    bound: BoundData
    plan: GuidePlan
    weights: dict[str, Array]
    tables: dict[str, Array]
    dtype: str

    @property
    def batch(self) -> Batch:
        return full_batch(self.bound, self.dtype)

    def noise(self, samples: int, seed: int = 0, batch: Batch | None = None) -> dict[str, Array]:
        index = (batch or self.batch).indices
        shapes = guide.noise_shapes(self.plan, samples, {p: len(i) for p, i in index.items()})
        draws = rng(1000 + seed)
        return {n: draws.normal(size=s).astype(self.dtype) for n, s in shapes.items()}

    @property
    def rows(self) -> dict[str, Array]:
        """The tables without their padding row, `[*plates, columns]`."""
        sizes = self.bound.sizes
        return {
            name: table[:-1].reshape(*(sizes[p] for p in self.plan.block(name).plates), -1)
            for name, table in self.tables.items()
        }


def problem(case: Case, dtype: str = "float64", seed: int = 0, scale: float = 0.2) -> Problem:
    """A case with random weights, no weight at a special value."""
    graph, data = case.model()
    bound = data.bind(graph)
    standards = {o.name: (0.1, 1.3) for o in graph.observed}
    plan = lower(graph, case.family, bound.sizes, None, standards)
    draws = rng(seed)
    weights: dict[str, Array] = {}
    tables: dict[str, Array] = {}
    for block in plan.blocks:
        own = random_weights(dict(block.parameters), draws, scale)
        weights |= {f"{block.name}/{name}": value.astype(dtype) for name, value in own.items()}
        if block.table_width:
            table = scale * draws.normal(size=(block.copies + 1, block.table_width))
            if block.site:
                # Precisions are not negative.
                table[:, block.dimension :] = np.abs(table[:, block.dimension :])
            tables[block.name] = table.astype(dtype)
    return Problem(bound, plan, weights, tables, dtype)
