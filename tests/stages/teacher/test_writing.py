from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import load_teacher, make_student_config, make_teacher_config, read_rows

from cache.directory import Cache
from cache.draw import Purpose, TokenSampler, VocabularySampler, random_integers_numpy
from cache.draw.mixtures import parse_mixture
from cache.draw.samplers import SAMPLERS
from cache.reader import CacheReader
from stages.errors import SettingError
from stages.inputs.attachments import read_sampler, read_samplers, read_table
from stages.inputs.preparation import MODEL_SAMPLERS, NOISE, NOISY
from stages.reporter import SilentReporter
from stages.student.stage import run_student
from stages.teacher.stage import run_teacher

MIXED = "self=0.5,vocabulary=0.5"


@pytest.fixture(scope="module")
def mixed(mood: Path, llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    root = tmp_path_factory.mktemp("mixed")
    config = make_teacher_config(mood, llm, root, sampler=MIXED, rows=96, temperature=2.0)
    return run_teacher(config, SilentReporter()).cache


def test_written_tokens_are_kept_by_length_and_answered(
    mixed: Cache, mood: Path, llm: Path
) -> None:
    rows = read_rows(mixed)
    ids, lengths = rows["tokens"], rows["length"]
    assert ((ids >= 0) == (np.arange(ids.shape[1]) < lengths[:, None])).all()
    assert lengths.min() >= 1 and ids.shape[1] == 12
    teacher = load_teacher(mood, llm)
    for row in range(0, len(ids), 7):
        own = teacher.look_up(ids[row : row + 1, : lengths[row]])
        wanted = teacher.compute_class_logits(own).numpy()
        assert np.allclose(rows["logits"][row], wanted, atol=1e-4)
    assert len(set(rows["seed"].tolist())) == len(ids) == 96
    reader = CacheReader(mixed)
    for shard in reader.shards:
        assert (np.diff(reader.read_shard(shard)["length"]) >= 0).all()


def test_half_of_the_rows_are_drawn_from_their_seeds(mixed: Cache) -> None:
    rows = read_rows(mixed)
    mixture = parse_mixture(MIXED, (*SAMPLERS, *MODEL_SAMPLERS))
    chosen = mixture.choose_parts(rows["seed"])
    table = read_table(mixed)
    assert read_sampler(mixed, table) is None
    drawn = 0
    for seed, ids, length, part in zip(
        rows["seed"], rows["tokens"], rows["length"], chosen, strict=True
    ):
        again = VocabularySampler(table).draw_ids(np.array([seed]), int(length))[0]
        same = bool((ids[:length] == again).all())
        assert same or mixture.names[part] == "self"
        drawn += same
    assert drawn >= (chosen == mixture.names.index("vocabulary")).sum() > 20


def test_a_tenth_of_the_tokens_of_noisy_texts_are_random(
    llm: Path, mood: Path, tmp_path: Path
) -> None:
    reporter = SilentReporter()

    def run(rows: int) -> Cache:
        settings = {"sampler": NOISY, "rows": rows, "self_generated": 20}
        config = make_teacher_config(mood, llm, tmp_path / f"{rows}", **settings)
        return run_teacher(config, reporter).cache

    cache = run(320)
    # These stand for a sample, which would be written as well.
    told = [line.partition(":")[0] for line in reporter.lines if line.startswith("teacher, ")]
    assert told == ["teacher, 20 self-generated texts", "teacher, 320 rows"]
    assert cache.manifest.inputs["sampler"]["writing"]["noise"] == "0.1"
    rows, samplers = read_rows(cache), read_samplers(cache, read_table(cache))
    sampler = samplers["unigram"]
    assert isinstance(sampler, TokenSampler)
    random = sampler.draw_ids(rows["seed"], rows["tokens"].shape[1])
    chances = random_integers_numpy(rows["seed"], random.shape[1], stream=Purpose.NOISE)
    noisy = (chances < NOISE * 2**32) & (rows["tokens"] >= 0)
    noisy[:, 0] = False
    assert (rows["tokens"] == random)[noisy].mean() > 0.99  # white space at an end is cut off
    assert 0.08 < noisy.sum() / (rows["tokens"][:, 1:] >= 0).sum() < 0.12
    assert (rows["tokens"] == random)[~noisy].mean() < 0.1
    # The rest is what the model writes behind them, and a row is its seed's whatever the others.
    fewer = read_rows(run(64))
    both = np.isin(rows["seed"], fewer["seed"])
    order, other = np.argsort(rows["seed"][both]), np.argsort(fewer["seed"])
    assert (rows["tokens"][both][order] == fewer["tokens"][other]).mean() > 0.99


def test_the_settings_are_part_of_the_cache(
    mixed: Cache, mood: Path, llm: Path, tmp_path: Path
) -> None:
    prints = {mixed.fingerprint}
    others = [{"sampler": name} for name in MODEL_SAMPLERS]
    for own in ({}, {"top_p": 0.5}, *others):
        settings = {"sampler": MIXED, "rows": 96, "temperature": 2.0} | own
        config = make_teacher_config(mood, llm, tmp_path, **settings)
        prints.add(run_teacher(config, SilentReporter()).cache.fingerprint)
    assert len(prints) == 5  # the first of these is the fixture's own


def test_a_student_learns_from_written_rows(mixed: Cache, mood: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    config = make_student_config(mood, Path(str(mixed.place)).parents[1], out)
    result = run_student(config, SilentReporter())
    assert result.projection.rows > 0 and (out / "model.safetensors").is_file()
    assert np.isfinite(result.projection.angle)


def test_what_cannot_be_written_is_refused(mood: Path, llm: Path, tmp_path: Path) -> None:
    for own, part in (
        ({"sampler": "self=0.5,uniform=0.5"}, "no token ids"),
        ({"sampler": "selfie"}, "did you mean"),
        ({"sampler": "self", "top_p": 2.0}, "top-p: got 2"),
        ({"temperature": 0.5}, "nothing is written by the model"),
        ({"top_p": 0.9, "texts": tmp_path / "t.txt"}, "nothing is written by the model"),
    ):
        with pytest.raises(SettingError, match=part):
            run_teacher(make_teacher_config(mood, llm, tmp_path, **own), SilentReporter())
    assert not list(tmp_path.rglob("manifest.json"))
