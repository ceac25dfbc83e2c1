from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tokenizer

from stages.checkpoints import load_tokenizer
from stages.errors import TaskError
from stages.tasks.task import Label, Task, load_task
from stages.tasks.verbaliser import Verbaliser, WordTokens, build_verbaliser

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
    "positive": ("▁positive",),
    "negative": ("▁negative",),
}


def make_task(*labels: tuple[str, ...], suffix: str = "\nAnswer:") -> Task:
    named = tuple(Label(f"label{k}", words) for k, words in enumerate(labels))
    return Task("mine", "P", suffix, named, 5)


@pytest.mark.parametrize("suffix", ["\nAnswer:", "", "\nThe answer is "])
@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_a_word_is_cut_as_it_would_follow_the_prompt(kind: str, suffix: str) -> None:
    tokenizer = make_tokenizer(kind)
    found = build_verbaliser(make_task(("Good", "Great"), ("Bad",), suffix=suffix), tokenizer)
    space = {"bytes": "Ġ", "metaspace": "▁"}[kind]
    whole = suffix.rstrip(" ") == suffix
    words = ["Good", "Great", "Bad"]
    assert found.labels == ("label0", "label1")
    assert found.columns == (0, 0, 1)
    assert [word.word for word in found.words] == words
    assert len(set(found.token_ids)) == 3
    for word, token_id in zip(found.words, found.token_ids, strict=True):
        assert tokenizer.convert_ids_to_tokens(token_id) == word.tokens[0]
        if whole:
            assert word.tokens == (space + word.word,)


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_labels_that_share_a_first_token_are_named_with_their_words(kind: str) -> None:
    task = make_task(("Good", "Zzx"), ("Bad", "Zzy"))
    with pytest.raises(TaskError) as found:
        build_verbaliser(task, make_tokenizer(kind))
    for part in ("task mine", "'label0'", "'label1'", "'Zzx'", "'Zzy'", "same token"):
        assert part in str(found.value)


def test_words_of_one_label_may_share_a_first_token() -> None:
    found = build_verbaliser(make_task(("Zzx", "Zzy"), ("Bad",)), make_tokenizer())
    assert found.token_ids[0] == found.token_ids[1] != found.token_ids[2]


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
    assert {word.word: word.tokens for word in found.words} == {
        word: tokens for word, tokens in PAPER_TOKENS.items() if word[0].isupper()
    }
    lower = build_verbaliser(make_task(("positive",), ("negative",)), tokenizer)
    assert [word.tokens for word in lower.words] == [("▁positive",), ("▁negative",)]
    assert len(found.describe_splits()) == 7


def test_llama_2_cannot_tell_words_apart_that_begin_alike(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "llama2-tokenizer")
    with pytest.raises(TaskError, match=r"'Unfavorable' and 'Unhappy'.*'▁Un'"):
        build_verbaliser(make_task(("Unfavorable",), ("Good", "Unhappy")), tokenizer)


@given(st.data())
def test_a_label_s_logit_is_the_largest_of_its_words(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    columns = [k for k, size in enumerate(sizes) for _ in range(size)]
    rows = data.draw(st.integers(1, 3))
    value = st.floats(-1e4, 1e4, width=32)
    flat = st.lists(value, min_size=rows * len(columns), max_size=rows * len(columns))
    logits = np.array(data.draw(flat), dtype=np.float32).reshape(rows, -1)
    words = tuple(WordTokens(str(k), "w", ("w",), k) for k in columns)
    labels = tuple(map(str, range(len(sizes))))
    found = Verbaliser(words, tuple(columns), labels).compute_class_logits(torch.tensor(logits))
    wanted = [logits[:, np.array(columns) == k].max(axis=1) for k in range(len(sizes))]
    np.testing.assert_array_equal(found.numpy(), np.stack(wanted, axis=1))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("kind", ["bytes", "tokens"])
def test_words_that_share_the_space_in_front_are_told_of_a_line_break(kind: str) -> None:
    tokenizer, words = make_tokenizer(kind), (("好", "Good"), ("错", "Bad"))
    with pytest.raises(TaskError, match=r"'好' and '错'.*suffix with a line break") as found:
        build_verbaliser(make_task(*words), tokenizer)
    assert "choose other words" not in str(found.value)
    # What it says works: the words differ in their bytes now.
    cured = build_verbaliser(make_task(*words, suffix="\n答案:\n"), tokenizer)
    assert not {word.tokens[0] for word in cured.words} & {"Ġ", "▁"}
    (line,) = [
        line
        for line in build_verbaliser(make_task(("好",), ("Bad",)), tokenizer).describe_splits()
        if "'好'" in line
    ]
    assert "end the suffix with a line break" in line


def test_in_a_chat_a_letter_does_not_stand_for_a_word_where_there_are_whole_ones() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '#' + m.role + '\n' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '#assistant\n' }}{% endif %}"
    )
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
