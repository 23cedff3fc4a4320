"""The shape contract, the initial weights, and the chain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from random_weights import random_weights

from pavi.bijectors import (
    Chain,
    ConditionalAffine,
    GaussianPotential,
    Inverse,
    MaskedAutoregressive,
    ParameterSpec,
    PseudoConjugateAffine,
    SplineCoupling,
    initial_parameters,
)
from pavi.errors import PaviError

PLAIN = ConditionalAffine(2)
CONDITIONAL = ConditionalAffine(2, 3)
CONJUGATE = PseudoConjugateAffine(2)
X = np.zeros((5, 2))


def start(bijector: Any) -> dict[str, np.ndarray]:
    return initial_parameters(bijector.parameter_specs(), np.random.default_rng(0), "float64")


@pytest.mark.parametrize(
    ("bijector", "x", "context", "message"),
    [
        (PLAIN, np.zeros((5, 3)), None, r"Expected an array of shape \[..., 2\]; got \(5, 3\)"),
        (PLAIN, np.zeros(()), None, r"Expected an array of shape \[..., 2\]; got \(\)"),
        (PLAIN, X, np.zeros((5, 3)), "Expected no context, as context_size is 0; got ndarray"),
        (CONDITIONAL, X, None, r"Expected a context of shape \[..., 3\]; got None"),
        (CONDITIONAL, X, np.zeros((5, 2)), r"Expected a context of .* 3\]; got \(5, 2\)"),
        (CONDITIONAL, X, np.zeros((4, 3)), r"that broadcast with \(5,\); got \(4,\)"),
        (CONJUGATE, X, np.zeros((5, 6)), "Expected a GaussianPotential .* got ndarray"),
        (
            CONJUGATE,
            X,
            GaussianPotential(np.zeros((5, 1, 1)), np.zeros((5, 2))),
            r"2, 2\] and \[..., 2\]; got \(5, 1, 1\) and \(5, 2\)",
        ),
        (
            CONJUGATE,
            X,
            GaussianPotential(np.zeros((4, 2, 2)), np.zeros((5, 2))),
            r"that broadcast with \(5,\); got \(4,\)",
        ),
        (Chain([PLAIN, PLAIN]), X, np.zeros((5, 1)), "Expected no context"),
        (Chain([PLAIN, CONDITIONAL]), X, None, "Expected a context"),
        (Chain([PLAIN, CONDITIONAL]), X, [None], "Expected a list of 2 contexts.* got 1"),
    ],
)
def test_a_wrong_shape_is_an_error(bijector: Any, x: Any, context: Any, message: str) -> None:
    params = start(bijector)
    for method in (bijector.forward_and_log_det, bijector.inverse_and_log_det):
        with pytest.raises(PaviError, match=message):
            method(params, x, context)


def test_a_wrong_weight_is_an_error() -> None:
    params = start(PLAIN)
    with pytest.raises(PaviError, match=r"parameter 'loc' of shape \(2,\); got \(3,\)"):
        PLAIN.forward_and_log_det({**params, "loc": np.zeros(3)}, X)
    del params["log_diagonal"]
    with pytest.raises(PaviError, match=r"parameter 'log_diagonal' of shape .* got .*'loc'"):
        PLAIN.forward_and_log_det(params, X)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConditionalAffine(0), "size >= 1; got 0"),
        (lambda: ConditionalAffine(1, -1), "context_size >= 0; got -1"),
        (lambda: ConditionalAffine(1, 1, -2), "hidden >= 0; got -2"),
        (lambda: ConditionalAffine(1, 0, 8), "hidden=8 with context_size=0"),
        (lambda: ConditionalAffine(1, rank="low"), "'full' or 'diagonal'; got 'low'"),
        (lambda: MaskedAutoregressive(2, hidden=()), r"one hidden width or more.* got \(\)"),
        (lambda: MaskedAutoregressive(2, transformer="cubic"), "'spline' or 'affine'; got 'cubic'"),
        (lambda: MaskedAutoregressive(2, bins=1), "bins >= 2; got 1"),
        (lambda: MaskedAutoregressive(2, bound=0.0), "bound > 0; got 0"),
        (lambda: SplineCoupling(2, hidden=(4, 0)), r"all >= 1; got \(4, 0\)"),
        (lambda: SplineCoupling(2, bins=1), "bins >= 2; got 1"),
        (lambda: SplineCoupling(2, bound=-1.0), "bound > 0; got -1"),
        (lambda: Chain([]), "at least one bijector"),
        (lambda: Chain([PLAIN, ConditionalAffine(3)]), r"one size.* got sizes \[2, 3\]"),
    ],
)
def test_a_wrong_hyperparameter_is_an_error(build: Any, message: str) -> None:
    with pytest.raises(PaviError, match=message):
        build()


def test_initial_weights_follow_their_specs() -> None:
    specs = {
        "zeros": ParameterSpec((3,)),
        "normal": ParameterSpec((4000,), "normal", 0.5),
        "eye": ParameterSpec((2, 3, 3), "eye", 2.0),
        "constant": ParameterSpec((2,), "constant", -1.5),
    }
    values = initial_parameters(specs, np.random.default_rng(0), "float32")
    assert list(values) == list(specs)
    assert all(value.dtype == np.float32 for value in values.values())
    np.testing.assert_array_equal(values["zeros"], np.zeros(3))
    np.testing.assert_allclose(values["normal"].std(), 0.5, rtol=0.05)
    np.testing.assert_array_equal(values["eye"], [2.0 * np.eye(3)] * 2)
    np.testing.assert_array_equal(values["constant"], [-1.5, -1.5])
    # The same seed, the same start, whatever the dtype.
    double = initial_parameters(specs, np.random.default_rng(0), "float64")
    np.testing.assert_array_equal(double["normal"].astype("float32"), values["normal"])
    with pytest.raises(PaviError, match=r"rank 2 or more .* 'a'; got \(3,\)"):
        initial_parameters({"a": ParameterSpec((3,), "eye")}, np.random.default_rng(0), "float32")
    unknown: Any = "ones"
    with pytest.raises(PaviError, match="'eye' or 'constant' for parameter 'a'; got 'ones'"):
        initial_parameters({"a": ParameterSpec((3,), unknown)}, np.random.default_rng(0), "float32")


def test_a_chain_applies_its_first_member_first() -> None:
    chain = Chain([PLAIN, CONDITIONAL])
    rng = np.random.default_rng(0)
    params = random_weights(chain.parameter_specs(), rng)
    first = {name[2:]: value for name, value in params.items() if name.startswith("0/")}
    second = {name[2:]: value for name, value in params.items() if name.startswith("1/")}
    x, context = rng.standard_normal((5, 2)), rng.standard_normal((5, 3))
    middle, log_det_first = PLAIN.forward_and_log_det(first, x)
    y, log_det_second = CONDITIONAL.forward_and_log_det(second, middle, context)
    for given in (context, [None, context]):
        result = chain.forward_and_log_det(params, x, given)
        np.testing.assert_allclose(result[0], y)
        np.testing.assert_allclose(result[1], log_det_first + log_det_second)
    assert (chain.size, chain.context_size) == (2, 3)
    assert hash(chain) == hash(Chain((PLAIN, CONDITIONAL)))


@pytest.mark.parametrize("bijector", [CONDITIONAL, CONJUGATE, Chain([PLAIN, CONJUGATE])])
def test_an_inverse_undoes_its_bijector_with_the_same_weights_and_context(bijector: Any) -> None:
    rng = np.random.default_rng(0)
    params = random_weights(bijector.parameter_specs(), rng)
    x, context = rng.standard_normal((5, 2)), rng.standard_normal((5, 3))
    root = rng.standard_normal((5, 2, 2))
    potential = GaussianPotential(root @ np.swapaxes(root, -1, -2), rng.standard_normal((5, 2)))
    given = {CONDITIONAL: context, CONJUGATE: potential}.get(bijector, [None, potential])
    y, log_det = bijector.forward_and_log_det(params, x, given)
    back, inverse_log_det = Inverse(bijector).forward_and_log_det(params, y, given)
    np.testing.assert_allclose(back, x)
    np.testing.assert_allclose(inverse_log_det, -log_det)
    np.testing.assert_allclose(Inverse(bijector).inverse_and_log_det(params, x, given)[0], y)
    rebased = Inverse(bijector).rebase(params)
    np.testing.assert_allclose(Inverse(bijector).forward_and_log_det(rebased, y, given)[0], x)
