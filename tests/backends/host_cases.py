"""Small plans with weights and batches, on every layout of plates, for tests of host objects."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from pavi import dist, guide
from pavi.batch import Batch
from pavi.bijectors import initial_parameters
from pavi.data import Data
from pavi.dist.supports import ORDERED
from pavi.family import Family
from pavi.graph import Covariate, Latent, Observed, Plate, PlateGraph
from pavi.lowering import lower
from pavi.plan import GuidePlan
from pavi.subsampling import Sampler, Selection, full_batch, gather

DTYPE = "float32"


@dataclass(frozen=True)
class Case:
    """A plan with weights, and a batch that they are for."""

    plan: GuidePlan
    weights: dict[str, np.ndarray]
    tables: dict[str, np.ndarray]
    batch: Batch

    @property
    def graph(self) -> PlateGraph:
        return self.plan.graph

    @property
    def sizes(self) -> dict[str, int]:
        return {plate: len(index) for plate, index in self.batch.indices.items()}

    def rows(self) -> dict[str, np.ndarray]:
        """Rows of the tables in the batch, picked here by plain indexing."""
        out = {}
        for name, table in self.tables.items():
            block = self.plan.block(name)
            sizes = [self.plan.sizes[p] for p in block.axes]
            flat = np.full(1, 0)
            padding = np.zeros(1, bool)
            for size, plate in zip(sizes, block.axes, strict=True):
                index = self.batch.indices[plate]
                flat = (flat[:, None] * size + index).ravel()
                padding = (padding[:, None] | (index >= size)).ravel()
            picked = table[np.where(padding, len(table) - 1, flat)]
            out[name] = picked.reshape(*(self.sizes[p] for p in block.axes), -1)
        return out

    @property
    def fixed(self) -> set[str]:
        """Weights that gradients leave alone."""
        blocks = self.plan.blocks
        return {f"{b.name}/{k}" for b in blocks for k, spec in b.parameters if not spec.trainable}

    def noise(self, samples: int, seed: int = 3) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        shapes = guide.noise_shapes(self.plan, samples, self.sizes)
        return {k: rng.normal(size=shape).astype(DTYPE) for k, shape in shapes.items()}


def nested() -> tuple[PlateGraph, Data]:
    graph = PlateGraph(
        [Plate("county"), Plate("home", within="county")],
        [
            Covariate("floor", plates="home"),
            Latent("slope", dist.Normal(0.0, 2.0), event=2),
            Latent("scale", dist.HalfNormal(1.0)),
            Latent("share", dist.Dirichlet(np.ones(3)), plates="county", event=3),
            Latent("effect", lambda scale: dist.Normal(0.0, scale), plates="county", event=2),
            Observed(
                "radon",
                lambda slope, effect, share, floor: dist.Normal(
                    slope * floor + effect + share[..., :2], 0.7
                ),
                plates="home",
                event=2,
            ),
            Observed("count", lambda scale: dist.Poisson(scale), plates="home"),
        ],
    )
    rng = np.random.default_rng(0)
    radon = rng.normal(size=(11, 2))
    radon[3, 0] = radon[5] = np.nan
    data = Data(
        {
            "radon": radon,
            "floor": rng.normal(size=11),
            "count": rng.poisson(2.0, size=11).astype(float),
        },
        members={"home": {"county": np.array([0, 0, 1, 1, 1, 1, 3, 3, 3, 4, 4])}},
        sizes={"county": 5},
    )
    return graph, data


def dense() -> tuple[PlateGraph, Data]:
    graph = PlateGraph(
        [Plate("subject"), Plate("vertex")],
        [
            Latent("level", dist.Normal(0.0, 1.0)),
            Latent("subject_effect", lambda level: dist.Normal(level, 1.0), plates="subject"),
            Latent("width", dist.LogNormal(0.0, 1.0), plates="vertex"),
            Latent(
                "both",
                lambda subject_effect, width: dist.Normal(subject_effect, width),
                plates=("subject", "vertex"),
            ),
            Observed("x", lambda both: dist.Normal(both, 0.5), plates=("subject", "vertex")),
            Observed("y", lambda both: dist.StudentT(5.0, both, 0.5), plates=("subject", "vertex")),
        ],
    )
    rng = np.random.default_rng(1)
    return graph, Data({"x": rng.normal(size=(4, 3)), "y": rng.normal(size=(4, 3))})


def crossed() -> tuple[PlateGraph, Data]:
    graph = PlateGraph(
        [Plate("student"), Plate("item"), Plate("answer", within=("student", "item"))],
        [
            Latent("spread", dist.Gamma(2.0, 2.0)),
            Latent("ability", lambda spread: dist.Normal(0.0, spread), plates="student"),
            Latent("difficulty", dist.Normal(0.0, 1.0), plates="item"),
            Observed(
                "right",
                lambda ability, difficulty: dist.Bernoulli(logits=ability - difficulty),
                plates="answer",
            ),
        ],
    )
    rng = np.random.default_rng(2)
    members = {"student": rng.integers(0, 6, 20), "item": rng.integers(0, 3, 20)}
    data = Data(
        {"right": rng.integers(0, 2, 20).astype(float)},
        members={"answer": members},
        sizes={"student": 6, "item": 3},
    )
    return graph, data


def improper() -> tuple[PlateGraph, Data]:
    graph = PlateGraph(
        [Plate("row")],
        [
            Latent("cut", dist.Flat(ORDERED), event=3),
            Latent("level", dist.Flat(), plates="row"),
            Observed("y", lambda level: dist.Normal(level, 1.0), plates="row"),
            Observed("z", lambda cut: dist.Normal(cut, 1.0), event=3),
        ],
    )
    return graph, Data({"y": np.arange(4.0), "z": np.arange(3.0)})


def effects() -> tuple[PlateGraph, Data]:
    graph = PlateGraph(
        [Plate("group")],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Latent("theta", lambda mu: dist.Normal(mu, 1.0), plates="group"),
            Observed("x", lambda theta: dist.Normal(theta, 1.0), plates="group"),
        ],
    )
    return graph, Data({"x": np.array([2.0, 1.0, 3.0, 1.5])})


MODELS = {
    "nested": (nested, {"county": 2, "home": 2}),
    "dense": (dense, {"subject": 2}),
    "crossed": (crossed, {"student": 3}),
}
FAMILIES = {
    "default": Family(),
    "free": Family(encoding="free"),
    "plain": Family(encoding="free", flow="none"),
    "deep_set": Family(encoder="deep_set", hidden=8, encoding_size=4),
    "prior": Family(structure="prior"),
    "mean_field": Family(structure="mean_field"),
}
CASES = [
    *((model, "default", reduced) for model in MODELS for reduced in (False, True)),
    ("nested", "free", False),
    ("nested", "deep_set", True),
    ("nested", "mean_field", True),
    ("crossed", "prior", True),
    ("dense", "free", True),
]


@cache
def case(model: str, family: str = "default", reduced: bool = False) -> Case:
    """A case with weights away from their start, where most are zero."""
    build, batch_sizes = MODELS[model]
    graph, data = build()
    bound = data.bind(graph)
    plan = lower(graph, FAMILIES[family], bound.sizes, batch_sizes if reduced else None)
    batch = full_batch(bound, DTYPE)
    if reduced:
        sampler = Sampler(bound, batch_sizes, DTYPE)
        drawn_rows = sampler.draw(5, 1)
        first = Selection(*({k: v[0] for k, v in part.items()} for part in drawn_rows))
        batch = gather(graph, batch, first)
    return initial(plan, batch, 0.1)


def initial(plan: GuidePlan, batch: Batch, spread: float) -> Case:
    rng = np.random.default_rng(7)
    weights, tables = {}, {}
    for block in plan.blocks:
        drawn = initial_parameters(dict(block.parameters), rng, np.dtype(DTYPE))
        for key, spec in block.parameters:
            moved = spread * spec.trainable * rng.normal(size=spec.shape)
            weights[f"{block.name}/{key}"] = (drawn[key] + moved).astype(DTYPE)
        if block.table_width:
            shape = (block.copies + 1, block.table_width)
            tables[block.name] = (spread * rng.normal(size=shape)).astype(DTYPE)
    return Case(plan, weights, tables, batch)
