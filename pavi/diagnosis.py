"""How far a posterior can be trusted, in numbers: `diagnosis_report` puts them into words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np

from pavi import elements, psis
from pavi.binding import BoundData
from pavi.conditional import Conditional
from pavi.diagnosis_report import Finding, findings, written
from pavi.errors import DataError
from pavi.familiarity import Unfamiliar, unfamiliar
from pavi.fitted import Fitted, check_draws
from pavi.grouping import Groups, grouping, pooled_to
from pavi.integers import is_integer
from pavi.marginal import elbo_of, marginal
from pavi.refinement import refined
from pavi.schedule import History

# Fewest draws that a k-hat is taken from here.
FEWEST = 100
# Draws of the other latents at which groups are looked at one by one.
STANDS = 3


@dataclass(frozen=True, eq=False)
class GroupDiagnosis:
    """The groups of one plate given the other latents; arrays are `[groups looked at]`.

    Attributes:
        plate: the plate.
        latents: latents that lie in a group.
        given: latents on plates that cross it, at whose draws the groups stand.
        size: number of groups there are.
        elements: positions of the groups looked at.
        labels: their labels, their positions where there are none.
        rows: observed rows of each.
        khat: Pareto k-hat of each, the median over some draws of the other latents.
        threshold: the k-hat up to which the draws taken are enough.
        gap: nats between a group's ELBO and its log evidence given the others, which is the
            Kullback-Leibler divergence of its posterior. A large one is underestimated.
        gap_se: standard error of each.
        refinement: nats of it that a free correction of the group's own wins back: what
            amortization costs.
        told: nats by which the posterior of each is narrower than, or away from, its prior given
            the others.
        explained: share of the variance of each latent that lies between the groups' means.
        encoders: kinds of encoders in use.
        unfamiliar: groups whose data the encoder never saw the like of.
    """

    plate: str
    latents: tuple[str, ...]
    given: tuple[str, ...]
    size: int
    elements: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    khat: np.ndarray
    threshold: float
    gap: np.ndarray
    gap_se: np.ndarray
    refinement: np.ndarray
    told: np.ndarray
    explained: Mapping[str, float]
    encoders: frozenset[str]
    unfamiliar: tuple[Unfamiliar, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether all groups were looked at."""
        return len(self.elements) == self.size

    @property
    def share_above(self) -> float:
        """Share of the groups with a k-hat above the threshold."""
        return float((self.khat > self.threshold).mean())

    @property
    def worst(self) -> np.ndarray:
        """Places, in these arrays, of the groups in falling order of k-hat."""
        return np.argsort(-self.khat, kind="stable")


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis:
    """What `Posterior.diagnose` found; printing it shows the report.

    Attributes:
        converged: whether the fit settled, by its own verdict.
        verdict: why, in words.
        elbo: evidence lower bound of the whole model; where groups were sampled, that of the fit's
            last record, or else estimated from them.
        elbo_se: its standard error.
        elbo_how: where it is from, if not from all groups.
        num_latents: ground latents.
        num_samples: draws that each k-hat is taken from.
        threshold: the k-hat up to which they are enough.
        khat_joint: k-hat of all latents together, whose ratios scatter the more the more groups
            there are; None where groups were sampled.
        khat_globals: k-hat of the latents outside the groups, with the groups integrated out by
            importance sampling; None where groups were sampled.
        marginal_noise: standard deviation, in nats, of the noise of that integral at one draw.
        scatter: standard deviation, in nats, of the ratios that `khat_globals` is taken from.
        globals: the latents outside the groups.
        groups: what was found of the groups, by plate.
        missing: why the groups of other plates were not looked at, by plate.
        remedies: what the family could still be made, in words, by what it is not.
    """

    converged: bool
    verdict: str
    elbo: float
    elbo_se: float
    elbo_how: str
    num_latents: int
    num_samples: int
    threshold: float
    khat_joint: float | None
    khat_globals: float | None
    marginal_noise: float
    scatter: float
    globals: tuple[str, ...]
    groups: Mapping[str, GroupDiagnosis]
    missing: Mapping[str, str]
    remedies: tuple[str, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The lines of the report."""
        return findings(self)

    @property
    def trusted(self) -> bool:
        """Whether nothing was found that speaks against the posterior."""
        return all(finding.passed is not False for finding in self.findings)

    def __str__(self) -> str:
        return written(self)

    __repr__ = __str__


class Asked(NamedTuple):
    """The arguments of `Posterior.diagnose`."""

    num_samples: int
    groups: int | Mapping[str, Sequence[Any]]
    seed: int


class Verdict(NamedTuple):
    """What a fit said of itself."""

    converged: bool
    reason: str
    history: History


def diagnose(
    fitted: Fitted,
    verdict: Verdict,
    asked: Asked,
    *,
    trained_on: BoundData | None,
) -> Diagnosis:
    """See `Posterior.diagnose`; `trained_on` is the data of the fit where they are other ones."""
    num_samples, groups, seed = asked
    check_draws(num_samples, seed)
    if num_samples < FEWEST:
        raise DataError(f"num_samples={num_samples}: a k-hat needs {FEWEST} draws at least.")
    plan = fitted.plan
    found = grouping(plan)
    chosen = _chosen(fitted, found.groups, found.missing, groups, seed)
    conditional = Conditional(fitted, found, chosen)
    whole = conditional.whole
    named = groups if isinstance(groups, Mapping) else chosen
    by_group = _by_group(conditional, num_samples, 2 * int(seed) + 1, trained_on)
    overall = marginal(conditional, num_samples, 2 * int(seed))
    outside = tuple(slot.name for b in plan.blocks if b.name not in found.local for slot in b.slots)
    elbo, how = elbo_of(conditional, overall), ""
    last = verdict.history.known()
    if not whole and trained_on is None and len(last.elbo):
        # A few groups tell little of the sum over all; the fit saw them all in turn.
        elbo, how = (float(last.elbo[-1]), float(last.elbo_se[-1])), "at the end of the fit"
    elif not whole:
        # Groups that were named stand for themselves.
        nan = float("nan")
        elbo, how = (nan, nan) if isinstance(groups, Mapping) else elbo, "by those sampled"
    return Diagnosis(
        converged=verdict.converged,
        verdict=verdict.reason,
        elbo=elbo[0],
        elbo_se=elbo[1],
        elbo_how=how,
        num_latents=plan.num_latents,
        num_samples=num_samples,
        threshold=psis.threshold(num_samples),
        khat_joint=float(psis.smoothed(overall.joint).khat) if whole else None,
        khat_globals=float(psis.smoothed(overall.marginal).khat) if whole and outside else None,
        marginal_noise=overall.noise,
        scatter=float(overall.marginal.std()),
        globals=outside,
        groups={p: own for p, own in by_group.items() if p in named},
        missing=found.missing,
        remedies=_remedies(fitted),
    )


def _chosen(
    fitted: Fitted,
    known: Sequence[Groups],
    missing: Mapping[str, str],
    groups: int | Mapping[str, Sequence[Any]],
    seed: int,
) -> dict[str, np.ndarray]:
    """Positions of the groups to look at, by plate."""
    plates = [own.plate for own in known]
    sizes = fitted.data.sizes
    if isinstance(groups, Mapping):
        for plate in groups:
            if plate in missing:
                raise DataError(
                    f"groups={{{plate!r}: ...}}: the elements of {plate!r} cannot be looked at one "
                    f"by one: {missing[plate]}."
                )
        for plate in groups:
            if plate in sizes and plate not in plates:
                raise DataError(
                    f"groups={{{plate!r}: ...}}: {plate!r} is not an outermost plate with latents; "
                    f"those are {plates}."
                )
        named = elements.chosen(fitted.data, groups)
        # Of a plate that is not named one element is drawn, as some must be.
        return {p: named.get(p, np.zeros(1, np.int64)) for p in plates}
    if not is_integer(groups, 1):
        raise DataError(
            f"groups={groups!r}: expected how many groups to look at, a positive integer, or "
            'which, as in {"county": ["Aitkin", "Anoka"]}.'
        )
    rng = np.random.default_rng(seed)
    return {
        p: np.arange(sizes[p])
        if sizes[p] <= groups
        else np.sort(rng.choice(sizes[p], int(groups), replace=False, shuffle=False))
        for p in plates
    }


def _by_group(
    conditional: Conditional, num_samples: int, seed: int, trained_on: BoundData | None
) -> dict[str, GroupDiagnosis]:
    """Each group at some draws of the other latents."""
    fitted, plan = conditional.fitted, conditional.fitted.plan
    if not conditional.places:
        return {}
    shape = (STANDS, num_samples)
    ratios = {p: np.zeros((*shape, len(at))) for p, at in conditional.places.items()}
    told = {p: np.zeros((STANDS, len(at))) for p, at in conditional.places.items()}
    blocks = [b for b in plan.blocks if b.name in conditional.groups.local]
    local = [slot.name for b in blocks for slot in b.slots]
    sums: dict[str, np.ndarray] = {}
    start = 0
    for given, parts, values in conditional.draw(STANDS, num_samples, seed):
        within = (start + np.arange(len(given))) % num_samples
        start += len(given)
        for plate, ratio in parts.local.items():
            ratios[plate][given, within] = ratio
            np.add.at(told[plate], given, parts.told[plate] / num_samples)
        for name in local:
            value = values[name].astype(np.float64)
            if name not in sums:
                sums[name] = np.zeros((2, STANDS, *value.shape[1:]))
            np.add.at(sums[name][0], given, value / num_samples)
            np.add.at(sums[name][1], given, value * value / num_samples)
    gains = refined(conditional, STANDS, seed)
    out: dict[str, GroupDiagnosis] = {}
    for own in conditional.groups.groups:
        plate = own.plate
        ratio = ratios[plate]
        gap, gap_se = _gap(ratio)
        index = conditional.chosen[plate]
        inside = [b for b in blocks if b.name in own.blocks]
        names = tuple(slot.name for b in inside for slot in b.slots)
        explained = {n: _explained(sums[n], plan.graph.variables[n].plates) for n in names}
        labels = fitted.data.coords.get(plate)
        out[plate] = GroupDiagnosis(
            plate=plate,
            latents=names,
            given=own.given,
            size=fitted.data.sizes[plate],
            elements=index,
            labels=index if labels is None else labels[index],
            rows=_rows(conditional, plate),
            khat=np.median(psis.smoothed(np.swapaxes(ratio, 1, 2)).khat, axis=0),
            threshold=psis.threshold(num_samples),
            gap=gap,
            gap_se=gap_se,
            refinement=gains[plate],
            told=told[plate].mean(0),
            explained=explained,
            encoders=frozenset(b.encoder for b in inside if b.encoder is not None),
            unfamiliar=()
            if trained_on is None
            else unfamiliar(plan, plate, fitted.data, trained_on),
        )
    return out


def _gap(ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log mean exp less the mean of `[stands, S, groups]`, over the stands, and its error."""
    top = ratio.max(1, keepdims=True)
    weight = np.exp(ratio - top)
    evidence = weight.mean(1, keepdims=True)
    gap = (top + np.log(evidence) - ratio.mean(1, keepdims=True))[:, 0]
    # By the delta method: Var[w / E w - log w] / S
    error = (weight / evidence - ratio).var(1, ddof=1) / ratio.shape[1]
    return gap.mean(0), np.sqrt(error.sum(0)) / len(ratio)


def _explained(sums: np.ndarray, plates: tuple[str, ...]) -> float:
    """Variance of the copies' means as a share of all variance, given the other latents."""
    copies = prod(sums.shape[2 : 2 + len(plates)])
    mean, square = sums.reshape(2, sums.shape[1], copies, -1)
    between = mean.var(1)
    within = np.maximum(square - mean * mean, 0.0).mean(1)
    return float((between / np.maximum(between + within, np.finfo(float).tiny)).mean())


def _rows(conditional: Conditional, plate: str) -> np.ndarray:
    """Observed rows of each group looked at."""
    plan, batch = conditional.fitted.plan, conditional.batch
    total = np.zeros(len(batch.indices[plate]))
    for observed in plan.graph.observed:
        plates = observed.plates
        if plan.graph.determines(plates, (plate,)):
            mask = batch.masks.get(observed.name)
            present = np.ones([len(batch.indices[p]) for p in plates])
            if mask is not None:
                present *= np.any(mask > 0, axis=tuple(range(len(plates), np.ndim(mask))))
            total += pooled_to(plan, (plate,), present[None], plates, batch)[0]
    return np.rint(total[conditional.places[plate]]).astype(np.int64)


def _remedies(fitted: Fitted) -> tuple[str, ...]:
    """What the family is not, and could be made."""
    family = fitted.plan.family
    out = []
    if family.structure != "block":
        out.append("structure='block'")
    if "spline" not in family.flow:
        out.append("flow='spline'")
    return tuple(out)
