"""Saved runs: weights in safetensors, the rest in JSON, checked by SHA-256; no pickle, ever."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pavi.backends.base import get_adapter
from pavi.data import Data
from pavi.errors import FamilyError, StorageError
from pavi.family import Family
from pavi.graph import PlateGraph
from pavi.lowering import lower
from pavi.posterior import Posterior
from pavi.schedule import History

FORMAT = 1
_RUN, _WEIGHTS = "run.json", "weights.safetensors"
# What a description has; `_describe` writes it.
_KEYS = frozenset(
    {
        "format",
        "graph",
        "variables",
        "data",
        "sizes",
        "batch",
        "standards",
        "family",
        "backend",
        "dtype",
        "converged",
        "verdict",
        "seconds",
        "history",
        "weights_sha256",
    }
)


def save(posterior: Posterior, folder: Path) -> None:
    """Writes a run, whole or not at all.

    Args:
        posterior: the fitted posterior.
        folder: where to; a run that is there already is replaced.

    Raises:
        StorageError: the folder holds something that is not a run.
    """
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is a file, not a folder; give an empty or a new folder.")
    # Weights alone are what an interrupted save leaves of a first run.
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if found - {_WEIGHTS} and _RUN not in found:
        raise StorageError(
            f"{folder} holds files that are not a saved run; give an empty or a new folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        arrays = {f"weights:{k}": np.ascontiguousarray(v) for k, v in posterior.weights.items()}
        arrays |= {f"tables:{k}": np.ascontiguousarray(v) for k, v in posterior.tables.items()}
        save_file(arrays, scratch / _WEIGHTS)
        (scratch / _WEIGHTS).chmod(0o666 & ~_umask())
        description = _describe(posterior)
        description["weights_sha256"] = _digest(scratch / _WEIGHTS)
        sealed = {"sha256": _seal(description), "run": description}
        (scratch / _RUN).write_text(_text(sealed))
        folder.mkdir(exist_ok=True)
        # The description goes last: without it, or with an older one, the weights do not match.
        for name in (_WEIGHTS, _RUN):
            os.replace(scratch / name, folder / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load(folder: str | Path, graph: PlateGraph, data: Data, *, backend: str) -> Posterior:
    """Reads a run, on either backend.

    Args:
        folder: where it was saved.
        graph: the model it was fitted with.
        data: the data it was fitted to.
        backend: the backend to use it on, whichever it was trained on.

    Returns:
        The posterior.

    Raises:
        StorageError: not a run, a truncated or edited file, another graph or other data.
        BackendError: an unknown backend, or one that is not installed.
    """
    folder = Path(folder)
    run = _read(folder)
    bound = data.bind(graph)
    if run["graph"] != graph.fingerprint():
        raise StorageError(
            f"{folder} was fitted with another graph. It had the variables "
            f"{', '.join(run['variables'])}; this one has {', '.join(graph.variables)}. Load it "
            "with the graph it was fitted with."
        )
    if run["data"] != bound.fingerprint():
        sizes = {k: (v, bound.sizes.get(k)) for k, v in run["sizes"].items()}
        raise StorageError(
            f"{folder} was fitted to other data (plate: saved size, given size: {sizes}). Load it "
            "with the data it was fitted to, then use `encode` for other data."
        )
    standards = {k: (float(m), float(s)) for k, (m, s) in run["standards"].items()}
    try:
        family = Family.from_json(run["family"])
    except (TypeError, FamilyError) as error:
        raise StorageError(
            f"{folder} names a family that this version of pavi does not have ({error}); it was "
            "written by another version: fit again."
        ) from error
    plan = lower(graph, family, bound.sizes, run["batch"], standards)
    arrays = _read_weights(folder, run["weights_sha256"])
    wanted = {f"weights:{b.name}/{k}": s.shape for b in plan.blocks for k, s in b.parameters}
    wanted |= {
        f"tables:{b.name}": (b.copies + 1, b.table_width) for b in plan.blocks if b.table_width
    }
    found = {name: value.shape for name, value in arrays.items()}
    if wanted != found:
        differing = sorted(set(wanted.items()) ^ set(found.items()))[:4]
        raise StorageError(
            f"{folder}: the weights do not fit the family they name; differing: {differing}. The "
            "run was written by another version of pavi; fit again."
        )
    get_adapter(backend)
    step, elbo, elbo_se = (run["history"][key] for key in ("step", "elbo", "elbo_se"))
    # NumPy reads None as NaN.
    history = History(np.array(step, np.int64), np.array(elbo, float), np.array(elbo_se, float))
    return Posterior(
        plan=plan,
        data=bound,
        backend=backend,
        weights=_part(arrays, "weights:"),
        tables=_part(arrays, "tables:"),
        dtype=run["dtype"],
        history=history,
        converged=run["converged"],
        verdict=run["verdict"],
        seconds=run["seconds"],
    )


def _describe(posterior: Posterior) -> dict[str, Any]:
    plan = posterior.plan
    return {
        "format": FORMAT,
        "graph": plan.graph.fingerprint(),
        "variables": list(plan.graph.variables),
        "data": posterior.data.fingerprint(),
        "sizes": dict(plan.sizes),
        "batch": dict(plan.batch),
        "standards": {k: list(v) for k, v in plan.standards.items()},
        "family": plan.family.to_json(),
        "backend": posterior.backend,
        "dtype": posterior.dtype,
        "converged": posterior.converged,
        "verdict": posterior.verdict,
        "seconds": posterior.seconds,
        "history": {
            "step": posterior.history.step.tolist(),
            "elbo": _numbers(posterior.history.elbo),
            "elbo_se": _numbers(posterior.history.elbo_se),
        },
    }


def _part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _numbers(array: np.ndarray) -> list[float | None]:
    """JSON has no NaN: null stands for it."""
    return [float(x) if np.isfinite(x) else None for x in array]


def _text(description: dict[str, Any]) -> str:
    return json.dumps(description, indent=1, sort_keys=True)


def _seal(description: dict[str, Any]) -> str:
    return sha256(_text(description).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        digest = sha256()
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _read(folder: Path) -> dict[str, Any]:
    path = folder / _RUN
    if not path.is_file():
        raise StorageError(f"{folder} holds no saved run: {_RUN} is missing.")
    try:
        sealed = json.loads(path.read_text())
        run, seal = sealed["run"], sealed["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{path} is truncated or is not a run's description ({error}); restore it or fit again."
        ) from error
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        raise StorageError(
            f"{path} has format {run.get('format') if isinstance(run, dict) else None}; this "
            f"version of pavi reads format {FORMAT}."
        )
    if _seal(run) != seal:
        raise StorageError(f"{path} was edited after it was saved; restore it or fit again.")
    absent = sorted(_KEYS - run.keys())
    if absent:
        raise StorageError(
            f"{path} says nothing of {', '.join(map(repr, absent))}; it was written by another "
            "version of pavi: fit again."
        )
    return run


def _read_weights(folder: Path, digest: str) -> dict[str, np.ndarray]:
    path = folder / _WEIGHTS
    if not path.is_file():
        raise StorageError(f"{folder} holds no weights: {_WEIGHTS} is missing.")
    if _digest(path) != digest:
        raise StorageError(
            f"{path} is truncated, was edited, or belongs to another run (its SHA-256 is not the "
            f"one in {_RUN}); restore it or fit again."
        )
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
