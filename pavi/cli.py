"""The `pavi` command: fit a model file, show its plates, say which backends work here."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import pavi
from pavi import doctor as diagnosis
from pavi.errors import PaviError

if TYPE_CHECKING:
    import numpy as np

    from pavi.data import BoundData
    from pavi.family import Encoding, Family
    from pavi.model_file import ModelFile
    from pavi.posterior import Posterior

ELBO_SAMPLES = 1000
MAX_PANELS = 6  # components of an event that get a panel each
DPI = 130
MAX_DRAWS_BYTES = 2 * 2**30
FAILED = 2  # the exit code of a PaviError


class _Commands(click.Group):
    """A group whose commands end on a `PaviError` with one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PaviError as error:
            if os.environ.get("PAVI_DEBUG", "0") not in ("", "0"):
                raise
            click.echo(f"pavi: {' '.join(str(error).split())}", err=True)
            ctx.exit(FAILED)


def _steps(ctx: click.Context, param: click.Parameter, value: str) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if not value.isdigit() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither 'auto' nor a positive number of steps.")
    return int(value)


def _batch(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, int]:
    batch = {}
    for item in value:
        plate, _, size = item.partition("=")
        if not plate or not size.isdigit() or int(size) < 1:
            raise click.BadParameter(f"{item!r} is not of the form plate=N, such as county=64.")
        if plate in batch:
            raise click.BadParameter(f"the plate {plate!r} is given twice.")
        batch[plate] = int(size)
    return batch


_FILE = click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
)
_BATCH = click.option(
    "--batch",
    metavar="PLATE=N",
    multiple=True,
    callback=_batch,
    help="Rows of a plate that each step takes, such as county=64; once for each plate.",
)
_ENCODING = click.option(
    "--encoding",
    type=click.Choice(["auto", "free", "encoder", "encoder+free"]),
    help="How elements of a plate are told apart; overrides the file's family().",
)


@click.group(cls=_Commands, epilog="`python -m pavi` is the same command.")
@click.version_option(pavi.__version__, prog_name="pavi")
def main() -> None:
    """Plate-amortized variational inference for hierarchical models."""
    # TensorFlow reports on its own start-up; the command's output is the posterior.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@main.command()
@_FILE
@click.option("--backend", required=True, type=click.Choice(["numpyro", "tfp"]))
@click.option(
    "--steps",
    metavar="N|auto",
    default="auto",
    show_default=True,
    callback=_steps,
    help="How many, or 'auto': until the ELBO no longer rises.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@_BATCH
@click.option(
    "--draws",
    type=click.IntRange(min=2),
    default=4000,
    show_default=True,
    help="Posterior draws behind the table, the pictures and draws.npz.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the run; by default runs/<file>-<backend>.",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True
)
@_ENCODING
@click.option(
    "--checkpoint",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for checkpoints; a fit that was stopped goes on from the newest one.",
)
@click.option("--fresh", is_flag=True, help="Start anew, whatever checkpoints there are.")
@click.option("--dry-run", is_flag=True, help="Say what the fit will cost, after a short probe.")
@click.option("--progress/--no-progress", default=True, help="Show a progress bar.")
def fit(
    file: Path,
    backend: str,
    steps: int | Literal["auto"],
    seed: int,
    batch: dict[str, int],
    draws: int,
    output: Path | None,
    dtype: Literal["float32", "float64"],
    encoding: Encoding | None,
    checkpoint: Path | None,
    fresh: bool,
    dry_run: bool,
    progress: bool,
) -> None:
    """Fits the model that FILE defines and prints the posterior of its globals.

    FILE is a Python file with the functions graph() and data(), and optionally family() and
    report(posterior), and a dict picture = {"variable": ..., "plate": ...}. The run's weights, its
    draws (draws.npz), the table and two pictures are written to the output folder.
    """
    from pavi import model_file

    model = model_file.read(file)
    if model.data is None:
        raise PaviError(
            f"{file} defines no data(): add a function data() that returns a pavi.Data."
        )
    folder = output or Path("runs") / f"{file.stem}-{backend}"
    _check_draws(model, model.data.bind(model.graph), draws, dtype)
    _check_output(folder)
    run = partial(
        pavi.fit,
        model.graph,
        model.data,
        backend=backend,
        family=_with_encoding(model, encoding),
        batch=batch or None,
        steps=steps,
        seed=seed,
        dtype=dtype,
        progress=progress,
    )
    if dry_run:
        click.echo(str(run(checkpoint=checkpoint, dry_run=True)))
        return
    posterior = run(checkpoint=checkpoint, resume=not fresh)
    # The weights come first: whatever fails from here on, the fit is not lost.
    unsaved: Exception | None = None
    try:
        posterior.save(folder)
    except (OSError, pavi.StorageError) as error:
        unsaved = error
    text, samples = _result(posterior, draws, seed)
    click.echo(text)
    try:
        if unsaved is not None:
            raise unsaved
        written = _write(posterior, samples, text, folder, model, backend)
    except OSError as error:
        raise _unwritable(folder, error) from error
    if model.report is not None:
        model_file.run_user_code(file, model.report, posterior)
    click.echo(f"written to {folder}: {', '.join(written)}")


@main.command()
@_FILE
@_BATCH
@_ENCODING
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "dot"]),
    default="text",
    show_default=True,
    help="Print words, or the plate diagram in Graphviz's language.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the plate diagram to this file: a picture (.svg, .png, .pdf) where Graphviz is "
    "installed, else in its language.",
)
def render(
    file: Path, batch: dict[str, int], encoding: Encoding | None, form: str, output: Path | None
) -> None:
    """Prints the plate graph that FILE defines and, where it has data(), the guide's plan."""
    from pavi import model_file
    from pavi.lowering import lower
    from pavi.plot.diagram import drawn, to_dot

    model = model_file.read(file)
    plan = None
    if model.data is not None:
        sizes = model.data.bind(model.graph).sizes
        plan = lower(model.graph, _with_encoding(model, encoding), sizes, batch)
    if form == "dot":
        click.echo(to_dot(plan or model.graph), nl=False)
    else:
        click.echo(str(model.graph) + (f"\n\n{plan}" if plan else ""))
    if output is not None:
        diagram = drawn(plan or model.graph, output.suffix)
        try:
            output.write_bytes(diagram)
        except OSError as error:
            raise pavi.StorageError(f"cannot write the diagram to {output}: {error}") from error
        click.echo(f"written to {output}", err=form == "dot")


