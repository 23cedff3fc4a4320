"""The family's options: every mistake is named; a description goes through JSON and back."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from pavi import Family, FamilyError, Latent, PlateGraph, dist
from pavi.lowering import lower


@pytest.mark.parametrize(
    "family",
    [
        Family(),
        Family(encoding="free", structure="prior", encoder="deep_set", flow="affine", layers=3),
        Family(overrides={"a": {"encoding": "free"}, "b": {"flow": "none", "encoder": "natural"}}),
        Family(flow=["coupling", "spline"], overrides={"a": {"flow": ["iaf"]}}),
        Family(joint_limit=0, residual_limit=0, newton_steps=7, hidden=4, encoding_size=2),
    ],
)
def test_json_and_back(family: Family) -> None:
    description = json.loads(json.dumps(family.to_json()))
    assert Family.from_json(description) == family
    assert set(description) == {f.name for f in fields(Family)}


def test_a_family_is_frozen_and_hashable() -> None:
    family = Family(overrides={"a": {"encoding": "free"}})
    with pytest.raises(FrozenInstanceError):
        family.encoding = "free"  # type: ignore[misc]
    assert hash(family) == hash(Family(overrides={"a": {"encoding": "free"}}))


def test_a_list_of_layers_is_kept_as_a_tuple() -> None:
    layers = ["coupling", "spline"]
    family = Family(flow=layers, overrides={"a": {"flow": layers}})
    layers.append("affine")
    assert family.flow == family.of("a", "flow") == ("coupling", "spline")
    assert hash(family) == hash(Family(flow=("coupling", "spline")))
    # What is stored of a name alone is as it always was.
    assert Family(flow="spline").to_json()["flow"] == "spline"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoding": "table"}, ["encoding='table'", "'auto'", "'encoder+free'"]),
        ({"structure": "full"}, ["structure='full'", "'mean_field'"]),
        ({"encoder": "transformer"}, ["encoder='transformer'", "'deep_set'"]),
        ({"flow": "realnvp"}, ["flow='realnvp'", "'spline'"]),
        ({"flow": ["spline", "realnvp"]}, ["['spline', 'realnvp']", "'realnvp' is", "'coupling'"]),
        ({"flow": [["spline"]]}, ["['spline'] is no layer", "'coupling'"]),
        ({"flow": []}, ["flow=[]", "one layer or more", "flow='none'"]),
        ({"flow": ["auto", "spline"]}, ["'auto' is no layer", "flow='auto'"]),
        ({"flow": ("none",)}, ["('none',)", "'none' is no layer", "flow='none'"]),
        ({"flow": {"spline"}}, ["flow={'spline'}", "'auto'"]),
        ({"flow": ["iaf"], "structure": "mean_field"}, ["['iaf']", "'mean_field'", "'block'"]),
        ({"overrides": {"a": {"flow": ["cubic"]}}}, ["'cubic' is no layer"]),
        ({"hidden": 0}, ["hidden", "positive integer"]),
        ({"layers": 1.5}, ["layers", "positive integer"]),
        ({"newton_steps": -1}, ["newton_steps", "positive integer"]),
        ({"encoding_size": "8"}, ["encoding_size", "positive integer"]),
        ({"hidden": True}, ["hidden", "positive integer"]),
        ({"joint_limit": -1}, ["joint_limit", "0 or"]),
        ({"residual_limit": 2.5}, ["residual_limit", "0 or"]),
        ({"overrides": {"a": {"structure": "prior"}}}, ["'a'", "'structure'", "'encoding'"]),
        ({"overrides": {"a": {"encoding": "table"}}}, ["encoding='table'"]),
    ],
)
def test_a_mistake_is_named(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(FamilyError) as raised:
        Family(**options)
    assert all(word in str(raised.value) for word in words), raised.value


def test_an_override_holds_for_its_variable_alone() -> None:
    family = Family(encoder="natural", overrides={"a": {"encoder": "deep_set"}})
    assert family.of("a", "encoder") == "deep_set"
    assert family.of("a", "encoding") == "auto"
    assert family.of("b", "encoder") == "natural"


@pytest.mark.parametrize("wrong", ["mean_field", {"structure": "prior"}, Family])
def test_what_is_no_family(wrong: Any) -> None:
    graph = PlateGraph([], [Latent("mu", dist.Normal(0.0, 1.0))])
    with pytest.raises(FamilyError, match=r"wanted a pavi\.Family"):
        lower(graph, wrong, {})
