"""Taking a run to its end, with a bar to watch it by and checkpoints on the way."""

from __future__ import annotations

import signal
from typing import Any

from pavi.checkpoint import Checkpoints, stop_requests
from pavi.progress import show_progress
from pavi.run import Run


def advance(run: Run, bar: Any, kept: Checkpoints | None) -> None:
    """Takes a run to its end, or to a signal that asks it to stop, which is obeyed after a save."""
    bar.update(int(run.history.step[-1]) if len(run.history.step) else 0)
    bar.set_description("compiling")
    with stop_requests(enabled=kept is not None) as received:
        while not run.finished and not received:
            count = run.advance(lambda: bool(received or (kept and kept.due())))
            if count:
                show_progress(bar, run.history, run.schedule, count)
            if kept and (kept.due() or received):
                kept.save(run.taken, *run.state())
    if received:
        signal.raise_signal(received[0])
        # A handler that returns does not make half a fit a whole one.
        if received[0] == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + received[0])
