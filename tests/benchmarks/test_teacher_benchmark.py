from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import teacher as benchmark
from benchmarks.anatomy import OUTSIDE, PRODUCTS, profile_answers
from benchmarks.comparison import OURS, QUICK, make_ours
from benchmarks.subjects import (
    CHUNK_ROWS,
    LLAMA_7B,
    SMALL,
    TINY,
    draw_rows,
    make_model,
    make_task,
    write_task,
)
from benchmarks.yardsticks import Floor, Loop, Ours
from stages.tasks.task import load_task


@pytest.fixture(scope="module", params=TINY.prompts)
def ours(request: pytest.FixtureRequest) -> Ours:
    found = make_ours(TINY, request.param, draw_rows(TINY, QUICK.rows))
    return Ours(found.teacher, 512)  # not what the trial found, which is another on every machine


@pytest.mark.parametrize("careful", [False, True])
def test_loops_answer_as_the_teacher_does(ours: Ours, careful: bool) -> None:
    rows = draw_rows(TINY, QUICK.rows)
    rows = rows.select(rows.choose(50))
    teacher = ours.teacher
    loop = Loop(make_model(TINY), tuple(teacher.prefix_ids), teacher.verbaliser, careful)
    found, wanted = loop.answer(rows), ours.answer(rows)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert wanted[:, 0].std() > 0.05  # or agreeing would mean little


def test_the_floor_does_the_products_of_the_same_batches(
    ours: Ours, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = draw_rows(TINY, QUICK.rows)
    batches = list(ours.plan(rows))
    assert len(batches) > 1
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(QUICK.rows))
    done = 0.0

    def count(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        nonlocal done
        done += 2.0 * len(x) * weight.numel()
        return x

    floor = Floor(TINY, len(ours.teacher.prefix_ids), batches)
    floor.run()
    assert floor.products > 0 and floor.attention > 0
    monkeypatch.setattr("benchmarks.yardsticks.linear", count)
    floor.run()
    assert done == TINY.count_operations(int(rows.lengths.sum()), QUICK.rows)


@pytest.mark.parametrize("shape", [SMALL, TINY])
def test_weights_are_counted_as_the_model_has_them(shape: object) -> None:
    with torch.device("meta"):
        model = make_model(shape, "meta")
    layers = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    assert shape.count_operations(1) == 2.0 * layers
    assert shape.count_operations(7, 7) == 14.0 * layers


def test_the_large_model_is_llama_2_7b() -> None:
    weights = LLAMA_7B.count_operations(1) / 2 + 2 * LLAMA_7B.vocabulary * LLAMA_7B.width
    norms = (2 * LLAMA_7B.layers + 1) * LLAMA_7B.width
    assert weights + norms == 6_738_415_616


def test_rows_are_chunks_of_one_length_and_chosen_evenly() -> None:
    rows = draw_rows(SMALL, 512)
    chunks = rows.lengths.reshape(-1, CHUNK_ROWS)
    assert (chunks == chunks[:, :1]).all()
    logarithmic = (SMALL.longest - 1) / math.log(SMALL.longest + 1)
    assert rows.lengths.mean() == pytest.approx(logarithmic, rel=0.15)
    few = rows.lengths[rows.choose(32)]
    assert sorted(few) == sorted(chunks[:, :4].ravel())
    for pack in np.sort(rows.lengths[rows.choose(128, together=32)]).reshape(-1, 32):
        assert len(set(pack)) == 1
    assert (draw_rows(SMALL, 128, "fixed").lengths == SMALL.longest).all()


def test_the_task_is_the_same_written_or_made(tmp_path: Path) -> None:
    assert load_task(str(write_task(tmp_path / "task.yaml", 400, 256))) == make_task(400, 256)


def test_the_profile_accounts_for_all_time(ours: Ours) -> None:
    rows = draw_rows(TINY, 64)
    groups, whole = profile_answers(ours, rows)
    assert sum(groups.values()) == pytest.approx(whole)
    assert groups[PRODUCTS] > 0 and groups["norms"] > 0 and groups["activation and gate"] > 0
    assert groups[OUTSIDE] > 0
    assert not any(module._forward_hooks for module in ours.teacher.model.modules())


def test_memory_is_told_as_another_process_would(capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not say how large a process has been")
    benchmark.main(["--quick", "--memory-of", OURS, "--prompt", "1"])
    sizes = json.loads(capsys.readouterr().out)
    assert 0 < sizes["model"] <= sizes["peak"]


def test_every_section_gives_its_table(tmp_path: Path) -> None:
    sections = ["speed", "stage", "profile", "formats"]
    tables = run_benchmark(tmp_path / "out.md", *sections)
    speed, stage, *profiles, formats = tables
    assert len(profiles) == 2
    assert [len(table) for table in (speed, stage)] == [6, 7]
    assert [line[0] for line in formats][:3] == ["float32", "bfloat16", "float16"]
    for line in speed:
        ratio, low, high = map(float, re.findall(r"[\d.]+", line[2]))
        assert 0 < low <= ratio <= high < math.inf
        assert line[8] == "" or float(line[8]) < 1e-4
    for table in profiles:
        assert math.isclose(sum(float(line[2]) for line in table[:-1]), 100, abs_tol=1)


@pytest.mark.slow
def test_memory_and_compiling_give_their_tables(tmp_path: Path) -> None:
    tables = run_benchmark(tmp_path / "out.md", "memory", "compiling")
    assert [line[1] for line in tables[0]] == 2 * ["ours", "obvious loop", "careful loop"]
    assert all(float(line[4]) > 0 for line in tables[0])


def run_benchmark(out: Path, *sections: str) -> list[list[list[str]]]:
    """Run a tiny benchmark as a user does; return the cells of its tables."""
    command = [sys.executable, "-m", "benchmarks.teacher", "--quick"]
    done = subprocess.run(
        [*command, "--out", out, "--only", *sections],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == out.read_text()
    tables: list[list[list[str]]] = []
    inside = False
    for line in done.stdout.splitlines():
        if line.startswith("|---"):
            tables.append([])
            inside = True
        elif inside and line.startswith("|"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        else:
            inside = False
    return tables
