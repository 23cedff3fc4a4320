"""Surrogate posteriors of users' own joint distributions, held against TFP's densities and fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow_probability")

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from tfp_models import EFFECTS, MODELS, Model, schools_named

from pavi import PlateGraph
from pavi.backends.tfp import (
    build_pavi_surrogate_posterior,
    build_pavi_surrogate_posterior_stateless,
)
from pavi.backends.tfp.model import make_joint_log_prob
from pavi.backends.tfp.portable import read_joint_distribution
from pavi.subsampling import full_batch

tfd = tfp.distributions


def pinned(model: Model) -> Any:
    """The model with data drawn from itself."""
    drawn = model.joint.sample(seed=(3, 4))
    parts = dict(
        zip(model.joint._flat_resolve_names(), model.joint._model_flatten(drawn), strict=True)
    )
    return model.joint.experimental_pin(**{name: parts[name] for name in model.observed})


@pytest.mark.parametrize("name", MODELS)
def test_density_of_the_graph_is_the_joint_distributions(name: str) -> None:
    model = MODELS[name]()
    target = pinned(model)
    read = read_joint_distribution(target, plates=model.plates)
    bound = read.data.bind(read.graph)
    mine = make_joint_log_prob(read.graph, full_batch(bound, "float32"))
    flat, wanted = [], []
    for seed in range(3):
        value = target.sample_unpinned(seed=(seed, 1))
        names = [n for n in read.names if n not in read.observed]
        parts = zip(names, target._model_flatten(value), strict=True)
        latents = {n: read.layouts[n].to_variable(x) for n, x in parts}
        flat.append(mine(latents))
        wanted.append(target.unnormalized_log_prob(value))
    np.testing.assert_allclose(flat, wanted, rtol=2e-5, atol=2e-4)
