"""A model's code as a list of steps: the same numbers on any rows, and what NumPy's would be."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from small_models import rng

from pavi import Data, Latent, Observed, Plate, PlateGraph, dist, ops
from pavi.expression import FUNCTIONS, Constant, Expression, Step


def line() -> Expression:
    """Normal(2 * level + [1, 2, 3], exp(spread)), of an event of three."""
    return Expression(
        parents=("level", "spread"),
        steps=(
            Step("multiply", (Constant.of(2.0), "level")),
            Step("add", (0, Constant.of([1.0, 2.0, 3.0]))),
            Step("exp", ("spread",)),
        ),
        kind=dist.Normal,
        parameters=(("loc", 1), ("scale", 2)),
    )


def test_it_is_a_function_of_its_parents() -> None:
    expression = line()
    assert tuple(inspect.signature(expression).parameters) == ("level", "spread")
    level, spread = rng(0).normal(size=(2, 5, 4, 1))
    spec = expression(level=level, spread=spread)
    assert isinstance(spec, dist.Normal)
    assert_allclose(spec.loc, 2.0 * level + np.array([1.0, 2.0, 3.0]))
    assert_allclose(spec.scale, np.exp(spread))


def test_equal_expressions_are_equal_and_have_one_hash() -> None:
    assert line() == line()
    assert hash(line()) == hash(line())
    assert repr(line()) == repr(line())


def test_a_graph_of_expressions_is_one_of_functions() -> None:
    """Probing, supports and fingerprints take them as they take functions."""

    def graph() -> PlateGraph:
        return PlateGraph(
            [Plate("group")],
            [
                Latent("level", dist.Normal(0.0, 1.0), plates="group"),
                Latent("spread", dist.Normal(0.0, 1.0)),
                Observed("y", line(), plates="group", event=3),
            ],
        )

    assert graph().variables["y"].parents == ("level", "spread")
    assert graph().fingerprint() == graph().fingerprint()
    bound = Data({"y": np.zeros((4, 3))}).bind(graph())
    assert bound.sizes == {"group": 4}


def run(function: str, *values: np.ndarray, options: tuple[int, ...] = ()) -> np.ndarray:
    return np.asarray(FUNCTIONS[function](list(values), options))


@given(order=st.permutations([0, 1, 2]), lead=st.integers(0, 2), inserted=st.integers(0, 3))
def test_arrange_orders_event_axes_and_inserts_new_ones(
    order: list[int], lead: int, inserted: int
) -> None:
    x = rng(1).normal(size=(*(5, 6)[:lead], 2, 3, 4))
    new = [*order[:inserted], -1, *order[inserted:]]
    expected = np.expand_dims(
        np.transpose(x, (*range(lead), *(lead + a for a in order))), lead + inserted
    )
    assert_array_equal(run("arrange", x, options=(3, *new)), expected)


def test_arrange_leaves_out_axes_of_size_1() -> None:
    x = rng(2).normal(size=(7, 1, 3))
    assert_array_equal(run("arrange", x, options=(2, 1)), x[:, 0])


def test_slices_and_concatenations_count_axes_from_the_right() -> None:
    x = rng(3).normal(size=(2, 6, 3))
    assert_array_equal(run("slice", x, options=(-2, 1, 6, 2)), x[:, 1:6:2])
    assert_array_equal(run("spread", x[:, :1], options=(-2, 4)), np.repeat(x[:, :1], 4, -2))
    # A part without rows of its own has those of the other.
    assert_array_equal(
        run("concat", x, np.ones((1, 3)), options=(-2,)),
        np.concatenate([x, np.ones((2, 1, 3))], 1),
    )


def test_select_takes_an_entry_for_each_row() -> None:
    x, index = rng(4).normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])
    assert_array_equal(run("select", x, index, options=(3,)), x[np.arange(5), index])


@pytest.mark.parametrize("exponent", [-2, 0, 1, 3])
def test_whole_powers(exponent: int) -> None:
    x = rng(5).uniform(0.5, 2.0, size=4) * np.array([1, -1, 1, -1])
    assert_allclose(run("whole_power", x, options=(exponent,)), x ** float(exponent))


def test_comparisons_and_signs_are_numpys() -> None:
    a, b = np.array([-1.0, 0.0, 2.0]), np.array([0.0, 0.0, 1.0])
    for name, expected in {
        "less": a < b,
        "less_equal": a <= b,
        "greater": a > b,
        "greater_equal": a >= b,
        "equal": a == b,
        "not_equal": a != b,
    }.items():
        assert_array_equal(run(name, a, b), expected, err_msg=name)
    assert_array_equal(run("sign", a), np.sign(a))
    assert_array_equal(run("finite", np.array([1.0, np.inf, -np.inf])), [True, False, False])


def test_a_constant_takes_the_precision_of_what_it_meets() -> None:
    level = np.zeros((2, 1), np.float32)
    spec = line()(level=level, spread=level)
    assert ops.dtype_name(spec.loc) == "float32"
