"""How often the data of free rows were seen: counted, and in the verdict."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import bound

from pavi import Family
from pavi.lowering import lower
from pavi.schedule import Verdict, enough
from pavi.subsampling import Sampler
from pavi.visits import ENOUGH, Visits, rarest

FREE = Family(encoding="free")


@pytest.mark.parametrize("batch", [{"county": 2, "home": 2}, {"home": 4}, {"county": 3, "home": 1}])
def test_the_rarest_data_are_those_that_batches_hold_least_often(batch: dict[str, int]) -> None:
    """Counted over 20,000 steps of seed 1: within 5 %, where the standard error is 2 %."""
    data = bound("county")
    plan = lower(data.graph, FREE, data.sizes, batch)
    sampler, steps = Sampler(data, batch, "float64"), 20_000
    found = rarest(plan, sampler, steps, 0)
    seen = sampler.draw(1, steps).indices["home"]
    counts = np.bincount(seen[seen < data.sizes["home"]], minlength=data.sizes["home"])
    assert (found.block, found.observed) == ("county", "y")
    # The rarest homes are those of the largest county, where there is one.
    assert found.times == pytest.approx(counts.min(), rel=0.05)


@pytest.mark.parametrize(
    ("family", "batch"),
    [
        # the encoder reads what a step sees, and whole counties are all there is of them
        (Family(encoding="encoder"), {"county": 2, "home": 2}),
        (FREE, {"county": 2}),
        (FREE, {}),
    ],
)
def test_nothing_is_rare_where_no_row_depends_on_a_part(
    family: Family, batch: dict[str, int]
) -> None:
    data = bound("county")
    sampler = Sampler(data, batch, "float64") if batch else None
    plan = lower(data.graph, family, data.sizes, batch)
    assert rarest(plan, sampler, 10, 0) == Visits()


def test_a_fit_that_saw_too_little_of_a_row_s_data_has_not_converged() -> None:
    fine = Verdict(True, "the ELBO moved by 1 +- 2 nats")
    assert enough(fine, Visits(ENOUGH, "county", "y")) is fine
    assert enough(fine, Visits()) is fine
    verdict = enough(fine, Visits(4.0, "county", "y"))
    assert not verdict.converged
    for words in (fine.reason, "some of 'y' were seen 4 times", "block 'county'", "0.5 of their"):
        assert words in verdict.reason
