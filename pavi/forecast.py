"""What a fit will cost, said before it is begun: latents, weights, memory, time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from pavi.binding import BoundData
from pavi.byte_sizes import readable
from pavi.errors import PaviError
from pavi.feed import CALL_BYTES
from pavi.plan import BlockPlan, GuidePlan
from pavi.run import Run
from pavi.schedule import CHUNK
from pavi.tables import TableSpace, fitted_bytes, packed_bytes, packed_width

# Copies of a step's intermediate arrays that are alive at once, at most, in what was measured.
_ALIVE = 4
# Copies of the rows of a call, on their way between tables, host and device, in what was measured.
_ROW_COPIES = 10
# How long a probe goes on after its first compiled call.
PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class Forecast:
    """The cost of a fit.

    Attributes:
        latents: ground latent scalars.
        weights: trained numbers.
        data_bytes: data held in memory.
        table_bytes: free tables with their optimizer's state, in the host's memory or in files.
        step_bytes: estimate of what the compiled step works with.
        program_bytes: what the compiled program says that it needs; None where the backend does not
            tell.
        available_bytes: memory that the system has to give; None where it does not tell.
        peak_bytes: largest resident memory of this process until the end of the probe; None without
            one.
        seconds_per_step: of the probe, compilation left out; None without one.
        compile_seconds: time to the end of the first call, less its steps; None without a probe.
        steps: steps of the fit; None where the fit itself decides.
        file_bytes: what is held in files instead of memory: the tables, and the fitted ones; 0
            where they are in memory.
        row_bytes: estimate of the tables' rows that are in memory where the tables are in files.
    """

    latents: int
    weights: int
    data_bytes: int
    table_bytes: int
    step_bytes: int
    program_bytes: int | None = None
    available_bytes: int | None = None
    peak_bytes: int | None = None
    seconds_per_step: float | None = None
    compile_seconds: float | None = None
    steps: int | None = None
    file_bytes: int = 0
    row_bytes: int = 0

    @property
    def host_table_bytes(self) -> int:
        """Estimate of the memory that tables take, which are read out once more at the end."""
        return self.row_bytes if self.file_bytes else 2 * self.table_bytes

    @property
    def host_bytes(self) -> int:
        """Estimate of all that the fit adds to the host's memory."""
        return self.host_table_bytes + self.step_bytes

    @property
    def seconds(self) -> float | None:
        """Expected time of the fit; None without a probe or a number of steps."""
        if self.seconds_per_step is None or self.compile_seconds is None or self.steps is None:
            return None
        # The second estimator's program is compiled beside the first one's steps.
        return self.compile_seconds + self.steps * self.seconds_per_step

    def check(self) -> None:
        """Raises where the fit cannot be held in memory.

        Raises:
            PaviError: it needs more than the system has to give.
        """
        if self.available_bytes is None or self.host_bytes <= self.available_bytes:
            return
        files = "" if self.file_bytes else "table_memory=0, which holds the tables in files, "
        raise PaviError(
            f"This fit needs about {readable(self.host_bytes)} of memory beside the data (tables "
            f"{readable(self.host_table_bytes)}, a step {readable(self.step_bytes)}), and "
            f"{readable(self.available_bytes)} are free. Give a smaller batch, as in "
            f"batch={{'county': 64}}, fewer num_particles, {files}or Family(encoding='encoder'), "
            "which has no tables."
        )

    def __str__(self) -> str:
        lines = [
            f"latents        {self.latents:,}",
            f"weights        {self.weights:,}",
            f"data           {readable(self.data_bytes)} in memory",
            f"tables         {readable(self.table_bytes)} {self._where()}",
            f"step           {readable(self.step_bytes)} (estimate)",
        ]
        if self.program_bytes is not None:
            lines.append(f"program        {readable(self.program_bytes)} on the device (compiled)")
        if self.peak_bytes is not None:
            lines.append(
                f"peak memory    {readable(self.peak_bytes)} (this process, after a probe)"
            )
        if self.available_bytes is not None:
            lines.append(f"free memory    {readable(self.available_bytes)}")
        if self.seconds_per_step is not None:
            lines.append(f"step time      {1e3 * self.seconds_per_step:.3g} ms")
            lines.append(f"compilation    {self.compile_seconds:.1f} s")
        if self.seconds is not None:
            lines.append(f"expected time  {self.seconds:,.0f} s for {self.steps:,} steps")
        elif self.seconds_per_step is not None:
            lines.append("expected time  decided on the way: give steps=N for a forecast")
        return "\n".join(lines)

    def _where(self) -> str:
        if not self.file_bytes:
            return "in the host's memory"
        return f"in files, which take {readable(self.file_bytes)} of disk with the fitted tables"


