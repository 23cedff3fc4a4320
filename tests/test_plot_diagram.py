"""The plate diagram: boxes, blocks, and the arrows of the model and of the guide."""

from __future__ import annotations

import re

import pytest
from numpy_backend import random_posterior
from small_models import MODELS
from varied_models import CASES

import pavi
from pavi import BackendError, Family, PlateGraph, dist
from pavi.lowering import lower
from pavi.plan import GuidePlan
from pavi.plot.diagram import drawn, to_dot


def plan(name: str, family: Family | None = None) -> GuidePlan:
    graph, data = MODELS[name]()
    return lower(graph, family or Family(), data.bind(graph).sizes)


def depths(text: str) -> dict[str, int]:
    """How many boxes each line stands in, by what it says."""
    out, depth = {}, -1
    for line in text.splitlines():
        depth -= line.strip() == "}"
        out[re.split(r" \[|;", line.strip())[0]] = depth
        depth += line.endswith("{")
    return out


def dashed(text: str) -> dict[tuple[str, str], str]:
    """The attributes of the guide's arrows, by their ends."""
    found = re.findall(r'"(\w+)" -> "(\w+)" \[(style=dashed.*)\];', text)
    return {(tail, head): attributes for tail, head, attributes in found}


def test_boxes_lie_within_those_of_their_owners() -> None:
    found = depths(to_dot(MODELS["three levels, centred"]()[0]))
    assert [found[f'"{name}"'] for name in ("mu", "effect", "strength", "y")] == [0, 1, 2, 3]
    assert '"strength" -> "y"' in found


def test_a_plate_without_variables_has_a_box_all_the_same() -> None:
    graph = PlateGraph(
        [pavi.Plate("school"), pavi.Plate("pupil", within="school")],
        [pavi.Observed("y", dist.Normal(0.0, 1.0), plates="pupil")],
    )
    text = to_dot(graph)
    assert depths(text)['"y"'] == 2
    assert {'label="school"', 'label="pupil"'} <= set(re.findall(r'label="\w+"', text))


def test_the_diagram_nests_owners_and_names_those_that_cross() -> None:
    graph = PlateGraph(
        plates=[
            pavi.Plate("student"),
            pavi.Plate("lecturer"),
            pavi.Plate("mark", within=("student", "lecturer")),
            pavi.Plate("remark", within="mark"),
        ],
        variables=[
            pavi.Latent("skill", dist.Normal(0.0, 1.0), plates="student"),
            pavi.Latent("rigour", dist.Normal(0.0, 1.0), plates="lecturer"),
            pavi.Observed(
                "points", lambda skill, rigour: dist.Normal(skill - rigour, 1.0), plates="mark"
            ),
            pavi.Observed("note", lambda points: dist.Normal(points, 1.0), plates="remark"),
        ],
    )
    text = to_dot(graph)
    found = depths(text)
    assert found['"skill"'] == found['"rigour"'] == found['"points"'] == 1
    assert found['"note"'] == 2
    assert 'label="mark within student and lecturer"' in text


def test_two_plates_of_one_variable_share_a_box_with_their_sizes() -> None:
    text = to_dot(plan("crossed, dense"))
    assert 'label="dish x sample (5 x 3)"' in text
    assert 'label="dish (5)"' in text
    assert depths(text)['"y"'] == 1


@pytest.mark.parametrize("name", MODELS)
def test_braces_match_and_every_variable_is_drawn_once(name: str) -> None:
    text = to_dot(plan(name))
    assert text.count("{") == text.count("}")
    for variable in MODELS[name]()[0].variables:
        assert len(re.findall(rf'^ *"{variable}"( \[.*\])?;$', text, re.M)) == 1


def test_what_conditions_the_guide_is_drawn_beside_the_model() -> None:
    text = to_dot(plan("three levels, centred", Family(flow="none")))
    arrows = dashed(text)
    # The globals are one block of several latents: its arrows start at its box.
    globals_ = [head for (tail, head), _ in arrows.items() if tail == "noise"]
    assert globals_ == ["effect", "strength"]
    assert 'ltail="cluster_block globals"' in arrows["noise", "effect"]
    assert ("effect", "strength") in arrows
    assert {("y", "effect"), ("y", "strength")} <= set(arrows)
    assert all("constraint=false" in attributes for attributes in arrows.values())
    assert text.count("-> ") - len(arrows) == sum(
        len(v.parents) for v in MODELS["three levels, centred"]()[0].variables.values()
    )


def test_a_graph_alone_and_a_mean_field_guide_have_no_such_arrows() -> None:
    graph = MODELS["three levels, centred"]()[0]
    assert "dashed" not in to_dot(graph)
    free = Family(structure="mean_field", encoding="free")
    assert not dashed(to_dot(plan("three levels, centred", free)))


def test_the_source_of_a_posterior_is_that_of_its_plan() -> None:
    pytest.importorskip("graphviz")
    posterior = random_posterior(CASES["three levels"])
    assert pavi.plot.plates(posterior).source == to_dot(posterior.plan)
    assert pavi.plot.plates(posterior.graph).source == to_dot(posterior.graph)


def test_without_the_program_the_text_is_there_and_a_picture_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphviz = pytest.importorskip("graphviz")
    monkeypatch.setenv("PATH", "")
    graph = MODELS["county"]()[0]
    diagram = pavi.plot.plates(graph)
    assert diagram.source.startswith("digraph")
    with pytest.raises(graphviz.ExecutableNotFound, match="Graphviz executables"):
        diagram.pipe(format="svg")
    with pytest.raises(BackendError, match=r"drawn as svg.*program dot.*ends in \.dot"):
        drawn(graph, ".svg")
    assert drawn(graph, ".dot").decode() == to_dot(graph)
