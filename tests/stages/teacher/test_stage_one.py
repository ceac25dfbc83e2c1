from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import Forked, wait_for
from tiny import change_weights, load_teacher, make_teacher_config, read_rows

from cache.directory import Cache
from cache.draw.samplers import VocabularySampler
from cache.errors import NonFiniteError
from stages.inputs.attachments import read_sampler, read_table
from stages.reporter import SilentReporter
from stages.teacher.fill import average_next_token
from stages.teacher.plan import prepare_teacher
from stages.teacher.stage import TeacherResult, run_teacher

ROWS = 800
OPTIONS = ("--rows", ROWS, "--chunk-rows", 8, "--shard-rows", 32, "--batch-positions", 512)
OPTIONS += ("--sampler", "vocabulary", "--self-generated", 0)


def files_of(cache: Path) -> dict[str, bytes]:
    """Everything whose bytes follow from the settings."""
    found = [path for part in ("rows", "attachments") for path in (cache / part).rglob("*")]
    return {str(path.relative_to(cache)): path.read_bytes() for path in found if path.is_file()}


def count_commits(root: Path) -> int:
    return len(list(root.glob("mood/*/commits/*"))) if root.is_dir() else 0


@pytest.fixture(scope="module")
def whole(mood: Path, llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    config = make_teacher_config(mood, llm, tmp_path_factory.mktemp("whole"), rows=ROWS)
    return run_teacher(config, SilentReporter()).cache


def test_what_happens_is_said(llm: Path, mood: Path, tmp_path: Path) -> None:
    reporter = SilentReporter()
    result = run_teacher(make_teacher_config(mood, llm, tmp_path), reporter)
    said = "\n".join(reporter.lines)
    assert reporter.warnings == []
    for part in (
        f"model: {llm} (as asked)",
        "device: cpu",
        "float32",
        "label bad: Bad → ĠBad, Poor → ĠPoor",
        "rows: 200 inputs (vocabulary) of 1-12 tokens",
        f"cache: {result.cache.place.path}",
        "computed 200 rows",
        "teacher, 200 rows: bad ",
        "spread",
    ):
        assert part in said
    assert (result.computed, result.verdict.answers.rows) == (200, 200)
    assert result.cache.place.path.parent == tmp_path / "mood"


@pytest.mark.parametrize("sampler", ["vocabulary", "uniform", "unigram"])
def test_every_row_is_the_teacher_s_answer_to_what_its_seed_draws(
    sampler: str, llm: Path, mood: Path, tmp_path: Path
) -> None:
    config = make_teacher_config(mood, llm, tmp_path, rows=72, sampler=sampler)
    cache = run_teacher(config, SilentReporter()).cache
    rows, teacher = read_rows(cache), load_teacher(mood, llm)
    drawn = read_sampler(cache, read_table(cache))
    assert drawn is not None and drawn.name == sampler
    assert len(set(rows["seed"].tolist())) == 72
    for row in range(0, 72, 5):
        embeddings = drawn.draw_embeddings(rows["seed"][[row]], int(rows["length"][row]))
        wanted = teacher.compute_class_logits(embeddings).softmax(dim=1)[0].numpy()
        np.testing.assert_allclose(rows["probabilities"][row], wanted, atol=1e-5)
    chunks = rows["length"].reshape(-1, 8)
    assert (chunks == chunks[:, :1]).all()
    assert len(set(chunks[:, 0].tolist())) > 3
    assert 1 <= chunks.min() <= chunks.max() <= 12


def test_unigram_draws_what_the_model_itself_would_say(
    llm: Path, mood: Path, tmp_path: Path
) -> None:
    config = make_teacher_config(mood, llm, tmp_path, rows=8, sampler="unigram")
    cache = run_teacher(config, SilentReporter()).cache
    table = read_table(cache)
    sampler = read_sampler(cache, table)
    ids = sampler.draw_ids(np.arange(400, dtype=np.uint64), 20)  # type: ignore[union-attr]
    contexts = VocabularySampler(table).draw_ids(np.arange(64, dtype=np.uint64), 32)
    wanted = average_next_token(load_teacher(mood, llm), torch.from_numpy(contexts)).numpy()
    shares = np.bincount(ids.ravel(), minlength=len(wanted)) / ids.size
    assert np.abs(shares - wanted).sum() < 0.35
    assert np.abs(1 / len(wanted) - wanted).sum() > 0.7


class TestInterruption:
    def test_a_killed_run_continues_to_the_rows_of_an_unbroken_one(
        self, whole: Cache, llm: Path, mood: Path, tmp_path: Path
    ) -> None:
        root, marks = tmp_path / "cache", []
        command = ("teacher", "--task", mood, "--model", llm, "--cache", root, *OPTIONS)
        for kill in range(2):
            child = Forked(tmp_path / f"run{kill}", *command)
            begun = count_commits(root)
            wait_for(lambda before=begun: count_commits(root) >= before + 3)
            child.kill(signal.SIGKILL)
            assert child.wait().code == -signal.SIGKILL
            marks.append(count_commits(root))
        assert 0 < marks[0] < marks[1] < whole.shards
        done = Forked(tmp_path / "last", *command).wait()
        assert done.code == 0 and "continuing:" in done.err
        assert f"computed {ROWS - 32 * marks[1]:,} rows" in done.err
        assert files_of(root / "mood" / whole.place.path.name) == files_of(whole.place.path)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_cleanly_and_the_same_command_continues(
        self, number: int, whole: Cache, llm: Path, mood: Path, tmp_path: Path
    ) -> None:
        root = tmp_path / "cache"
        command = ("teacher", "--task", mood, "--model", llm, "--cache", root, *OPTIONS)
        child = Forked(tmp_path / "first", *command)
        wait_for(lambda: count_commits(root) >= 2)
        child.kill(number)
        stopped = child.wait()
        assert stopped.code == 130 and "the same command continues" in stopped.err
        assert "Traceback" not in stopped.err
        there = count_commits(root)
        assert 0 < there < whole.shards
        result = run_teacher(make_teacher_config(mood, llm, root, rows=ROWS), SilentReporter())
        assert result.computed == ROWS - 32 * there
        assert files_of(result.cache.place.path) == files_of(whole.place.path)

    def test_two_processes_at_once_share_the_work(
        self, whole: Cache, llm: Path, mood: Path, tmp_path: Path
    ) -> None:
        root = tmp_path / "cache"
        command = ("teacher", "--task", mood, "--model", llm, "--cache", root, *OPTIONS)
        children = [Forked(tmp_path / f"run{k}", *command) for k in range(2)]
        results = [child.wait() for child in children]
        assert [result.code for result in results] == [0, 0]
        lines = [line for result in results for line in result.err.splitlines()]
        counts = [line.split()[1] for line in lines if line.startswith("computed")]
        assert len(counts) == 2 and sum(int(x.replace(",", "")) for x in counts) == ROWS
        assert files_of(root / "mood" / whole.place.path.name) == files_of(whole.place.path)

    def test_a_lost_claim_is_said_and_its_shard_computed_again(
        self, whole: Cache, llm: Path, mood: Path, tmp_path: Path
    ) -> None:
        class Meddler(SilentReporter):
            """Takes a shard away from the teacher while it is computed."""

            def check_stop(self) -> None:
                if not self.warnings:
                    for lock in tmp_path.glob("mood/*/claims/0*.lock"):
                        lock.unlink()

        reporter = Meddler()
        result = run_teacher(make_teacher_config(mood, llm, tmp_path, rows=ROWS), reporter)
        # A shard is committed while the next is computed, so that one may be taken away as well.
        assert 1 <= len(reporter.warnings) <= 2
        for warning in reporter.warnings:
            assert "was not committed: this process has no claim on it; going on" in warning
        assert result.computed == ROWS
        assert files_of(result.cache.place.path) == files_of(whole.place.path)


def test_other_settings_are_another_cache(llm: Path, mood: Path, tmp_path: Path) -> None:
    tasks = []
    for old, new in (
        ("good or bad?", "bad or good?"),
        ("max_length: 12", "max_length: 13"),
        ("[Bad, Poor]", "[Bad]"),
    ):
        tasks.append(tmp_path / f"{len(tasks)}.yaml")
        tasks[-1].write_text(mood.read_text().replace(old, new))
    changed = change_weights(llm, tmp_path / "changed", lambda m: m.lm_head.weight[5, 5].add_(1e-3))

    def find(task: Path = mood, model: Path = llm, **own: Any) -> str:
        small: dict[str, Any] = {"rows": 16, "shard_rows": 16}
        config = make_teacher_config(task, model, tmp_path / "cache", **small | own)
        return prepare_teacher(config, SilentReporter()).manifest.fingerprint

    first, settings = find(), ({"rows": 24}, {"seed": 1}, {"sampler": "uniform"}, {"chunk_rows": 4})
    found = [first, find(model=changed), find(dtype="bfloat16"), find(batch_positions=256)]
    found += [*map(find, tasks), *(find(**own) for own in settings)]
    assert len(set(found)) == len(found) and find() == first


def test_a_copy_of_a_model_is_the_same_model(
    llm: Path, mood: Path, filled: tuple[Path, TeacherResult], tmp_path: Path
) -> None:
    copy = shutil.copytree(llm, tmp_path / "copy")
    reporter = SilentReporter()
    result = run_teacher(make_teacher_config(mood, copy, filled[0]), reporter)
    assert result.computed == 0
    assert "every row was there already" in reporter.lines
    assert not any("model loaded" in line for line in reporter.lines)


class TestBadAnswers:
    def test_a_row_that_is_not_finite_is_named_and_its_shard_not_committed(
        self, llm: Path, mood: Path, filled: tuple[Path, TeacherResult], tmp_path: Path
    ) -> None:
        rows, table = read_rows(filled[1].cache), read_table(filled[1].cache)
        sampler = VocabularySampler(table)
        ids = [
            set(sampler.draw_ids(rows["seed"][[k]], int(rows["length"][k]))[0].tolist())
            for k in range(len(rows["seed"]))
        ]
        teacher = load_teacher(mood, llm)
        # A token that is in no row of the first two shards, and not in the prompt.
        before = set().union(*ids[:64], teacher.prefix_ids, teacher.suffix_ids, range(6))
        token = next(token for own in ids[64:] for token in sorted(own) if token not in before)
        row = next(k for k, own in enumerate(ids) if token in own)
        broken = change_weights(
            llm, tmp_path / "m", lambda model: model.model.embed_tokens.weight[token].fill_(np.nan)
        )
        with pytest.raises(NonFiniteError, match=rf"shard {row // 32}: .* of row {row} "):
            run_teacher(make_teacher_config(mood, broken, tmp_path / "c"), SilentReporter())
        assert count_commits(tmp_path / "c") == row // 32

    def test_a_teacher_that_hardly_varies_is_a_warning(
        self, llm: Path, mood: Path, tmp_path: Path
    ) -> None:
        dull = change_weights(llm, tmp_path / "m", lambda model: model.lm_head.weight.mul_(1e-3))
        reporter = SilentReporter()
        result = run_teacher(make_teacher_config(mood, dull, tmp_path / "c", rows=8), reporter)
        assert result.verdict.level == "hopeless" and result.verdict.answers.constant_angle < 0.1
        first, last = reporter.warnings
        assert first.startswith("verdict on 8 rows: hopeless: the teacher answers ")
        assert "nothing can be learned" in first and "another sampler" in last
