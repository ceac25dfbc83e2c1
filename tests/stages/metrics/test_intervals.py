from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.errors import SettingError
from stages.metrics.intervals import count_share, read_share


@given(st.integers(1, 10**6), st.data())
def test_the_interval_holds_the_share_and_lies_in_the_unit(rows: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, rows))
    found = count_share(hits, rows)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    # The other side's interval is the mirror image.
    other = count_share(rows - hits, rows)
    assert other.low == pytest.approx(1 - found.high, abs=1e-9)


def test_known_intervals() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    for hits, rows, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        found = count_share(hits, rows)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert count_share(0, 20).high == pytest.approx(0.1611, abs=5e-5)
    assert str(count_share(93, 100)) == "93.0% (86.3-96.6)"


def test_a_record_is_read_back_and_what_is_no_share_is_refused() -> None:
    share = count_share(7, 9)
    assert read_share(json.loads(json.dumps(share.to_record()))) == share
    assert read_share(None) is None
    for hits, rows in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(SettingError, match="share"):
            count_share(hits, rows)
