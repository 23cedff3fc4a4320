"""What tests ask of files that have no names: what memory they take, and when they are gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from pavi.lazy import is_mapped

# Above the statements of `grown_by`: how far the peak of the memory rose since `start`.
_MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from pavi import mapped

def peak():
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else 1024 * found

def filled(rows, columns):
    array = mapped.zeros((rows, columns), "float32", folder)
    for span in mapped.spans(rows, array.strides[0]):
        array[span] = np.arange(span.start, span.stop)[:, None]
        mapped.release(array)
    return array

folder = Path(sys.argv[1])
"""


def grown_by(folder: Path, before: str, measured: str) -> int:
    """Bytes by which the peak memory of a process of its own rises in `measured`."""
    pytest.importorskip("resource")
    text = f"{_MEASURE}{dedent(before)}\nstart = peak()\n{dedent(measured)}\nprint(peak() - start)"
    run = [sys.executable, "-c", text, str(folder)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return int(done.stdout.splitlines()[-1])


def mapped_in(folder: Path) -> int:
    """How many files of a folder, or that were in it, this process has mapped."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the system does not tell what is mapped")
    return sum(str(folder) in line for line in maps.read_text().splitlines())


def all_mapped(arrays: dict[str, np.ndarray]) -> bool:
    """Whether there are some, all in files, and of NumPy's plain class."""
    plain = all(type(array) is np.ndarray for array in arrays.values())
    return bool(arrays) and plain and all(map(is_mapped, arrays.values()))
