"""From a graph and a family to a plan: blocks, what conditions them, how data reach them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from grounded import Setup
from small_models import MODELS, bound
from varied_models import CASES

from pavi import (
    Covariate,
    Data,
    Family,
    FamilyError,
    Latent,
    Observed,
    Plate,
    PlateGraph,
    dist,
    ops,
)
from pavi.bijectors import (
    Chain,
    ConditionalAffine,
    Identity,
    Inverse,
    MaskedAutoregressive,
    SplineCoupling,
)
from pavi.lowering import lower
from pavi.plan import BlockPlan, GuidePlan, describe_block


def plan_of(
    model: str, family: Family | None = None, batch: dict[str, int] | None = None
) -> GuidePlan:
    data = bound(model)
    return lower(data.graph, family or Family(), data.sizes, batch)


def counts() -> PlateGraph:
    """A nested model of which no conditional is Gaussian."""
    return PlateGraph(
        [Plate("county"), Plate("home", within="county")],
        [
            Latent("mu", dist.Normal(0.0, 2.0)),
            Latent("effect", lambda mu: dist.Normal(mu, 1.0), plates="county"),
            Observed("y", lambda effect: dist.Poisson(log_rate=effect), plates="home"),
        ],
    )


def names(plan: GuidePlan) -> list[str]:
    return [block.name for block in plan.blocks]


def given(block: BlockPlan) -> list[str]:
    return [slot.block for slot in block.context]


# --- blocks and their order ---------------------------------------------------------------------


def test_latents_of_the_same_plates_are_one_block_in_the_graphs_order() -> None:
    plan = plan_of("intercept and slope")
    assert names(plan) == ["globals", "group"]
    globals_, group = plan.blocks
    assert [s.name for s in globals_.slots] == ["mu", "noise"]
    assert [(s.name, s.start, s.stop) for s in group.slots] == [
        ("intercept", 0, 1),
        ("slope", 1, 2),
    ]
    assert plan.block("group") is group
    assert plan.block_of("slope") is group
    assert (globals_.copies, group.copies, group.size) == (1, 3, 2)
    assert plan.num_latents == 2 + 3 * 2


@pytest.mark.parametrize(("size", "learned"), [(2, True), (9, False)])
def test_the_best_gaussian_of_a_long_vector_has_nothing_to_learn(size: int, learned: bool) -> None:
    graph = PlateGraph(
        [Plate("group"), Plate("row", within="group")],
        [
            Covariate("x", plates="row", event=(size,)),
            Latent("scale", dist.HalfNormal(1.0)),
            Latent("b", lambda scale: dist.Normal(0.0, scale), plates="group", event=(size,)),
            Observed("y", lambda b, x: dist.Bernoulli(logits=ops.sum(b * x, -1)), plates="row"),
        ],
    )
    plan = lower(graph, Family(), {"group": 5, "row": 20})
    block = plan.block("group")
    assert (block.num_weights > 0, block.table_width > 0) == (learned, learned)
    said = "  the Gaussian nearest to its law given the latents above"
    assert (said in describe_block(plan, block)) != learned


@pytest.mark.parametrize(
    ("model", "block", "exact"),
    [
        ("dense rows, missing", "group", True),
        ("three levels, centred", "batch", True),
        ("crossed, rows", "student", False),
    ],
)
def test_an_exact_conditional_has_nothing_to_learn(model: str, block: str, exact: bool) -> None:
    data = bound(model)
    plan = Setup(data, Family(joint_limit=0)).plan
    found = plan.block(block)
    assert found.evidence is not None
    assert found.evidence.exact == exact
    assert (found.num_weights == 0) == exact
    assert ("  exact given the latents above" in describe_block(plan, found)) == exact
    # What is asked for by name is there all the same.
    rows = lower(data.graph, Family(encoding="encoder+free"), data.sizes).block(block)
    assert rows.table_width or rows.joint
    affine = lower(data.graph, Family(flow="none"), data.sizes).block(block)
    assert isinstance(affine.flow, ConditionalAffine)


def test_what_a_batch_saw_a_part_of_stays_as_it_was_trained() -> None:
    """On other data too, of which all is seen."""
    graph, sizes = bound("county").graph, {"county": 5, "home": 11}
    family = Family(encoding="encoder")
    trained = lower(graph, family, sizes, {"home": 2})
    other = lower(graph, family, {"county": 7, "home": 20}, like=trained)
    assert trained.block("county").num_weights > 0
    assert [b.parameters for b in other.blocks] == [b.parameters for b in trained.blocks]


def test_blocks_go_from_coarse_to_fine_and_parents_come_first() -> None:
    assert names(plan_of("three levels, additive")) == ["globals", "batch", "cask"]
    assert names(plan_of("crossed, own effects, dense")) == [
        "globals",
        "row",
        "column",
        "row,column",
    ]
    for model in MODELS:
        plan = plan_of(model)
        place = {s.name: i for i, b in enumerate(plan.blocks) for s in b.slots}
        for i, block in enumerate(plan.blocks):
            for slot in block.slots:
                parents = [p for p in plan.graph.variables[slot.name].parents if p in place]
                assert all(place[p] <= i for p in parents)
            for later in plan.blocks[i + 1 :]:
                finer = plan.graph.determines(block.plates, later.plates)
                assert not finer or plan.graph.determines(later.plates, block.plates)


def test_of_two_crossed_plates_the_smaller_one_comes_first() -> None:
    """It is the one that gets a joint density."""
    graph = bound("crossed, dense").graph
    one = lower(graph, Family(), {"dish": 5, "sample": 3})
    two = lower(graph, Family(), {"dish": 3, "sample": 5})
    assert names(one) == ["globals", "sample", "dish"]
    assert names(two) == ["globals", "dish", "sample"]


@pytest.mark.parametrize("structure", ["prior", "mean_field"])
def test_other_structures_have_a_block_for_each_variable(structure: str) -> None:
    plan = plan_of("intercept and slope", Family(structure=structure, flow="none"))
    assert names(plan) == ["mu", "noise", "intercept", "slope"]
    contexts = {b.name: given(b) for b in plan.blocks}
    if structure == "prior":
        assert contexts == {"mu": [], "noise": [], "intercept": ["mu"], "slope": ["mu"]}
        assert all(block.whitened for block in plan.blocks)
    else:
        assert contexts == {name: [] for name in contexts}
        assert not any(block.whitened for block in plan.blocks)
        assert all(block.evidence is None for block in plan.blocks)
        assert {b.flow for b in plan.blocks} == {ConditionalAffine(1, rank="diagonal")}


def test_blocks_that_depend_on_each_other_are_refused() -> None:
    """Two orders of the same plates are two blocks; variables of each that need the other's."""
    graph = PlateGraph(
        [Plate("a"), Plate("b")],
        [
            Latent("u", dist.Normal(0.0, 1.0), plates=("a", "b")),
            Latent("v", lambda u: dist.Normal(u, 1.0), plates=("b", "a")),
            Latent("w", lambda v: dist.Normal(v, 1.0), plates=("a", "b")),
            Observed("y", lambda w: dist.Normal(w, 1.0), plates=("a", "b")),
        ],
    )
    sizes = {"a": 2, "b": 2}
    with pytest.raises(FamilyError, match=r"\['a,b', 'b,a'\].*structure='prior'"):
        lower(graph, Family(), sizes)
    assert names(lower(graph, Family(structure="prior"), sizes)) == ["u", "v", "w"]


