"""A model in a Python file, as `pavi fit` and `pavi render` take it.

The file defines `graph()`, and to be fitted also `data()`. It may define `family()`, `picture`
(a dict of `variable` and `plate`) and `report(posterior)`, which prints more.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pavi.data import Data
from pavi.errors import PaviError, did_you_mean
from pavi.family import Family
from pavi.graph import PlateGraph


@dataclass(frozen=True)
class Picture:
    """Which latent is drawn with intervals, along which of its plates."""

    variable: str
    plate: str


@dataclass(frozen=True)
class ModelFile:
    """What a model file defines; `data` is None where the file has no `data()`."""

    path: Path
    graph: PlateGraph
    data: Data | None
    family: Family
    picture: Picture | None
    report: Callable[[Any], None] | None


def read(path: Path) -> ModelFile:
    """Runs the file and calls its functions.

    Raises:
        PaviError: the file does not run, lacks `graph()`, or one of its parts is of the wrong type.
    """
    module = _run(path)
    graph = _call(path, module, "graph", PlateGraph)
    if graph is None:
        raise PaviError(
            f"{path} defines no graph(): add a function graph() that returns a pavi.PlateGraph."
        )
    return ModelFile(
        path=path,
        graph=graph,
        data=_call(path, module, "data", Data),
        family=_call(path, module, "family", Family) or Family(),
        picture=_picture(path, getattr(module, "picture", None), graph),
        report=_report(path, module),
    )


def run_user_code(path: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of the model file; what goes wrong in it is told with its file and line."""
    try:
        return function(*arguments)
    except PaviError:
        raise
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else frames and frames[-1].lineno
        where = f"{path}, line {line}" if line else str(path)
        raise PaviError(f"{where}: {type(error).__name__}: {error}") from error


def _run(path: Path) -> ModuleType:
    name = f"_pavi_model_{path.stem}"
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None  # a loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(
            0, folder
        )  # as `python FILE` does, so that the file may import its neighbours
    run_user_code(path, loader.exec_module, module)
    return module


def _call(path: Path, module: ModuleType, name: str, wanted: type) -> Any:
    """Returns what the file's function returns, or None where the file has no such function."""
    function = getattr(module, name, None)
    if function is None:
        return None
    if not callable(function):
        raise PaviError(
            f"{path}: {name} is a {type(function).__name__}, not a function. "
            f"Write def {name}(): ... that returns a pavi.{wanted.__name__}."
        )
    value = run_user_code(path, function)
    if not isinstance(value, wanted):
        raise PaviError(
            f"{path}: {name}() returned a {type(value).__name__}; "
            f"it should return a pavi.{wanted.__name__}."
        )
    return value


def _report(path: Path, module: ModuleType) -> Callable[[Any], None] | None:
    function = getattr(module, "report", None)
    if function is not None and not callable(function):
        raise PaviError(f"{path}: report should be a function report(posterior).")
    return function


def _picture(path: Path, wish: object, graph: PlateGraph) -> Picture | None:
    """Returns the file's wish, checked; without one, the first latent that lies in a plate."""
    in_plates = {v.name: v.plates for v in graph.latents if v.plates}
    if wish is None:
        return next((Picture(name, plates[-1]) for name, plates in in_plates.items()), None)
    if not isinstance(wish, Mapping) or set(wish) != {"variable", "plate"}:
        raise PaviError(
            f'{path}: picture should be a dict {{"variable": ..., "plate": ...}}, not {wish!r}.'
        )
    variable, plate = wish["variable"], wish["plate"]
    if variable not in in_plates:
        raise PaviError(
            f"{path}: picture names {variable!r}, which is not a latent in a plate."
            + did_you_mean(variable, in_plates)
        )
    if plate not in in_plates[variable]:
        raise PaviError(
            f"{path}: picture names the plate {plate!r}, in which {variable!r} does not lie."
            + did_you_mean(plate, in_plates[variable])
        )
    return Picture(variable, plate)
