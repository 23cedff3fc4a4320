"""Every mistake in a graph is named: variable, plate, wanted and given shape, remedy.

Mistakes in data are in `test_bad_data.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from complaints import graph_error

import pavi
from pavi import dist, ops
from pavi.graph import Covariate, Latent, Observed, Plate, PlateGraph

NORMAL = dist.Normal(0.0, 1.0)
COUNTY = [Plate("county"), Plate("home", within="county")]


def graph(*variables: Any, plates: list[Plate] = COUNTY) -> Callable[[], PlateGraph]:
    return lambda: PlateGraph(plates, variables)


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Plate, Covariate, lambda name: Latent(name, NORMAL)])
def test_a_keyword_is_no_name(kind: Callable[[str], object]) -> None:
    graph_error(lambda: kind("lambda"), "'lambda'", "keyword", "'lambda_'")


@pytest.mark.parametrize("kind", [Plate, Covariate, lambda name: Latent(name, NORMAL)])
def test_a_name_is_a_string(kind: Callable[[Any], object]) -> None:
    graph_error(lambda: kind(3), "must be a string", "3", "int", "quotes")


def test_a_name_is_an_identifier() -> None:
    graph_error(lambda: Covariate("log radon"), "'log radon'", "identifier", "'log_radon'")


def test_the_name_of_the_globals_is_no_plates() -> None:
    # A plan calls the latents on no plate by it: a plate of that name would be merged with them.
    graph_error(lambda: Plate("globals"), "'globals'", "no plate", "Rename")
    PlateGraph([Plate("global_")], [Latent("globals", NORMAL)])


def test_a_name_is_used_once() -> None:
    x = Latent("x", NORMAL)
    graph_error(graph(x, x), "'x'", "two variables", "Rename")
    graph_error(graph(Latent("home", NORMAL)), "'home'", "plate", "latent", "Rename")
    graph_error(lambda: PlateGraph([Plate("a"), Plate("a")], []), "'a'", "two plates", "Rename")


# --- plates -------------------------------------------------------------------------------------


def test_a_variable_on_an_unknown_plate() -> None:
    x = Latent("x", NORMAL, plates="homes")
    graph_error(graph(x), "'x'", "'homes'", "Plate('homes')", "Did you mean 'home'?")


def test_a_plate_within_an_unknown_plate() -> None:
    plates = [Plate("county"), Plate("home", within="conty")]
    graph_error(graph(plates=plates), "'home'", "'conty'", "Did you mean 'county'?")


def test_plates_within_each_other() -> None:
    plates = [Plate("a", within="b"), Plate("b", within="c"), Plate("c", within="a")]
    graph_error(graph(plates=plates), "cycle", " -> ", "Remove `within`")


def test_a_plate_named_twice() -> None:
    graph_error(lambda: Covariate("x", plates=("home", "home")), "'x'", "'home' twice")


def test_a_variable_on_a_plate_and_on_its_owner() -> None:
    x = Latent("x", NORMAL, plates=("county", "home"))
    graph_error(graph(x), "'x'", "'home'", "owner 'county'", "plates='home'")


def test_plates_that_are_no_names() -> None:
    wrong: Any = (Plate("home"),)
    graph_error(lambda: Covariate("x", plates=wrong), "'x'", "`plates`", "quotes")
    wrong = 3
    graph_error(lambda: Covariate("x", plates=wrong), "'x'", "`plates`", "3")
    wrong = ["county"]
    graph_error(lambda: PlateGraph(wrong, []), "'county'", "pavi.Plate('county')")
    wrong = "county"
    graph_error(lambda: PlateGraph(wrong, []), "'county'", "plates=[...]")


@pytest.mark.parametrize("event", [0, -1, (2, 0), (True,), (2.0,), "3", None])
def test_an_event_holds_positive_integers(event: Any) -> None:
    graph_error(lambda: Covariate("x", event=event), "'x'", "`event`", repr(event))


def test_what_is_no_variable() -> None:
    graph_error(graph("x"), "'x'", "str", "pavi.Latent")


# --- parents ------------------------------------------------------------------------------------


def test_an_unknown_parent() -> None:
    y = Observed("y", lambda slop: dist.Normal(slop, 1.0))
    graph_error(graph(Latent("slope", NORMAL), y), "'y'", "'slop'", "Did you mean 'slope'?")


def test_a_plate_as_a_parent() -> None:
    graph_error(graph(Observed("y", lambda home: dist.Normal(home, 1.0))), "'y'", "'home'", "plate")


def test_a_cycle_is_named() -> None:
    a = Latent("a", lambda c: dist.Normal(c, 1.0))
    b = Latent("b", lambda a: dist.Normal(a, 1.0))
    c = Latent("c", lambda b: dist.Normal(b, 1.0))
    graph_error(graph(a, b, c), "cycle", "a -> b -> c -> a", "Remove")


def test_a_variable_that_is_its_own_parent() -> None:
    graph_error(graph(Latent("a", lambda a: dist.Normal(a, 1.0))), "cycle", "a -> a")


def test_a_parent_on_a_plate_the_child_does_not_have() -> None:
    x = Latent("x", NORMAL, plates="home")
    plates = [*COUNTY, Plate("year")]
    child = Latent("y", lambda x: dist.Normal(x, 1.0))
    graph_error(graph(x, child), "'y' on plates ()", "'x' on plates ('home',)", "Put it on 'home'")
    child = Latent("y", lambda x: dist.Normal(x, 1.0), plates="year")
    remedy = "pavi.Plate('year', within='home')"
    graph_error(graph(x, child, plates=plates), "'y'", "'x'", "'year'", "'home'", remedy)


def test_a_parent_on_a_finer_plate() -> None:
    x = Latent("x", NORMAL, plates="home")
    child = Latent("y", lambda x: dist.Normal(x, 1.0), plates="county")
    graph_error(graph(x, child), "'y'", "'x'", "'home' lies within 'county'", "turn the arrow")


def test_a_parent_that_two_plates_belong_to() -> None:
    plates = [Plate("country"), Plate("user", "country"), Plate("film", "country")]
    x = Latent("x", NORMAL, plates="country")
    child = Latent("y", lambda x: dist.Normal(x, 1.0), plates=("user", "film"))
    graph_error(graph(x, child, plates=plates), "'y'", "'x'", "ambiguous", "'user' and 'film'")
    child = Latent("y", lambda x: dist.Normal(x, 1.0), plates="rating")
    crossed = [*plates, Plate("rating", within=("user", "film"))]
    graph_error(graph(x, child, plates=crossed), "'y'", "'x'", "several ways", "`within`")


def test_a_function_with_star_arguments() -> None:
    graph_error(lambda: Latent("x", lambda *args: NORMAL), "'x'", "*args", "Write every parent")
    graph_error(lambda: Latent("x", lambda **others: NORMAL), "'x'", "**others", "Write every")


def test_a_function_with_positional_arguments() -> None:
    graph_error(lambda: Latent("x", lambda a, /: NORMAL), "'x'", "'a'", "by position", "lambda")


def test_a_default_argument_with_the_name_of_a_variable() -> None:
    x = Latent("x", lambda scale=2.0: dist.Normal(0.0, scale))
    graph_error(graph(x, Latent("scale", NORMAL)), "'x'", "'scale'", "default", "rename")


# --- distributions ------------------------------------------------------------------------------


def test_a_distribution_that_is_none() -> None:
    wrong: Any = 3.0
    graph_error(lambda: Latent("x", wrong), "'x'", "3.0", "float", "pavi.dist spec")
    graph_error(graph(Latent("x", lambda: wrong)), "'x'", "3.0", "float", "dist.Normal")


@pytest.mark.parametrize("kind", [Latent, Observed])
def test_a_distribution_of_another_library(kind: Callable[..., object]) -> None:
    class Normal:
        """As NumPyro's: an object that may be called, and so passes for a function."""

        def __call__(self, key: Any = None) -> float:
            return 0.0

        def log_prob(self, value: Any) -> float:
            return 0.0

    class Frozen:
        def logpdf(self, value: Any) -> float:
            return 0.0

    words = "'x'", "not a pavi.dist spec or a function"
    graph_error(lambda: kind("x", Normal()), *words, "Use pavi.dist.Normal.")
    graph_error(lambda: kind("x", Normal), *words, "the class Normal", "Use pavi.dist.Normal.")
    graph_error(lambda: kind("x", Frozen()), *words, "Frozen", "one of pavi.dist")
    graph_error(graph(Latent("x", lambda: Normal())), "'x'", "returned", "Use pavi.dist.Normal.")  # type: ignore[arg-type,return-value]


