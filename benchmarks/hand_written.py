"""Random effects in plain JAX: the loop that someone would write by hand for this one model.

The family is pavi's default on `examples/random_effects.py`, number for number: a spline flow under
a full affine map for mu; for theta the exact conjugate conditional from the pooled observations, in
front of it an affine map of a tanh network and a residual row for each group. What a general
package cannot know is used: unit scales, an identity Jacobian, a posterior precision that is the
same for all groups and diagonal, a log-determinant that is a constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

BINS, BOUND, HIDDEN, DECAY_1, DECAY_2 = 8, 5.0, 32, 0.9, 0.99
MIN_SHARE, MIN_SLOPE = 0.02, 0.01
Params = dict[str, jax.Array]


class State(NamedTuple):
    """Dense weights, their average and Adam's state; the rows of the groups and theirs."""

    weights: Params
    average: Params
    optimizer: Any
    rows: Any
    key: jax.Array


class Inputs(NamedTuple):
    """What changes from step to step."""

    index: jax.Array | None
    rate: jax.Array
    averaging: jax.Array


def initial_weights(seed: int) -> Params:
    rng = np.random.default_rng(seed)
    outputs = 3 * BINS - 1
    zeros: dict[str, Any] = {
        "first": (outputs,),
        "second": (outputs,),
        "skip": (1, outputs),
        "bias": (HIDDEN,),
        "output": (HIDDEN, outputs),
        "loc": (2,),
        "off": (),
        "local_loc": (2,),
        "local_log": (2,),
        "local_off": (),
        "context": (6, 5),
        "hidden_bias": (HIDDEN,),
        "hidden_output": (HIDDEN, 5),
    }
    weights = {name: np.zeros(shape) for name, shape in zeros.items()}
    weights |= {
        "input": rng.standard_normal((1, HIDDEN)),
        "log": np.full(2, -2.3),
        "hidden": rng.standard_normal((6, HIDDEN)) / math.sqrt(6.0),
    }
    return {name: jnp.asarray(value, jnp.float32) for name, value in weights.items()}


