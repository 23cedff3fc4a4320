"""How many bytes, in words."""

from __future__ import annotations


def readable(count: int) -> str:
    """A number of bytes in the largest unit of which there is one."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
