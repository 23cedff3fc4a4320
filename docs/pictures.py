"""Draws `docs/shrinkage.png`, the README's picture of radon: `python docs/pictures.py`."""

from __future__ import annotations

import runpy
from pathlib import Path

from matplotlib import pyplot

import pavi

HERE = Path(__file__).parent


def main() -> None:
    """Fits radon on numpyro and draws what pooling does to the counties."""
    example = runpy.run_path(str(HERE.parent / "examples" / "radon.py"))
    posterior = pavi.fit(example["graph"](), example["data"](), backend="numpyro", seed=0)
    _, axes = pyplot.subplots(figsize=(6.6, 4.2), layout="constrained")
    pavi.plot.shrinkage(posterior, "alpha", num_samples=4000, ax=axes)
    axes.figure.savefig(HERE / "shrinkage.png", dpi=100)


if __name__ == "__main__":
    main()
