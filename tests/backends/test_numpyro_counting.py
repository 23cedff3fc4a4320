"""What counts of a NumPyro model's log density, and what casts and names mean, as it is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pavi
from pavi.errors import GraphError, PaviWarning

pytest.importorskip("numpyro")

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as npd
from numpyro import handlers
from numpyro.infer.util import log_density

from pavi.backends.numpyro.calls import batch_of
from pavi.backends.numpyro.portable import portable, warn_unread
from pavi.backends.numpyro.tracing import read

Y = np.linspace(-1.0, 1.0, 6, dtype=np.float32)
GRID = np.linspace(-2.0, 2.0, 18, dtype=np.float32).reshape(6, 3)
PRESENT = np.arange(18).reshape(6, 3) % 4 > 0
FIRST, SECOND = jnp.array([0, 0, 1, 1, 2, 2]), jnp.array([2, 1, 0, 2, 1, 0])
POINTS = [dict(zip("tu", jnp.asarray(p), strict=True)) for p in ((0.3, 1.2), (-0.7, 0.4))]


def of_mean(mean: Callable[[Any, Any], Any]) -> Callable[[], None]:
    def model() -> None:
        t = numpyro.sample("t", npd.Normal(0.0, 1.0))
        u = numpyro.sample("u", npd.Normal(0.0, 1.0))
        with numpyro.plate("n", 6):
            numpyro.sample("y", npd.Normal(mean(t, u), 1.0), obs=Y)

    return model


def assert_same_density(model: Callable[[], None], *points: dict[str, Any]) -> None:
    """That the graph's own NumPyro model has the model's log density."""
    graph, data = pavi.PlateGraph.from_numpyro(model)
    again = graph.to_numpyro_model(data)
    for point in points:
        wanted, found = (log_density(m, (), {}, point)[0] for m in (model, again))
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


@jax.jit
def softplus(x: Any) -> Any:
    """Of the name of JAX's, and another function."""
    return jnp.log1p(jnp.exp(5.0 * x)) / 5.0


MEANS = {
    "truth is added as numbers": lambda t, u: (t > 0).astype(float) + (u > 0).astype(float),
    "numbers as truth": lambda t, u: jnp.where((t * (u > 0)).astype(bool), t, u),
    "another softplus": lambda t, u: softplus(t) + jax.nn.softplus(u),
}


@pytest.mark.parametrize("name", MEANS)
def test_functions_are_what_they_do(name: str) -> None:
    assert_same_density(of_mean(MEANS[name]), *POINTS)


def test_casts_that_round_are_refused() -> None:
    with pytest.raises(GraphError, match=r"site 'y' .* cast to whole numbers"):
        pavi.PlateGraph.from_numpyro(of_mean(lambda t, u: (3.0 * t).astype(int) + u))


def test_masks_of_elements_and_of_rows() -> None:
    def model() -> None:
        t = numpyro.sample("t", npd.Normal(0.0, 1.0).expand([3]).to_event(1))
        with numpyro.plate("n", 6), handlers.mask(mask=PRESENT[:, 0]):
            numpyro.sample("y", npd.Normal(t, 1.0).mask(PRESENT).to_event(1), obs=GRID)

    assert_same_density(model, {"t": jnp.array([0.1, 0.5, -1.0])}, {"t": jnp.zeros(3)})


@jax.jit
def home(rows: Any) -> Any:
    return FIRST[rows]


@jax.jit
def away(rows: Any) -> Any:
    return SECOND[rows]


def paired() -> None:
    with numpyro.plate("team", 3):
        t = numpyro.sample("t", npd.Normal(0.0, 1.0))
    with numpyro.plate("match", 6) as rows:
        numpyro.sample("y", npd.Normal(t[home(rows)] - t[away(rows)], 1.0), obs=Y)


def test_two_indices_of_one_form_are_two() -> None:
    assert_same_density(paired, {"t": jnp.array([0.3, 1.2, -0.7])})


def masked_latent() -> None:
    with handlers.mask(mask=False):
        t = numpyro.sample("t", npd.Normal(0.0, 1.0))
    numpyro.sample("y", npd.Normal(t, 1.0), obs=1.0)


