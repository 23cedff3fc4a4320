"""What a diagnosis says, in words: each finding, and what to do next where there is something."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import fill
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pavi.diagnosis import Diagnosis, GroupDiagnosis

# Groups that a finding names.
NAMED = 5
# Nats a group on average that a posterior may be away, and that a correction may win.
GAP, GAIN = 0.1, 0.05
# Nats by which log p - log q scatters that move no mean and no standard deviation to speak of.
SLIGHT = 0.1
# Nats below which a group's posterior is its prior; share of the groups for which it may be.
SILENT, NEARLY_ALL = 0.05, 0.95
# Share of the variance between groups below which all have the same place.
SAME = 0.01
# Noise of an integral, in nats, at which a large k-hat may be its own.
NOISY = 0.5
_WIDTH = 100
_MARKS = {True: "ok", False: "!!", None: "--"}


class Finding(NamedTuple):
    """One line of a report.

    Attributes:
        subject: what it is about.
        passed: whether all is well, None where it cannot be told.
        text: what was found.
        remedy: what to do next, empty where there is nothing.
    """

    subject: str
    passed: bool | None
    text: str
    remedy: str = ""

    def lines(self) -> list[str]:
        """The finding as it stands in a report."""
        lines = [wrapped(f"  {_MARKS[self.passed]}  {self.subject}: {self.text}")]
        return [*lines, wrapped(f"      -> {self.remedy}")] if self.remedy else lines


def findings(diagnosis: Diagnosis) -> tuple[Finding, ...]:
    """All findings, those about the fit first."""
    out = [_fit(diagnosis), _elbo(diagnosis), *_globals(diagnosis)]
    for groups in diagnosis.groups.values():
        out += _groups(diagnosis, groups)
    for plate, why in diagnosis.missing.items():
        text = f"its elements cannot be looked at one by one: {why}."
        out.append(Finding(plate, None, text))
    return tuple(out)


def written(diagnosis: Diagnosis) -> str:
    """The report."""
    size, draws = f"{diagnosis.num_latents:,} latents", f"{diagnosis.num_samples:,} draws"
    lines = [f"Diagnosis of {size}, from {draws}; k-hat is to be at most {diagnosis.threshold:.2f}"]
    lines += [line for finding in diagnosis.findings for line in finding.lines()]
    wrong = sum(finding.passed is False for finding in diagnosis.findings)
    lines.append(
        "Nothing speaks against this posterior as an answer to the model; whether the model is "
        "right, predictions tell."
        if not wrong
        else f"Not to be trusted as it is: {wrong} finding{'s' if wrong > 1 else ''} above."
    )
    if any(finding.passed is None for finding in diagnosis.findings):
        lines[-1] += " What is marked -- was not looked at."
    lines[-1] = wrapped(lines[-1], indent="")
    return "\n".join(lines)


def wrapped(text: str, indent: str = " " * 6) -> str:
    """Text in lines of a report's width."""
    return fill(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _fit(diagnosis: Diagnosis) -> Finding:
    if diagnosis.converged:
        return Finding("fit", True, f"converged; {diagnosis.verdict}.")
    text = f"not converged: {diagnosis.verdict}."
    remedy = "fit again with steps='auto' or more steps; what follows is of a guide under way."
    return Finding("fit", False, text, remedy)


def _elbo(diagnosis: Diagnosis) -> Finding:
    if not np.isfinite(diagnosis.elbo):
        if any(not groups.whole for groups in diagnosis.groups.values()):
            text = "not estimated, for the groups looked at were named, not sampled."
            return Finding("ELBO", None, text)
        remedy = "look at the scale of the data and the priors."
        return Finding("ELBO", False, "not finite: some draws have no density.", remedy)
    how = f", {diagnosis.elbo_how}" if diagnosis.elbo_how else ""
    text = f"{diagnosis.elbo:,.6g} nats (standard error {diagnosis.elbo_se:.2g}{how})."
    return Finding("ELBO", True, text)


def _globals(diagnosis: Diagnosis) -> Iterator[Finding]:
    if not diagnosis.globals:
        return
    subject = _names(diagnosis.globals)
    sizes = [f"the {g.size:,} elements of {g.plate}" for g in diagnosis.groups.values()]
    out = f", {' and '.join(sizes)} integrated out" if sizes else ""
    if diagnosis.khat_globals is None:
        plates = ", ".join(g.plate for g in diagnosis.groups.values() if not g.whole)
        largest = max(g.size for g in diagnosis.groups.values())
        yield Finding(
            subject,
            None,
            f"k-hat of these needs every element of {plates} at every draw, which costs that many "
            "times more.",
            f"diagnose(groups={largest}) computes it, if it is worth the time.",
        )
        return
    khat, limit = diagnosis.khat_globals, diagnosis.threshold
    if khat <= limit:
        yield Finding(subject, True, f"k-hat {khat:.2f}{out}.")
    elif diagnosis.scatter <= SLIGHT:
        text = (
            f"k-hat {khat:.2f} is above {limit:.2f}{out}, but the densities differ by "
            f"{diagnosis.scatter:.2g} nats only: what the guide lacks lies far out in the tails. "
            "As far as these draws reach, means and standard deviations are right; do not count on "
            "extreme quantiles."
        )
        yield Finding(subject, True, text)
    elif diagnosis.groups and diagnosis.marginal_noise > NOISY:
        yield Finding(
            subject,
            False,
            f"k-hat {khat:.2f} is above {limit:.2f}{out}; that integral is noisy, "
            f"{diagnosis.marginal_noise:.2g} nats, as the groups' posteriors are far from right.",
            _refit(diagnosis, "mend the groups first; Family({}) holds more shapes"),
        )
    else:
        yield Finding(
            subject,
            False,
            f"k-hat {khat:.2f} is above {limit:.2f}{out}: the guide lacks part of the posterior, "
            "as its tails or how these depend on one another. Standard deviations are likely too "
            "small.",
            _refit(diagnosis, "Family({}) holds more shapes"),
        )


def _groups(diagnosis: Diagnosis, groups: GroupDiagnosis) -> Iterator[Finding]:
    yield _khat(diagnosis, groups)
    yield _gap(diagnosis, groups)
    if groups.encoders:
        yield _collapse(groups)
    for one in groups.unfamiliar:
        named = groups_named(groups, one.elements, one.values, "{:.4g}")
        yield Finding(
            groups.plate,
            False,
            f"the encoder never saw the like of {len(one.elements):,} of them: {one.feature} was "
            f"{one.low:.4g} to {one.high:.4g} in training, and is {named}.",
            "compare these with a fit that they are part of, or train on data that reach as far.",
        )


def _khat(diagnosis: Diagnosis, groups: GroupDiagnosis) -> Finding:
    # Where the gap is a few thousandths of a nat, a large k-hat is about the far tails alone.
    off = (groups.khat > groups.threshold) & (groups.gap > 0.5 * SLIGHT**2)
    above = int(off.sum())
    looked = f"{len(groups.elements):,}"
    looked += "" if groups.whole else f" sampled of {groups.size:,}"
    given = f", given {_names(groups.given)}" if groups.given else ""
    subject = f"{groups.plate} ({_names(groups.latents)}{given})"
    order = groups.worst[off[groups.worst]] if above else groups.worst[:1]
    worst = order[:NAMED]
    named = ", ".join(
        f"{groups.plate} {groups.labels[i]} (k-hat {groups.khat[i]:.2f}, {groups.rows[i]:,} rows)"
        for i in worst
    )
    if not above and groups.share_above:
        text = f"k-hat is large for some of {looked}, but about their far tails alone"
        return Finding(subject, True, f"{text}; largest: {named}.")
    if not above:
        return Finding(subject, True, f"k-hat is small for each of {looked}; largest: {named}.")
    text = (
        f"k-hat is above {groups.threshold:.2f} for {above:,} of {looked} "
        f"({above / len(off):.0%}); worst: {named}."
    )
    return Finding(subject, False, text, _refit(diagnosis, "Family({}) holds more shapes"))


def _gap(diagnosis: Diagnosis, groups: GroupDiagnosis) -> Finding:
    mean, gain = float(groups.gap.mean()), float(groups.refinement.mean())
    error = float(np.sqrt((groups.gap_se**2).sum()) / len(groups.gap))
    most = int(groups.gap.argmax())
    largest = f"{groups.gap[most]:.3f} ({groups.plate} {groups.labels[most]})"
    text = (
        f"local gap {mean:.3f} nats a group (standard error {error:.3f}), at most {largest}; a "
        f"correction of each group's own would win {max(gain, 0.0):.3f} of it"
        f"{', the amortization gap' if groups.encoders else ''}."
    )
    if mean <= GAP and gain <= GAIN:
        return Finding(groups.plate, True, text)
    remedy = "Family({}) holds more shapes"
    if groups.encoders and gain > GAIN:
        remedy = "Family(encoding='encoder+free') gives each group a correction of its own"
    return Finding(groups.plate, False, text, _refit(diagnosis, remedy))


def collapsed(groups: GroupDiagnosis) -> bool:
    """Whether the encoder tells nothing of groups of which the data do."""
    known = groups.rows > 0
    if known.sum() < 2 or groups.gap[known].mean() <= GAP:
        return False
    silent = float((groups.told[known] < SILENT).mean()) > NEARLY_ALL
    return silent or min(groups.explained.values()) < SAME


def _collapse(groups: GroupDiagnosis) -> Finding:
    shares = ", ".join(f"{share:.0%} for {name}" for name, share in groups.explained.items())
    told = float(np.median(groups.told))
    text = (
        f"the data tell {told:.2g} nats of a group (median); of the variance between groups their "
        f"means explain {shares}."
    )
    if not collapsed(groups):
        return Finding(groups.plate, True, text)
    return Finding(
        groups.plate,
        False,
        f"the encoder has collapsed: {text} Yet the data say more.",
        "fit again with another seed or Family(encoder='deep_set'), or with encoding='free'.",
    )


def groups_named(
    groups: GroupDiagnosis, elements: np.ndarray, values: np.ndarray, form: str
) -> str:
    """Some groups by position, with a value each."""
    labels = dict(zip(groups.elements.tolist(), groups.labels.tolist(), strict=True))
    shown = [
        f"{form.format(v)} ({groups.plate} {labels.get(e, e)})"
        for e, v in zip(elements[:NAMED].tolist(), values.tolist(), strict=False)
    ]
    return ", ".join(shown) + (" ..." if len(elements) > NAMED else "")


def _refit(diagnosis: Diagnosis, remedy: str) -> str:
    """A remedy, with what the family could be made; more steps where the fit was under way."""
    if not diagnosis.converged:
        return "let the fit converge first."
    if "{}" not in remedy:
        return f"{remedy}."
    if not diagnosis.remedies:
        return "compare with NUTS on a part of the data (posterior.host() gives the model)."
    return remedy.format(", ".join(diagnosis.remedies)) + "; then diagnose again."


def _names(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")