def test_a_function_that_fails_says_where_and_why() -> None:
    def failing(scale: Any) -> dist.Normal:
        raise KeyError("no such thing")

    build = graph(Latent("scale", dist.HalfNormal(1.0)), Latent("x", failing, plates="home"))
    graph_error(build, "'x'", "'home'", "scale (3, 1)", "KeyError", "no such thing", "pavi.ops")
    with pytest.raises(pavi.GraphError) as caught:
        build()
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_spec_that_cannot_be_built_names_its_variable() -> None:
    graph_error(graph(Observed("y", lambda: dist.Bernoulli())), "'y'", "probs", "logits")


def test_a_discrete_latent() -> None:
    x = Latent("x", dist.Bernoulli(0.5), plates="home")
    graph_error(graph(x), "'x'", "'home'", "Bernoulli", "Marginalise", "dist.Mixture")


def test_a_latent_mixture_of_several_supports() -> None:
    weights = np.full(2, 0.5)
    parts = (dist.Uniform(0.0, 1.0), dist.Uniform(0.0, 10.0))
    x = Latent("x", dist.Mixture(weights, parts), plates="home")
    graph_error(graph(x), "'x'", "'home'", "from 0.0 to 1.0", "from 0.0 to 10.0", "same bounds")
    varying = Latent(
        "x", lambda a: dist.Mixture(weights, (dist.Uniform(0.0, a), dist.Uniform(0.0, 1.0)))
    )
    graph_error(graph(varying, Latent("a", dist.HalfNormal(1.0))), "'x'", "same bounds")
    graph(Latent("x", dist.Mixture(weights, parts[:1] * 2)))()
    graph(
        Latent("x", lambda a: dist.Mixture(weights, (dist.Uniform(0.0, a), dist.Uniform(0.0, a)))),
        Latent("a", dist.HalfNormal(1.0)),
    )()