@main.command()
def doctor() -> None:
    """Prints versions, and for each backend whether it works here; exits 1 if none does."""
    click.echo(diagnosis.versions())
    findings = [diagnosis.examine(backend) for backend in diagnosis.PROBES]
    for finding in findings:
        click.echo(f"backend {finding.backend}: {finding.sentence}")
    if diagnosis.installed("matplotlib") is None:
        click.echo('pictures: no matplotlib. Install it with: pip install "pavi-vi[plots]"')
    if not any(finding.works for finding in findings):
        raise SystemExit(1)


def _with_encoding(model: ModelFile, encoding: Encoding | None) -> Family:
    return model.family if encoding is None else replace(model.family, encoding=encoding)


def _check_draws(model: ModelFile, data: BoundData, draws: int, dtype: str) -> None:
    """Refuses, before the fit, a number of draws that would not fit the memory after it."""
    scalars = {
        latent.name: math.prod(data.sizes[plate] for plate in latent.plates)
        * math.prod(latent.event)
        for latent in model.graph.latents
    }
    # The draws themselves, and two copies in float64 of those that the picture may show
    one = {"float32": 4, "float64": 8}[dtype] * sum(scalars.values())
    if model.picture is not None:
        latent = model.graph.variables[model.picture.variable]
        one += 2 * 8 * data.sizes[model.picture.plate] * math.prod(latent.event)
    size = one * draws
    if size > MAX_DRAWS_BYTES:
        raise PaviError(
            f"{draws:,} draws of {sum(scalars.values()):,} latents in {dtype} would take "
            f"{size / 2**30:.1f} GiB; give --draws {max(MAX_DRAWS_BYTES // one, 2)} or fewer."
        )


def _check_output(folder: Path) -> None:
    """Refuses, before the fit, a folder that the run could not be written to after it."""
    from pavi.storage import check_folder

    try:
        check_folder(folder)
        above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise _unwritable(folder, error) from error
    if not above.is_dir():
        raise _unwritable(folder, f"{above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _unwritable(folder, f"no permission to write in {above}")


def _unwritable(folder: Path, why: object) -> PaviError:
    return pavi.StorageError(
        f"cannot write the run to {folder}: {why}. Give another folder by --output."
    )


def _result(posterior: Posterior, draws: int, seed: int) -> tuple[str, dict[str, np.ndarray]]:
    """Returns what is printed, and the draws it rests on."""
    from pavi.report import summarise, table

    samples = posterior.sample(draws, seed=seed)
    names = [latent.name for latent in posterior.graph.latents if not latent.plates]
    elbo, error = posterior.elbo(ELBO_SAMPLES)
    lines = [table(summarise(samples, names)), ""] if names else []
    lines += [
        f"ELBO {elbo:.3f} (standard error {error:.3f}, {ELBO_SAMPLES:,} draws)",
        f"{'converged' if posterior.converged else 'NOT converged'}: {posterior.verdict}",
        f"fit took {posterior.seconds:.1f} s",
    ]
    return "\n".join(lines), samples


def _write(
    posterior: Posterior,
    samples: Mapping[str, np.ndarray],
    text: str,
    folder: Path,
    model: ModelFile,
    backend: str,
) -> list[str]:
    """Writes the draws, the table and the pictures of a saved run; returns what is written."""
    _write_npz(folder / "draws.npz", samples)
    (folder / "table.txt").write_text(text + "\n", encoding="utf-8")
    written = ["the run", "draws.npz", "table.txt"]
    if diagnosis.installed("matplotlib") is None:
        click.echo('no pictures: pip install "pavi-vi[plots]" draws them', err=True)
        return written

    from pavi import plot
    from pavi.plot.canvas import sheet
    from pavi.plot.groups import width_of

    figure, (axes,) = sheet(1, width=6.4, height=4.2)
    plot.elbo(posterior, ax=axes).set_title(f"{model.path.stem} on {backend}")
    figure.savefig(folder / "elbo.png", dpi=DPI)
    written.append("elbo.png")
    if model.picture is not None:
        name, plate = model.picture.variable, model.picture.plate
        event = model.graph.variables[name].event
        components = list(islice(product(*map(range, event)), MAX_PANELS))
        width = width_of(posterior.data.sizes[plate])
        figure, panels = sheet(len(components), width=width, height=1.0 + 3.2 * len(components))
        for component, axes in zip(components, panels, strict=True):
            plot.intervals(
                posterior, name, plate=plate, component=component, draws=samples, ax=axes
            )
        figure.savefig(folder / f"{name}.png", dpi=DPI)
        written.append(f"{name}.png")
    return written


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays under any name; `numpy.savez` has arguments of its own, such as `file`."""
    from numpy.lib.format import write_array

    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                write_array(entry, array, allow_pickle=False)
