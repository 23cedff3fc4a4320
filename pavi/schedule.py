"""How long to train and at what rate: warm-up, plateau, cool-down, and an honest verdict.

The rate rises over a short warm-up, stays constant until the ELBO no longer rises by more than
its own noise, then falls to a small fraction of itself while the iterates are averaged. The verdict
is drawn from the constant phase, where a fit that still moves is seen to move: a falling rate makes
any fit look still.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pavi.backends.base import Rates
from pavi.drift import STILL, Travel
from pavi.objective import Gradient
from pavi.visits import ENOUGH, Visits

CHUNK = 250
WARM_UP = 100
COOLED = 0.01
MIN_COOL_DOWN = 2500
# An automatic schedule's constant phases end here at the latest; its cool-down comes on top.
MAX_STEPS = 40_000
# The schedule's phases, in order; `Schedule` says what they are.
PHASES = ("approach", "refining", "cool-down")
# The end of a phase that has not been decided yet.
_OPEN = 10**9
# Where a number of steps is given: shares of it at which the approach and the refining end.
FIXED_SHARES = (0.25, 0.6)
# A fit has settled when the recent windows differ by less than this many standard errors, or by
# less than this many nats for each latent, or in all.
STANDARD_ERRORS = 2.0
NATS_PER_LATENT = 2e-4
NATS = 0.01
# The noise of the ELBO falls while the guide narrows down on the posterior: a fit whose noise has
# fallen by this factor from one half of the records to the next is under way, however flat.
QUIETER = 0.6
# log p - log q is constant where q is exact; near it, its variance is of the order of the latents'
# number. (With batches its scatter is mostly theirs.)
SCATTER = 2.0
# Records of the refining phase that a verdict needs: weights of a slow direction have hardly begun
# to move when the ELBO seems to stand still.
REFINING_RECORDS = 8
# Free rows whose moves over two windows agree more than this still travel.
AGREEMENT = 0.2
# Standard deviations that the place or the scale of an affine map may go one way, see `drift`.
TRAVEL = 0.1
# Largest share of steps that may be left out for want of a finite gradient.
SKIPPED = 0.02


@dataclass
class History:
    """The ELBO along a fit, one record for each compiled call.

    Attributes:
        step: steps taken so far, `[records]`.
        elbo: mean of the one-draw estimates of the call.
        elbo_se: standard error of that mean.
        skipped: steps that were left out, as their estimate or its gradient was not finite.
        phase: which phase of the schedule they belong to, see `PHASES`; -1 where not known.
    """

    step: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    elbo: np.ndarray = field(default_factory=lambda: np.zeros(0))
    elbo_se: np.ndarray = field(default_factory=lambda: np.zeros(0))
    skipped: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    phase: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if len(self.skipped) != len(self.step):
            self.skipped = np.zeros(len(self.step), np.int64)
        if len(self.phase) != len(self.step):
            self.phase = np.full(len(self.step), -1)

    def parts(self) -> tuple[np.ndarray, ...]:
        """The arrays, in order."""
        return self.step, self.elbo, self.elbo_se, self.skipped, self.phase

    def known(self) -> History:
        """The records that tell something: calls that overflowed, or of one step, do not."""
        known = np.isfinite(self.elbo) & np.isfinite(self.elbo_se)
        return History(*(part[known] for part in self.parts()))

    def since(self, record: int) -> History:
        """The records from one on."""
        return History(*(part[record:] for part in self.parts()))

    def phases(self) -> dict[str, int]:
        """Steps taken before each phase that there was, by its name."""
        before = np.concatenate([[0], self.step])[:-1]
        first = {i: int(before[self.phase == i].min(initial=_OPEN)) for i in range(len(PHASES))}
        return {PHASES[i]: start for i, start in first.items() if start < _OPEN}

    def append(self, elbo: np.ndarray, phase: int = -1) -> None:
        """Adds one call's estimates, one for each of its steps; NaN for those left out."""
        finite = elbo[np.isfinite(elbo)]
        last = self.step[-1] if len(self.step) else 0
        mean = finite.mean() if len(finite) else np.nan
        error = finite.std(ddof=1) / np.sqrt(len(finite)) if len(finite) > 1 else np.nan
        self.step = np.append(self.step, last + len(elbo))
        self.elbo = np.append(self.elbo, mean)
        self.elbo_se = np.append(self.elbo_se, error)
        self.skipped = np.append(self.skipped, len(elbo) - len(finite))
        self.phase = np.append(self.phase, phase)


class Verdict(NamedTuple):
    """Whether a fit settled, and why in words.

    Attributes:
        converged: whether it did.
        reason: why.
        fell: whether it no longer rises, but fell from where it has been: weights that tremble at
            the full rate cost nats, which the cool-down wins back.
    """

    converged: bool
    reason: str
    fell: bool = False


