"""Which port comes next: arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.engine.predict.next_port import ports_after, ports_between


@pytest.mark.parametrize(
    ("before", "after", "stride", "between"),
    [
        (30009, 30011, 1, (30010,)),
        (30009, 30014, 1, (30010, 30011, 30012, 30013)),
        (30009, 30013, 2, (30011,)),
        (30014, 30012, -1, (30013,)),
        (30020, 30014, -2, (30018, 30016)),
        (30009, 30010, 1, ()),
        (49999, 30001, 1, ()),  # the NAT has begun anew
        (30009, 30012, 2, (30010, 30011)),  # not the stride that was told
        (30000, 31000, 1, ()),  # too many
    ],
)
def test_what_lies_between_two_samples(
    before: int, after: int, stride: int, between: tuple[int, ...]
) -> None:
    assert ports_between(before, after, stride, 64) == between


@given(
    st.integers(1024, 60000),
    st.integers(1, 20),
    st.integers(0, 20),
    st.sampled_from([1, 2, 4, -1, -2]),
)
def test_a_port_taken_between_two_samples_is_always_between_them(
    first: int, others_before: int, others_after: int, stride: int
) -> None:
    check = first + stride * others_before
    after = check + stride * (others_after + 1)
    assert check in ports_between(first, after, stride, 64)


def test_what_comes_after_a_sample_leaves_out_what_others_take() -> None:
    assert ports_after(30000, 2, 3, 4) == (30008, 30010, 30012, 30014)
    assert ports_after(2, -1, 0, 4) == (1,)