@pytest.mark.parametrize(
    ("spec", "parameter"),
    [
        (dist.Normal(0.0, -1.0), "scale"),
        (dist.HalfNormal(np.array(0.0)), "scale"),
        (dist.Gamma(1.0, np.float32(-2.0)), "rate"),
        (dist.Bernoulli(1.2), "probs"),
        (dist.Normal(np.nan, 1.0), "loc"),
    ],
    ids=repr,
)
def test_a_parameter_out_of_range(spec: dist.Spec, parameter: str) -> None:
    graph_error(graph(Observed("y", spec)), "'y'", repr(parameter), type(spec).__name__)
    graph_error(graph(Observed("y", lambda: spec)), "'y'", repr(parameter), type(spec).__name__)


def test_bounds_in_the_wrong_order() -> None:
    graph_error(graph(Latent("x", dist.Uniform(1.0, 0.0))), "'x'", "1.0", "0.0", "`low`")
    x = Latent("x", dist.TruncatedNormal(0.0, 1.0, low=2.0, high=2.0))
    graph_error(graph(x), "'x'", "2.0", "`low` below `high`")


def test_a_parameter_that_is_no_number() -> None:
    graph_error(graph(Latent("x", dist.Normal("a", 1.0))), "'x'", "'loc'", "'a'", "no number")
    graph_error(graph(Latent("x", dist.Normal(0.0, None))), "'x'", "'scale'", "None")
    graph_error(graph(Latent("x", dist.Normal([0.0, 1.0], [1.0, -1.0]), event=2)), "'scale'")


