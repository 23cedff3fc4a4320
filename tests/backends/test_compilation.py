"""What XLA is told is told once, and leaves the environment as it was."""

import os

import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_probability")

from pavi.backends.tfp import compilation  # noqa: E402


@pytest.mark.parametrize("before", [None, "--xla_dump_hlo_as_text=false"])
def test_the_environment_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    if before is None:
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    else:
        monkeypatch.setenv("XLA_FLAGS", before)
    compilation._set_flags.cache_clear()
    double = compilation.compiled(lambda x: 2.0 * x)
    assert float(double(tf.constant(3.0))) == 6.0
    assert os.environ.get("XLA_FLAGS") == before
