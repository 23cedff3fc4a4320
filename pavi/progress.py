"""How far a fit has come, on the terminal."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

from pavi.schedule import History, Schedule


def progress_bar(total: int | None, progress: bool, *, unit: str = "steps") -> Any:
    """A bar of steps, of which the number may not be known yet, or of other units."""
    return tqdm(total=total, disable=not progress, unit=f" {unit}", dynamic_ncols=True)


def show_progress(bar: Any, history: History, schedule: Schedule, count: int) -> None:
    """Moves a bar on by `count` steps."""
    bar.total = schedule.expected
    phase = "cooling" if schedule.cooling else "training"
    bar.set_description(phase, refresh=False)
    bar.set_postfix_str(f"ELBO {history.elbo[-1]:,.4g} +- {history.elbo_se[-1]:.2g}", refresh=False)
    bar.update(count)
