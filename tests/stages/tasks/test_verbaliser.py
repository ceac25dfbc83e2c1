from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from chat_templates import PLAIN
from tiny import make_tokenizer

from stages.checkpoints import load_tokenizer
from stages.errors import TaskError
from stages.tasks.task import Label, Task, load_task
from stages.tasks.verbaliser import build_verbaliser

PAPER_TOKENS = {
    "Positive": ("▁Pos", "itive"),
    "Negative": ("▁Neg", "ative"),
    "Favorable": ("▁F", "avor", "able"),
    "Unfavorable": ("▁Un", "f", "avor", "able"),
    "Excellent": ("▁Ex", "cell", "ent"),
    "Poor": ("▁Po", "or"),
    "Terrible": ("▁Ter", "rible"),
    "Good": ("▁Good",),
    "Bad": ("▁Bad",),
    "Great": ("▁Great",),
}


def make_task(*labels: tuple[str, ...], suffix: str = "\nAnswer:") -> Task:
    named = tuple(Label(f"label{k}", words) for k, words in enumerate(labels))
    return Task("mine", "P", suffix, named, 5)


def test_a_split_word_is_a_warning_that_lists_its_tokens() -> None:
    found = build_verbaliser(make_task(("Good", "Qj"), ("Bad",)), make_tokenizer())
    split = next(word for word in found.words if word.word == "Qj")
    assert len(split.tokens) > 1
    (line,) = found.describe_splits()
    for part in ("'label0'", "'Qj'", " ".join(split.tokens), repr(split.tokens[0])):
        assert part in line


def test_the_llama_2_tokenizer_cuts_the_paper_s_words_as_the_paper_s_authors_saw(
    shared: Path,
) -> None:
    tokenizer = load_tokenizer(shared / "llama2-tokenizer")
    task = replace(load_task("imdb"), word_score="first-token", label_score="max")
    found = build_verbaliser(task, tokenizer)
    assert {word.word: word.tokens for word in found.words} == PAPER_TOKENS
    lower = build_verbaliser(make_task(("positive",), ("negative",)), tokenizer)
    assert [word.tokens for word in lower.words] == [("▁positive",), ("▁negative",)]
    assert len(found.describe_splits()) == 7
    with pytest.raises(TaskError, match=r"'Unfavorable' and 'Unhappy'.*'▁Un'"):
        build_verbaliser(make_task(("Unfavorable",), ("Good", "Unhappy")), tokenizer)


@pytest.mark.parametrize("kind", ["bytes", "tokens"])
def test_words_that_share_the_space_in_front_are_told_of_a_line_break(kind: str) -> None:
    tokenizer, words = make_tokenizer(kind), (("好", "Good"), ("错", "Bad"))
    with pytest.raises(TaskError, match=r"'好' and '错'.*suffix with a line break") as found:
        build_verbaliser(make_task(*words), tokenizer)
    assert "choose other words" not in str(found.value)
    # What it says works: the words differ in their bytes now.
    cured = build_verbaliser(make_task(*words, suffix="\n答案:\n"), tokenizer)
    assert not {word.tokens[0] for word in cured.words} & {"Ġ", "▁"}
    lines = build_verbaliser(make_task(("好",), ("Bad",)), tokenizer).describe_splits()
    (line,) = [line for line in lines if "'好'" in line]
    assert "end the suffix with a line break" in line


def test_in_a_chat_a_letter_does_not_stand_for_a_word_where_there_are_whole_ones() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = PLAIN
    task = make_task(("Ware", "Market", "Qj"), ("Zjj", "Zj"))
    tokenizer.add_tokens(["Ware", "Zjj"])
    found = build_verbaliser(task, tokenizer, chat=True)
    counted = {word.word: word.counts for word in found.words}
    assert counted["Ware"]
    assert not counted["Qj"]
    assert len(found.token_ids) == len(found.columns) == sum(counted.values())
    assert tokenizer.convert_tokens_to_ids("Q") not in found.token_ids
    (line,) = [line for line in found.describe_splits() if "'Qj'" in line]
    assert "'Q' begins many other words, so it is left out" in line
    # A label without a whole word keeps what it has, and the paper's own prompt every word.
    alone = build_verbaliser(make_task(("Ware",), ("Qj", "Xjjjjj")), tokenizer, chat=True)
    assert all(word.counts for word in alone.words)
    plain = build_verbaliser(make_task(("Good", "Qj"), ("Bad",)), make_tokenizer())
    assert all(word.counts for word in plain.words)
