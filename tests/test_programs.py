"""Which compiled programs serve another fit: those of the same plan, one run at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_models import county, rng

import pavi
from pavi import Data, Family
from pavi import trainer as trainer_module
from pavi.programs import Programs


class Counting:
    """A backend that counts what it compiles."""

    name = "counting"

    def __init__(self) -> None:
        self.programs: list[object] = []

    def program(self, *_: Any) -> object:
        self.programs.append(object())
        return self.programs[-1]

    def functions(self, *_: Any) -> object:
        return object()


def other_data(**changes: Any) -> Data:
    _, data = county()
    return Data({**data.values, "y": 7.0 * rng(90).normal(size=11), **changes}, *parts(data))


def parts(data: Data) -> tuple[Any, Any]:
    return data.members, data.sizes


def taken(programs: Programs, backend: Counting, trainer: pavi.Trainer) -> object:
    return programs.taken(backend, trainer.plan, trainer._settings)  # type: ignore[arg-type]


def give_back(programs: Programs, backend: Counting, trainer: pavi.Trainer, program: Any) -> None:
    programs.give_back(backend, trainer.plan, trainer._settings, program)  # type: ignore[arg-type]


def test_a_program_serves_other_data_once_it_is_given_back() -> None:
    graph, data = county()
    programs, backend = Programs(), Counting()
    first = pavi.Trainer(graph, data, backend=None)
    other = first.on(other_data(), seed=3)
    assert other.plan.standards != first.plan.standards
    program = taken(programs, backend, first)
    assert taken(programs, backend, other) is not program
    give_back(programs, backend, first, program)
    assert taken(programs, backend, other) is program
    assert len(backend.programs) == 2


@pytest.mark.parametrize("changed", ["sizes", "family", "options", "standards"])
def test_a_program_serves_its_own_plan_alone(changed: str) -> None:
    graph, data = county()
    deep = Family(encoding="encoder", encoder="deep_set")
    programs, backend = Programs(), Counting()
    first = pavi.Trainer(
        graph, data, backend=None, family=deep if changed == "standards" else Family()
    )
    give_back(programs, backend, first, taken(programs, backend, first))
    larger = Data(data.values, data.members, {"county": 7})
    other = {
        "sizes": lambda: first.on(larger),
        "family": lambda: pavi.Trainer(graph, data, backend=None, family=deep),
        "options": lambda: pavi.Trainer(graph, data, backend=None, num_particles=3),
        "standards": lambda: first.on(other_data()),
    }[changed]()
    taken(programs, backend, other)
    assert len(backend.programs) == 2


def test_other_data_are_checked_as_the_first_ones_were() -> None:
    graph, data = county()
    trainer = pavi.Trainer(graph, data, backend=None, batch={"county": 3})
    other = trainer.on(other_data(), seed=5)
    assert other.plan.batch == {"county": 3}
    np.testing.assert_array_equal(other.data.values["y"], other_data().values["y"])
    np.testing.assert_array_equal(trainer.data.values["y"], data.values["y"])
    with pytest.raises(pavi.PaviError, match=r"pavi\.Data"):
        trainer.on(3)  # type: ignore[arg-type]
    with pytest.raises(pavi.PaviError, match="seed=-1"):
        trainer.on(data, seed=-1)
    with pytest.raises(pavi.PaviError, match="'floor'"):
        trainer.on(other_data(floor=np.ones(4)))


def test_a_trainer_and_those_on_other_data_share_their_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = Counting()
    monkeypatch.setattr(trainer_module, "get_adapter", lambda name: backend)
    graph, data = county()
    trainer = pavi.Trainer(graph, data, backend="numpyro")
    assert trainer.on(other_data())._programs is trainer._programs
    assert pavi.Trainer(graph, data, backend="numpyro")._programs is not trainer._programs
