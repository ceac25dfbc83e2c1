from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import run_here
from tiny import (
    MOOD,
    Stopping,
    make_language_model,
    make_short_task,
    make_teacher_config,
    make_tokenizer,
    write_language_model,
)
from tokenizers import AddedToken

from cache.draw import mix_seeds
from stages.inputs import MODEL_SAMPLERS, NOISY, SamplingSettings
from stages.reporter import Interrupted, SilentReporter
from stages.teacher import Teacher
from stages.teacher.fill import make_self_generated
from stages.teacher.generation import choose_labels, write_texts
from stages.teacher.plan import prepare_teacher

LONGEST = 24
SEEDS = mix_seeds(9, 0, 60)
WRITE = 'write: {text: "A text:\\n", labelled: "A text that is called {label}:\\n"}\n'


def make_writer(family: str = "llama", **own: Any) -> Teacher:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True)])
    prompts = {"write": "A text:\n", "write_labelled": "A text that is called {label}:\n"}
    task = replace(make_short_task(), **prompts | own)
    # As models have them, more rows than tokens.
    return Teacher(make_language_model(family, len(tokenizer) + 5), tokenizer, task)


def write(teacher: Teacher, seeds: np.ndarray = SEEDS, **own: Any) -> np.ndarray:
    return write_texts(teacher, seeds, SamplingSettings(**own), LONGEST, lambda _: None)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_texts_side_by_side_are_those_that_transformers_writes_alone(family: str) -> None:
    """Behind prompts of two lengths, in slots that others had before; the likeliest tokens."""
    teacher = make_writer(family)
    teacher.rows_written, names = 3, teacher.task.label_names
    texts = write(teacher, SEEDS[:12], labelled=True, top_p=1e-6)
    tokenizer, known = teacher.tokenizer, len(teacher.tokenizer)
    decoded = [tokenizer.decode([k]) for k in range(known)]
    opening = [k for k, text in enumerate(decoded) if text[-1:] in [*" \n\t"] or "\n" in text]
    control = [0, 1, known - 1]
    for column, name in enumerate(names):
        ids = tokenizer(f"A text that is called {name}:\n", return_tensors="pt")["input_ids"]
        with teacher.suspend(), torch.inference_mode():
            wanted = teacher.model.generate(
                input_ids=ids,
                max_new_tokens=LONGEST,
                do_sample=False,
                suppress_tokens=[*range(known, known + 5)],
                begin_suppress_tokens=[*control, *opening],
                eos_token_id=control,
                pad_token_id=1,
            )[0, ids.shape[1] :].tolist()
        mine = texts[choose_labels(SEEDS[:12], 2) == column]
        assert len(mine) > 2 and len(np.unique(mine, axis=0)) == 1
        found = [k for k in mine[0].tolist() if k >= 0]
        # Those of a text that ended are all there but white space, and what stood for an end.
        assert found == wanted[: len(found)]
        ends = {*control, *opening}
        assert len(found) == LONGEST or ends & {*wanted[len(found) : len(found) + 3]}


def test_a_text_holds_no_control_token_nor_blank_line_and_can_be_stopped() -> None:
    teacher = make_writer()
    texts = write(teacher, mix_seeds(1, 0, 400), temperature=4.0)
    decode = teacher.tokenizer.decode
    kept = [row[row >= 0] for row in texts]
    known = len(teacher.tokenizer)
    assert not {0, 1, known - 1} & {*np.concatenate(kept).tolist()}
    assert np.concatenate(kept).max() < known
    found = [decode(ids) for ids in kept]
    assert all(text.strip() and text[0] not in "\r\n" and "\n\n" not in text for text in found)
    assert all(not text.endswith(("\n", " ")) for text in found)
    assert len({len(ids) for ids in kept}) > 5
    looks = iter(range(1000))
    with pytest.raises(Interrupted):  # a stop is heeded at every token
        make_self_generated(teacher, 0, 60, Stopping(lambda: next(looks) > 20))


def test_the_full_stop_in_front_of_a_blank_line_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for ending in (".\n\n", ".\n \n", ".\n"):
        teacher = make_writer()
        forward, tokenizer = teacher.model.forward, teacher.tokenizer
        tokenizer.add_tokens([AddedToken(ending, normalized=False)])
        token, stop = tokenizer.convert_tokens_to_ids([ending, "."])

        def prefer(forward: Any = forward, token: int = token, **inputs: Any) -> Any:
            output = forward(**inputs)
            output.logits[..., token] += 100
            return output

        monkeypatch.setattr(teacher.model, "forward", prefer)
        texts = write(teacher)
        if ending == ".\n":  # one line break more until there is no room
            assert (texts[:, -1] == stop).all() and (texts[:, 1:-1] == token).all()
        else:
            assert (texts[:, 1] == stop).all() and (texts[:, 2:] == -1).all()
            assert (texts[:, 0] != token).all()