def masked_by_latents() -> None:
    t = numpyro.sample("t", npd.Normal(0.0, 1.0))
    with numpyro.plate("n", 6), handlers.mask(mask=t > 0.0):
        numpyro.sample("y", npd.Normal(t, 1.0), obs=Y)


def scaled_by_latents() -> None:
    t = numpyro.sample("t", npd.HalfNormal(1.0))
    with numpyro.plate("n", 6), handlers.scale(scale=t):
        numpyro.sample("y", npd.Normal(t, 1.0), obs=Y)


def scaled_apart() -> None:
    t = numpyro.sample("t", npd.Normal(0.0, 1.0))
    with numpyro.plate("n", 6), handlers.scale(scale=jnp.arange(1.0, 7.0)):
        numpyro.sample("y", npd.Normal(t, 1.0), obs=Y)


def named_alike() -> None:
    t = numpyro.sample("a.b", npd.Normal(0.0, 1.0))
    numpyro.sample("a_b", npd.Normal(t, 1.0), obs=0.0)


class Twice(npd.Normal):
    """A normal of another density."""

    def log_prob(self, value: Any) -> Any:
        return 2.0 * super().log_prob(value)


def other_law() -> None:
    t = numpyro.sample("t", npd.Normal(0.0, 1.0))
    numpyro.sample("y", Twice(t, 1.0), obs=0.0)


REFUSED = {
    "a masked latent": (masked_latent, r"site 't' .* log density is masked"),
    "a mask by latents": (masked_by_latents, r"site 'y' .* mask depends on latents"),
    "a scale by latents": (scaled_by_latents, r"site 'y' is scaled by latents"),
    "a scale for each row": (scaled_apart, r"site 'y' is scaled by 6"),
    "names that are one identifier": (named_alike, r"'a\.b' and 'a_b' .* Rename one"),
    "a density of its own": (other_law, r"site 'y' .* no counterpart of Twice"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_graph_would_say_otherwise_is_an_error(name: str) -> None:
    model, said = REFUSED[name]
    with pytest.raises(GraphError, match=said):
        pavi.PlateGraph.from_numpyro(model)


@pytest.mark.parametrize(
    ("model", "site"),
    [(masked_latent, "t"), (masked_by_latents, "y"), (scaled_by_latents, "y")],
)
def test_what_counts_by_latents_is_left_out_of_the_guide(model: Any, site: str) -> None:
    with pytest.warns(PaviWarning, match=f"site '{site}'"):
        warn_unread(portable(read(model, (), {})))


def test_scales_count_in_a_program_as_outside_of_one() -> None:
    def model(y: Any, scale: Any) -> None:
        t = numpyro.sample("t", npd.Normal(0.0, 1.0))
        with numpyro.plate("n", 12, subsample_size=6), handlers.scale(scale=scale):
            numpyro.sample("y", npd.Normal(t, 1.0), obs=y)

    def weights(scale: Any) -> Any:
        return batch_of(portable(read(model, (Y, scale), {}))).masks["y"]

    each = jnp.arange(1.0, 7.0)
    for scale, wanted in ((4.0, np.full(6, 4.0)), (each, np.arange(1.0, 7.0))):
        np.testing.assert_allclose(weights(scale), wanted)
        np.testing.assert_allclose(jax.jit(weights)(scale), wanted)
    assert batch_of(portable(read(model, (Y, 1.0), {}))).masks == {}


def test_other_arguments_and_points() -> None:
    """Text among the arguments, and a scale that is none where the latent is zero."""

    def model(names: Any, x: Any) -> None:
        t = numpyro.sample("t", npd.Normal(0.0, 1.0))
        with numpyro.plate("n", 6):
            numpyro.sample("y", npd.Normal(x, jnp.abs(t)), obs=Y)

    with numpyro.validation_enabled():
        graph, _ = pavi.PlateGraph.from_numpyro(model, np.array(list("abcdef")), Y**2)
    assert [c.name for c in graph.covariates] == ["x"]