def knots(raw: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sizes and lower ends of the bins."""
    share = MIN_SHARE / BINS + (1.0 - MIN_SHARE) * jax.nn.softmax(raw)
    size = 2.0 * BOUND * share
    return size, jnp.cumsum(size, -1) - size - BOUND


def spline(x: jax.Array, raw: jax.Array, *, inverse: bool) -> tuple[jax.Array, jax.Array]:
    """Rational-quadratic spline of each element and its log derivative (arXiv 1906.04032)."""
    width, left = knots(raw[..., :BINS])
    height, bottom = knots(raw[..., BINS : 2 * BINS])
    slope = MIN_SLOPE + (1.0 - MIN_SLOPE) / math.log(2.0) * jax.nn.softplus(raw[..., 2 * BINS :])
    inside = jnp.abs(x) < BOUND
    x_inside = jnp.where(inside, x, 0.0)
    reached = x_inside[..., None] >= (bottom if inverse else left)[..., 1:]
    edges = [(0, 0)] * (reached.ndim - 1)
    reached = reached.astype(x.dtype)
    reached = jnp.pad(jnp.pad(reached, [*edges, (1, 0)], constant_values=1.0), [*edges, (0, 1)])
    one_hot = reached[..., :-1] - reached[..., 1:]
    slopes = jnp.pad(slope, [(0, 0)] * (slope.ndim - 1) + [(1, 1)], constant_values=1.0)
    w, h, x_k, y_k, d_0, d_1 = (
        (one_hot * part).sum(-1)
        for part in (width, height, left, bottom, slopes[..., :-1], slopes[..., 1:])
    )
    s = h / w
    if inverse:
        t = (x_inside - y_k) / h
        tilt = d_0 * (1.0 - t) - d_1 * t
        b = tilt + 2.0 * s * t
        root = jnp.sqrt(tilt * tilt + 4.0 * s * s * jnp.maximum(t * (1.0 - t), 0.0))
        positive = b >= 0.0
        xi = jnp.where(positive, 2.0 * s * t, root - b)
        xi = xi / jnp.where(positive, b + root, 2.0 * (s - b))
    else:
        xi = (x_inside - x_k) / w
    product = xi * (1.0 - xi)
    denominator = s * (1.0 - 2.0 * product) + (d_0 + d_1) * product
    numerator = d_1 * xi * xi + 2.0 * s * product + d_0 * (1.0 - xi) ** 2
    log_det = 2.0 * jnp.log(s) + jnp.log(numerator) - 2.0 * jnp.log(denominator)
    if inverse:
        return jnp.where(inside, x_k + w * xi, x), jnp.where(inside, -log_det, 0.0)
    y = y_k + h * (s * xi * xi + d_0 * product) / denominator
    return jnp.where(inside, y, x), jnp.where(inside, log_det, 0.0)


def second_raw(p: Params, y: jax.Array) -> jax.Array:
    """Raw spline of the second coordinate given the first `[S]`."""
    hidden = jnp.tanh(y[:, None] * p["input"] + p["bias"])
    return p["second"] + y[:, None] * p["skip"] + hidden @ p["output"]


def draw_mu(p: Params, eps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mu `[S, 2]` and log q(mu) `[S]`."""
    y_0, log_0 = spline(eps[:, 0], p["first"], inverse=False)
    y_1, log_1 = spline(eps[:, 1], second_raw(p, y_0), inverse=False)
    scale = jnp.exp(p["log"])
    mu = p["loc"] + jnp.stack([scale[0] * y_0, scale[1] * y_1 + p["off"] * y_0], -1)
    return mu, standard_normal(eps) - log_0 - log_1 - p["log"].sum()


def log_q_mu(p: Params, mu: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The noise `[S, 2]` behind mu and log q(mu) `[S]`."""
    y_0 = (mu[:, 0] - p["loc"][0]) * jnp.exp(-p["log"][0])
    y_1 = (mu[:, 1] - p["loc"][1] - p["off"] * y_0) * jnp.exp(-p["log"][1])
    e_1, log_1 = spline(y_1, second_raw(p, y_0), inverse=True)
    e_0, log_0 = spline(y_0, p["first"], inverse=True)
    eps = jnp.stack([e_0, e_1], -1)
    return eps, standard_normal(eps) + log_0 + log_1 - p["log"].sum()


def local_affine(
    p: Params, row: jax.Array, base: jax.Array, mean: jax.Array, log_firm: float
) -> tuple[jax.Array, ...]:
    """What maps the noise of theta `[S, G, 2]`: change, scales, the rows' location and scale."""
    firm = jnp.full_like(mean, log_firm)
    base = jnp.broadcast_to(base[:, None, :], mean.shape)
    context = jnp.concatenate([base, jnp.arcsinh(mean), firm], -1)
    hidden = jnp.tanh(context @ p["hidden"] + p["hidden_bias"])
    out = context @ p["context"] + hidden @ p["hidden_output"]
    return out[..., :2], out[..., 2:4], out[..., 4], row[:, :2], row[:, 2:]


def pooled_mean(mu: jax.Array, x: jax.Array, size: float) -> jax.Array:
    """Posterior mean of w = theta - mu given mu: sum_n (x_n - mu) / (N + 1), `[S, G, 2]`."""
    return (x[None] - mu[:, None, None, :]).sum(2) / (size + 1.0)


def draw_w(
    p: Params, row: jax.Array, base: jax.Array, mean: jax.Array, eps: jax.Array, size: float
) -> tuple[jax.Array, jax.Array]:
    """W `[S, G, 2]` and log q(w) `[S, G]`."""
    change, log_m, off_m, place, log_row = local_affine(
        p, row, base, mean, 0.5 * math.log(size + 1.0)
    )
    z = jnp.exp(log_m) * eps + change
    z = z.at[..., 1].add(off_m * eps[..., 0])
    z = triangle(p, z)
    z = place + jnp.exp(log_row) * z
    w = mean + z / math.sqrt(size + 1.0)
    log_det = (log_m + log_row + p["local_log"]).sum(-1) - math.log(size + 1.0)
    return w, standard_normal(eps) - log_det


def log_q_w(
    p: Params, row: jax.Array, base: jax.Array, mean: jax.Array, w: jax.Array, size: float
) -> jax.Array:
    """Log q(w) `[S, G]`."""
    change, log_m, off_m, place, log_row = local_affine(
        p, row, base, mean, 0.5 * math.log(size + 1.0)
    )
    z = ((w - mean) * math.sqrt(size + 1.0) - place) * jnp.exp(-log_row) - p["local_loc"]
    z_0 = z[..., 0] * jnp.exp(-p["local_log"][0])
    z_1 = (z[..., 1] - p["local_off"] * z_0) * jnp.exp(-p["local_log"][1])
    e_0 = (z_0 - change[..., 0]) * jnp.exp(-log_m[..., 0])
    e_1 = (z_1 - change[..., 1] - off_m * e_0) * jnp.exp(-log_m[..., 1])
    log_det = (log_m + log_row + p["local_log"]).sum(-1) - math.log(size + 1.0)
    return -0.5 * (e_0 * e_0 + e_1 * e_1) - math.log(2.0 * math.pi) - log_det


def triangle(p: Params, z: jax.Array) -> jax.Array:
    scale = jnp.exp(p["local_log"])
    second = scale[1] * z[..., 1] + p["local_off"] * z[..., 0]
    return p["local_loc"] + jnp.stack([scale[0] * z[..., 0], second], -1)


def standard_normal(eps: jax.Array) -> jax.Array:
    return -0.5 * (eps * eps).sum(-1) - 0.5 * eps.shape[-1] * math.log(2.0 * math.pi)


def elbo(
    p: Params, row: jax.Array, x: jax.Array, eps: Params, weight: float, *, path: bool
) -> jax.Array:
    """Mean over the draws of the reduced ELBO."""
    size = float(x.shape[1])
    mu, log_q_global = draw_mu(p, eps["mu"])
    mean = pooled_mean(mu, x, size)
    w, log_q_local = draw_w(p, row, eps["mu"], mean, eps["theta"], size)
    if path:
        held, held_row = jax.lax.stop_gradient((p, row))
        base, log_q_global = log_q_mu(held, mu)
        log_q_local = log_q_w(held, held_row, base, mean, w, size)
    theta = mu[:, None, :] + w
    log_p = standard_normal(w) - 0.5 * jnp.square(x[None] - theta[:, :, None, :]).sum((2, 3))
    log_p = log_p - 0.5 * x.shape[1] * x.shape[2] * math.log(2.0 * math.pi)
    local = (log_p - log_q_local).sum(-1)
    return (standard_normal(mu) - log_q_global + weight * local).mean()


def row_adam(rows: Any, gradient: jax.Array, rate: jax.Array) -> Any:
    """One Adam step on the rows drawn; each has its own count."""
    value, first, second, count = rows
    count = count + 1.0
    first = DECAY_1 * first + (1.0 - DECAY_1) * gradient
    second = DECAY_2 * second + (1.0 - DECAY_2) * gradient * gradient
    step = first / (1.0 - jnp.exp(count * math.log(DECAY_1)))
    scale = jnp.sqrt(second / (1.0 - jnp.exp(count * math.log(DECAY_2)))) + 1e-8
    return value - rate * step / scale, first, second, count


class HandWritten:
    """The loop for one data set, batch size and kind of gradient.

    Args:
        x: observations `[G, N, 2]`.
        batch: groups a step, None for all of them.
        particles: draws a step.
        path: path gradient, or total.
        compile_: `jax.jit`, or a function like it.
        seed: seed of weights and noise.
    """

    def __init__(
        self,
        x: np.ndarray,
        batch: int | None,
        particles: int,
        *,
        path: bool,
        compile_: Callable[..., Any] = jax.jit,
        seed: int = 0,
    ) -> None:
        self._x = jnp.asarray(x, jnp.float32)
        self._batch, self._particles, self._path = batch, particles, path
        self._adam = optax.scale_by_adam(b1=DECAY_1, b2=DECAY_2)
        weights = initial_weights(seed)
        table = jnp.zeros((len(x), 4), jnp.float32)
        if batch is None:
            rows: Any = table
            optimizer = self._adam.init((weights, table))
        else:
            rows = (table, *(jnp.zeros_like(table) for _ in range(2)), jnp.zeros((len(x), 1)))
            optimizer = self._adam.init(weights)
        average = jax.tree.map(jnp.copy, weights)
        self.state = State(weights, average, optimizer, rows, jax.random.key(seed))
        self._run = compile_(
            lambda state, x, inputs: jax.lax.scan(partial(self._step, x), state, inputs),
            donate_argnums=0,
        )

    def run(self, inputs: Inputs) -> np.ndarray:
        """Takes the steps of `inputs`; returns the ELBO estimate of each."""
        self.state, values = self._run(self.state, self._x, inputs)
        return np.asarray(values)

    def _step(self, x: jax.Array, state: State, inputs: Inputs) -> tuple[State, jax.Array]:
        groups, index = len(x), inputs.index
        key, key_mu, key_theta = jax.random.split(state.key, 3)
        count = groups if index is None else len(index)
        eps = {
            "mu": jax.random.normal(key_mu, (self._particles, 2)),
            "theta": jax.random.normal(key_theta, (self._particles, count, 2)),
        }
        data = x if index is None else x[index]
        drawn = state.rows if index is None else jax.tree.map(lambda t: t[index], state.rows)
        value = drawn if index is None else drawn[0]

        def loss(p: Params, row: jax.Array) -> jax.Array:
            return -elbo(p, row, data, eps, groups / count, path=self._path)

        negative, (g, g_row) = jax.value_and_grad(loss, argnums=(0, 1))(state.weights, value)
        if index is None:
            updates, optimizer = self._adam.update((g, g_row), state.optimizer)
            rows = state.rows - inputs.rate * updates[1]
            updates = updates[0]
        else:
            updates, optimizer = self._adam.update(g, state.optimizer)
            new = row_adam(drawn, g_row, inputs.rate)
            rows = jax.tree.map(lambda t, row: t.at[index].set(row), state.rows, new)
        weights = jax.tree.map(lambda w, u: w - inputs.rate * u, state.weights, updates)
        average = jax.tree.map(lambda a, w: a + inputs.averaging * (w - a), state.average, weights)
        return State(weights, average, optimizer, rows, key), -negative