def test_a_text_goes_on_behind_noise_or_ends_by_it() -> None:
    teacher = make_writer()
    plain, known = write(teacher), len(teacher.tokenizer)
    settings = (teacher, SEEDS, SamplingSettings(), LONGEST, lambda _: None)
    noise = np.full(plain.shape, -1)
    noise[:, 3] = known + 3  # what is no token's
    assert (write_texts(*settings, noise) == plain).all()
    noise[:, 3] = 1  # a control token
    assert (write_texts(*settings, noise)[:, 3:] == -1).all()
    (word,) = teacher.tokenizer("good", add_special_tokens=False)["input_ids"][:1]
    noise[:, 3] = word
    texts = write_texts(*settings, noise)
    assert (texts[:, :3] == plain[:, :3]).all()
    reached = plain[:, 3] >= 0
    assert (texts[reached, 3] == word).all()
    assert (texts != plain)[reached, 4:].any(axis=1).mean() > 0.5


def test_what_is_written_behind_decides_and_not_what_is_asked() -> None:
    texts = write(make_writer())
    other = make_writer(prompt="Good?\n", suffix="\nIt is", write_labelled=None)
    assert (write(other) == texts).all()
    assert (write(make_writer(write="Another text:\n")) != texts).any(axis=1).all()
    own = make_writer(write=None, write_labelled=None)
    alike = make_writer(write=own.task.prompt)
    same = (write(own) == write(alike)).all(axis=1)
    assert same.mean() > 0.8  # all but those that end in front of the suffix


def test_the_prompt_for_texts_is_part_of_caches_of_such_texts_alone(
    llm: Path, mood: Path, tmp_path: Path
) -> None:
    written = tmp_path / "mood.yaml"
    written.write_text(MOOD + WRITE)

    def find(task: Path, sampler: str) -> Any:
        config = make_teacher_config(task, llm, tmp_path, sampler=sampler)
        return prepare_teacher(config, SilentReporter()).manifest

    assert find(mood, "vocabulary").fingerprint == find(written, "vocabulary").fingerprint
    for sampler in MODEL_SAMPLERS:
        plain, own = (find(task, sampler).inputs["sampler"] for task in (mood, written))
        noise = {"noise": "0.1"} if sampler == NOISY else {}
        assert plain["writing"] == {"temperature": "1", "top_p": "1"} | noise
        assert [*own["writing"]] == ["temperature", "top_p", *noise, sampler]


def test_the_bundled_model_goes_on_behind_the_prompts_it_knows(tmp_path: Path) -> None:
    reporter = SilentReporter()
    config = make_teacher_config("imdb", "mini", tmp_path, sampler="auto")
    plan = prepare_teacher(config, reporter)
    assert plan.task.choose_write(False) is None and plan.inputs.identity["name"] == "unigram"
    said = "texts: mini continues the task's prompt"
    assert any(line.startswith(said) for line in reporter.lines)


@pytest.mark.parametrize("write", ["", 'write: "A text:\\n"\n', WRITE])
def test_texts_with_noise_are_the_default_where_a_task_says_how_for_a_label(
    write: str, llm: Path, tmp_path: Path
) -> None:
    task, reporter = tmp_path / "mood.yaml", SilentReporter()
    task.write_text(MOOD + write)
    config = make_teacher_config(task, llm, tmp_path / "c", rows=400, sampler="auto")
    plan, labelled = prepare_teacher(config, reporter), "{label}" in write
    chosen = NOISY if labelled else "unigram"
    assert [line.split()[1] for line in reporter.lines if line.startswith("sampler:")] == [chosen]
    named = prepare_teacher(replace(config, sampler=chosen), SilentReporter())
    assert plan.manifest.fingerprint == named.manifest.fingerprint


def test_a_model_that_cannot_write_is_told_what_to_do_instead(tmp_path: Path) -> None:
    write_language_model(tmp_path / "lfm2", "lfm2")
    task = tmp_path / "mood.yaml"
    task.write_text(MOOD + WRITE)
    command = ["teacher", "--task", task, "--model", tmp_path / "lfm2", "--rows", 64]
    done = run_here(*command, "--batch-positions", 512, "--cache", tmp_path / "c")
    assert done.code == 1 and "cannot write texts" in done.err and "(--sampler unigram)" in done.err


def test_a_dry_run_says_what_writing_takes(llm: Path, tmp_path: Path) -> None:
    task = tmp_path / "mood.yaml"
    task.write_text(MOOD + WRITE)
    command = ["teacher", "--task", task, "--model", llm, "--cache", tmp_path / "c", "--dry-run"]
    command += ["--rows", 128, "--batch-positions", 512]
    for sampler, texts in (("vocabulary", 200), ("self-labelled", 300), ("vocabulary", 0)):
        done = run_here(*command, "--sampler", sampler, "--self-generated", texts)
        assert done.code == 0, done.err
        lines = [line for line in done.out.splitlines() if line.startswith("writing: ")]
        assert len(lines) == (texts > 0)
        assert not texts or f"more for {texts} self-generated texts" in lines[0]
    task.write_text(f'{MOOD}write: "A text:\\n"\n')
    done = run_here(*command, "--sampler", "self-labelled")
    assert done.code == 2 and "'A text:\\n', which names no label" in done.err
