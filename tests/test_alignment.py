"""Alignment by name against explicit loops over a grounded graph; pooling is its transpose."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pavi import alignment
from pavi.alignment import align, pool
from pavi.plates import Plate, Plates

PLATES = Plates(
    [
        Plate("authority"),
        Plate("school", within="authority"),
        Plate("pupil", within="school"),
        Plate("subject"),
        Plate("vertex"),
        Plate("lecturer"),
        Plate("rating", within=("pupil", "lecturer")),
    ]
)
SIZES = {
    "authority": 2,
    "school": 3,
    "pupil": 5,
    "subject": 2,
    "vertex": 3,
    "lecturer": 4,
    "rating": 7,
}
DIRECT = {
    ("school", "authority"): np.array([1, 0, 1]),
    ("pupil", "school"): np.array([2, 0, 0, 1, 2]),
    ("rating", "pupil"): np.array([4, 0, 1, 1, 3, 0, 4]),
    ("rating", "lecturer"): np.array([3, 0, 0, 1, 3, 1, 0]),
}


def climb(plate: str, element: int, owner: str) -> int | None:
    """The owner of an element, one membership after another."""
    if plate == owner:
        return element
    for above in PLATES[plate].within:
        found = climb(above, int(DIRECT[plate, above][element]), owner)
        if found is not None:
            return found
    return None


MEMBERS = {
    f"{plate}/{owner}": np.array([climb(plate, i, owner) for i in range(SIZES[plate])], np.int32)
    for plate in PLATES
    for owner in PLATES.owners(plate)
}

# (parent plates, child plates): the layouts of the design, and what they make together.
LAYOUTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no plates": ((), ()),
    "a global in a plate": ((), ("pupil",)),
    "the same plate": (("pupil",), ("pupil",)),
    "an axis in common": (("vertex",), ("subject", "vertex")),
    "dense": (("subject", "vertex"), ("subject", "vertex")),
    "dense, other order": (("vertex", "subject"), ("subject", "vertex")),
    "nested, one level": (("school",), ("pupil",)),
    "nested, two levels": (("authority",), ("pupil",)),
    "nested, three levels": (("authority",), ("rating",)),
    "crossed": (("lecturer",), ("rating",)),
    "both owners gathered by one plate": (("pupil", "lecturer"), ("rating",)),
    "both owners, other order": (("lecturer", "authority"), ("rating",)),
    "nested and dense": (("school", "vertex"), ("vertex", "pupil")),
    "nested, dense and in between": (
        ("vertex", "school", "subject"),
        ("subject", "pupil", "vertex"),
    ),
    "owners apart": (("school", "vertex", "lecturer"), ("vertex", "rating")),
    "owners apart, other order": (("lecturer", "vertex", "school"), ("rating", "vertex")),
}


def rows(plates: tuple[str, ...]) -> list[tuple[int, ...]]:
    return list(product(*(range(SIZES[p]) for p in plates)))


def parent_row(
    parent: tuple[str, ...], child: tuple[str, ...], row: tuple[int, ...]
) -> tuple[int, ...]:
    """Index of the parent's copy that a child's copy depends on."""
    out = []
    for wanted in parent:
        found = [climb(p, i, wanted) for p, i in zip(child, row, strict=True)]
        out.append(next(i for i in found if i is not None))
    return tuple(out)


def shape(plates: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(SIZES[p] for p in plates)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize(("event", "child_event_rank"), [((), 0), ((), 2), ((2,), 1), ((2, 3), 0)])
def test_align_is_a_loop_over_the_ground_copies(
    layout: str, batch: tuple[int, ...], event: tuple[int, ...], child_event_rank: int
) -> None:
    parent, child = LAYOUTS[layout]
    value = np.random.default_rng(0).normal(size=(*batch, *shape(parent), *event))
    out = align(
        value,
        PLATES.alignment(parent, child),
        child,
        MEMBERS,
        event_rank=len(event),
        child_event_rank=child_event_rank,
    )
    trailing = event or (1,) * child_event_rank
    assert out.ndim == len(batch) + len(child) + len(trailing)
    out = np.broadcast_to(out, (*batch, *shape(child), *trailing))
    lead = (slice(None),) * len(batch)
    for row in rows(child):
        expected = value[(*lead, *parent_row(parent, child, row))]
        np.testing.assert_array_equal(out[(*lead, *row)], expected.reshape((*batch, *trailing)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("trailing", [(), (2,), (2, 3)])
def test_pool_is_a_loop_over_the_ground_copies(layout: str, trailing: tuple[int, ...]) -> None:
    parent, child = LAYOUTS[layout]
    value = np.random.default_rng(1).normal(size=(2, *shape(child), *trailing))
    out = pool(
        value, PLATES.alignment(parent, child), child, SIZES, MEMBERS, trailing=len(trailing)
    )
    expected = np.zeros((2, *shape(parent), *trailing))
    for row in rows(child):
        expected[(slice(None), *parent_row(parent, child, row))] += value[(slice(None), *row)]
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)


@given(st.sampled_from(sorted(LAYOUTS)), st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_pool_is_the_transpose_of_align(layout: str, seed: int, width: int) -> None:
    """<align(x), y> = <x, pool(y)>, at memberships drawn at random, owners without members too."""
    parent, child = LAYOUTS[layout]
    random = np.random.default_rng(seed)
    members = {
        key: random.integers(SIZES[key.split("/")[1]], size=len(position)).astype(np.int32)
        for key, position in MEMBERS.items()
    }
    recipe = PLATES.alignment(parent, child)
    x = random.normal(size=(2, *shape(parent), width))
    y = random.normal(size=(2, *shape(child), width))
    up = align(x, recipe, child, members, event_rank=1, child_event_rank=1)
    down = pool(y, recipe, child, SIZES, members, trailing=1)
    np.testing.assert_allclose(np.sum(up * y), np.sum(x * down), rtol=1e-9, atol=1e-9)


def test_an_owner_without_members_pools_to_zero() -> None:
    recipe = PLATES.alignment(("lecturer",), ("rating",))
    out = pool(np.ones(7), recipe, ("rating",), SIZES, MEMBERS, trailing=0)
    np.testing.assert_array_equal(out, [3.0, 2.0, 0.0, 2.0])


@pytest.mark.parametrize(
    ("plates", "trailing", "expected"),
    [((), 0, None), (("a",), 0, (2,)), (("a", "b"), 0, (2, 3)), (("b", "a"), 2, (3, 2, 1, 1))],
)
def test_product_is_the_outer_product_over_plates(
    plates: tuple[str, ...], trailing: int, expected: tuple[int, ...] | None
) -> None:
    factors: Mapping[str, np.ndarray] = {"a": np.array([2.0, 3.0]), "b": np.array([1.0, 0.0, 5.0])}
    out = alignment.product(factors, plates, trailing)
    if expected is None:
        assert out is None
        return
    assert out.shape == expected
    for row in product(*(range(len(factors[p])) for p in plates)):
        value = np.prod([factors[p][i] for p, i in zip(plates, row, strict=True)])
        assert out[row].item() == value
