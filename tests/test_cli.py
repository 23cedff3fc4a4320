"""The `pavi` command: what it prints, writes and refuses."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import pavi
from pavi import cli, doctor
from pavi.schedule import History

EXAMPLES = Path(__file__).parents[1] / "examples"

MODEL = """
import numpy as np
import pavi
from pavi import dist

picture = {"variable": "effect", "plate": "group"}

def graph():
    return pavi.PlateGraph(
        plates=[pavi.Plate("group"), pavi.Plate("row", within="group")],
        variables=[
            pavi.Latent("location", dist.Normal(0.0, 1.0)),
            pavi.Latent("slope", dist.Normal(0.0, 1.0), event=(2,)),
            pavi.Latent("effect", lambda location: dist.Normal(location, 1.0), plates="group"),
            pavi.Observed(
                "y",
                lambda effect, slope: dist.Normal(effect + slope[..., 0] - slope[..., 1], 1.0),
                plates="row",
            ),
        ],
    )

def data():
    group = np.repeat(np.arange(4), 3)
    return pavi.Data({"y": 0.5 * group}, members={"row": {"group": group}})
"""


@dataclass
class FakePosterior:
    """What the command relies on, with draws that need no fit."""

    graph: pavi.PlateGraph
    data: Any
    options: dict[str, Any]
    seconds: float = 1.25
    history: History = field(
        default_factory=lambda: History(
            np.arange(10, 110, 10), -1e6 * np.exp(-np.arange(10.0)) - 20.0, np.full(10, 0.5)
        )
    )

    @property
    def converged(self) -> bool:
        return self.options["steps"] == "auto"

    @property
    def verdict(self) -> str:
        still = f"the ELBO still rises after {self.options['steps']} steps"
        return "the ELBO no longer rises" if self.converged else still

    def sample(self, num_samples: int, *, seed: int = 0) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(seed)
        shapes = {
            v.name: (num_samples, *(self.data.sizes[p] for p in v.plates), *v.event)
            for v in self.graph.latents
        }
        return {name: generator.normal(size=shape) for name, shape in shapes.items()}

    def elbo(self, num_samples: int) -> tuple[float, float]:
        return -20.25, 0.031

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text("{}")


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[FakePosterior]:
    """Replaces the fit; the list receives each posterior that the command was given."""
    given: list[FakePosterior] = []

    def fake_fit(graph: Any, data: Any, **options: Any) -> FakePosterior:
        given.append(FakePosterior(graph, data.bind(graph), options))
        return given[-1]

    monkeypatch.setitem(vars(pavi), "fit", fake_fit)
    return given


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model file, in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_fit_prints_globals_elbo_verdict_and_time(model: Path, fitted: list[FakePosterior]) -> None:
    result = run("fit", model, "--backend", "tfp")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["mean", "sd", "5%", "50%", "95%"]
    assert [line.split()[0] for line in lines[1:4]] == ["location", "slope[0]", "slope[1]"]
    assert "ELBO -20.250 (standard error 0.031, 1,000 draws)" in lines
    assert "converged: the ELBO no longer rises" in lines
    assert "fit took 1.2 s" in lines
    assert "effect" not in "".join(lines[:4])


def test_fit_writes_the_run(model: Path, fitted: list[FakePosterior]) -> None:
    result = run("fit", model, "--backend", "numpyro", "--draws", 50)
    folder = model.parent / "runs" / "model-numpyro"
    assert result.exit_code == 0, result.output
    assert {"run.json", "draws.npz", "table.txt"} <= {path.name for path in folder.iterdir()}
    with np.load(folder / "draws.npz") as draws:
        shapes = {name: draws[name].shape for name in draws}
    assert shapes == {"location": (50,), "slope": (50, 2), "effect": (50, 4)}
    assert (folder / "table.txt").read_text() in result.stdout


@pytest.mark.parametrize("vector", [False, True])
def test_fit_draws_two_pictures(model: Path, fitted: list[FakePosterior], vector: bool) -> None:
    pytest.importorskip("matplotlib")
    if vector:
        text = replaced('plates="group"),\n', 'plates="group", event=2),\n')
        model.write_text(text.replace("effect + slope", "effect[..., 1] + slope"))
    assert run("fit", model, "--backend", "tfp", "--output", "here").exit_code == 0
    for name in ("elbo.png", "effect.png"):
        assert (model.parent / "here" / name).read_bytes().startswith(b"\x89PNG")


def test_fit_passes_its_options_on(model: Path, fitted: list[FakePosterior]) -> None:
    options = (
        "--steps 70 --seed 3 --batch group=2 --dtype float64 --encoding free --no-progress "
        "--checkpoint kept --fresh"
    )
    assert run("fit", model, "--backend", "numpyro", *options.split()).exit_code == 0
    given = fitted[0].options
    assert given.pop("family").encoding == "free"
    assert given == {
        "backend": "numpyro",
        "batch": {"group": 2},
        "steps": 70,
        "seed": 3,
        "dtype": "float64",
        "progress": False,
        "checkpoint": Path("kept"),
        "resume": False,
    }


def test_a_dry_run_prints_the_forecast_and_writes_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(pavi), "fit", lambda *_, dry_run, **__: f"a forecast {dry_run}")
    result = run("fit", model, "--backend", "tfp", "--dry-run")
    assert (result.exit_code, result.stdout) == (0, "a forecast True\n")
    assert not (model.parent / "runs").exists()


def test_fit_says_that_it_did_not_converge(model: Path, fitted: list[FakePosterior]) -> None:
    result = run("fit", model, "--backend", "tfp", "--steps", 70)
    assert "NOT converged: the ELBO still rises after 70 steps" in result.stdout


def test_fit_calls_the_report_after_the_run_is_written(
    model: Path, fitted: list[FakePosterior]
) -> None:
    model.write_text(
        MODEL + "\ndef report(posterior):\n    print('exact', posterior.elbo(10)[0])\n"
    )
    assert "exact -20.25" in run("fit", model, "--backend", "tfp").stdout


def test_a_report_that_fails_loses_nothing(model: Path, fitted: list[FakePosterior]) -> None:
    model.write_text(MODEL + "\ndef report(posterior):\n    return 1 / 0\n")
    result = run("fit", model, "--backend", "tfp")
    assert result.exit_code == 2
    assert "ZeroDivisionError" in result.stderr
    assert (model.parent / "runs" / "model-tfp" / "draws.npz").exists()


def test_names_that_numpy_savez_keeps_for_itself(tmp_path: Path) -> None:
    arrays = {"file": np.arange(3.0), "allow_pickle": np.ones((2, 2))}
    cli._write_npz(tmp_path / "draws.npz", arrays)
    with np.load(tmp_path / "draws.npz") as written:
        assert all(np.array_equal(written[name], arrays[name]) for name in arrays)


def replaced(old: str, new: str) -> str:
    assert old in MODEL
    return MODEL.replace(old, new)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n", "defines no graph()"),
        (replaced("def data", "def no_data"), "defines no data()"),
        ("graph = 3\n", "graph is a int, not a function"),
        ("def graph():\n    return 3\n", "graph() returned a int"),
        ("def graph(:\n", "line 1: SyntaxError"),
        ("import no_such_module\n", "line 1: ModuleNotFoundError"),
        (replaced("group = np", "1 / 0; group = np"), "line 24: ZeroDivisionError"),
        (replaced('"effect", "plate"', '"efect", "plate"'), "Did you mean 'effect'?"),
        (replaced('"plate": "group"', '"plate": "row"'), "in which 'effect' does not lie"),
        (MODEL + "\npicture = 3\n", "picture should be a dict"),
        (MODEL + "\nreport = 3\n", "report should be a function"),
        (MODEL + "\ndef family():\n    return pavi.Family(encoding='none')\n", "encoding='none'"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    model: Path, fitted: list[FakePosterior], text: str, says: str
) -> None:
    model.write_text(text)
    result = run("fit", model, "--backend", "numpyro")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("pavi: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert not fitted


def test_debug_shows_the_traceback(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAVI_DEBUG", "1")
    model.write_text("x = 1\n")
    with pytest.raises(pavi.PaviError, match="defines no graph"):
        CliRunner().invoke(
            cli.main, ["fit", str(model), "--backend", "tfp"], catch_exceptions=False
        )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--backend", "torch"), "'torch' is not one of 'numpyro', 'tfp'"),
        ((), "Missing option '--backend'"),
        (("--backend", "tfp", "--steps", "-3"), "neither 'auto' nor a positive number"),
        (("--backend", "tfp", "--steps", "soon"), "neither 'auto' nor a positive number"),
        (("--backend", "tfp", "--batch", "group"), "not of the form plate=N"),
        (("--backend", "tfp", "--batch", "group=0"), "not of the form plate=N"),
        (("--backend", "tfp", "--batch", "row=1", "--batch", "row=2"), "'row' is given twice"),
        (("--backend", "tfp", "--draws", "1"), "--draws"),
        (("--backend", "tfp", "--draws", "99999999999"), "or fewer"),
    ],
)
def test_wrong_options_are_refused_before_the_fit(
    model: Path, fitted: list[FakePosterior], arguments: tuple[str, ...], says: str
) -> None:
    result = run("fit", model, *arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not fitted


def test_a_folder_that_cannot_be_written_is_refused_before_the_fit(
    model: Path, fitted: list[FakePosterior]
) -> None:
    (model.parent / "taken").write_text("a file")
    (model.parent / "work").mkdir()
    (model.parent / "work" / "thesis.tex").write_text("three years of work")
    for output, says in (
        ("taken", "'taken' is a file"),
        ("taken/run", "cannot write the run to taken/run"),
        ("work", "not a saved run"),
    ):
        result = run("fit", model, "--backend", "tfp", "--output", output)
        assert result.exit_code == 2
        assert says in result.stderr
        assert result.stdout == ""
        assert not fitted
    assert [path.name for path in (model.parent / "work").iterdir()] == ["thesis.tex"]


def test_a_folder_without_permission_is_refused_before_the_fit(
    model: Path, fitted: list[FakePosterior], monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: not mode & os.W_OK and access(p, mode))
    result = run("fit", model, "--backend", "tfp", "--output", "runs/mine")
    assert result.exit_code == 2
    assert "no permission" in result.stderr
    assert not fitted


def test_the_weights_are_saved_before_anything_else_can_fail(
    model: Path, fitted: list[FakePosterior], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(FakePosterior, "sample", no_memory)
    result = run("fit", model, "--backend", "tfp", "--output", "here")
    assert isinstance(result.exception, MemoryError)
    assert (model.parent / "here" / "run.json").exists()


def test_a_run_that_cannot_be_saved_is_shown_nevertheless(
    model: Path, fitted: list[FakePosterior], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(FakePosterior, "save", full)
    result = run("fit", model, "--backend", "tfp", "--output", "here")
    assert result.exit_code == 2
    assert "cannot write the run to here: no space left" in result.stderr
    assert "location" in result.stdout


def test_the_memory_of_draws_depends_on_their_dtype_and_on_the_picture(
    model: Path, fitted: list[FakePosterior], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 7 latents, and two copies of the 4 effects in the picture
    monkeypatch.setattr(cli, "MAX_DRAWS_BYTES", 100 * (7 * 4 + 2 * 4 * 8))
    assert run("fit", model, "--backend", "tfp", "--draws", 100).exit_code == 0
    assert "--draws 100 or fewer" in run("fit", model, "--backend", "tfp", "--draws", 101).stderr
    double = run("fit", model, "--backend", "tfp", "--draws", 100, "--dtype", "float64")
    assert "in float64" in double.stderr
    assert f"--draws {100 * 92 // 120} or fewer" in double.stderr
    assert len(fitted) == 1


def test_render_shows_graph_plan_and_diagram(model: Path) -> None:
    result = run("render", model, "--output", "plates.dot")
    assert result.exit_code == 0, result.output
    for name in ("location", "slope", "effect", "group", "row"):
        assert name in result.stdout
    diagram = (model.parent / "plates.dot").read_text()
    assert '"location" -> "effect";' in diagram
    # The two plates, and the block of the globals.
    assert diagram.count("subgraph") == 3
    assert diagram == run("render", model, "--format", "dot").stdout


def test_a_diagram_that_cannot_be_drawn_names_the_program(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("graphviz")
    monkeypatch.setenv("PATH", "")
    result = run("render", model, "--output", "plates.svg")
    assert result.exit_code == 2
    assert "Graphviz's program dot" in result.stderr
    assert not (model.parent / "plates.svg").exists()


def test_render_needs_no_data(model: Path) -> None:
    model.write_text(replaced("def data", "def no_data"))
    result = run("render", model)
    assert result.exit_code == 0, result.output
    assert "location" in result.stdout


@pytest.mark.parametrize("name", ["radon", "random_effects"])
def test_examples_bind_and_lower(name: str) -> None:
    assert run("render", EXAMPLES / f"{name}.py").exit_code == 0


def test_doctor_lists_versions_and_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = {
        "numpyro": doctor.Finding("numpyro", True, "works, on cpu."),
        "tfp": doctor.Finding("tfp", False, "not installed: no tensorflow."),
    }
    monkeypatch.setattr(doctor, "examine", findings.__getitem__)
    result = run("doctor")
    assert result.exit_code == 0
    assert f"pavi {pavi.__version__}" in result.stdout
    assert f"numpy                   {np.__version__}" in result.stdout
    assert "backend numpyro: works, on cpu." in result.stdout
    assert "backend tfp: not installed: no tensorflow." in result.stdout


def test_doctor_finds_what_is_installed(backend: str) -> None:
    assert doctor.examine(backend).works


def test_doctor_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed", lambda package: None)
    result = run("doctor")
    assert result.exit_code == 1
    assert 'pip install "pavi-vi[numpyro]"' in result.stdout
    assert 'pip install "pavi-vi[tfp]"' in result.stdout


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed with SIGSEGV"),
        ("raise ImportError('broken wheel')", "does not work: ImportError: broken wheel"),
        ("print('[\"cpu\", 4.0]')", "computes wrongly on cpu"),
        ("import time; time.sleep(60)", "gave no answer"),
    ],
)
def test_doctor_survives_a_broken_backend(
    monkeypatch: pytest.MonkeyPatch, program: str, says: str
) -> None:
    monkeypatch.setitem(doctor.PROBES, "numpyro", doctor.Probe((), program))
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 3)
    finding = doctor.examine("numpyro")
    assert not finding.works
    assert says in finding.sentence


def test_fit_end_to_end(model: Path, backend: str) -> None:
    options = ["--steps", "200", "--draws", "100", "--no-progress"]
    result = run("fit", model, "--backend", backend, *options)
    assert result.exit_code == 0, result.output
    folder = model.parent / "runs" / f"model-{backend}"
    with np.load(folder / "draws.npz") as draws:
        assert draws["effect"].shape == (100, 4)
        assert all(np.isfinite(draws[name]).all() for name in draws)


def test_the_help_names_the_module_too() -> None:
    assert "python -m pavi" in run("--help").output