def expect(
    plan: GuidePlan,
    data: BoundData,
    sizes: Mapping[str, int],
    num_particles: int,
    dtype: str,
    space: TableSpace,
) -> Forecast:
    """The forecast that needs no probe.

    Args:
        plan: the plan.
        data: the data.
        sizes: rows of each plate that a step sees.
        num_particles: draws of the guide at each step.
        dtype: floating dtype of the run.
        space: where the tables are held.
    """
    width, tables = np.dtype(dtype).itemsize, packed_bytes(plan, dtype)
    in_files = space.folder_of(plan, dtype) is not None
    step = sum(_step_numbers(plan, block, sizes) for block in plan.blocks)
    return Forecast(
        latents=plan.num_latents,
        weights=plan.num_weights,
        data_bytes=sum(int(getattr(value, "nbytes", 0)) for value in data.values.values()),
        table_bytes=tables,
        step_bytes=width * _ALIVE * num_particles * step,
        available_bytes=_available(),
        file_bytes=tables + fitted_bytes(plan, dtype) if in_files else 0,
        row_bytes=width * _ROW_COPIES * _row_numbers(plan, sizes, width) if in_files else 0,
    )


def probed(run: Run, forecast: Forecast, steps: int | None) -> Forecast:
    """The forecast after some steps, which are the beginning of the fit itself."""
    start = time.perf_counter()
    run.advance(lambda: True)
    first, taken = time.perf_counter() - start, run.taken
    later = 0.0
    while not run.finished and (run.taken == taken or later < PROBE_SECONDS):
        run.advance(lambda: True)
        later = time.perf_counter() - start - first
    # A fit that its first call ends has nothing else to tell of.
    step = later / (run.taken - taken) if run.taken > taken else first / taken
    return Forecast(
        **{
            **vars(forecast),
            "program_bytes": run.program_bytes(),
            "peak_bytes": _peak(),
            "seconds_per_step": step,
            "compile_seconds": max(first - taken * step, 0.0),
            "steps": steps,
        }
    )


def _row_numbers(plan: GuidePlan, sizes: Mapping[str, int], width: int) -> int:
    """Numbers of the tables' rows that a call is given, at most."""
    drawn = sum(size for plate, size in sizes.items() if size < plan.sizes[plate])
    steps = int(np.clip(CALL_BYTES // (3 * width * max(drawn, 1)), 1, CHUNK))
    numbers = 0
    for block in plan.blocks:
        if block.table_width:
            rows = min(steps * prod(sizes[plate] for plate in block.plates), block.copies) + 1
            numbers += rows * packed_width(block.table_width)
    return numbers


def _step_numbers(plan: GuidePlan, block: BlockPlan, sizes: Mapping[str, int]) -> int:
    """Numbers of one draw's intermediate arrays: the natural encoder moves every coordinate."""
    copies = prod(sizes[plate] for plate in block.plates)
    # A long vector has a precision for each number, and no matrix.
    numbers = copies * block.size * (1 if block.long else block.size + 1)
    if block.evidence is None:
        return numbers
    blocks = [block.name, *block.evidence.hidden, *block.evidence.crossed]
    moves = 1 + 2 * sum(plan.block(name).size for name in blocks)
    for factor in block.evidence.factors:
        variable = plan.graph.variables[factor.observed]
        rows = prod((*(sizes[plate] for plate in variable.plates), *variable.event))
        numbers += rows * (moves if block.encoder == "natural" else plan.family.hidden)
    return numbers


def _available() -> int | None:
    """Memory that may be had without swapping, where the system tells."""
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _peak() -> int | None:
    """Largest resident memory that this process has had, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