def test_slots_have_the_unconstrained_size_of_their_support() -> None:
    graph = PlateGraph(
        [Plate("g")],
        [
            Latent("share", dist.Dirichlet(np.ones((2, 4))), plates="g", event=(2, 4)),
            Latent("factor", dist.LKJCholesky(3, 1.0), event=(3, 3)),
            Latent("scale", dist.HalfNormal(1.0), plates="g", event=3),
            Observed("y", lambda scale: dist.Normal(0.0, scale), plates="g", event=3),
        ],
    )
    plan = lower(graph, Family(), {"g": 2})
    slots = {s.name: s for b in plan.blocks for s in b.slots}
    assert {n: (s.event, s.unconstrained_event) for n, s in slots.items()} == {
        "share": ((2, 4), (2, 3)),
        "factor": ((3, 3), (3,)),
        "scale": ((3,), (3,)),
    }
    assert plan.block("g").size == 9
    assert plan.num_latents == 2 * 9 + 3


# --- joint blocks -------------------------------------------------------------------------------


def test_the_smaller_of_two_crossed_plates_has_one_joint_density() -> None:
    plan = plan_of("crossed, rows", Family(flow="none"))
    student, lecturer = plan.block("student"), plan.block("lecturer")
    assert student.joint
    assert student.axes == ()
    assert student.dimension == 3 * 2
    assert not lecturer.joint
    assert lecturer.axes == ("lecturer",)
    assert given(lecturer) == ["globals", "student"]


