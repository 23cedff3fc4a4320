"""The reduced ELBO is unbiased for the full one, and the full one is that of the grounded model.

Every expectation over batches is taken by going through *all* batches that the sampler can draw,
each with its probability, at fixed noise for each ground element: equalities, not estimates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from math import prod

import numpy as np
import pytest
from grounded import Grounded, Setup, guide_law, log_prob
from small_models import MODELS, bound, rng

from pavi import (
    Data,
    Family,
    Latent,
    Observed,
    Plate,
    PlateGraph,
    dist,
    guide,
    objective,
    subsampling,
)
from pavi.batch import Batch
from pavi.data import BoundData
from pavi.subsampling import Sampler, Selection, gather


def all_batches(
    data: BoundData, batch: Mapping[str, int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[float, Selection]]:
    """Every outcome of the sampler's draws with its probability."""
    script: list[int] = []
    options: list[int] = []

    def chosen(size: int, count: int) -> np.ndarray:
        subsets = list(combinations(range(size), count))
        if len(options) == len(script):
            script.append(0)
        options.append(len(subsets))
        return np.array(subsets[script[len(options) - 1]], dtype=np.int64)

    def draws(size: np.ndarray, count: np.ndarray, *_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        index = [chosen(int(n), int(k)) for n, k in zip(size, count, strict=True)]
        together = np.concatenate([np.zeros(0, np.int64), *index])
        return together, np.zeros_like(together)

    monkeypatch.setattr(subsampling, "balanced_draws", draws)
    sampler = Sampler(data, batch, "float64")
    while True:
        options.clear()
        drawn = sampler.draw(0, 1)
        parts = ({key: array[0] for key, array in part.items()} for part in drawn)
        yield 1.0 / prod(options), Selection(*parts)
        while script and script[-1] + 1 == options[len(script) - 1]:
            script.pop()
        if not script:
            return
        script[-1] += 1


def elbo(setup: Setup, batch: Batch, noise: Mapping[str, np.ndarray]) -> np.ndarray:
    """ELBO of each draw on a batch, noise and table rows taken from those of the full model."""
    return objective.elbo_samples(
        setup.plan,
        log_prob,
        setup.params,
        setup.on(batch, setup.tables, 0),
        setup.on(batch, noise, 1),
        batch,
    )


def classes() -> BoundData:
    """Ratings cross lecturers and students; students are nested in classes of different sizes."""
    graph = PlateGraph(
        [
            Plate("class_"),
            Plate("student", within="class_"),
            Plate("lecturer"),
            Plate("rating", within=("lecturer", "student")),
        ],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Latent("class_mean", dist.Normal(0.0, 0.5), plates="class_"),
            Latent("ability", lambda class_mean: dist.Normal(class_mean, 0.7), plates="student"),
            Latent("skill", lambda mu: dist.Normal(mu, 0.8), plates="lecturer"),
            Observed(
                "y", lambda ability, skill: dist.Normal(ability + skill, 0.5), plates="rating"
            ),
        ],
    )
    members = {
        "student": {"class_": np.array([0, 1, 1, 0, 2, 1])},
        "rating": {
            "lecturer": np.array([0, 1, 2, 0, 1, 2, 1, 0, 2]),
            "student": np.array([0, 1, 2, 3, 4, 5, 0, 1, 1]),
        },
    }
    return Data({"y": rng(0).normal(size=9)}, members).bind(graph)


def data_of(model: str) -> BoundData:
    return classes() if model == "classes" else bound(model)


REDUCED: list[tuple[str, dict[str, int]]] = [
    # nested and ragged, a group of 1 and an empty one
    ("county", {"county": 2}),
    ("county", {"county": 2, "home": 2}),
    ("county", {"home": 9}),
    ("county, missing", {"county": 3}),
    ("intercept and slope", {"group": 2}),
    ("vector events", {"group": 1, "obs": 1}),
    # three levels
    ("three levels, centred", {"batch": 2}),
    ("three levels, additive", {"cask": 4}),
    ("three levels, additive", {"batch": 2, "test": 3}),
    ("three levels, centred", {"batch": 1, "cask": 1, "test": 2}),
    # dense
    ("crossed, dense", {"dish": 2}),
    ("crossed, dense", {"dish": 3, "sample": 2}),
    # crossed
    ("crossed, rows", {"student": 2}),
    ("crossed, rows", {"student": 2, "lecturer": 3}),
    ("crossed, rows", {"rating": 12}),
    ("crossed, own effects", {"row": 1, "column": 2}),
    ("crossed, own effects, dense", {"row": 1, "column": 2}),
    ("region over crossed", {"region": 1, "year": 3}),
    ("three crossed", {"a": 1, "b": 2, "c": 3}),
    ("three crossed", {"b": 2, "row": 3}),
    ("classes", {"class_": 2}),
    ("classes", {"class_": 2, "lecturer": 2}),
    ("classes", {"class_": 2, "student": 1, "lecturer": 2}),
    ("classes", {"student": 4, "lecturer": 2}),
]


