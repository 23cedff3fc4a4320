"""What an AutoPAVI keeps from call to call, and takes along in a pickle."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest

from pavi.errors import PaviWarning
from pavi.family import Family

pytest.importorskip("numpyro")

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as npd
from numpyro import handlers
from numpyro.infer.initialization import init_to_value

from pavi.backends.numpyro import AutoPAVI

KEY = jax.random.key(0)
FAMILY = Family(flow="none", encoding="encoder", joint_limit=0)
Y = np.linspace(-1.0, 1.0, 4, dtype=np.float32)
SEEN = {"y": Y}


def effects(y: Any, size: int = 4, part: int | None = None) -> None:
    with numpyro.plate("group", size, subsample_size=part) as rows:
        theta = numpyro.sample("theta", npd.Normal(0.0, 1.0))
        numpyro.sample("y", npd.Normal(theta, 1.0), obs=y[rows])


def of_others() -> None:
    """Data that are no arguments."""
    effects(jnp.asarray(SEEN["y"]))


def begun(model: Any, *args: Any) -> tuple[AutoPAVI, dict[str, Any]]:
    guide = AutoPAVI(model, family=FAMILY)
    trace = handlers.trace(handlers.seed(guide, KEY)).get_trace(*args)
    return guide, {n: s["value"] for n, s in trace.items() if s["type"] == "param"}


@pytest.fixture(scope="module")
def prepared() -> tuple[AutoPAVI, dict[str, Any]]:
    return begun(effects, Y)


def test_draws_are_of_the_data_of_the_call(prepared: tuple[AutoPAVI, dict[str, Any]]) -> None:
    guide, params = begun(of_others)
    given, own = prepared
    same = guide.sample_posterior(KEY, params)["theta"]
    SEEN["y"] = Y + 5.0
    try:
        moved = guide.sample_posterior(KEY, params)["theta"]
    finally:
        SEEN["y"] = Y
    np.testing.assert_allclose(same, given.sample_posterior(KEY, own, Y)["theta"], rtol=1e-5)
    # One prior and one observation of unit variances: the mean moves by half of the data's shift
    np.testing.assert_allclose(moved - same, 2.5, rtol=1e-4)


def test_draws_are_compiled_once(prepared: tuple[AutoPAVI, dict[str, Any]]) -> None:
    guide, _ = prepared

    def drawn(y: Any) -> Any:
        return guide._drawn(*guide._given((y,), {}), many=False)

    first = drawn(Y)
    assert drawn(Y.copy()) is first
    assert drawn(jnp.asarray(Y)) is first
    assert drawn(Y + 1.0) is not first


def test_a_guide_is_pickled_with_what_it_has_seen(
    prepared: tuple[AutoPAVI, dict[str, Any]],
) -> None:
    guide, params = prepared
    again = pickle.loads(pickle.dumps(guide))
    for one in (Y, Y + 1.0):
        wanted = guide.sample_posterior(KEY, params, one)["theta"]
        np.testing.assert_allclose(again.sample_posterior(KEY, params, one)["theta"], wanted)


def test_a_batch_alone_may_disagree_in_any_way() -> None:
    """JAX has a TypeError for shapes of arrays that an operator brings together."""

    def model(x: Any, y: Any) -> None:
        slope = numpyro.sample("slope", npd.Normal(0.0, 1.0))
        with numpyro.plate("row", 12, subsample_size=len(x)):
            theta = numpyro.sample("theta", npd.Normal(0.0, 1.0))
            numpyro.sample("y", npd.Normal(theta + slope * x, 1.0), obs=y)

    guide = AutoPAVI(model, family=FAMILY)
    assert guide._whole_rows((jnp.asarray(Y), jnp.asarray(Y)), {}) is None


def test_what_a_model_brings_together_is_drawn_as_one() -> None:
    """A product over a plate of coefficients; sites keep their names, shapes and plates."""

    def model(x: Any, y: Any) -> None:
        with numpyro.plate("column", 3):
            beta = numpyro.sample("beta", npd.Normal(0.0, 1.0))
        with numpyro.plate("row", 4):
            numpyro.sample("y", npd.Normal(x @ beta, 1.0), obs=y)

    x = np.arange(12.0).reshape(4, 3)
    with pytest.warns(PaviWarning, match=r"elements of the plate 'column' together"):
        guide, params = begun(model, x, Y)
    trace = handlers.trace(handlers.seed(guide, KEY)).get_trace(x, Y)
    assert trace["beta"]["value"].shape == (3,)
    assert [frame.name for frame in trace["beta"]["cond_indep_stack"]] == ["column"]
    draws = guide.sample_posterior(KEY, params, sample_shape=(5,))
    assert draws["beta"].shape == (5, 3)


def test_an_index_beyond_its_plate() -> None:
    def model(group: Any, y: Any) -> None:
        with numpyro.plate("group", 2):
            b = numpyro.sample("b", npd.Normal(0.0, 1.0))
        with numpyro.plate("row", 4):
            numpyro.sample("y", npd.Normal(b[group], 1.0), obs=y)

    with pytest.raises(ValueError, match=r"plate 'row' picks the element 2 of the plate 'group'"):
        begun(model, np.array([1, 1, 2, 2]), Y)


def test_starts_on_plates_are_said_to_be_left_out() -> None:
    guide = AutoPAVI(effects, init_loc_fn=init_to_value(values={"theta": Y}), family=FAMILY)
    with pytest.warns(PaviWarning, match=r"starts latents on plates.*\['theta'\]"):
        handlers.seed(guide, KEY)(Y)


def test_observed_values_that_are_no_numbers() -> None:
    y = np.where(np.arange(4) == 2, np.nan, Y)
    with pytest.raises(ValueError, match=r"site 'y' is NaN in 1 places.*\(2,\).*handlers\.mask"):
        handlers.seed(AutoPAVI(effects, family=FAMILY), KEY)(y)

    def masked(y: Any) -> None:
        with handlers.mask(mask=~np.isnan(y)):
            effects(np.nan_to_num(y))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PaviWarning)
        handlers.seed(AutoPAVI(masked, family=FAMILY), KEY)(y)