@pytest.mark.parametrize(
    ("model", "family", "batch"),
    [
        ("crossed, rows", Family(joint_limit=5), {}),
        ("crossed, rows", Family(), {"student": 2}),
        ("crossed, rows", Family(structure="prior"), {}),
        ("three levels, additive", Family(), {}),
    ],
)
def test_no_joint_block_if_large_subsampled_or_not_crossed(
    model: str, family: Family, batch: dict[str, int]
) -> None:
    assert not any(block.joint for block in plan_of(model, family, batch).blocks)


def test_a_joint_block_of_which_a_batch_sees_a_part_has_a_potential_of_its_own() -> None:
    """In the place of the row of a table; what lies under it holds still until it is there."""
    plan = plan_of("crossed, rows", batch={"lecturer": 2})
    student = plan.block("student")
    assert student.joint
    assert (student.encoding, student.evidence, student.table_width) == ("free", None, 0)
    assert student.free_potential
    assert not student.site
    assert "potential" in dict(student.parameters)
    own = {name for name in plan.refining if name.startswith("student/")}
    assert own == {f"student/{n}" for n, _ in student.parameters} - {"student/potential"}
    # An affine map beside it could undo what it does.
    assert isinstance(student.flow, Chain)
    assert isinstance(student.flow.bijectors[-1], Identity)
    plain = plan_of("crossed, rows", Family(flow="none"), {"lecturer": 2}).block("student")
    assert plain.flow == Identity(plain.dimension, plain.context_size)
    assert "potential" not in dict(plan_of("crossed, rows").block("student").parameters)


def test_a_plate_above_a_joint_one_is_joint_too() -> None:
    plan = plan_of("region over crossed")
    assert [b.name for b in plan.blocks if b.joint] == ["region", "site"]


# --- encodings ----------------------------------------------------------------------------------

# A residual row makes up for what the natural encoding leaves over: nothing, where all is Gaussian.
COUNTY_ENCODINGS: list[tuple[dict[str, int], bool]] = [
    ({}, True),
    ({"county": 2}, True),  # all homes of a county drawn are there
    ({"county": 2, "home": 3}, False),
    ({"home": 5}, False),
]


@pytest.mark.parametrize(("batch", "whole"), COUNTY_ENCODINGS)
@pytest.mark.parametrize("exact", [True, False])
def test_auto_takes_the_encoder_where_a_batch_holds_all_of_the_evidence(
    batch: dict[str, int], whole: bool, exact: bool
) -> None:
    graph = bound("county").graph if exact else counts()
    plan = lower(graph, Family(), {"county": 5, "home": 11}, batch)
    block = plan.block("county")
    encoding = "encoder" if exact else "encoder+free"
    assert block.encoding == (encoding if whole else "free")
    assert block.encoder == ("natural" if whole else None)
    assert not block.partial
    assert plan.block("globals").encoding == "free"
    assert plan.block("globals").table_width == 0


@pytest.mark.parametrize(
    ("batch", "encodings"),
    [
        ({}, {"batch": "encoder", "cask": "encoder"}),
        ({"batch": 2}, {"batch": "encoder", "cask": "encoder"}),
        ({"cask": 2}, {"batch": "free", "cask": "encoder"}),
        ({"test": 5}, {"batch": "free", "cask": "free"}),
        ({"batch": 2, "test": 2}, {"batch": "free", "cask": "free"}),
    ],
)
def test_auto_decides_level_by_level(batch: dict[str, int], encodings: dict[str, str]) -> None:
    plan = plan_of("three levels, additive", batch=batch)
    assert {name: plan.block(name).encoding for name in encodings} == encodings