@pytest.mark.parametrize(("model", "batch"), REDUCED, ids=[f"{m}-{b}" for m, b in REDUCED])
@pytest.mark.parametrize("encoding", ["auto", "free"])
def test_mean_of_the_reduced_elbo_over_all_batches_is_the_full_elbo(
    model: str, batch: dict[str, int], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` gives an encoder only where a batch holds all of an element's evidence, else rows."""
    data = data_of(model)
    setup = Setup(data, Family(encoding=encoding, hidden=2), batch, spread=0.2, seed=1)
    noise = setup.noise(2, seed=2)
    full = elbo(setup, setup.batch, noise)
    mean, total = np.zeros(2), 0.0
    for probability, selection in all_batches(data, batch, monkeypatch):
        mean += probability * elbo(setup, gather(data.graph, setup.batch, selection), noise)
        total += probability
    assert total == pytest.approx(1.0)
    np.testing.assert_allclose(mean, full, rtol=1e-9)


def test_an_encoder_of_partial_evidence_changes_with_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An encoding from a part of the data is another q: the mean over batches is no longer exact.

    Here the homes of a county are drawn too, and the family insists on the encoder. The model's
    terms at given latents stay unbiased (the test above); log q's and the draws do not. `auto`
    therefore gives free rows to elements of which a batch holds a part.
    """
    data, batch = bound("county"), {"county": 2, "home": 2}
    assert Setup(data, Family(), batch).plan.block("county").encoding == "free"
    setup = Setup(data, Family(encoding="encoder"), batch, spread=0.2)
    assert setup.plan.block("county").partial
    noise = setup.noise(1, seed=2)
    mean = sum(
        probability * elbo(setup, gather(data.graph, setup.batch, selection), noise)
        for probability, selection in all_batches(data, batch, monkeypatch)
    )
    assert abs(mean - elbo(setup, setup.batch, noise))[0] > 1e-3


@pytest.mark.parametrize("encoder", ["natural", "deep_set"])
def test_complete_evidence_gives_each_element_the_law_of_the_full_data(encoder: str) -> None:
    data, batch = bound("three levels, additive"), {"batch": 2}
    setup = Setup(data, Family(encoder=encoder), batch, spread=0.3)
    noise = setup.noise(2, seed=3)
    full = setup.sample(noise)
    drawn = Sampler(data, batch, "float64").draw(4, 1)
    reduced = gather(
        data.graph, setup.batch, Selection(*({k: v[0] for k, v in d.items()} for d in drawn))
    )
    rows, small = setup.on(reduced, setup.tables, 0), setup.on(reduced, noise, 1)
    draw = guide.sample(setup.plan, setup.params, rows, small, reduced)
    for plate, name in (("batch", "effect"), ("cask", "strength")):
        index = reduced.indices[plate]
        kept = index < data.sizes[plate]
        assert kept.sum() >= 2
        np.testing.assert_allclose(
            draw.values[name][:, kept], full.values[name][:, index[kept]], rtol=1e-9
        )


def test_reduced_elbo_of_sampled_batches_is_within_its_standard_error() -> None:
    """The sampler as it is, 20,000 batches of seed 5: four standard errors, each below 0.1 %."""
    data, batch = bound("county"), {"county": 5, "home": 4}
    setup = Setup(data, Family(hidden=2), batch, spread=0.1)
    noise = setup.noise(1, seed=2)
    selections = Sampler(data, batch, "float64").draw(5, 20_000)
    seen: dict[bytes, float] = {}
    estimates = []
    for step in range(20_000):
        one = Selection(*({k: v[step] for k, v in part.items()} for part in selections))
        key = b"".join(np.sort(index).tobytes() for index in one.indices.values())
        if key not in seen:
            seen[key] = elbo(setup, gather(data.graph, setup.batch, one), noise)[0]
        estimates.append(seen[key])
    full = elbo(setup, setup.batch, noise)[0]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert error < 1e-3 * abs(full)
    assert abs(np.mean(estimates) - full) < 4.0 * error


# --- the full ELBO ------------------------------------------------------------------------------

FAMILIES = {
    "auto": Family(hidden=3),
    "free": Family(encoding="free", hidden=3),
    "encoder": Family(encoding="encoder", hidden=3),
    "deep set": Family(encoder="deep_set", hidden=3, encoding_size=2),
    "prior": Family(structure="prior", hidden=3),
    "mean field": Family(structure="mean_field"),
    "spline": Family(flow="spline", hidden=3),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("model", MODELS)
def test_full_elbo_is_grounded_log_joint_minus_log_q(model: str, family: str) -> None:
    """And log q found again from the draws' values is the density they were drawn with."""
    setup = Setup(bound(model), FAMILIES[family], spread=0.2, seed=3)
    noise = setup.noise(3, seed=4)
    draw = setup.sample(noise)
    again = guide.log_prob(setup.plan, setup.params, setup.tables, draw.values, setup.batch)
    log_q = np.zeros(3)
    for block in setup.plan.blocks:
        np.testing.assert_allclose(again.base[block.name], noise[block.name], atol=1e-7)
        log_q += again.log_prob[block.name].reshape(3, -1).sum(1)
    expected = Grounded(setup.bound).log_joint(draw.values) - log_q
    for path in (False, True):  # the gradient's estimator; the value is the same
        found = objective.elbo_samples(
            setup.plan, log_prob, setup.params, setup.tables, noise, setup.batch, path=path
        )
        np.testing.assert_allclose(found, expected, rtol=1e-8)


# --- invariances --------------------------------------------------------------------------------


def padded(batch: Batch, data: BoundData, plates: tuple[str, ...], seed: int) -> Batch:
    """The batch with two rows more on each of the plates: weight 0, everything else at random."""
    random = rng(seed)
    graph = data.graph

    def grow(array: np.ndarray, axes: tuple[str, ...]) -> np.ndarray:
        for axis, plate in enumerate(axes):
            if plate in plates:
                rows = random.integers(array.shape[axis], size=2)
                array = np.concatenate([array, 3.0 + np.take(array, rows, axis)], axis)
        return array

    members = {}
    for key, position in batch.members.items():
        plate, owner = key.split("/")
        extra = random.integers(data.sizes[owner], size=2) if plate in plates else []
        members[key] = np.concatenate([position, extra]).astype(np.int32)
    ends = {p: np.full(2 * (p in plates), data.sizes[p], np.int32) for p in data.sizes}
    return Batch(
        values={n: grow(v, graph.variables[n].plates) for n, v in batch.values.items()},
        masks={n: grow(m, graph.variables[n].plates) > 0.5 for n, m in batch.masks.items()},
        members=members,
        indices={p: np.concatenate([i, ends[p]]) for p, i in batch.indices.items()},
        weights={p: np.concatenate([w, 0.0 * ends[p]]) for p, w in batch.weights.items()},
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("model", "plates"),
    [
        ("county", ("county", "home")),
        ("county, missing", ("home",)),
        ("three levels, additive", ("batch", "cask", "test")),
        ("vector events", ("group", "obs")),
        ("crossed, dense", ("dish",)),
        ("crossed, rows", ("lecturer", "rating")),
    ],
)
def test_padding_changes_nothing(model: str, plates: tuple[str, ...], family: str) -> None:
    """Not the ELBO as a function of the weights (hence not its gradients), and not the draws."""
    data = bound(model)
    setup = Setup(data, FAMILIES[family], spread=0.2, seed=5)
    noise = setup.noise(2, seed=6)
    more = padded(setup.batch, data, plates, seed=7)
    np.testing.assert_allclose(elbo(setup, more, noise), elbo(setup, setup.batch, noise), rtol=1e-9)
    direction = {k: rng(8).normal(size=v.shape) for k, v in setup.params.items()}
    slopes = []
    for batch in (setup.batch, more):
        ends = []
        for sign in (-1.0, 1.0):
            moved = Setup(data, FAMILIES[family], spread=0.2, seed=5)
            moved.params = {k: v + sign * 1e-3 * direction[k] for k, v in setup.params.items()}
            ends.append(elbo(moved, batch, noise))
        slopes.append((ends[1] - ends[0]) / 2e-3)
    np.testing.assert_allclose(slopes[1], slopes[0], rtol=1e-6)
    full = setup.sample(noise).values
    draw = guide.sample(
        setup.plan, setup.params, setup.on(more, setup.tables, 0), setup.on(more, noise, 1), more
    )
    for name, value in draw.values.items():
        for axis, plate in enumerate(data.graph.variables[name].plates):
            value = np.take(value, np.arange(data.sizes[plate]), 1 + axis)
        np.testing.assert_allclose(value, full[name], rtol=1e-9, atol=1e-12)


def permuted(data: BoundData, orders: Mapping[str, np.ndarray]) -> BoundData:
    """The same data with the elements of each plate in another order."""
    values = {}
    for name, value in data.values.items():
        mask = data.masks.get(name)
        value = np.asarray(value, float)
        value = value if mask is None else np.where(mask, value, np.nan)
        for axis, plate in enumerate(data.graph.variables[name].plates):
            value = np.take(value, orders[plate], axis)
        values[name] = value
    members = {
        plate: {o: np.argsort(orders[o])[index][orders[plate]] for o, index in owners.items()}
        for plate, owners in data.members.items()
    }
    return Data(values, members, data.sizes).bind(data.graph)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "model", ["county, missing", "three levels, centred", "vector events", "crossed, rows"]
)
def test_permuting_plates_permutes_the_draws_and_nothing_else(model: str, family: str) -> None:
    data = bound(model)
    orders = {plate: rng(9).permutation(size) for plate, size in data.sizes.items()}
    if model == "crossed, rows":
        # The copies of a joint block have weights of their own, one for each place.
        orders["student"] = np.arange(data.sizes["student"])
    setup = Setup(data, FAMILIES[family], spread=0.2, seed=10)
    moved = Setup(permuted(data, orders), FAMILIES[family], spread=0.2, seed=10)
    noise = setup.noise(2, seed=11)

    def reorder(arrays: Mapping[str, np.ndarray], lead: int) -> dict[str, np.ndarray]:
        out = {}
        for name, array in arrays.items():
            for axis, plate in enumerate(setup.plan.block(name).axes):
                array = np.take(array, orders[plate], lead + axis)
            out[name] = array
        return out

    moved.tables = reorder(setup.tables, 0)
    moved_noise = reorder(noise, 1)
    np.testing.assert_allclose(
        elbo(moved, moved.batch, moved_noise), elbo(setup, setup.batch, noise), rtol=1e-9
    )
    before, after = setup.sample(noise).values, moved.sample(moved_noise).values
    for name, value in before.items():
        for axis, plate in enumerate(data.graph.variables[name].plates):
            value = np.take(value, orders[plate], 1 + axis)
        np.testing.assert_allclose(after[name], value, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("model", ["crossed, dense", "crossed, rows", "region over crossed"])
def test_permuting_the_elements_of_a_joint_block_permutes_its_law(model: str) -> None:
    data = bound(model)
    orders = {plate: rng(12).permutation(size) for plate, size in data.sizes.items()}
    setup, moved = Setup(data), Setup(permuted(data, orders))
    for block in (b for b in setup.plan.blocks if b.joint):
        (plate,) = block.plates
        if any(b.plates for b in setup.plan.blocks[: setup.plan.blocks.index(block)]):
            continue  # its law depends on elements that are permuted too
        _, mean, covariance = guide_law(setup, block.name, seed=13)
        _, moved_mean, moved_covariance = guide_law(moved, block.name, seed=13)
        n = data.sizes[plate]
        order = np.concatenate([k * n + orders[plate] for k in range(len(mean) // n)])
        np.testing.assert_allclose(moved_mean, mean[order], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            moved_covariance, covariance[np.ix_(order, order)], rtol=1e-9, atol=1e-12
        )
