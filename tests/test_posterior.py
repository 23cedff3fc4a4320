"""What a posterior answers: draws, parts of them, moments, densities, elements never seen.

Weights are random and not trained: whatever the guide is, its draws, moments and densities agree.
The laws are tested on NumPy; that each backend gives the same numbers is tested once for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from complaints import data_error
from numpy.testing import assert_allclose, assert_array_equal
from numpy_backend import as_posterior, install, on_backend, random_posterior
from small_models import MODELS, rng
from varied_models import CASES, Case, problem

import pavi
from pavi import Data, Family, FamilyError, Latent, Observed, Plate, PlateGraph, Posterior, dist
from pavi.noise import Noise
from pavi.subsampling import full_batch

PLAIN = Family(hidden=4, encoding_size=3, flow="none")


@pytest.fixture(autouse=True)
def numpy_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


# --- draws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nested, missing", "dense", "crossed, joint block", "cholesky"])
def test_draws_have_names_and_shapes(name: str) -> None:
    posterior = random_posterior(CASES[name], "float32")
    draws = posterior.sample(7)
    latents = posterior.graph.latents
    assert list(draws) == [latent.name for latent in latents]
    for latent in latents:
        plates = (posterior.data.sizes[plate] for plate in latent.plates)
        assert draws[latent.name].shape == (7, *plates, *latent.event)
        assert draws[latent.name].dtype == np.float32


def test_the_same_seed_gives_the_same_draws() -> None:
    posterior = random_posterior(CASES["nested, missing"])
    first, again, other = (posterior.sample(5, seed=seed) for seed in (3, 3, 4))
    for name, draw in first.items():
        assert_array_equal(draw, again[name])
        assert (draw != other[name]).all()
        assert len(np.unique(draw)) == draw.size


def test_variables_are_those_asked_for_in_that_order() -> None:
    posterior = random_posterior(CASES["nested, missing"])
    every = posterior.sample(5)
    some = posterior.sample(5, variables=["effect", "mu"])
    assert list(some) == ["effect", "mu"]
    for name, draw in some.items():
        assert_array_equal(draw, every[name])


def test_draws_beyond_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pavi.fitted._MAX_CHUNK", 4)
    posterior = random_posterior(CASES["nested, missing"])
    draws = posterior.sample(11)
    assert {len(draw) for draw in draws.values()} == {11}
    assert len(np.unique(draws["mu"])) == 11
    # Moments are put together from the same chunks.
    for name, mean in posterior.mean(11).items():
        assert_allclose(mean, draws[name].mean(0), rtol=1e-12, atol=1e-12)
    for name, sd in posterior.sd(11).items():
        assert_allclose(sd, draws[name].std(0, ddof=1), rtol=1e-12)
    value, error = posterior.elbo(11)
    assert np.isfinite(value)
    assert error > 0


def test_moments_and_quantiles_are_those_of_the_draws() -> None:
    posterior = random_posterior(CASES["nested, missing"], "float32")
    draws = posterior.sample(400, seed=2)
    mean, sd = posterior.mean(400, seed=2), posterior.sd(400, seed=2)
    median = posterior.quantile(0.5, 400, seed=2)
    both = posterior.quantile([0.05, 0.95], 400, seed=2)
    for name, draw in draws.items():
        exact = draw.astype(np.float64)
        assert_allclose(mean[name], exact.mean(0), rtol=1e-10, atol=1e-12)
        assert_allclose(sd[name], exact.std(0, ddof=1), rtol=1e-10)
        assert_array_equal(median[name], np.quantile(draw, 0.5, axis=0))
        assert both[name].shape == (2, *draw.shape[1:])
        assert_allclose(both[name][0], np.quantile(exact, 0.05, axis=0), rtol=1e-6)
        assert (both[name][0] < both[name][1]).all()


def test_moments_keep_their_digits_far_from_zero() -> None:
    # Data on a raw scale in the hundreds of thousands, in float32
    graph = PlateGraph(
        [Plate("row")],
        [
            Latent("mu", dist.Normal(300_000.0, 1.0)),
            Observed("y", lambda mu: dist.Normal(mu, 1e4), plates="row"),
        ],
    )
    case = Case(lambda: (graph, Data({"y": np.full(3, 3e5)})), PLAIN)
    posterior = random_posterior(case, "float32")
    sd, draws = posterior.sd(500)["mu"], posterior.sample(500)["mu"].astype(np.float64)
    assert_allclose(sd, draws.std(ddof=1), rtol=1e-9)


# --- parts --------------------------------------------------------------------------------------


PARTS = [
    pytest.param(Case(MODELS[model], replace(PLAIN, **given)), part, id=f"{model} {given} {part}")
    for model, options, parts in [
        # One group is empty, another one has lost all of its data.
        (
            "county, missing",
            ({}, {"encoding": "free"}, {"encoder": "deep_set"}, {"structure": "mean_field"}),
            ({"county": [4, 2, 0]}, {"county": [3]}),
        ),
        (
            "three levels, centred",
            ({}, {"encoding": "free"}),
            ({"batch": [2, 0]}, {"cask": [5, 1]}, {"test": [3]}, {"batch": [2, 0], "cask": [5, 1]}),
        ),
        (
            "crossed, rows",
            ({}, {"joint_limit": 0}, {"encoding": "free"}),
            ({"student": [2, 0]}, {"lecturer": [4, 1]}, {"student": [1], "lecturer": [0, 3]}),
        ),
        (
            "crossed, own effects",
            ({}, {"encoding": "free"}),
            ({"cell": [4, 0]}, {"row": [1]}, {"column": [2, 1]}, {"row": [1], "cell": [2, 1]}),
        ),
        (
            "crossed, own effects, dense",
            ({}, {"encoding": "free"}),
            ({"row": [1]}, {"column": [2, 0]}, {"column": [2, 0], "row": [0]}),
        ),
        ("region over crossed", ({},), ({"site": [2, 0]}, {"region": [1]}, {"year": [4, 0]})),
        ("two orders", ({},), ({"a": [1]}, {"b": [2, 0]}, {"a": [0], "b": [1, 2]})),
    ]
    for given in options
    for part in parts
]


@pytest.mark.parametrize(("case", "part"), PARTS)
def test_a_part_is_the_whole_with_the_rest_left_out(case: Case, part: dict[str, list[int]]) -> None:
    posterior = random_posterior(case)
    whole, chosen = posterior.sample(6), posterior.sample(6, plates=part)
    assert list(chosen) == list(whole)
    for latent in posterior.graph.latents:
        expected = whole[latent.name]
        for axis, plate in enumerate(latent.plates):
            expected = np.take(expected, kept(posterior, plate, part), 1 + axis)
        assert chosen[latent.name].shape == expected.shape, latent.name
        assert_allclose(chosen[latent.name], expected, rtol=1e-9, atol=1e-9, err_msg=latent.name)


@pytest.mark.parametrize("longest", [1, 3, 4, 500])
def test_draws_do_not_depend_on_the_chunks_nor_on_the_elements_beside(
    longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More groups than share a stream; of free encodings, whose globals do not look at the data
    case = Case(lambda: (GAUSSIAN, groups([2] * 150, 66)), replace(PLAIN, encoding="free"))
    posterior = random_posterior(case)
    whole = posterior.sample(11, seed=5)
    assert len(np.unique(whole["theta"])) == 11 * 150
    monkeypatch.setattr("pavi.fitted._MAX_CHUNK", longest)
    for elements in ([3, 7, 149], [149, 7], [64, 63], [5]):
        part = posterior.sample(11, seed=5, plates={"group": elements})
        assert_array_equal(part["mu"], whole["mu"])
        # But for the last bit, which a product of matrices owes to their sizes
        assert_allclose(part["theta"], whole["theta"][:, elements], rtol=1e-13)
    assert_allclose(posterior.sample(11, seed=5)["theta"], whole["theta"], rtol=1e-13)
    # A longer sample goes on from a shorter one.
    assert_allclose(posterior.sample(4, seed=5)["theta"], whole["theta"][:4], rtol=1e-13)
    assert (posterior.sample(11, seed=6)["theta"] != whole["theta"]).all()


def test_parts_drawn_on_a_backend_belong_to_the_same_joint_draws(backend: str) -> None:
    posterior = on_backend(random_posterior(CASES["nested, free"], "float32"), backend)
    whole = posterior.sample(6, seed=2)
    first, second = (posterior.sample(6, seed=2, plates={"county": p}) for p in ([3], [1, 4]))
    for name in ("mu", "slope"):
        assert_allclose(first[name], whole[name], rtol=1e-6)
        assert_array_equal(first[name], second[name])
    assert_allclose(first["effect"], whole["effect"][:, [3]], rtol=1e-5, atol=1e-6)
    assert_allclose(second["effect"], whole["effect"][:, [1, 4]], rtol=1e-5, atol=1e-6)


def test_the_noise_is_standard_normal_and_each_element_its_own() -> None:
    # Dense plates: [5, 40] elements of 1 latent, in several streams
    posterior = random_posterior(Case(dense_grid, replace(PLAIN, joint_limit=0)))
    plan, sizes = posterior.plan, posterior.data.sizes
    every = {plate: np.arange(size) for plate, size in sizes.items()}
    blocks = plan.blocks
    source = Noise(blocks, sizes, every, 0)
    noise = np.concatenate([source.draw(n)["row,column"] for n in (700, 300)])
    assert noise.shape == (1000, 5, 40, 1)
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1.0) < 5 * np.sqrt(2 / noise.size)
    correlation = np.corrcoef(noise.reshape(1000, -1).T) - np.eye(200)
    assert abs(correlation).max() < 5.5 / np.sqrt(1000)
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 5 / np.sqrt(noise.size)
    part = {"row": np.array([4, 0]), "column": np.array([1, 39, 7])}
    some = Noise(blocks, sizes, part, 0).draw(1000)
    assert_array_equal(some["row,column"], noise[:, [[4], [0]], [[1, 39, 7]]])
    assert_array_equal(some["row"], Noise(blocks, sizes, every, 0).draw(1000)["row"][:, [4, 0]])
    other = Noise(blocks, sizes, every, 1).draw(1000)
    columns = [noise[:, 0, 0, 0], other["row,column"][:, 0, 0, 0], some["row"][:, 0, 0]]
    assert abs(np.corrcoef(columns) - np.eye(3)).max() < 5 / np.sqrt(1000)


def dense_grid() -> tuple[PlateGraph, Data]:
    graph = PlateGraph(
        [Plate("row"), Plate("column")],
        [
            Latent("level", dist.Normal(0.0, 1.0), plates="row"),
            Latent("cell", lambda level: dist.Normal(level, 1.0), plates=("row", "column")),
            Observed("y", lambda cell: dist.Normal(cell, 1.0), plates=("row", "column")),
        ],
    )
    return graph, Data({"y": rng(67).normal(size=(5, 40))})


@pytest.mark.parametrize("seed", [1.5, "0", None, True])
def test_a_seed_is_an_integer(seed: Any) -> None:
    posterior = random_posterior(CASES["nested, free"])
    data_error(lambda: posterior.sample(2, seed=seed), f"seed={seed!r}", "integer")
    posterior.sample(2, seed=np.int64(3))  # type: ignore[arg-type]
    posterior.sample(2, seed=-1)


def kept(posterior: Posterior, plate: str, part: Mapping[str, list[int]]) -> np.ndarray:
    """Elements of a plate that were named, in that order, or that lie within the named ones."""
    if plate in part:
        return np.array(part[plate])
    inside = np.ones(posterior.data.sizes[plate], bool)
    for owner, index in posterior.data.members[plate].items():
        if owner in part:
            inside &= np.isin(index, part[owner])
    return np.flatnonzero(inside)


def test_an_element_outside_of_the_chosen_owners_is_an_error() -> None:
    posterior = random_posterior(Case(MODELS["three levels, centred"], PLAIN))
    owner = posterior.data.members["cask"]["batch"]
    other = int(np.flatnonzero(owner != owner[3])[0])
    data_error(
        lambda: posterior.sample(1, plates={"cask": [3, other], "batch": [int(owner[3])]}),
        "'cask'",
        f"element {other}",
        "'batch'",
        "alone",
    )


# --- densities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nested, missing", "nested, free", "crossed, joint block"])
def test_log_prob_of_draws_is_the_density_that_drew_them(name: str) -> None:
    posterior = random_posterior(CASES[name])
    draws = posterior.sample(50)
    log_q = posterior.log_prob(draws)
    assert log_q.shape == (50,)
    # ELBO = mean of log p - log q: with log q counted twice the difference would be seen.
    shifted = {**draws, "mu": draws["mu"] + 1e-5}
    back = {**draws, "mu": draws["mu"] - 1e-5}
    assert np.isfinite(posterior.log_prob(shifted) - posterior.log_prob(back)).all()
    # E_q[score] = 0 and E_q[q'/q] = 0 for another density q' of the same support: the mean of
    # exp(log q' - log q) is 1 where q' is q moved by a little.
    many = posterior.sample(20_000, seed=1)
    ratio = np.exp(posterior.log_prob({**many, "mu": many["mu"] + 0.02}) - posterior.log_prob(many))
    assert abs(ratio.mean() - 1.0) < 5 * ratio.std() / np.sqrt(len(ratio))


def test_log_prob_takes_lists_and_integers() -> None:
    posterior = random_posterior(CASES["nested, missing"])
    values: dict[str, Any] = {
        name: np.ones_like(draw) for name, draw in posterior.sample(2).items()
    }
    expected = posterior.log_prob(values)
    values = {name: value.astype(int).tolist() for name, value in values.items()}
    assert_array_equal(posterior.log_prob(values), expected)


def test_elbo_is_the_mean_of_log_p_minus_log_q() -> None:
    posterior = random_posterior(Case(lambda: (GAUSSIAN, groups([2, 2, 1], 65)), PLAIN), scale=0.1)
    value, error = posterior.elbo(500, seed=3)
    again = posterior.elbo(500, seed=4)
    assert abs(value - again[0]) < 5 * np.hypot(error, again[1])
    assert posterior.elbo(500, seed=3) == (value, error)
    assert np.isnan(posterior.elbo(1)[1])
    # A quarter of the error with sixteen times the draws
    assert_allclose(posterior.elbo(8000, seed=5)[1], error / 4, rtol=0.3)


# --- elements never seen ------------------------------------------------------------------------


def groups(counts: list[int], seed: int) -> Data:
    member = rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    y = rng(seed + 1).normal(1.0, 2.0, len(member))
    return Data({"y": y}, {"obs": {"group": member}}, {"group": len(counts)})


def grouped(likelihood: Any) -> PlateGraph:
    return PlateGraph(
        [Plate("group"), Plate("obs", within="group")],
        [
            Latent("mu", dist.Normal(0.0, 1.0)),
            Latent("theta", lambda mu: dist.Normal(mu, 0.5), plates="group"),
            Observed("y", likelihood, plates="obs"),
        ],
    )


GAUSSIAN = grouped(lambda theta: dist.Normal(theta, 0.7))
HEAVY_TAILED = grouped(lambda theta: dist.StudentT(4.0, theta, 0.7))


def exact_conditional(data: Data, mu: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """log p(theta | mu, y), `[S]`, of the model above."""
    member, y = data.members["obs"]["group"], data.values["y"]
    total = np.zeros(len(mu))
    for g in range(data.sizes["group"]):
        own = y[member == g]
        precision = 1 / 0.5**2 + len(own) / 0.7**2
        mean = (mu / 0.5**2 + own.sum() / 0.7**2) / precision
        total += -0.5 * precision * (theta[:, g] - mean) ** 2 + 0.5 * np.log(precision / 2 / np.pi)
    return total


def conjugate(data: Data, **options: Any) -> Posterior:
    """A posterior whose affine maps are identities: evidence alone says where and how wide."""
    p = problem(Case(lambda: (GAUSSIAN, data), replace(PLAIN, **options)), scale=0.0)
    return as_posterior(p)


def test_new_groups_of_other_sizes_get_their_exact_conditional() -> None:
    old = groups([4, 1, 3, 2], 60)
    posterior = conjugate(old, residual_limit=0)
    assert [block.encoding for block in posterior.plan.blocks] == ["free", "encoder"]
    mu, theta = rng(61).normal(size=9), rng(64).normal(size=(9, 4))
    trained = posterior.log_prob({"mu": mu, "theta": theta}) - exact_conditional(old, mu, theta)
    for counts in ([4, 1, 3, 2], [2, 7], [5, 0, 1, 1, 9, 3, 2]):
        new = groups(counts, 62)
        encoded = posterior.encode(new)
        assert encoded.data.sizes["group"] == len(counts)
        assert encoded.sample(3)["theta"].shape == (3, len(counts))
        theta = rng(63).normal(size=(9, len(counts)))
        found = encoded.log_prob({"mu": mu, "theta": theta})
        # What is left is log q(mu): the globals keep the posterior they were trained to.
        assert_allclose(found - exact_conditional(new, mu, theta), trained, rtol=1e-9, atol=1e-9)


def test_encoded_globals_follow_the_new_data() -> None:
    posterior = conjugate(groups([4, 1, 3, 2], 60), encoding="encoder")
    new = groups([2, 7, 1], 62)
    mu, theta = rng(61).normal(size=9), rng(63).normal(size=(9, 3))
    found = posterior.encode(new).log_prob({"mu": mu, "theta": theta})
    # p(mu | y), each group's mean being one observation of mu
    member, y = new.members["obs"]["group"], new.values["y"]
    counts = np.bincount(member)
    weight = 1 / (0.5**2 + 0.7**2 / counts)
    precision = 1.0 + weight.sum()
    mean = (weight * np.bincount(member, y) / counts).sum() / precision
    log_mu = -0.5 * precision * (mu - mean) ** 2 + 0.5 * np.log(precision / 2 / np.pi)
    assert_allclose(found, exact_conditional(new, mu, theta) + log_mu, rtol=1e-9, atol=1e-9)


def test_encoding_the_same_data_without_residuals_changes_nothing() -> None:
    posterior = random_posterior(CASES["crossed, joint block"])
    encoded = posterior.encode(MODELS["crossed, rows"]()[1])
    for name, draw in posterior.sample(4).items():
        assert_array_equal(encoded.sample(4)[name], draw)
    assert "encoded" in encoded.verdict
    # Of encoder+free, the residual belongs to elements that were seen.
    posterior = random_posterior(CASES["nested, missing"])
    encoded = posterior.encode(MODELS["county, missing"]()[1])
    assert not encoded.tables["county"].any()
    assert_array_equal(encoded.sample(4)["mu"], posterior.sample(4)["mu"])
    assert (encoded.sample(4)["effect"] != posterior.sample(4)["effect"]).all()
    assert posterior.tables["county"].any()


def test_many_more_elements_than_would_be_given_residuals() -> None:
    # 'auto' settles on a residual for few copies and on none for many: what was trained rules.
    family = replace(PLAIN, residual_limit=5)
    posterior = random_posterior(Case(lambda: (HEAVY_TAILED, groups([2, 2, 1], 65)), family))
    assert posterior.plan.block("group").encoding == "encoder+free"
    encoded = posterior.encode(groups([1] * 12, 66))
    assert encoded.plan.block("group").encoding == "encoder+free"
    assert encoded.sample(2)["theta"].shape == (2, 12)


def test_encoding_standardises_by_the_data_of_training() -> None:
    posterior = random_posterior(CASES["nested, deep set"])
    data = MODELS["county"]()[1]
    shifted = Data({**data.values, "y": data.values["y"] + 5.0}, data.members, data.sizes)
    encoded = posterior.encode(shifted)
    assert encoded.plan.standards == posterior.plan.standards
    assert (encoded.mean(50)["effect"] != posterior.encode(data).mean(50)["effect"]).any()


def test_encode_names_what_it_cannot() -> None:
    free = random_posterior(CASES["nested, free"])
    with pytest.raises(FamilyError, match=r"'effect' on plates \('county',\) is encoded freely"):
        free.encode(MODELS["county"]()[1])
    joint = random_posterior(Case(MODELS["crossed, rows"], PLAIN))
    _, data = MODELS["crossed, rows"]()
    assert any(block.joint for block in joint.plan.blocks)
    fewer = data.members["rating"]["student"] < 2
    small = Data(
        {name: value[fewer] for name, value in data.values.items()},
        {"rating": {owner: index[fewer] for owner, index in data.members["rating"].items()}},
        {"lecturer": 5},
    )
    with pytest.raises(FamilyError, match=r"joint over the .*joint_limit=0"):
        joint.encode(small)
    data_error(lambda: joint.encode(Data({"y": data.values["y"]})), "'x'")


@pytest.mark.parametrize("options", [{}, {"encoding": "encoder"}])
def test_groups_without_outcomes_have_their_prior_given_the_globals(
    options: dict[str, Any],
) -> None:
    posterior = conjugate(groups([4, 1, 3, 2], 60), **{"residual_limit": 0, **options})
    new = groups([2, 1, 0], 62)
    missing = Data({"y": np.full(3, np.nan)}, new.members, new.sizes)
    encoded = posterior.encode(missing)
    assert encoded.sample(3)["theta"].shape == (3, 3)
    mu, theta = rng(61).normal(size=9), rng(63).normal(size=(9, 3))
    found = encoded.log_prob({"mu": mu, "theta": theta})
    # log p(theta | mu), theta ~ Normal(mu, 0.5)
    prior = (-0.5 * ((theta - mu[:, None]) / 0.5) ** 2 - np.log(0.5 * np.sqrt(2 * np.pi))).sum(1)
    rest = found - prior
    if options:
        # encoded globals follow the new data, of which there are none
        assert_allclose(rest, -0.5 * mu**2 - 0.5 * np.log(2 * np.pi), rtol=1e-9, atol=1e-9)
    else:
        # log q(mu) as it was trained, for other data
        other = encoded.log_prob({"mu": mu, "theta": theta + 1.0})
        shifted = (-0.5 * ((theta + 1.0 - mu[:, None]) / 0.5) ** 2).sum(1)
        shifted -= 3 * np.log(0.5 * np.sqrt(2 * np.pi))
        assert_allclose(other - shifted, rest, rtol=1e-9, atol=1e-9)
    assert np.isfinite(encoded.elbo(20)[0])


def test_groups_without_outcomes_on_every_backend(backend: str) -> None:
    posterior = on_backend(random_posterior(CASES["nested, missing"], "float32"), backend)
    graph, data = MODELS["county"]()
    values = {**data.values, "y": np.full_like(data.values["y"], np.nan)}
    missing = Data(values, data.members, data.sizes)
    encoded = posterior.encode(missing)
    draws = encoded.sample(5)
    assert all(np.isfinite(value).all() for value in draws.values())
    assert np.isfinite(encoded.elbo(5)[0])
    # A fit has nothing to learn from.
    data_error(lambda: pavi.fit(graph, missing, backend=backend), "All", "'y'")


# --- mistakes -----------------------------------------------------------------------------------


def test_mistakes_in_sampling_are_named() -> None:
    posterior = random_posterior(CASES["nested, missing"])
    for number in (0, -3, True, 2.5):
        data_error(lambda n=number: posterior.sample(n), f"num_samples={number!r}", "positive")
    data_error(lambda: posterior.elbo(0), "num_samples=0", "positive")
    data_error(lambda: posterior.sample(1, variables=["efect"]), "'efect'", "'effect'", "latent")
    data_error(lambda: posterior.sample(1, variables=["y"]), "'y'", "latent")
    data_error(lambda: posterior.sample(1, plates={"town": [0]}), "'town'", "'county'", "'home'")
    for elements in ([5], [-1], [0, 7]):
        data_error(
            lambda e=elements: posterior.sample(1, plates={"county": e}),
            "'county'",
            "between 0 and 4",
        )
    for wrong in ([0.5], [[0, 1]], [], 3, [True, False], ["a"]):
        data_error(
            lambda w=wrong: posterior.sample(1, plates={"county": w}),
            "'county'",
            "list of integers",
        )
    data_error(lambda: posterior.sample(1, plates={"county": [2, 2]}), "'county'", "twice")


@pytest.mark.parametrize("wrong", [-0.1, 1.5, [0.5, 2.0], float("nan")])
def test_a_quantile_that_cannot_be_is_an_error(wrong: Any) -> None:
    posterior = random_posterior(CASES["nested, missing"])
    data_error(lambda: posterior.quantile(wrong, 10), "between 0 and 1")


def test_mistakes_in_log_prob_are_named() -> None:
    posterior = random_posterior(CASES["nested, missing"])
    draws = posterior.sample(4)
    data_error(
        lambda: posterior.log_prob({k: v for k, v in draws.items() if k != "effect"}),
        "'effect'",
        "missing",
    )
    data_error(
        lambda: posterior.log_prob({**draws, "effect": draws["effect"][:, :3]}),
        "'effect'",
        "(4, 3)",
        "county",
        "5]",
    )
    data_error(lambda: posterior.log_prob({**draws, "effect": draws["effect"][:2]}), "(2, 5)", "[4")
    data_error(lambda: posterior.log_prob({**draws, "mu": 0.3}), "'mu'", "shape ()")


# --- backends -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def county_posterior() -> Posterior:
    return random_posterior(CASES["nested, missing"], "float32")


def test_every_backend_gives_the_same_numbers(backend: str, county_posterior: Posterior) -> None:
    oracle, posterior = county_posterior, on_backend(county_posterior, backend)
    expected, draws = oracle.sample(6, seed=1), posterior.sample(6, seed=1)
    for name, draw in draws.items():
        assert isinstance(draw, np.ndarray)
        assert draw.dtype == np.float32
        assert_allclose(draw, expected[name], rtol=1e-4, atol=1e-5)
    assert_allclose(posterior.log_prob(expected), oracle.log_prob(expected), rtol=1e-4)
    assert_allclose(posterior.elbo(6), oracle.elbo(6), rtol=1e-4)
    part = posterior.sample(6, plates={"county": [4, 1]}, variables=["effect"])
    assert part["effect"].shape == (6, 2)
    data = MODELS["county"]()[1]
    assert_allclose(
        posterior.encode(data).mean(6)["effect"], oracle.encode(data).mean(6)["effect"], rtol=1e-4
    )


def test_the_full_batch_is_made_once(county_posterior: Posterior) -> None:
    first = county_posterior._fitted.full
    county_posterior.sample(2)
    assert county_posterior._fitted.full is first
    assert first.values.keys() == full_batch(county_posterior.data, "float32").values.keys()
