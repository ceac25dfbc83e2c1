from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import teacher as benchmark
from benchmarks.common import merge_section
from benchmarks.subjects import (
    CHUNK_ROWS,
    LLAMA_7B,
    SMALL,
    TINY,
    draw_rows,
    make_model,
    make_task,
    make_tokenizer,
)
from benchmarks.teacher import QUICK, make_ours
from benchmarks.yardsticks import Floor, Loop, Ours


@pytest.fixture(scope="module", params=TINY.prompts)
def ours(request: pytest.FixtureRequest) -> Ours:
    found = make_ours(TINY, request.param, draw_rows(TINY, QUICK.rows))
    return Ours(found.teacher, 512)  # not what was found, which is another on every machine


@pytest.mark.parametrize("careful", [False, True])
def test_loops_answer_as_the_teacher_does(ours: Ours, careful: bool) -> None:
    rows = draw_rows(TINY, QUICK.rows)
    rows = rows.select(rows.choose(50))
    task = make_task(len(ours.teacher.prefix_ids), TINY.longest)
    loop = Loop.of(make_model(TINY), make_tokenizer(), task, careful)
    found, wanted = loop.answer_rows(rows), ours.answer(rows)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert wanted[:, 0].std() > 0.05  # or agreeing would mean little


def test_the_floor_does_the_products_of_the_same_batches(
    ours: Ours, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = draw_rows(TINY, QUICK.rows)
    batches = list(ours.plan(rows))
    assert len(batches) > 1
    answered = np.concatenate([part for batch in batches for part, _ in batch])
    assert sorted(answered) == list(range(QUICK.rows))
    done = 0.0

    def count(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        nonlocal done
        done += 2.0 * len(x) * weight.numel()
        return x

    monkeypatch.setattr("benchmarks.yardsticks.linear", count)
    Floor(TINY, len(ours.teacher.prefix_ids), batches).run()
    assert done == TINY.count_operations(int(rows.lengths.sum()), QUICK.rows)


def test_weights_are_counted_as_the_model_has_them() -> None:
    for shape in (SMALL, TINY):
        model = make_model(shape, "meta")
        layers = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
        assert shape.count_operations(1) == 2.0 * layers
        assert shape.count_operations(7, 7) == 14.0 * layers
    # The large one is Llama-2-7B.
    weights = LLAMA_7B.count_operations(1) / 2 + 2 * LLAMA_7B.vocabulary * LLAMA_7B.width
    assert weights + (2 * LLAMA_7B.layers + 1) * LLAMA_7B.width == 6_738_415_616


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
    assert (draw_rows(SMALL, 128, "constant").lengths == SMALL.longest).all()


def test_the_table_holds_ratios_and_agreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.md"
    out.write_text("# A title\n\n## Something else\n\nstays\n")
    benchmark.main(["--quick", "--out", str(out)])
    text = out.read_text()
    assert "stays" in text and capsys.readouterr().out.strip() in text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if ") | " in line]
    assert sum("ours / " in cells[1] for cells in rows) == 6
    assert sum("first tokens / whole words" in cells[1] for cells in rows) == 4
    for cells in rows:
        ratio, low, high = map(float, re.findall(r"[\d.]+", cells[2]))
        assert 0 < low <= ratio <= high < math.inf
        assert "loop" not in cells[1] or float(cells[8]) < 1e-4


def test_a_section_replaces_only_itself() -> None:
    one, two = "## One\n\nold", "## Two\n\n### of all\n\nfast"
    both = merge_section(merge_section("# Title", "One", one), "Two", two)
    assert both == f"# Title\n\n{one}\n\n{two}\n"
    assert merge_section(both, "One", "## One\n\nnew") == both.replace("old", "new")