@pytest.mark.parametrize(
    ("batch", "encodings"),
    [
        ({}, {"student": "encoder", "lecturer": "encoder"}),
        ({"lecturer": 2}, {"student": "free", "lecturer": "encoder"}),
        ({"student": 2}, {"student": "encoder+free", "lecturer": "free"}),
        ({"student": 2, "lecturer": 2}, {"student": "free", "lecturer": "free"}),
    ],
)
def test_auto_on_crossed_plates(batch: dict[str, int], encodings: dict[str, str]) -> None:
    plan = plan_of("crossed, rows", batch=batch)
    assert {name: plan.block(name).encoding for name in encodings} == encodings


def test_many_copies_have_no_residual_rows() -> None:
    few = lower(counts(), Family(), {"county": 20_000, "home": 10**6}).block("county")
    many = lower(counts(), Family(), {"county": 20_001, "home": 10**6}).block("county")
    assert (few.encoding, few.table_width) == ("encoder+free", 2)
    assert (many.encoding, many.table_width) == ("encoder", 0)
    # The encoder's weights do not grow with the data.
    assert many.num_weights == few.num_weights - 2 * 20_000


def test_insisting_on_the_encoder_marks_partial_evidence() -> None:
    plan = plan_of("county", Family(encoding="encoder"), {"county": 2, "home": 2})
    assert plan.block("county").encoding == "encoder"
    assert plan.block("county").partial
    assert plan.block("globals").partial


def test_latents_without_data_below_them_are_free() -> None:
    graph = PlateGraph(
        [Plate("g")],
        [
            Latent("a", dist.Normal(0.0, 1.0), plates="g"),
            Latent("b", dist.Normal(0.0, 1.0)),
            Observed("y", lambda b: dist.Normal(b, 1.0), plates="g"),
        ],
    )
    for family in (Family(), Family(encoding="encoder"), Family(encoder="deep_set")):
        block = lower(graph, family, {"g": 3}).block("g")
        assert (block.encoding, block.encoder, block.evidence) == ("free", None, None)


def test_a_free_guide_of_plates_without_a_context() -> None:
    """No globals at all: nothing to condition on."""
    graph = PlateGraph(
        [Plate("g")],
        [
            Latent("a", dist.Normal(0.0, 1.0), plates="g"),
            Observed("y", lambda a: dist.Normal(a, 1.0), plates="g"),
        ],
    )
    data = Data({"y": np.array([0.3, -1.0])}).bind(graph)
    for family in (Family(encoding="free"), Family(structure="prior", encoder="deep_set")):
        setup = Setup(data, family)
        assert setup.plan.blocks[0].context == ()
        assert setup.sample(setup.noise(3, seed=0)).values["a"].shape == (3, 2)


def test_a_likelihood_without_a_potential_informs_the_deep_set_alone() -> None:
    graph = PlateGraph(
        [Plate("g"), Plate("row", within="g")],
        [
            Latent("a", dist.Dirichlet(np.ones(3)), plates="g", event=3),
            Observed("y", lambda a: dist.Dirichlet(1.0 + 5.0 * a), plates="row", event=3),
        ],
    )
    assert not graph.probe["y"].has_potential
    sizes = {"g": 3, "row": 9}
    assert lower(graph, Family(), sizes).block("g").encoding == "free"
    block = lower(graph, Family(encoder="deep_set"), sizes).block("g")
    assert (block.encoding, block.encoder) == ("encoder+free", "deep_set")


