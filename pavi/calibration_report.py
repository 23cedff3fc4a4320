"""What a calibration says, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pavi.diagnosis_report import Finding, wrapped

if TYPE_CHECKING:
    from pavi.calibration import Calibration, Quantity

# Quantities in the table, those that fit worst first where there are more; latents by size.
MAX_ROWS, MAX_SIZED = 40, 8
# Standard errors from which on a bias or a width is named as the reason.
CLEAR = 2.0
# Share of fits that may be called not converged before the report speaks of it.
UNSETTLED = 0.05


def written(calibration: Calibration) -> tuple[tuple[Finding, ...], str]:
    """The findings, and the report that holds them."""
    found = (_fits(calibration), _uniform(calibration), *_wrong(calibration))
    sizes = ", ".join(f"{plate}={size:,}" for plate, size in calibration.design.sizes.items())
    lines = [
        wrapped(
            f"Calibration on {calibration.num_datasets:,} data sets simulated from the prior"
            f"{f' ({sizes})' if sizes else ''}, {calibration.num_draws:,} draws each",
            indent="  ",
        )
    ]
    lines += [line for finding in found for line in finding.lines()]
    lines += [*_table(calibration), *_by_size(calibration), *_made(calibration)]
    wrong = sum(finding.passed is False for finding in found)
    last = (
        "Nothing speaks against these posteriors as answers to the model, where data are as the "
        "prior expects them."
        if not wrong
        else "Not calibrated: see what is marked !! above."
    )
    return found, "\n".join([*lines, wrapped(last, indent="")])


def _fits(calibration: Calibration) -> Finding:
    count, settled = calibration.num_datasets, int(calibration.converged.sum())
    bad = int((~calibration.finite).sum())
    seconds = float(calibration.seconds.mean())
    text = f"{settled:,} of {count:,} converged, {seconds:.2g} seconds each"
    if bad:
        remedy = "look at the scale of the priors: draws of them give data that no fit stands."
        return Finding("fits", False, f"{text}; {bad:,} have draws that are not finite.", remedy)
    if not _settled(calibration):
        remedy = "steps='auto' or more steps; what follows is of fits under way."
        return Finding("fits", False, f"{text}.", remedy)
    return Finding("fits", True, f"{text}.")


def _settled(calibration: Calibration) -> bool:
    """Whether nearly all fits converged."""
    return bool((~calibration.converged).mean() <= UNSETTLED)


def _uniform(calibration: Calibration) -> Finding:
    quantities = calibration.quantities
    outside = [q.name for q in quantities if not q.held]
    worst = min(quantities, key=lambda q: q.p)
    level = f"{100 * (1 - calibration.probability):g} %"
    text = (
        f"{'uniform' if calibration.uniform else 'not uniform'} at the {level} level over "
        f"{len(quantities)} quantities together; smallest p {worst.p:.2g} ({worst.name}), "
        f"{worst.adjusted:.2g} adjusted for their number (Holm)."
    )
    if outside:
        of_itself = ", ".join(outside[:6]) + (" ..." if len(outside) > 6 else "")
        text += f" Outside of the envelope of one quantity: {of_itself}."
    if calibration.uniform:
        return Finding("ranks", True, text)
    remedy = (
        "fit some of these data, as calibration.dataset(0) gives them, and see what diagnose() "
        "says of the posteriors; a richer Family may hold more shapes."
    )
    settled = _settled(calibration)
    return Finding("ranks", False, text, remedy if settled else "let the fits converge first.")


def _wrong(calibration: Calibration) -> Iterator[Finding]:
    """What is off of each quantity whose ranks are not uniform, and how."""
    for quantity in calibration.quantities:
        if quantity.adjusted <= 1.0 - calibration.probability:
            text = f"{how_off(quantity)}; p {quantity.p:.2g}, {quantity.adjusted:.2g} adjusted."
            yield Finding(quantity.name, False, text)


def how_off(quantity: Quantity) -> str:
    """In which way ranks are not uniform: by place, by width, or by neither."""
    (shift, shift_error), (wide, wide_error) = quantity.bias, quantity.width
    parts = []
    if abs(shift) > CLEAR * shift_error:
        side = "high" if shift > 0 else "low"
        parts.append(f"lies too {side}, by {abs(shift):.2f} +- {shift_error:.2f} of its sd")
    if abs(wide - 1.0) > CLEAR * wide_error:
        kind = "narrow" if wide < 1.0 else "wide"
        parts.append(f"is too {kind}, {wide:.2f} +- {wide_error:.2f} of the right sd")
    if not parts:
        return "the posterior has another shape than it should, neither moved nor scaled"
    return f"the posterior {' and '.join(parts)}"


def _table(calibration: Calibration) -> Iterator[str]:
    chosen = sorted(calibration.quantities, key=lambda q: q.p)[:MAX_ROWS]
    shown = [q for q in calibration.quantities if q in chosen]
    names = max(len(quantity.name) for quantity in shown)
    yield (
        f"      {'':{names}s}  {'p':>7s}  {'bias in sd':>14s}  {'width':>12s}  "
        f"{'50 % cover':>12s}  {'90 % cover':>12s}"
    )
    for quantity in shown:
        half, most = quantity.coverage[0.5], quantity.coverage[0.9]
        yield (
            f"      {quantity.name:{names}s}  {quantity.p:7.2g}  {quantity.bias!s:>14s}  "
            f"{quantity.width!s:>12s}  {half!s:>12s}  {most!s:>12s}"
        )
    if len(shown) < len(calibration.quantities):
        yield f"      ... and {len(calibration.quantities) - len(shown):,} more, of larger p"


def _by_size(calibration: Calibration) -> Iterator[str]:
    for latent in list(calibration.rows)[:MAX_SIZED]:
        classes = calibration.by_size(latent)
        if len(classes) < 2:
            continue
        parts = [f"{_range(c.fewest, c.most)} ({c.copies:,}): {c.coverage[0.9]}" for c in classes]
        text = f"  --  {latent}: 90 % cover by observed rows (copies): {'; '.join(parts)}."
        yield wrapped(text)


def _made(calibration: Calibration) -> Iterator[str]:
    """What the data sets were made of that nobody gave."""
    normal = [variable.name for variable in calibration.design.normal]
    if normal:
        yield wrapped(f"  --  covariates: {', '.join(normal)}: standard normal, none were given.")
    if calibration.design.balanced:
        names = ", ".join(f"{p} in {o}" for p, o in calibration.design.balanced)
        yield wrapped(f"  --  members: {names}: balanced, none were given.")
    if calibration.rows:
        yield wrapped(
            "  --  latents in plates: ranks of one copy of each data set, at random; coverage of "
            "all copies."
        )


def _range(fewest: int, most: int) -> str:
    return f"{fewest:,}" if fewest == most else f"{fewest:,}-{most:,}"
