"""The teacher, killed at random instants until its cache is complete: not a byte may differ."""

from __future__ import annotations

import pytest

from benchmarks.supervisor import MOMENTS, Plan
from benchmarks.survival import Teachers, survive_repro


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Teachers:
    return Teachers(tmp_path_factory.mktemp("few"), shards=32)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Teachers:
    return Teachers(tmp_path_factory.mktemp("many"), shards=900)


@pytest.mark.parametrize("workers", [1, 4])
def test_a_few_kills_change_nothing(workers: int, few: Teachers) -> None:
    tally = few.survive(Plan(3, workers, seed=workers), f"{workers} at once")
    # The rest may come too late on a machine that lets the workers run and this process wait.
    assert tally.kills


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_three_hundred_kills_change_nothing(workers: int, many: Teachers) -> None:
    tally = many.survive(Plan(300, workers, seed=workers), f"{workers} at once")
    assert tally.kills > 100
    assert len([moment for moment in MOMENTS if tally.moments[moment]]) > 3


@pytest.mark.slow
def test_commands_that_are_killed_change_nothing(few: Teachers) -> None:
    assert few.survive(Plan(6), "fresh", fresh=True).kills > 2


@pytest.mark.slow
def test_killing_dvc_repro_changes_nothing(many: Teachers) -> None:
    tally, orphans = survive_repro(many, Plan(8))
    assert tally.kills > 2
    assert orphans > 0