def test_a_long_vector_has_a_diagonal_precision_and_goes_before_what_it_crosses() -> None:
    graph, _ = CASES["mixture"].model()
    plan = lower(graph, Family(), {"subject": 300, "site": 2}, {"subject": 4})
    assert [b.name for b in plan.blocks] == ["globals", "subject", "site", "subject,site"]
    profile = plan.block("subject")
    assert profile.long
    assert (profile.encoding, profile.context) == ("free", ())
    assert profile.table_width == 2 * profile.size == 2 * 36
    logits = plan.block("subject,site")
    assert (logits.encoder, logits.long) == ("natural", False)
    assert [f.observed for f in logits.evidence.factors] == ["y"]  # type: ignore[union-attr]
    assert logits.evidence.crossed == logits.evidence.hidden == ()  # type: ignore[union-attr]
    assert not logits.evidence.exact  # type: ignore[union-attr]


def test_a_long_vector_cannot_be_asked_for_the_natural_encoder() -> None:
    graph, _ = CASES["mixture"].model()
    family = Family(overrides={"profile": {"encoding": "encoder", "encoder": "natural"}})
    with pytest.raises(FamilyError, match=r"profile.*cannot read all.*'y'.*deep_set"):
        lower(graph, family, {"subject": 3, "site": 2})
    family = Family(overrides={"profile": {"encoding": "encoder", "encoder": "deep_set"}})
    block = lower(graph, family, {"subject": 3, "site": 2}).block("subject")
    assert (block.encoder, block.table_width) == ("deep_set", 0)


# --- evidence -----------------------------------------------------------------------------------


def test_evidence_names_the_blocks_between_and_the_levels() -> None:
    plan = plan_of("three levels, additive", Family(encoding="encoder"))
    top, batch, cask = (plan.block(name).evidence for name in ("globals", "batch", "cask"))
    assert (top.hidden, batch.hidden, cask.hidden) == (("cask", "batch"), ("cask",), ())
    assert top.factors[0].through == ("globals", "batch", "cask")
    assert top.factors[0].levels == (("test",), ("cask",), ("batch",), ())
    assert batch.factors[0].levels == (("test",), ("cask",), ("batch",))
    assert cask.factors[0].levels == (("test",), ("cask",))
    assert top.crossed == batch.crossed == cask.crossed == ()


def test_evidence_on_crossed_plates() -> None:
    """Given a joint block what crosses it is hidden; else the first one has the other crossed."""
    joint = plan_of("crossed, rows").block("student").evidence
    assert (joint.hidden, joint.crossed) == (("lecturer",), ())
    apart = plan_of("crossed, rows", Family(joint_limit=0)).block("student").evidence
    assert (apart.hidden, apart.crossed) == ((), ("lecturer",))


def test_several_likelihoods_inform_one_block() -> None:
    evidence = plan_of("intercept and slope").block("group").evidence
    assert [f.observed for f in evidence.factors] == ["y", "survey"]


def test_long_vectors_have_sites_unless_a_flow_is_asked_for() -> None:
    graph, _ = CASES["mixture"].model()
    sizes = {"subject": 300, "site": 20}
    sites = lower(graph, Family(), sizes, {"subject": 4})
    assert sites.block("subject").site
    assert sites.paired
    assert sites.block("subject").parameters == ()
    asked = lower(graph, Family(flow="none"), sizes, {"subject": 4})
    assert not asked.block("subject").site
    assert not asked.paired


def test_the_share_of_a_copys_data_in_a_batch() -> None:
    """Of plates that its own determine a batch has all or nothing."""
    graph, _ = CASES["mixture"].model()
    sizes = {"subject": 300, "site": 20}
    for batch, share in (({"subject": 4}, 1.0), ({"site": 5}, 0.25), ({}, 1.0)):
        plan = lower(graph, Family(), sizes, batch)
        assert plan.share(plan.block("subject")) == share
    nested = PlateGraph(
        [Plate("school"), Plate("pupil", within="school")],
        [
            Latent("level", dist.Normal(0.0, 1.0), plates="school", event=40),
            Observed("y", lambda level: dist.Normal(level, 1.0), plates="pupil", event=40),
        ],
    )
    sizes = {"school": 10, "pupil": 500}
    for batch, share in (({"pupil": 50}, 0.1), ({"school": 2, "pupil": 5}, 0.1)):
        plan = lower(nested, Family(), sizes, batch)
        assert plan.share(plan.block("school")) == share


