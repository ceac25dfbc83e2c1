from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gap.pages import correlate, describe, draw_scatter, format_tables, read_runs
from benchmarks.gap.pools import OWN, Pool, Source, make_pool
from benchmarks.gap.trials import Variant, run_variant, split
from benchmarks.gap.variants import PARTS

KINDS = ("vocabulary", "unigram", "bigram", "self", "self-labelled", "gaussian", "uniform")
CHANGES: list[dict[str, Any]] = [
    {"inputs": "unigram=0.5,self=0.5", "active": True, "average": 0.9},
    {"inputs": "gaussian", "objective": "logits", "balance": True},
    {"objective": "generalised-kl", "temperature": 2.0, "width": 64, "depth": 1},
]


@pytest.fixture(scope="module")
def source() -> Source:
    return Source("reddit")


def test_pools_of_every_kind_hold_the_teachers_answers(source: Source, tmp_path: Path) -> None:
    for kind in (*KINDS, "rounds-2"):
        pool = make_pool(lambda task: source, tmp_path, "reddit", kind, rows=64)
        assert pool.logits.shape == (64, 2) and np.isfinite(pool.logits).all()
        if pool.ids is not None:
            assert ((pool.ids >= 0).sum(axis=1) == pool.lengths).all()
            assert np.allclose(source.answer(pool.ids, pool.lengths), pool.logits, atol=1e-4)
        again = make_pool(lambda task: pytest.fail("made twice"), tmp_path, "reddit", kind, rows=64)
        assert (again.logits == pool.logits).all()
    for rule, longest in (("uniform", 64), ("7", 7), (OWN, 64)):
        assert source.draw_lengths(rule, 640, 1).max() in range(longest - 12, longest + 1)


def test_real_texts_bring_their_labels(source: Source, tmp_path: Path) -> None:
    (tmp_path / "reddit").mkdir()
    rows = [{"text": f"good {n}", "label": ("negative", "positive")[n % 2]} for n in range(40)]
    with gzip.open(tmp_path / "reddit" / "test.jsonl.gz", "wt") as out:
        out.write("".join(json.dumps(row) + "\n" for row in rows))
    pool = make_pool(
        lambda task: source, tmp_path, "reddit", "real", rows=20, part="held-out", data=tmp_path
    )
    assert len(pool.gold) == 20 and set(pool.gold.tolist()) == {0, 1}


@pytest.mark.parametrize("change", CHANGES)
def test_a_student_is_trained_and_measured(
    source: Source, tmp_path: Path, change: dict[str, Any]
) -> None:
    @cache
    def open_pool(kind: str, lengths: str, rows: int) -> Pool:
        return make_pool(lambda task: source, tmp_path, "reddit", kind, rows=rows, lengths=lengths)

    variant = Variant(**{"task": "reddit", "inputs": "unigram", "rows": 128, "steps": 4} | change)
    held_out = {"own": ("self", open_pool("self", "log-uniform", 64))}
    found = run_variant(variant, open_pool, held_out, source.table, 0, source.task.label_names, 64)
    assert 0 <= found["own"]["agreement"] <= 1 and found["seconds"] > 0


def test_rows_are_split_into_all_of_them() -> None:
    lengths = np.random.default_rng(0).integers(0, 300, 500)
    parts = list(split(lengths))
    assert sorted(np.concatenate(parts).tolist()) == list(range(500))
    assert all(len(part) * (lengths[part].max() + 1) <= 8192 for part in parts)


def test_every_variant_has_a_file_of_its_own() -> None:
    variants = [variant for part in PARTS.values() for variant in part()]
    assert len({variant.file for variant in variants}) == len(set(variants)) > 40


def test_the_report_of_some_runs(tmp_path: Path) -> None:
    for seed, right in enumerate((0.8, 0.9, 0.85)):
        variant = Variant("reddit", "unigram", rows=4096 if seed == 1 else 32768, seed=seed)
        kinds = {kind: {"agreement": right} for kind in ("vocabulary", "unigram", "self", "real")}
        kinds["real"] |= {"accuracy": 1 - right, "teacher": 0.85}
        text = json.dumps(vars(variant) | {"found": {"seconds": 1.0, **kinds}})
        (tmp_path / variant.file).write_text(text)
    (tmp_path / "begun.json").write_text("")
    runs = read_runs(tmp_path)
    lines = format_tables(runs)
    assert lines[0] == "## reddit (teacher 85.0)"
    assert lines[4].startswith("| `unigram`, rows 4096 | 1 | 90.0 | 90.0 |")
    assert "| `unigram` | 2 | 82.5 ± 3.5 |" in lines[5] and "17.5 ± 3.5" in lines[5]
    accuracy, agreement = correlate(runs)[-2:]
    assert accuracy == "| reddit | 3 | accuracy on the test file | -1.00 | -1.00 | -1.00 |"
    assert agreement == "| reddit | 3 | agreement on real texts | 1.00 | 1.00 | 1.00 |"
    assert describe(Variant("imdb", "self", balance=True)) == "`self`, balance"
    draw_scatter(runs, tmp_path / "scatter.png")
    assert (tmp_path / "scatter.png").stat().st_size > 1000
