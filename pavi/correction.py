"""Draws of groups put right, given each draw of the other latents, by importance resampling.

    w_k = p(y_g, z_gk | z) / q(z_gk | z, y),    z_gk ~ q(z_g | z, y),    k = 1 .. K

One of the K is kept, by the weights, whose tail over all draws of a group is smoothed (Vehtari et
al., *Pareto smoothed importance sampling*, JMLR 25, 2024). Only the groups asked for are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pavi import elements, psis
from pavi.alignment import align
from pavi.backends.base import Arrays
from pavi.conditional import Conditional
from pavi.errors import DataError
from pavi.fitted import Fitted
from pavi.grouping import Grouping, grouping
from pavi.integers import is_integer


def corrected(
    fitted: Fitted,
    num_samples: int,
    each: int,
    seed: int,
    names: Sequence[str],
    plates: Mapping[str, Sequence[Any]],
) -> Arrays:
    """Joint draws of the latents, those of groups resampled; see `Posterior.sample`.

    Raises:
        DataError: no plate has groups, or `plates` names one whose elements are parts of groups.
    """
    data, plan = fitted.data, fitted.plan
    groups = grouping(plan)
    chosen = elements.chosen(data, plates)
    _check(groups, chosen, each)
    kept = elements.kept(data, chosen)
    own = {g.plate: chosen.get(g.plate, np.arange(data.sizes[g.plate])) for g in groups.groups}
    conditional = Conditional(fitted, groups, own)
    picks = _picked(conditional, num_samples, each, seed)
    columns = {name: _columns(conditional, groups, name) for name in names}
    places = {p: elements.places(conditional.batch.indices[p], index) for p, index in kept.items()}
    out: Arrays = {}
    flat = 0
    for given, _, values in conditional.draw(num_samples, each, seed):
        within = (flat + np.arange(len(given))) % each
        flat += len(given)
        for name in names:
            value, (plate, column) = values[name], columns[name]
            if name not in out:
                out[name] = np.zeros((num_samples, *value.shape[1:]), value.dtype)
            # Latents outside the groups are the same in all K draws.
            none = np.zeros((len(given), *column.shape), np.int64)
            picked = none if plate is None else picks[plate][given][:, column]
            draw, *place = np.nonzero(within.reshape(-1, *(1,) * column.ndim) == picked)
            out[name][(given[draw], *place)] = value[(draw, *place)]
    variables = plan.graph.variables
    return {n: elements.taken(value, variables[n].plates, places) for n, value in out.items()}


def _check(groups: Grouping, chosen: Mapping[str, np.ndarray], each: int) -> None:
    if not is_integer(each, 2):
        raise DataError(f"importance={each!r}: expected 0, or how many draws to choose from.")
    if not groups.groups:
        why = "; ".join(f"plate {p!r}: {reason}" for p, reason in groups.missing.items())
        raise DataError(
            f"importance={each}: there are no groups to weigh one by one"
            f"{f' ({why})' if why else ': no plate has latents'}."
        )
    roots = [own.plate for own in groups.groups]
    for plate in chosen:
        if plate not in roots:
            raise DataError(
                f"plates={{{plate!r}: ...}}: importance={each} weighs whole elements of "
                f"{' and '.join(map(repr, roots))}; name those."
            )


def _picked(
    conditional: Conditional, num_samples: int, each: int, seed: int
) -> dict[str, np.ndarray]:
    """Which of its K draws each group keeps at each draw of the others, `{plate: [S, groups]}`."""
    shape = (num_samples * each,)
    ratios = {p: np.zeros((*shape, len(at))) for p, at in conditional.places.items()}
    flat = 0
    for given, parts, _ in conditional.draw(num_samples, each, seed):
        for plate, ratio in parts.local.items():
            ratios[plate][flat : flat + len(given)] = ratio
        flat += len(given)
    rng, picks = np.random.default_rng([seed, each]), {}
    for plate, ratio in ratios.items():
        ratio = ratio.reshape(num_samples, each, -1)
        ratio = ratio - ratio.max(1, keepdims=True)
        # Against the mean weight at the same draw of the others: the tail is that of all of them.
        ratio -= np.log(np.exp(ratio).mean(1, keepdims=True))
        smooth = psis.smoothed(ratio.reshape(*shape, -1).T).log_weights
        weights = smooth.T.reshape(num_samples, each, -1)
        # The largest of log w + Gumbel noise is k with probability w_k / sum w.
        picks[plate] = np.argmax(weights + rng.gumbel(size=weights.shape), 1)
    return picks


def _columns(
    conditional: Conditional, groups: Grouping, name: str
) -> tuple[str | None, np.ndarray]:
    """The group that each copy of a latent in the batch lies in, as a column of the picks."""
    plan, batch = conditional.fitted.plan, conditional.batch
    plates = plan.graph.variables[name].plates
    shape = tuple(len(batch.indices[p]) for p in plates)
    plate = groups.of(plan, plates)
    if plate is None:
        return None, np.zeros(shape, np.int64)
    column = np.zeros(len(batch.indices[plate]), np.int64)
    column[conditional.places[plate]] = np.arange(len(conditional.places[plate]))
    recipe = plan.graph.alignment((plate,), plates)
    own = align(column[None], recipe, plates, batch.members, event_rank=0, child_event_rank=0)
    return plate, np.broadcast_to(np.asarray(own)[0], shape)
