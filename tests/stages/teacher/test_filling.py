from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import Stopping, make_teacher_config

from cache.directory import Cache
from cache.errors import LostClaimError, NonFiniteError
from cache.opening import open_cache
from stages.reporter import Interrupted, SilentReporter
from stages.teacher import fill
from stages.teacher.stage import run_teacher


def test_a_stop_while_a_shard_is_computed_keeps_the_one_before_and_frees_its_claim(
    llm: Path, mood: Path, tmp_path: Path
) -> None:
    middle = Stopping(lambda: any(tmp_path.glob("mood/*/claims/0*2*.lock")))
    config = make_teacher_config(mood, llm, tmp_path)
    with pytest.raises(Interrupted):
        run_teacher(config, middle)
    assert len(list(tmp_path.glob("mood/*/commits/*"))) == 2
    assert run_teacher(config, SilentReporter()).computed == 200 - 2 * 32


def test_a_claim_that_lapsed_costs_its_rows_and_no_more(
    llm: Path, mood: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, commit = count(), Cache.commit

    def lapse_once(cache: Cache, *given: Any) -> None:
        if next(calls) == 2:
            raise LostClaimError("shard 2 is another's")
        commit(cache, *given)

    monkeypatch.setattr(Cache, "commit", lapse_once)
    reporter = SilentReporter()
    result = run_teacher(make_teacher_config(mood, llm, tmp_path), reporter)
    assert (result.computed, result.cache.is_complete) == (200, True)
    assert "shard 2 is another's; going on with what is free" in reporter.warnings


def test_an_answer_that_is_not_finite_stops_the_run_and_frees_its_shard(
    llm: Path, mood: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, answer = count(), fill.answer_inputs

    def fail_once(*given: Any) -> dict[str, Any]:
        columns = answer(*given)
        if next(calls) == 3:  # the first are those of the sample
            columns["logits"] = np.full_like(columns["logits"], np.nan)
        return columns

    monkeypatch.setattr(fill, "answer_inputs", fail_once)
    config = make_teacher_config(mood, llm, tmp_path)
    with pytest.raises(NonFiniteError, match=r"shard \d: .* of row \d+ "):
        run_teacher(config, SilentReporter())
    (place,) = (tmp_path / "mood").iterdir()
    cache = open_cache(place)
    assert not cache.is_complete
    assert cache.live_claims() == []
    assert run_teacher(config, SilentReporter()).cache.is_complete
