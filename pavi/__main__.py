"""`python -m pavi`, the same as the `pavi` command."""

from __future__ import annotations

from pavi.cli import main

if __name__ == "__main__":
    main(prog_name="pavi")