def drift(history: History, windows: int = 4) -> tuple[float, float]:
    """Rise of the ELBO between the two halves of the last `2 * windows` records, and its error."""
    elbo, error = history.elbo[-2 * windows :], history.elbo_se[-2 * windows :]
    early, late = slice(0, windows), slice(windows, None)
    rise = float(elbo[late].mean() - elbo[early].mean())
    # The records' own scatter counts too: a fit in motion is noisier than its draws.
    own = np.sqrt((error**2).sum()) / windows
    scatter = np.sqrt(elbo[early].var(ddof=1) / windows + elbo[late].var(ddof=1) / windows)
    return rise, float(max(own, scatter))


def judge(
    history: History,
    num_latents: int,
    *,
    whole: bool,
    num_particles: int = 1,
    agreement: float = 0.0,
    travel: Travel = STILL,
) -> Verdict:
    """Whether the constant phase settled: it no longer rises, nor falls, nor grows quieter.

    Args:
        history: the ELBO so far.
        num_latents: ground latents of the model.
        whole: whether each step saw the whole model.
        num_particles: draws of the guide at each step, of which a step's estimate is the mean.
        agreement: how far the free rows' latest moves agree, see `movement`.
        travel: how far the affine maps went one way of late, see `drift`.
    """
    taken = int(history.step[-1]) if len(history.step) else 0
    if len(history.elbo) >= 4 and not np.isfinite(history.elbo[-4:]).all():
        return Verdict(
            False, "the ELBO is not finite: look at the scale of the data and the priors"
        )
    history = history.known()
    if len(history.elbo) < 4:
        return Verdict(
            False,
            f"{taken} steps at full rate, before the rate falls, are too few to tell; give a fit "
            f"at least {8 * CHUNK} steps",
        )
    windows = min(4, len(history.elbo) // 2)
    rise, error = drift(history, windows)
    skipped = history.skipped[-2 * windows :].sum() / (2 * windows * CHUNK)
    if skipped > SKIPPED:
        return Verdict(
            False,
            f"{skipped:.0%} of the last steps had no finite gradient and were left out: look at "
            "the scale of the data and the priors, or lower the learning rate",
        )
    floor = _negligible(num_latents)
    words = (
        f"the ELBO moved by {rise:+.3g} +- {error:.2g} nats over the last "
        f"{2 * windows * CHUNK} steps at full rate"
    )
    if rise > max(STANDARD_ERRORS * error, floor):
        return Verdict(False, f"{words}: it was still rising; give it more steps")
    late = history.elbo[-windows:].mean()
    best = (history.elbo - 3.0 * history.elbo_se).max()
    if late + 3.0 * error < best - floor:
        reason = f"{words}, after {best:,.4g}: it fell back; lower the learning rate"
        return Verdict(False, reason, fell=True)
    if agreement > AGREEMENT:
        return Verdict(
            False,
            f"{words}, but the free rows still moved one way (their moves over two windows "
            f"correlate by {agreement:.2f}); give it more steps",
        )
    if not whole and travel.distance > TRAVEL:
        return Verdict(
            False,
            f"{words}, but block {travel.block!r} was still on its way (by {travel.distance:.2f} "
            "of its standard deviations); give it more steps",
        )
    quiet, loud = history.elbo_se[-windows:], history.elbo_se[-2 * windows : -windows]
    # Where the family holds the posterior the noise falls to nothing: that is no journey.
    if error > floor and np.median(quiet) < QUIETER * np.median(loud):
        return Verdict(False, f"{words}, and its noise was still falling; give it more steps")
    estimates = num_particles * float(np.median(np.diff(history.step[-windows - 1 :])))
    scatter = float(np.median(history.elbo_se[-windows:])) * np.sqrt(estimates)
    if whole and scatter > SCATTER * np.sqrt(num_latents):
        return Verdict(
            False,
            f"{words}, but its draws scatter by {scatter:.3g} nats, more than a guide near the "
            "posterior would; give it more steps, or a richer family",
        )
    return Verdict(True, words)


def after_cooling(history: History, constant: Verdict, num_latents: int) -> Verdict:
    """The verdict at the end: a fit that fell at the full rate may have come back.

    Args:
        history: the whole fit's.
        constant: the verdict on its constant phase.
        num_latents: ground latents of the model.
    """
    history = history.known()
    elbo, error = history.elbo, history.elbo_se
    if not constant.fell or len(elbo) < 3:
        return constant
    floor = _negligible(num_latents)
    late, own = elbo[-2:].mean(), float(np.sqrt((error[-2:] ** 2).sum())) / 2
    best = (elbo - 3.0 * error)[:-2].max()
    if late + 3.0 * own < best - floor:
        return constant
    return Verdict(True, f"the ELBO fell at the full rate, and came back to {late:,.6g} after it")


def _negligible(num_latents: int) -> float:
    """Nats that no verdict turns on."""
    return max(NATS_PER_LATENT * num_latents, NATS)


def enough(verdict: Verdict, visits: Visits) -> Verdict:
    """The verdict, unless free rows have seen too little of their data."""
    if visits.times >= ENOUGH:
        return verdict
    return Verdict(
        False,
        f"{verdict.reason}, but some of {visits.observed!r} were seen {visits.times:.2g} times "
        f"only, so that free rows of block {visits.block!r} can be {visits.times**-0.5:.1g} of "
        f"their standard deviations off for that alone; give it more steps, or larger batches",
    )


class Schedule:
    """Rates of each step, for a number of steps known beforehand or found on the way.

    Three phases. *Approach*: the Gaussian part of the guide finds the posterior's place and scale;
    weights that refine its shape are held, as they would spend themselves on the journey. *Refine*:
    all weights, constant rate. *Cool-down*: the rate falls, the iterates are averaged.
    """

    def __init__(
        self,
        steps: int | str,
        learning_rate: float,
        gradient: Gradient,
        *,
        whole: bool,
        num_particles: int,
    ) -> None:
        self._peak, self._gradient = learning_rate, gradient
        self._whole, self._particles = whole, num_particles
        self._automatic = isinstance(steps, str)
        if isinstance(steps, str):
            self._ends = [_OPEN, _OPEN, _OPEN]
        else:
            self._ends = [int(share * steps) for share in (*FIXED_SHARES, 1.0)]
        self._taken = 0
        self._records = 0

    @property
    def phase(self) -> int:
        """0 approach, 1 refine, 2 cool-down, 3 finished."""
        return sum(self._taken >= end for end in self._ends)

    @property
    def expected(self) -> int | None:
        """Steps in all, None while unknown."""
        return None if self._automatic and self.phase < 2 else self._ends[2]

    @property
    def cooling(self) -> bool:
        """Whether the constant phases are over."""
        return self.phase >= 2

    @property
    def finished(self) -> bool:
        """Whether all steps have been taken."""
        return self.phase == 3

    def consider(
        self,
        history: History,
        num_latents: int,
        agreement: float = 0.0,
        travel: Travel = STILL,
    ) -> Verdict:
        """Ends an automatic schedule's constant phase where the ELBO has settled.

        Returns:
            The verdict on the records of the phase until now.
        """
        recent = history.since(self._records)
        verdict = judge(
            recent,
            num_latents,
            whole=self._whole,
            num_particles=self._particles,
            agreement=agreement,
            travel=travel,
        )
        if not self._automatic or self.cooling:
            return verdict
        if self._ends[0] == _OPEN:
            if verdict.converged or verdict.fell or self._taken >= MAX_STEPS // 2:
                self._ends[0], self._records = self._taken, len(history.elbo)
        elif self._taken >= MAX_STEPS or (
            (verdict.converged or verdict.fell) and len(recent.elbo) >= REFINING_RECORDS
        ):
            self._ends[1] = self._taken
            self._ends[2] = self._taken + max(MIN_COOL_DOWN, self._taken // 2)
        return verdict

    @property
    def path(self) -> bool:
        """Whether the next call's gradient leaves out the score of q."""
        return self.phase > 0 if self._gradient == "auto" else self._gradient == "path"

    def next_rates(self) -> tuple[Rates, int]:
        """Rates of the next record, and how many of them are to be taken (zeros follow)."""
        step = np.arange(self._taken, self._taken + CHUNK)
        count = min(CHUNK, self._ends[self.phase] - self._taken)
        learning = self._peak * np.minimum(1.0, (step + 1) / WARM_UP)
        averaging = np.zeros(CHUNK)
        if self.cooling:
            start, length = self._ends[1], self._ends[2] - self._ends[1]
            through = np.clip((step - start) / length, 0.0, 1.0)
            learning = learning * (COOLED + (1.0 - COOLED) * 0.5 * (1.0 + np.cos(np.pi * through)))
            # The average of the last half of the cool-down: weight 1/k for its k-th iterate.
            place = step - (start + length // 2) + 1
            averaging = np.where(place >= 1, 1.0 / np.maximum(place, 1), 0.0)
        refine = float(self.phase > 0)
        real = np.arange(CHUNK) < count
        self._taken += count
        return Rates(
            learning=np.where(real, learning, 0.0),
            averaging=np.where(real, averaging, 0.0),
            refine=np.full(CHUNK, refine),
        ), count

    def state(self) -> dict[str, Any]:
        """Where the schedule is, for `restore`."""
        return {"ends": list(self._ends), "taken": self._taken, "records": self._records}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned."""
        self._ends, self._taken = list(state["ends"]), int(state["taken"])
        self._records = int(state["records"])
