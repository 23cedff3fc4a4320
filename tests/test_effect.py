"""What a likelihood is in its latents, by probing: straight, quadratic, canonical."""

from __future__ import annotations

from typing import Any

import pytest

from pavi import Covariate, Latent, Observed, Plate, PlateGraph, dist, ops
from pavi.effect import effect_of

# Likelihoods of a latent t: is the predictor straight, the log likelihood quadratic, its link
# canonical?
LIKELIHOODS: dict[str, tuple[Any, bool, bool, bool]] = {
    "normal": (lambda t: dist.Normal(t, 2.0), True, True, True),
    "normal, its scale too": (lambda t: dist.Normal(t, ops.exp(t)), True, False, False),
    "poisson": (lambda t: dist.Poisson(log_rate=1.0 + 2.0 * t), True, False, True),
    "poisson rate": (lambda t: dist.Poisson(rate=ops.exp(t)), True, False, True),
    "poisson, curved": (lambda t: dist.Poisson(log_rate=t * t), False, False, False),
    "bernoulli": (lambda t: dist.Bernoulli(logits=t), True, False, True),
    "binomial": (lambda t: dist.Binomial(7, logits=t), True, False, True),
    "negative binomial": (
        lambda t: dist.NegativeBinomial(mean=ops.exp(t), concentration=3.0),
        True,
        False,
        False,
    ),
    "student": (lambda t: dist.StudentT(4.0, t, 1.0), True, False, False),
    "gamma": (lambda t: dist.Gamma(3.0, ops.exp(t)), True, False, False),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_effect(name: str) -> None:
    likelihood, straight, linear, canonical = LIKELIHOODS[name]
    graph = PlateGraph(
        [Plate("row")],
        [Latent("t", dist.Normal(0.0, 1.0)), Observed("y", likelihood, plates="row")],
    )
    effect = effect_of(graph, "y", {"t"})
    assert effect.parents == {"t"}
    assert (effect.straight, effect.linear, effect.canonical) == (straight, linear, canonical)


def test_only_what_moves_counts() -> None:
    graph = PlateGraph(
        [Plate("row")],
        [
            Covariate("x", plates="row"),
            Latent("a", dist.Normal(0.0, 1.0)),
            Latent("b", dist.Normal(0.0, 1.0)),
            Observed("y", lambda a, b, x: dist.Normal(a * b + x, 1.0), plates="row"),
        ],
    )
    assert effect_of(graph, "y", {"a"}).straight
    assert not effect_of(graph, "y", {"a", "b"}).straight
