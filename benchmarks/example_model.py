"""The model of `examples/random_effects.py`, whose name a benchmark bears too."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

effects = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parent.parent / "examples" / "random_effects.py"))
)
