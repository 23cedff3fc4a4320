"""The package as such: what importing it costs and loads, its names, its files."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pavi
from pavi.doctor import PROBES

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"
FRAMEWORKS = {"jax", "numpyro", "optax", "tensorflow", "tensorflow_probability", "tf_keras"}


def python(program: str) -> str:
    """Runs a program in a fresh interpreter and returns what it prints."""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def loaded_by(program: str) -> set[str]:
    """Returns the top-level modules that are loaded after a program."""
    out = python(
        f"{program}\nimport sys\nprint('LOADED', *{{m.partition('.')[0] for m in sys.modules}})"
    )
    return set(out.rpartition("LOADED")[2].split())


def test_import_takes_less_than_a_third_of_a_second() -> None:
    program = "import time; t = time.perf_counter(); import pavi; print(time.perf_counter() - t)"
    assert min(float(python(program)) for _ in range(3)) < 0.3


def test_import_loads_no_framework() -> None:
    assert not loaded_by("import pavi") & (FRAMEWORKS | {"scipy", "pandas", "matplotlib"})


def test_from_graph_to_plan_loads_no_framework() -> None:
    program = f"""
from pavi.cli import main
main(["render", {str(EXAMPLES / "radon.py")!r}], standalone_mode=False)
"""
    assert not loaded_by(program) & FRAMEWORKS


def test_a_fit_loads_its_own_backend_only(backend: str) -> None:
    program = f"""
import numpy, pavi
from pavi import dist
graph = pavi.PlateGraph(
    plates=[pavi.Plate("row")],
    variables=[
        pavi.Latent("mu", dist.Normal(0.0, 1.0)),
        pavi.Observed("y", lambda mu: dist.Normal(mu, 1.0), plates="row"),
    ],
)
pavi.fit(graph, pavi.Data({{"y": numpy.ones(3)}}), backend={backend!r}, steps=10, progress=False)
"""
    # TensorFlow imports JAX itself where it finds it.
    foreign = {"numpyro": {"tensorflow", "tf_keras"}, "tfp": {"numpyro", "optax"}}
    assert not loaded_by(program) & foreign[backend]


def test_the_oldest_jax_has_what_the_adapter_calls() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    floors = [r for r in project["optional-dependencies"]["numpyro"] if r.startswith("jax>=")]
    # jax.enable_x64 is a context manager from 0.8.0 on.
    assert [tuple(map(int, f.removeprefix("jax>=").split("."))) >= (0, 8) for f in floors] == [True]


@pytest.mark.parametrize("name", pavi.__all__)
def test_public_name(name: str) -> None:
    assert getattr(pavi, name) is getattr(pavi, name)
    assert name in dir(pavi)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Plates'"):
        _ = pavi.Plates


def test_kinds_of_error_are_pavi_errors_and_value_errors() -> None:
    kinds = [getattr(pavi, name) for name in pavi.__all__ if name.endswith("Error")]
    assert len(kinds) == 6
    assert all(issubclass(kind, pavi.PaviError) for kind in kinds)
    assert issubclass(pavi.PaviError, ValueError)


def test_doctor_looks_for_what_the_extras_install() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for backend, probe in PROBES.items():
        required = {re.split(r"[<>=]", requirement)[0] for requirement in extras[backend]}
        assert required <= set(probe.packages)


def test_the_two_commands_of_the_readme() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", readme, re.S | re.M)
    assert "pavi fit examples/radon.py" in blocks[0]
    assert "tox" in blocks[1]  # what .ci/run runs