def test_newton_steps_are_for_likelihoods_that_are_not_gaussian() -> None:
    assert plan_of("county", Family(newton_steps=5)).block("county").evidence.newton_steps == 1
    graph = PlateGraph(
        [Plate("g")],
        [
            Latent("a", dist.Normal(0.0, 1.0), plates="g"),
            Observed("y", lambda a: dist.Poisson(log_rate=a), plates="g"),
        ],
    )
    evidence = lower(graph, Family(newton_steps=5), {"g": 2}).block("g").evidence
    assert evidence.newton_steps == 5


# --- flows and weights --------------------------------------------------------------------------


def test_flows_of_few_copies_are_splines_and_of_many_affine() -> None:
    plan = lower(counts(), Family(), {"county": 5, "home": 11})
    assert isinstance(plan.block("globals").flow, Chain)
    assert isinstance(plan.block("county").flow, ConditionalAffine)
    none = plan_of("county", Family(flow="none"))
    assert {type(b.flow) for b in none.blocks} == {ConditionalAffine}
    layers = plan_of("county", Family(flow="affine", layers=3)).block("county").flow
    assert [type(b).__name__ for b in layers.bijectors] == [
        *["MaskedAutoregressive"] * 3,
        "ConditionalAffine",
    ]


def test_layers_are_applied_in_the_order_of_their_list() -> None:
    plan = plan_of("county", Family(flow=["coupling", "iaf", "spline"], layers=2))
    block = plan.block("globals")
    size = block.dimension
    iaf = MaskedAutoregressive(size, transformer="affine", reverse=True)
    assert isinstance(block.flow, Chain)
    assert block.flow.bijectors[:4] == (
        SplineCoupling(size),
        Inverse(iaf),
        MaskedAutoregressive(size),
        SplineCoupling(size, reverse=True),
    )
    assert isinstance(block.flow.bijectors[-1], ConditionalAffine)
    assert len(block.flow.bijectors) == 7
    printed = "SplineCoupling(2) -> Inverse[MaskedAutoregressive[affine]](2) -> "
    assert printed.replace("2", str(size)) in str(plan)
    # A county has one latent only: nothing to couple, yet no error.
    assert plan.block("county").dimension == 1
    assert isinstance(plan.block("county").flow, Chain)


@pytest.mark.parametrize("name", ["spline", "affine"])
def test_a_list_of_one_layer_is_what_its_name_says(name: Any) -> None:
    one, listed = (plan_of("county", Family(flow=flow, layers=2)) for flow in (name, [name]))
    assert one.blocks == listed.blocks


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("encoding", ["auto", "free", "encoder", "encoder+free"])
@pytest.mark.parametrize("encoder", ["natural", "deep_set"])
def test_number_of_weights_is_what_a_run_trains(model: str, encoding: Any, encoder: Any) -> None:
    setup = Setup(bound(model), Family(encoding=encoding, encoder=encoder, hidden=3))
    shared = sum(
        setup.params[f"{block.name}/{key}"].size
        for block in setup.plan.blocks
        for key, spec in block.parameters
        if spec.trainable
    )
    rows = sum(value.size for value in setup.tables.values())
    assert setup.plan.num_weights == shared + rows
    assert setup.plan.num_weights == sum(b.num_weights for b in setup.plan.blocks)


# --- overrides ----------------------------------------------------------------------------------


def test_an_override_changes_its_block_alone() -> None:
    family = Family(overrides={"strength": {"encoding": "free"}, "effect": {"encoder": "deep_set"}})
    plan = plan_of("three levels, centred", family)
    assert (plan.block("cask").encoding, plan.block("cask").encoder) == ("free", None)
    assert plan.block("batch").encoder == "deep_set"
    flow = plan_of("county", Family(overrides={"mu": {"flow": "none"}})).block("globals").flow
    assert isinstance(flow, ConditionalAffine)
    listed = Family(flow="none", overrides={"effect": {"flow": ["coupling", "affine"]}})
    flow = plan_of("county", listed).block("county").flow
    assert [b.label for b in flow.bijectors[:2]] == [
        "SplineCoupling",
        "MaskedAutoregressive[affine]",
    ]


