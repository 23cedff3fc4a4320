"""What a posterior says of itself: labels of its elements, and a print of a few lines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from complaints import data_error
from numpy.testing import assert_array_equal
from numpy_backend import install, random_posterior
from small_models import MODELS
from varied_models import CASES, Case

from pavi import Data, Family, PlateGraph, Posterior
from pavi.schedule import History


@pytest.fixture(autouse=True)
def numpy_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def labelled(labels: Any) -> Posterior:
    def build() -> tuple[PlateGraph, Data]:
        graph, data = MODELS["county"]()
        return graph, Data(data.values, data.members, data.sizes, {"county": labels})

    return random_posterior(Case(build, Family(hidden=4, encoding_size=3, flow="none")))


def test_elements_may_be_named_by_their_labels() -> None:
    posterior = labelled(["s01", "s02", "s03", "s04", "s05"])
    expected = posterior.sample(4, plates={"county": [3, 0]})
    for labels in (["s04", "s01"], np.array(["s04", "s01"]), ("s04", "s01")):
        found = posterior.sample(4, plates={"county": labels})
        assert found["effect"].shape == (4, 2)
        for name, value in expected.items():
            assert_array_equal(found[name], value)
    data_error(
        lambda: posterior.sample(1, plates={"county": ["s1"]}),
        "'county'",
        "label 's1'",
        "Did you mean 's01'?",
    )
    data_error(lambda: posterior.sample(1, plates={"county": ["s01", 2]}), "list of integers")
    data_error(lambda: posterior.sample(1, plates={"county": ["s01", "s01"]}), "twice")


def test_integers_are_positions_whatever_the_labels() -> None:
    posterior = labelled([4, 3, 2, 1, 0])
    found = posterior.sample(4, plates={"county": [4]})["effect"]
    assert_array_equal(found, posterior.sample(4)["effect"][:, [4]])


def test_labels_of_the_plates_are_at_hand() -> None:
    posterior = labelled(["s01", "s02", "s03", "s04", "s05"])
    assert list(posterior.coords) == ["county"]
    assert posterior.coords["county"].tolist() == ["s01", "s02", "s03", "s04", "s05"]
    assert random_posterior(CASES["nested, missing"]).coords == {}
    unlabelled = random_posterior(CASES["nested, missing"])
    data_error(
        lambda: unlabelled.sample(1, plates={"county": ["s01"]}), "'county' has no labels", "coords"
    )


def test_a_posterior_prints_in_a_few_lines() -> None:
    posterior = random_posterior(CASES["nested, missing"], "float32")
    history = History(np.array([50, 100]), np.array([-70.0, -61.25]), np.array([2.0, 0.5]))
    fitted = replace(posterior, history=history, converged=True, verdict="the ELBO has settled")
    text = repr(fitted)
    assert len(text.splitlines()) == 5
    for part in (
        "numpy",
        "float32",
        "effect",
        f"{posterior.num_weights:,} weights",
        "county=5, home=11",
        "converged: the ELBO has settled",
        "-61.250 (standard error 0.500)",
    ):
        assert part in text
    assert "NOT converged: not fitted" in repr(posterior)
    # what it is made of prints no arrays either
    assert len(repr(posterior.data)) < 500
    batch = repr(posterior._fitted.full)
    assert batch.startswith("Batch(values: ")
    assert "y[11]" in batch
    assert len(batch) < 300


def test_the_labels_are_those_of_the_frame() -> None:
    pd = pytest.importorskip("pandas")
    graph, data = MODELS["county"]()
    names = np.array(["e", "d", "c", "b", "a"])
    frame = pd.DataFrame({**data.values, "county": names[data.members["home"]["county"]]})
    given = Data.from_frame(frame, graph, coords={"county": names})
    posterior = random_posterior(Case(lambda: (graph, given), Family(flow="none")))
    assert_array_equal(posterior.coords["county"], names)
    assert_array_equal(
        posterior.sample(3, plates={"county": ["a"]})["effect"],
        posterior.sample(3, plates={"county": [4]})["effect"],
    )
