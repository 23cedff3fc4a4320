"""Graphs read from TFP, and graphs as the hosts' own models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow_probability")

from host_cases import MODELS as GRAPHS
from host_cases import case
from tfp_models import EFFECTS, MODELS

import pavi
from pavi import PlateGraph


def test_a_model_of_tfp_runs_on_numpyro() -> None:
    pytest.importorskip("numpyro")
    import jax
    from numpyro.infer.util import log_density

    model = MODELS["mixed effects"]()
    observed = {"y": np.linspace(-1.0, 2.0, 11).astype(np.float32)}
    target = model.joint.experimental_pin(**observed)
    graph, data = PlateGraph.from_tfp(model.joint, plates=model.plates, observations=observed)
    assert str(graph) == str(PlateGraph.from_tfp(target, plates=model.plates)[0])
    value = target.sample_unpinned(seed=(1, 2))
    values = {k: v.numpy() for k, v in value._asdict().items()}
    wanted = target.unnormalized_log_prob(value)
    host = graph.to_numpyro_model(data)
    density = jax.jit(lambda v: log_density(host, (), {}, v)[0])(values)
    np.testing.assert_allclose(density, wanted, rtol=1e-5)


def test_the_same_graph_whatever_form_the_model_has() -> None:
    prints = set()
    for name in ("named", "coroutine", "batched"):
        model = MODELS[name]()
        graph, data = PlateGraph.from_tfp(
            model.joint, plates=model.plates, observations={"y": EFFECTS}
        )
        prints.add((len(graph.latents), tuple(graph.plates), data.bind(graph).fingerprint()))
        copied, _ = PlateGraph.from_tfp(
            model.joint, plates=model.plates, observations={"y": EFFECTS}
        )
        assert copied.fingerprint() == graph.fingerprint()
    assert len(prints) == 1


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_come_back_from_tfp(name: str) -> None:
    graph, data = GRAPHS[name][0]()
    target = graph.to_tfp_joint_distribution(data)
    latents: dict[str, Any] = target.sample_unpinned(2, seed=(1, 2))._asdict()
    from pavi.backends.tfp.model import make_joint_log_prob

    wanted = make_joint_log_prob(graph, case(name).batch)(latents)
    np.testing.assert_allclose(target.unnormalized_log_prob(**latents), wanted, rtol=1e-5)


def test_pavi_fits_what_was_read() -> None:
    model = MODELS["named"]()
    graph, data = PlateGraph.from_tfp(model.joint, plates=model.plates, observations={"y": EFFECTS})
    posterior = pavi.fit(
        graph,
        data,
        backend="tfp",
        family=pavi.Family(flow="affine"),
        steps=200,
        seed=0,
        progress=False,
    )
    assert posterior.sample(5)["theta"].shape == (5, 8)
    assert np.isfinite(posterior.elbo(10)[0])
