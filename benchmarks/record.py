"""Results kept: a record a line, added to a file as they come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def keep(row: Mapping[str, Any], path: Path | None) -> None:
    """Appends a record to a file of JSON lines; without a file it is not kept."""
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