@pytest.mark.parametrize("name", ["nothing", "y", "floor"])
def test_an_override_of_what_is_no_latent_is_refused(name: str) -> None:
    with pytest.raises(FamilyError, match=f"'{name}' is not a latent of this graph"):
        plan_of("county", Family(overrides={name: {"encoding": "free"}}))


def test_an_override_concerns_its_variable_alone() -> None:
    overrides = {"intercept": {"encoding": "free"}}
    plan = plan_of("intercept and slope", Family(encoding="encoder+free", overrides=overrides))
    home = {slot.name: block for block in plan.blocks for slot in block.slots}
    assert home["intercept"].encoding == "free"
    assert home["slope"].encoding == "encoder+free"
    assert home["intercept"].name != home["slope"].name


def test_an_encoder_asked_for_by_name_is_not_dropped_in_silence() -> None:
    with pytest.raises(FamilyError, match=r"mean_field.*no encoder"):
        plan_of("county", Family(structure="mean_field", encoding="encoder"))
    components = lambda a: (dist.Normal(a, 1.0), dist.Normal(a, 3.0))  # noqa: E731
    graph = PlateGraph(
        [Plate("g")],
        [
            Latent("a", dist.Normal(0.0, 1.0), plates="g"),
            Observed("x", lambda a: dist.Normal(a, 1.0), plates="g"),
            Observed("y", lambda a: dist.Mixture([0.5, 0.5], components(a)), plates="g"),
        ],
    )
    sizes = {"g": 30_000}
    with pytest.raises(FamilyError, match=r"'a'.*'y'.*deep_set"):
        lower(graph, Family(encoding="encoder", encoder="natural"), sizes)
    block = lower(graph, Family(encoding="encoder"), sizes).block("g")
    assert (block.encoding, block.encoder) == ("encoder", "deep_set")
    assert {factor.observed for factor in block.evidence.factors} == {"x", "y"}
    # What the natural encoder cannot read, a residual row makes up for, however many there are.
    block = lower(graph, Family(), sizes).block("g")
    assert (block.encoding, block.encoder) == ("encoder+free", "natural")


@pytest.mark.parametrize(
    ("likelihood", "linear"),
    [
        (lambda k, t: dist.Normal(k * t, 0.1), True),
        (lambda k, t: dist.Normal(ops.exp(-k * t), 0.1), False),
        (lambda k, t: dist.Normal(t, ops.exp(k)), False),
        (lambda k, t: dist.Poisson(ops.exp(k * t)), False),
        (lambda k, t: dist.Normal(ops.where(t > 20.0, k * k, k), 0.1), False),
        (lambda k, t: dist.Normal(ops.minimum(k, 3.0), 0.1), False),
        (lambda k, t: dist.Normal(k * ops.log(ops.abs(t)), 0.1), True),
        (lambda k, t: dist.Normal(k, ops.where(t < -1.0, ops.exp(k), 1.0)), False),
    ],
)
def test_one_linearisation_is_enough_for_linear_gaussian_models_only(
    likelihood: Any, linear: bool
) -> None:
    graph = PlateGraph(
        [Plate("g"), Plate("n", within="g")],
        [
            Covariate("t", plates="n"),
            Latent("k", dist.Normal(0.0, 1.0), plates="g"),
            Observed("y", likelihood, plates="n"),
        ],
    )
    evidence = lower(graph, Family(newton_steps=5), {"g": 3, "n": 9}).block("g").evidence
    assert evidence.newton_steps == (1 if linear else 5)


