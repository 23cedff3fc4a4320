"""Parts that share a mapping come back as they went in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pavi.prefixes import part_of, prefixed

values = st.dictionaries(st.text(max_size=6), st.integers(), max_size=5)


@given(values, values)
def test_two_parts_come_back_from_one_mapping(first: dict[str, int], second: dict[str, int]):
    joined = prefixed("first:", first) | prefixed("second:", second)
    assert part_of("first:", joined) == first
    assert part_of("second:", joined) == second


@given(values)
def test_a_part_that_is_not_there_is_empty(own: dict[str, int]):
    assert part_of("other:", prefixed("own:", own)) == {}
