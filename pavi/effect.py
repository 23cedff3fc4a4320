"""How the predictors of a likelihood depend on latents, found out on placeholders.

The natural encoding reads the model itself: it moves a block's latents and looks at the predictors.
Which of them move, and whether along a straight line, is the same for all data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pavi.dist.spec import Spec
from pavi.dist.supports import Real
from pavi.graph import PlateGraph
from pavi.probing import FIRST, aligned_shape, placeholder

# Size of the moves by which a predictor's slope and curvature are told from rounding.
_MOVE, _SAME = 0.25, 1e-9
# Of those by which a score's slope is told.
_SLIGHT = 1e-4
# Places at which a predictor has to be straight to be taken for it.
_TRIALS = 12


@dataclass(frozen=True)
class Effect:
    """How a likelihood's predictors depend on latents.

    Attributes:
        parents: the latents that it is a function of and that move a predictor.
        straight: whether all predictors are linear in the latents of the blocks concerned.
        linear: whether the log likelihood is quadratic in them besides.
        canonical: whether its curvature along a straight predictor is its expected information.
    """

    parents: frozenset[str]
    straight: bool
    linear: bool
    canonical: bool


def moves(graph: PlateGraph, latent: str, effect: Effect) -> bool:
    """Whether a latent moves a predictor, itself or through the latents that it is a parent of."""
    return latent in effect.parents or any(
        graph.variables[child].kind == "latent" and moves(graph, child, effect)
        for child in graph.children(latent)
    )


def effect_of(graph: PlateGraph, observed: str, moving: Collection[str]) -> Effect:
    """Probes the predictors of a likelihood, moving these latents."""
    variable, probe = graph.variables[observed], graph.probe
    if not probe[observed].has_potential:
        return Effect(frozenset(), False, False, False)
    rng = np.random.default_rng(0)
    start: dict[str, Any] = {}
    step: dict[str, Any] = {}
    for name in variable.parents:
        parent = graph.variables[name]
        shape = aligned_shape(parent, variable, graph.plates, FIRST)
        if name in probe:
            support = probe[name].support
            start[name] = placeholder(support, shape)
            step[name] = _move(rng, start[name], isinstance(support, Real))
        else:
            start[name] = rng.uniform(0.5, 1.5, shape)
    if graph.covariates and not _evaluates(graph, observed, start):
        # A covariate that is an index or a count.
        start |= {n: np.ones_like(start[n]) for n in start if n not in probe}
    centre = _predictors(graph, observed, start)
    parents: set[str] = set()
    for name in step:
        moved = _predictors(graph, observed, start | {name: start[name] + step[name]})
        if name in moving and any(_differ(a, b) for a, b in zip(centre, moved, strict=True)):
            parents.add(name)
    # A latent's prior is its whitening: it is taken to be linear in its real parents.
    above = {q for name in moving for q in graph.variables[name].parents if q in moving}
    canonical = straight = linear = all(isinstance(probe[p].support, Real) for p in parents | above)
    if straight:
        curved, others = _bent(graph, observed, start, parents)
        straight = not curved and all(_placed(graph, name, moving) for name in moving)
        linear = probe[observed].quadratic and not curved and not others
        canonical = not curved and not others and _canonical(graph.spec(observed, start))
    return Effect(frozenset(parents), straight, linear, canonical)


def _canonical(spec: Spec) -> bool:
    """Whether the score of a likelihood falls along its predictor as its information says."""
    if spec.event_rank or spec.predictor_rank:
        return False
    first, *others = (np.asarray(p, np.float64) for p in spec.predictors())

    def pull(f: float, value: float) -> tuple[np.ndarray, np.ndarray]:
        at = spec.with_predictors((np.full_like(first, f), *others))
        score, information = at.score_and_information(np.full_like(first, value))[0]
        return np.asarray(score), np.asarray(information)

    # dg / df = -h, whatever was observed
    return all(
        np.allclose(
            pull(f - _SLIGHT, y)[0] - pull(f + _SLIGHT, y)[0], 2.0 * _SLIGHT * pull(f, y)[1]
        )
        for f in (-1.5, 0.2, 1.1)
        for y in (0.0, 1.0)
    )


def _bent(
    graph: PlateGraph, observed: str, start: Mapping[str, Any], parents: Collection[str]
) -> tuple[bool, bool]:
    """Whether a predictor is curved in real latents, and whether one but the first moves at all.

    A predictor may have pieces: places, moves and covariates are of many sizes and both signs.
    """
    rng = np.random.default_rng(1)
    latents = set(graph.probe)

    def numbers(shape: tuple[int, ...]) -> np.ndarray:
        return rng.normal(size=shape) * 10.0 ** rng.uniform(-1.0, 2.0, shape)

    curved = others = False
    for trial in range(_TRIALS):
        place = dict(start)
        if trial:
            moved = {n: numbers(np.shape(v)) for n, v in start.items() if n not in latents}
            # A covariate may have to be an index or a count.
            if _evaluates(graph, observed, {**start, **moved}):
                place |= moved
            place |= {name: numbers(np.shape(start[name])) for name in parents}
        step = {name: numbers(np.shape(start[name])) for name in parents}
        centre, there, back = (
            _predictors(graph, observed, {**place, **{n: place[n] + s * step[n] for n in parents}})
            for s in (0.0, 1.0, -1.0)
        )
        for order, of in enumerate(zip(there, back, centre, strict=True)):
            a, b, c = np.broadcast_arrays(*of)
            # Far out a rate may overflow: that tells nothing.
            told = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
            curved = curved or _differ(a[told] + b[told], 2.0 * c[told])
            others = others or (order > 0 and _differ(a[told], c[told]))
    return curved, others


def _placed(graph: PlateGraph, name: str, moving: Collection[str]) -> bool:
    """Whether a latent's prior is linear in those of its parents that move, its scale constant."""
    variable, probe = graph.variables[name], graph.probe
    above = [parent for parent in variable.parents if parent in moving]
    if not above:
        return True
    start: dict[str, Any] = {}
    for parent in variable.parents:
        shape = aligned_shape(graph.variables[parent], variable, graph.plates, FIRST)
        known = parent not in probe
        start[parent] = np.ones(shape) if known else placeholder(probe[parent].support, shape)
    moments = []
    for size in (0.0, _MOVE, -_MOVE):
        values = start | {parent: start[parent] + size for parent in above}
        moments.append(graph.spec(name, values).unconstrained_moments())
    (place, scale), (ahead, wider), (behind, _) = moments
    return not _differ(ahead + behind, 2.0 * np.asarray(place)) and not _differ(scale, wider)


def _move(rng: np.random.Generator, value: np.ndarray, real: bool) -> np.ndarray:
    """A move that differs from element to element; small where the support has bounds."""
    size = _MOVE if real else 0.01 * _MOVE
    outwards = np.where(value < 0, -1.0, 1.0)
    return size * rng.uniform(0.5, 1.0, np.shape(value)) * outwards


def _evaluates(graph: PlateGraph, observed: str, values: Mapping[str, Any]) -> bool:
    try:
        return all(np.isfinite(p).all() for p in _predictors(graph, observed, values))
    except Exception:
        return False


def _predictors(graph: PlateGraph, observed: str, values: Mapping[str, Any]) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        predictors = graph.spec(observed, values).predictors()
    return [np.asarray(p, np.float64) for p in predictors]


def _differ(a: Any, b: Any) -> bool:
    with np.errstate(all="ignore"):
        close = np.abs(a - b) <= _SAME * (1.0 + np.abs(a) + np.abs(b))
    return not bool(np.all(close | (np.isnan(a) & np.isnan(b))))