def test_a_constant_out_of_range_beside_one_that_depends_on_parents() -> None:
    x = Latent("x", lambda loc: dist.Normal(loc, -1.0))
    graph_error(graph(Latent("loc", NORMAL), x), "'x'", "'scale'", "-1.0")


def test_a_parameter_that_depends_on_parents_is_not_judged_by_placeholders() -> None:
    rate = Covariate("rate", plates="home")
    graph(rate, Observed("y", lambda rate: dist.Poisson(rate - 1.0), plates="home"))()


def test_a_distribution_over_vectors_without_an_event() -> None:
    x = Latent("x", dist.Dirichlet(np.ones(3)), plates="home")
    graph_error(graph(x), "'x'", "'home'", "Dirichlet", "1 event axes", "event=(3,)")
    x = Latent("x", dist.LKJCholesky(2, 1.0), event=(2,))
    graph_error(graph(x), "'x'", "LKJCholesky", "2 event axes", "event=(2, 2).")


@pytest.mark.parametrize(
    ("spec", "event"),
    [
        (dist.LKJCholesky(2, 2.0), (2, 2)),
        (dist.LKJCholesky(4, np.ones(2)), (4, 4)),
        (dist.Dirichlet(np.ones(4)), (4,)),
        (dist.MultivariateNormal(np.zeros(5), np.eye(5)), (5,)),
        (dist.MultivariateNormal(0.0, np.eye(2)), (2,)),
    ],
    ids=repr,
)
def test_the_event_that_a_distribution_tells_is_named(
    spec: dist.Spec, event: tuple[int, ...]
) -> None:
    for plates in ((), "home"):
        graph_error(graph(Latent("x", spec, plates=plates)), "'x'", f"Write event={event}.")


def test_the_event_is_not_read_off_the_trials_plates() -> None:
    s = Latent("s", dist.HalfNormal(1.0), plates="home")
    x = Latent("x", lambda s: dist.Dirichlet(s), plates="home")
    graph_error(graph(s, x), "'x'", "as in event=(3,)")
    s = Latent("s", dist.HalfNormal(1.0), plates="home", event=5)
    graph_error(graph(s, x), "'x'", "Write event=(5,).")
    # parameters that contradict each other tell nothing
    x = Latent("x", dist.MultivariateNormal(np.zeros(2), np.eye(4)))
    graph_error(graph(x), "'x'", "as in event=(3,)")


@pytest.mark.parametrize(
    ("spec", "event", "wanted", "given"),
    [
        (dist.Dirichlet(np.ones(3)), (4,), "(3, 2, 4)", "(3,)"),
        (dist.Dirichlet(np.ones(1)), (4,), "(4,)", "(1,)"),
        (dist.MultivariateNormal(np.zeros(3), np.eye(3)), (2,), "(3, 2, 2)", "(3,)"),
        (dist.LKJCholesky(3, 1.0), (2, 2), "(3, 2, 2, 2)", "(3, 3)"),
        (dist.Normal(np.zeros(3), 1.0), (5,), "(3, 2, 5)", "(3,)"),
        (dist.Normal(np.zeros((85,)), 1.0), (), "(3, 2)", "(85,)"),
    ],
    ids=repr,
)
def test_an_event_of_another_size(
    spec: dist.Spec, event: tuple[int, ...], wanted: str, given: str
) -> None:
    x = Latent("x", spec, plates="home", event=event)
    graph_error(graph(x), "'x'", "'home'", type(spec).__name__, wanted, given, "event")


def test_constants_as_long_as_the_trials_plates_are_found_out() -> None:
    x = Latent("x", dist.Normal(np.zeros(2), 1.0), plates="home")
    graph_error(graph(x), "'x'", "'home'", "(2,)")


def test_a_vector_parent_of_a_scalar_must_be_summed() -> None:
    x = Latent("x", NORMAL, event=3)
    y = Observed("y", lambda x: dist.Normal(x, 1.0), plates="home")
    graph_error(graph(x, y), "'y'", "'loc'", "(3, 1, 3)", "sum over")
    graph(x, Observed("y", lambda x: dist.Normal(ops.sum(x, -1), 1.0), plates="home"))()
