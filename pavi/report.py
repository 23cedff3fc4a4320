"""What a fit shows a person: the table of its posterior."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MAX_TABLE_ROWS = 60


@dataclass(frozen=True)
class Summary:
    """Moments and quantiles of one scalar quantity."""

    name: str
    mean: float
    sd: float
    q05: float
    q50: float
    q95: float


def summarise(draws: Mapping[str, np.ndarray], names: Iterable[str]) -> list[Summary]:
    """Returns one summary for each scalar of the named arrays [draws, *event]."""
    rows = []
    for name in names:
        values = np.asarray(draws[name], dtype=np.float64)
        for place in np.ndindex(values.shape[1:]):
            scalar = values[(slice(None), *place)]
            label = f"{name}[{','.join(map(str, place))}]" if place else name
            q05, q50, q95 = np.quantile(scalar, (0.05, 0.5, 0.95))
            rows.append(Summary(label, scalar.mean(), scalar.std(ddof=1), q05, q50, q95))
    return rows


def table(rows: Sequence[Summary]) -> str:
    """Returns the rows as aligned text, each with as many decimals as its sd supports."""
    header = ("", "mean", "sd", "5%", "50%", "95%")
    body = [
        (row.name, *(_number(v, row.sd) for v in (row.mean, row.sd, row.q05, row.q50, row.q95)))
        for row in rows[:MAX_TABLE_ROWS]
    ]
    widths = [max(len(line[column]) for line in (header, *body)) for column in range(len(header))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in (header, *body)
    ]
    if len(rows) > MAX_TABLE_ROWS:
        lines.append(f"... and {len(rows) - MAX_TABLE_ROWS:,} more")
    return "\n".join(lines)


def _number(value: float, sd: float) -> str:
    """Formats a value to three significant digits of its sd."""
    if not (math.isfinite(value) and math.isfinite(sd) and sd > 0):
        return f"{value:.4g}"
    decimals = 2 - math.floor(math.log10(sd))
    if decimals > 8 or abs(value) >= 1e9:
        return f"{value:.4e}"
    return f"{value:.{max(decimals, 0)}f}"