@pytest.mark.parametrize(
    ("prior", "likelihood", "straight"),
    [
        (lambda a, t: dist.Normal(a, 1.0), lambda b, t: dist.Poisson(ops.exp(b * t)), True),
        (lambda a, t: dist.Normal(a * t, 1.0), lambda b, t: dist.Bernoulli(logits=t - b), True),
        (lambda a, t: dist.Normal(a * a, 1.0), lambda b, t: dist.Bernoulli(logits=b), False),
        (lambda a, t: dist.Normal(0.0, ops.exp(a)), lambda b, t: dist.Bernoulli(logits=b), False),
        (lambda a, t: dist.Normal(a, 1.0), lambda b, t: dist.Poisson(1.0 + b * b), False),
    ],
)
def test_straight_predictors_are_linearised_once(
    prior: Any, likelihood: Any, straight: bool
) -> None:
    """What lies between a block and its data moves the predictor through its own prior."""
    graph = PlateGraph(
        [Plate("g"), Plate("n", within="g")],
        [
            Covariate("t", plates="n"),
            Latent("a", dist.Normal(0.0, 1.0), plates="g"),
            Latent("b", prior, plates="n"),
            Observed("y", likelihood, plates="n"),
        ],
    )
    evidence = lower(graph, Family(), {"g": 3, "n": 9}).block("g").evidence
    assert evidence.hidden == ("n",)
    assert (evidence.straight, evidence.newton_steps) == (straight, 3)


def test_a_plan_like_another_keeps_its_order_and_encodings() -> None:
    graph = PlateGraph(
        [Plate("a"), Plate("b"), Plate("row", within=("a", "b"))],
        [
            Latent("u", dist.Normal(0.0, 1.0), plates="a"),
            Latent("v", dist.Normal(0.0, 1.0), plates="b"),
            Observed("y", lambda u, v: dist.Normal(u + v, 1.0), plates="row"),
        ],
    )
    first = lower(graph, Family(), {"a": 500, "b": 30_000, "row": 9})
    other = {"a": 700, "b": 300, "row": 9}
    kept = lower(graph, Family(), other, like=first)
    assert [b.name for b in kept.blocks] == [b.name for b in first.blocks] == ["a", "b"]
    assert [b.encoding for b in kept.blocks] == [b.encoding for b in first.blocks]
    assert [b.name for b in lower(graph, Family(), other).blocks] == ["b", "a"]


# --- in print -----------------------------------------------------------------------------------


def test_a_printed_plan_shows_blocks_alignments_gathers_scales_and_weights() -> None:
    plan = plan_of("three levels, centred", Family(encoding="encoder+free"), {"batch": 2})
    text = str(plan)
    first = text.splitlines()[0]
    assert first == (
        f"GuidePlan: 13 latents, {plan.num_weights:,} weights; plates batch=3, cask=6, test=12"
    )
    for block in plan.blocks:
        assert f"block {block.name} [" in text
        assert f"{block.num_weights:,} weights" in text
    for words in (
        "block globals [no plates]: 1 x 4 latents",
        "block cask [cask]: 6 x 1 latents, one density, shared by the copies",
        "batch_scale on Positive, scale 1",
        "strength on Real, scale 3/2 (batch)",
        "<- effect (batch by membership of cask)",
        "given globals, batch (batch by membership of cask)",
        "encoding encoder+free (natural), table of 2 columns",
        "evidence of y through cask",
        "y: scale 3/2 (batch)",
        "<- strength (cask by membership of test)",
    ):
        assert words in text, words


def test_a_printed_plan_shows_joint_blocks_events_and_products_of_scales() -> None:
    assert "joint over all copies" in str(plan_of("crossed, rows"))
    text = str(plan_of("crossed, rows", batch={"student": 2, "lecturer": 3}))
    assert "y: scale 3/2 (student) x 5/3 (lecturer)" in text
    assert "skill[2] on Real, scale 5/3 (lecturer)" in text
    # Two stages: so many rows of each owner, whose numbers differ.
    text = str(plan_of("county", batch={"county": 2, "home": 3}))
    assert "y: scale n/3 (home of each county) x 5/2 (county)" in text


def test_a_plan_is_frozen_and_made_without_data() -> None:
    graph = bound("county").graph
    one = lower(graph, Family(), {"county": 85, "home": 919}, {"county": 10})
    two = lower(graph, Family(), {"county": 85, "home": 919}, {"county": 10})
    assert one.blocks == two.blocks
    assert str(one) == str(two)
    with pytest.raises(AttributeError):
        one.blocks = ()  # type: ignore[misc]
