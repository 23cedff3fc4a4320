"""Reading a saved run back into a posterior, on either backend."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from pavi import storage
from pavi.backends.base import get_adapter
from pavi.binding import BoundData
from pavi.data import Data
from pavi.errors import FamilyError, StorageError
from pavi.family import Family
from pavi.graph import PlateGraph
from pavi.lowering import lower
from pavi.posterior import Posterior
from pavi.prefixes import part_of, prefixed
from pavi.schedule import History
from pavi.tables import TABLE_MEMORY, TableSpace, fitted_shapes

# What a description has; `Posterior.save` writes it.
_KEYS = frozenset(
    {
        "graph",
        "variables",
        "data",
        "arrays",
        "sizes",
        "batch",
        "standards",
        "family",
        "blocks",
        "backend",
        "dtype",
        "converged",
        "verdict",
        "seconds",
        "history",
    }
)


def load(
    folder: str | Path,
    graph: PlateGraph,
    data: Data,
    *,
    backend: str,
    table_memory: int = TABLE_MEMORY,
) -> Posterior:
    """Reads a run, on either backend.

    Args:
        folder: where it was saved.
        graph: the model it was fitted with.
        data: the data it was fitted to.
        backend: the backend to use it on, whichever it was trained on.
        table_memory: bytes of free tables to hold in memory; larger ones are read by rows from the
            folder, which must then stay as it is.

    Returns:
        The posterior.

    Raises:
        StorageError: not a run, a truncated or edited file, another graph or other data.
        BackendError: an unknown backend, or one that is not installed.
        PaviError: a `table_memory` that is no number of bytes.
    """
    for argument, given, kind in (("graph", graph, PlateGraph), ("data", data, Data)):
        if not isinstance(given, kind):
            raise StorageError(
                f"pavi.load({argument}=...) must be a pavi.{kind.__name__}, got "
                f"{type(given).__name__}. Give the {argument} that the run was fitted with."
            )
    if not isinstance(folder, str | PathLike):
        raise StorageError(
            f"pavi.load({folder!r}, ...): the folder must be a path, got "
            f"{type(folder).__name__}. Give the folder that `Posterior.save` wrote."
        )
    folder = Path(folder)
    run, arrays = storage.read(folder, _KEYS, TableSpace(table_memory).memory)
    # encoded data may have no outcomes
    bound = data.bind(graph, need_outcomes=False)
    if run["graph"] != graph.fingerprint():
        raise StorageError(
            f"{folder} was fitted with another graph. It had the variables "
            f"{', '.join(run['variables'])}; this one has {', '.join(graph.variables)}. Load it "
            "with the graph it was fitted with."
        )
    _check_data(folder, run, bound)
    standards = {k: (float(m), float(s)) for k, (m, s) in run["standards"].items()}
    try:
        family = Family.from_json(run["family"])
    except (TypeError, FamilyError) as error:
        raise StorageError(
            f"{folder} names a family that this version of pavi does not have ({error}); it was "
            "written by another version: fit again."
        ) from error
    plan = lower(graph, family, bound.sizes, run["batch"], standards)
    settled = [(b.name, b.joint, b.encoding) for b in plan.blocks]
    saved = [(name, joint, encoding) for name, joint, encoding in run["blocks"]]
    if settled != saved and {name for name, *_ in settled} == {name for name, *_ in saved}:
        # Posteriors of other data keep what was settled on for the data of the fit.
        blocks = (replace(plan.block(n), joint=j, encoding=e) for n, j, e in saved)
        like = replace(plan, blocks=tuple(blocks))
        plan = lower(graph, family, bound.sizes, run["batch"], standards, like=like)
    wanted = {f"weights:{b.name}/{k}": s.shape for b in plan.blocks for k, s in b.parameters}
    wanted |= prefixed("tables:", fitted_shapes(plan))
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
    history = History(
        np.array(step, np.int64),
        np.array(elbo, float),
        np.array(elbo_se, float),
        phase=np.array(run["history"].get("phase", []), np.int64),
    )
    return Posterior(
        plan=plan,
        data=bound,
        backend=backend,
        weights=part_of("weights:", arrays),
        tables=part_of("tables:", arrays),
        dtype=run["dtype"],
        history=history,
        converged=run["converged"],
        verdict=run["verdict"],
        seconds=run["seconds"],
    )


def _check_data(folder: Path, run: dict[str, Any], bound: BoundData) -> None:
    """Raises unless these are the data of the run, in its precision."""
    if run["data"] == bound.fingerprint(run["dtype"]):
        return
    saved, given = run["arrays"], bound.fingerprints(run["dtype"])
    if run["sizes"] != bound.sizes:
        sizes = {k: (v, bound.sizes.get(k)) for k, v in run["sizes"].items()}
        what = f"plate: saved size, given size: {sizes}"
    else:
        names = sorted(saved.keys() | given.keys())
        differing = [name for name in names if saved.get(name) != given.get(name)]
        what = f"the sizes agree; the arrays that differ: {', '.join(differing)}"
    raise StorageError(
        f"{folder} was fitted to other data ({what}). Load it with the data it was fitted to, then "
        "use `encode` for other data."
    )
