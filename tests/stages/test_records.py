from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.errors import ExportError, ModelError
from stages.records import RECORD, find_record, read_record, read_temperature


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "missing or damaged"),
        ("[]", "does not say its task, start_id, fingerprint"),
        ('{"task": {}}', "does not say its start_id, fingerprint, held_out"),
        ("{", "missing or damaged"),
    ],
)
def test_a_damaged_record_is_named(content: str | None, named: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / RECORD).write_text(content)
    with pytest.raises(ExportError, match=named):
        read_record(tmp_path)


def test_a_temperature_counts_only_where_it_was_folded() -> None:
    assert read_temperature({"calibration": {"temperature": 1.5, "folded": True}}) == 1.5
    for other in ({"temperature": 1.5, "folded": False}, {"temperature": 1.5}, None):
        assert read_temperature({"calibration": other}) is None
    assert read_temperature({}) is None


@pytest.mark.parametrize("calibration", [[], {}, *({"temperature": t} for t in (0, "1", None))])
def test_a_damaged_temperature_is_named(calibration: Any, tmp_path: Path) -> None:
    assert find_record(tmp_path) == {}
    record = dict.fromkeys(("task", "start_id", "fingerprint", "held_out"), 0)
    if calibration:
        calibration |= {"folded": True}
    record["calibration"] = calibration
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(ModelError, match="the student's record is damaged"):
        read_temperature(find_record(tmp_path))
