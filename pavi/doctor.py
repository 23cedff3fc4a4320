"""`pavi doctor`: which versions are here, which backends work, and why one does not."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import pavi

PROBE_SECONDS = 180


@dataclass(frozen=True)
class Probe:
    """What a backend needs, and a program that shows that it compiles and computes."""

    packages: tuple[str, ...]
    program: str


# Each program runs in a process of its own: an import that crashes takes only that one with it.
# Its last line of output is JSON: the device, and the sum of the squares of 0, 1, 2.
PROBES = {
    "numpyro": Probe(
        ("jax", "jaxlib", "numpyro", "optax", "threadpoolctl"),
        """
import json, jax, numpyro, optax, pavi.backends.numpyro
total = jax.jit(lambda x: (x * x).sum())(jax.numpy.arange(3.0))
print(json.dumps([jax.devices()[0].platform, float(total)]))
""",
    ),
    "tfp": Probe(
        ("tensorflow", "tensorflow-probability", "tf-keras"),
        """
import json, tensorflow as tf, tensorflow_probability, tf_keras, pavi.backends.tfp
total = tf.function(lambda x: tf.reduce_sum(x * x), jit_compile=True)(tf.range(3.0))
print(json.dumps(["gpu" if tf.config.list_physical_devices("GPU") else "cpu", float(total)]))
""",
    ),
}
OTHER_PACKAGES = (
    "numpy",
    "scipy",
    "safetensors",
    "click",
    "tqdm",
    "matplotlib",
    "graphviz",
    "pandas",
    "xarray",
    "zarr",
    "arviz",
    "arviz-stats",
)


@dataclass(frozen=True)
class Finding:
    """Whether a backend works here, and a sentence that says so or why not."""

    backend: str
    works: bool
    sentence: str


def installed(package: str) -> str | None:
    """Returns the package's version without importing it, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> str:
    """Returns a line for each package that matters, in columns."""
    packages = [*OTHER_PACKAGES, *(p for probe in PROBES.values() for p in probe.packages)]
    width = max(map(len, packages))
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    lines = [f"pavi {pavi.__version__}, Python {platform.python_version()}, {machine}"]
    lines += [f"  {package:{width}}  {installed(package) or '-'}" for package in packages]
    return "\n".join(lines)


def examine(backend: str) -> Finding:
    """Imports the backend and compiles a one-line program, in a process of its own."""
    probe = PROBES[backend]
    remedy = f'Install it with: pip install "pavi-vi[{backend}]"'
    absent = [package for package in probe.packages if installed(package) is None]
    if absent:
        return Finding(backend, False, f"not installed: no {', '.join(absent)}. {remedy}")
    try:
        run = subprocess.run(
            [sys.executable, "-c", probe.program],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding(backend, False, f"gave no answer within {PROBE_SECONDS} s.")
    if run.returncode:
        return Finding(backend, False, f"{_reason(run)} {remedy}")
    device, total = json.loads(run.stdout.splitlines()[-1])
    if total != 5.0:
        return Finding(backend, False, f"computes wrongly on {device}: 0 + 1 + 4 gave {total}.")
    return Finding(backend, True, f"works, on {device}.")


def _reason(run: subprocess.CompletedProcess[str]) -> str:
    if run.returncode < 0:
        return f"crashed with {signal.Signals(-run.returncode).name}."
    said = run.stderr.strip().splitlines()
    return f"does not work: {said[-1] if said else f'exit status {run.returncode}'}."
