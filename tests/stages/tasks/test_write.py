from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from chat_templates import CHATML
from processes import run_here
from test_prompting import make_chat_tokenizer
from tiny import MOOD, make_tokenizer

from stages.errors import SettingError, TaskError
from stages.tasks import list_tasks, load_task
from stages.tasks.frame import frame_writing
from stages.tasks.task import Label, Task


def load(tmp_path: Path, write: str) -> Task:
    path = tmp_path / "mood.yaml"
    path.write_text(f"{MOOD}write: {write}\n")
    return load_task(str(path))


@pytest.mark.parametrize(
    ("write", "got"),
    [
        ('""', "''"),
        ("~", "None"),
        ("[A, B]", "['A', 'B']"),
        ('"A {lable} text:"', "'A {lable} text:'"),
        ('"A {label text:"', "'A {label text:'"),
        ("{txt: A}", "{'txt': 'A'}"),
        ("{text: [A]}", "{'text': ['A']}"),
        ('{text: "A {label} text"}', "{'text': 'A {label} text'}"),
        ("{labelled: A text}", "{'labelled': 'A text'}"),
        ('{text: A text, labelled: " "}', "{'text': 'A text', 'labelled': ' '}"),
    ],
)
def test_what_is_no_prompt_for_texts_is_named_in_one_sentence(
    tmp_path: Path, write: str, got: str
) -> None:
    with pytest.raises(TaskError) as found:
        load(tmp_path, write)
    wanted = f"write: got {got}, must be a prompt for a text, in which nothing but {{label}}"
    assert wanted in str(found.value) and "\n" not in str(found.value)


def test_one_text_or_two_say_what_is_written_behind(tmp_path: Path) -> None:
    plain, named = "A text:\n", "A {label} text:\n"
    for write, wanted in (
        ('"A text:\\n"', (plain, None)),
        ('"A {label} text:\\n"', (named, named)),
        ('{text: "A text:\\n", labelled: "A {label} text:\\n"}', (plain, named)),
        ('{labelled: "A {label} text:\\n"}', (named, named)),
    ):
        task = load(tmp_path, write)
        assert task.choose_write(False) == wanted[0]
        if wanted[1] is None:
            with pytest.raises(SettingError, match=r"'self-noisy', .*'A text:\\n', which names"):
                task.choose_write(True)
        else:
            assert task.choose_write(True) == wanted[1]
        # What is written is no part of what the task asks.
        assert task.describe() == replace(task, write=None, write_labelled=None).describe()
    (tmp_path / "plain.yaml").write_text(MOOD)
    assert load_task(str(tmp_path / "plain.yaml")).choose_write(True) is None


def test_a_task_is_shown_and_checked_with_what_is_written_behind(tmp_path: Path) -> None:
    path = tmp_path / "mood.yaml"
    for line, said in (("", "continues the prompt"), ('write: "A {label} text:\\n"', None)):
        path.write_text(f"{MOOD}{line}\n")
        for command in (["show", str(path)], ["check", str(path)]):
            done = run_here("task", *command)
            assert done.code == 0, done.err
            assert f"write:      {said or repr('A {label} text:' + chr(10))}" in done.out


def test_every_bundled_task_can_be_written_and_labels_are_spoken_by_what_says_something() -> None:
    for task in map(load_task, list_tasks()):
        assert task.choose_write(False) != task.choose_write(True)
        assert [label.spoken for label in task.labels] == list(task.label_names)
    for name in ("0", "1", "LABEL_2", "class-3", "x"):  # which says nothing
        assert Label(name, ("Cats", "Kittens")).spoken == "Cats"


def test_a_chat_model_is_asked_and_its_turn_is_the_text() -> None:
    for prompt, asked in (
        ("A movie review:\n", "Write a movie review."),
        ("IMDb review:\n", "Write IMDb review."),
        ("Make up a movie review.\n", "Make up a movie review."),
    ):
        ids = frame_writing(prompt, tokenizer := make_chat_tokenizer(CHATML), True)
        turns = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
        assert tokenizer.decode(ids).endswith(turns)
        plain = frame_writing(prompt + " ", make_tokenizer(), False)
        assert plain == make_tokenizer()(prompt)["input_ids"]
