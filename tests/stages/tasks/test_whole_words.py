from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import yaml
from chat_templates import PLAIN
from hypothesis import given
from hypothesis import strategies as st
from tiny import MOOD, make_tokenizer

from stages.errors import TaskError
from stages.tasks import ROOT, Question, Task, Verbaliser, build_verbaliser, grow_tree, parse_task

tokens = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
questions = st.lists(
    st.builds(Question, st.lists(tokens, min_size=1, max_size=5).map(tuple), tokens | st.just(())),
    min_size=1,
    max_size=3,
)


def make_task(labels: dict[str, list[str]], **own: Any) -> Task:
    data = yaml.safe_load(MOOD) | {"word_score": "whole", "labels": labels} | own
    return parse_task(data, "mine", "mine")


def build(labels: dict[str, list[str]], kind: str = "bytes", **own: Any) -> Verbaliser:
    return build_verbaliser(make_task(labels, **own), make_tokenizer(kind))


@given(questions)
def test_a_tree_holds_what_is_in_front_of_each_token_once(questions: list[Question]) -> None:
    tree = grow_tree(questions)
    words = [(each.tokens, word) for each in questions for word in each.words]
    fronts = set()
    for (asked, word), reads in zip(words, tree.reads, strict=True):
        assert [token for _, token in reads] == list(word)
        for k, (node, token) in enumerate(reads):
            front = asked + word[:k]
            assert tuple(tree.tokens[each] for each in tree.trace(node)) == front
            assert token in tree.columns
            fronts |= {front[: end + 1] for end in range(len(front))}
    assert len(tree.tokens) == len(tree.parents) == len(fronts)
    assert all(ROOT <= parent < node for node, parent in enumerate(tree.parents))
    assert list(tree.columns[: len(words)]) == [word[0] for _, word in words]


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_labels_whose_words_begin_alike_are_told_apart_when_scored_whole(kind: str) -> None:
    labels = {"bad": ["Bad", "Zzx"], "good": ["Good", "Zzy"]}
    with pytest.raises(TaskError, match=r"begin with the same token .*word_score: whole"):
        build(labels, kind, word_score="first-token")
    found = build(labels, kind)
    assert found.describe_splits() == []
    assert found.tree.tokens
    line = found.describe_scores()
    assert f"{len(found.tree.tokens)} positions more a row" in line and "max over" in line
    # Words of one token need no position.
    found = build({"bad": ["Bad", "Poor"], "good": ["Good", "Great"]}, kind)
    assert found.tree.tokens == () and {len(tokens) for tokens in found.sequences} == {1}


def test_other_spellings_are_as_short_as_the_word_and_are_all_different() -> None:
    tokenizer = make_tokenizer()
    found = build({"bad": ["Bad", "Qjx"], "good": ["Good", "good"]})
    assert len(set(found.sequences)) == len(found.sequences)
    for word in found.words:
        texts = [tokenizer.decode(ids).strip() for ids in word.spellings or ()]
        assert {text.lower() for text in texts} <= {word.word.lower()}
        assert all(len(ids) <= len(word.tokens) for ids in word.spellings or ())
    texts = [tokenizer.decode(ids) for ids in found.words[1].spellings or ()]
    assert texts[0] == " Qjx"
    assert {"Qjx", " qjx", "qjx", " QJX", "QJX"} & set(texts)
    # "good" is a spelling of "Good" and a word: a token that counted twice would be worth double.
    assert next(tokenizer.decode(ids) for ids in found.words[3].spellings or ()) == " good"


def test_a_spelling_that_two_labels_have_is_neither_s() -> None:
    tokenizer = make_tokenizer()
    found = build({"one": ["Zx"], "two": ["zX"]})
    texts = [[tokenizer.decode(ids) for ids in word.spellings or ()] for word in found.words]
    assert texts[0][0] == " Zx" and texts[1][0] == " zX"
    assert not {*texts[0]} & {*texts[1]}
    assert " zx" not in [*texts[0], *texts[1]]


def test_a_word_that_begins_with_another_is_counted_with_it_or_an_error() -> None:
    tokenizer = make_tokenizer()
    short, long = "Zq", "Zqj"
    ids = [
        tokenizer.encode(f"\nAnswer: {word}", add_special_tokens=False) for word in (short, long)
    ]
    assert ids[1][: len(ids[0])] == ids[0], "the test needs words that are cut alike"
    found = build({"bad": ["Bad"], "good": [long, short]})
    (line,) = found.describe_splits()
    assert f"'{long}' is counted with another word of the label" in line
    with pytest.raises(TaskError) as error:
        build({"bad": [short], "good": [long]})
    for part in ("task mood", "'bad' and 'good'", "'Zqj' begin with those of 'Zq'", "choose other"):
        assert part in str(error.value)


@pytest.mark.parametrize("label_score", ["max", "sum"])
@pytest.mark.parametrize("word_score", ["first-token", "whole"])
def test_spellings_are_added_up_and_words_joined_as_asked(
    word_score: str, label_score: str
) -> None:
    labels = {"bad": ["Bad", "Qjx", "Qjz"], "good": ["Good", "Great"]}
    found = build(labels, word_score=word_score, label_score=label_score)
    assert f"of a label: the {label_score} over" in found.describe_scores()
    scores = np.random.default_rng(0).normal(size=(3, len(found.sequences))).astype(np.float32)
    if word_score == "first-token":  # two words with one first token
        assert found.sequences[1] == found.sequences[2]
        scores[:, 2] = scores[:, 1]
    wanted = []
    for label in found.labels:
        words, number = [], 0
        for word in found.words:
            own = len(word.spellings or (0,))
            if word.label == label:
                words.append(np.exp(scores[:, number : number + own]).sum(axis=1))
            number += own
        if word_score == "first-token" and label == "bad":
            words.pop()
        joined = np.max(words, axis=0) if label_score == "max" else np.sum(words, axis=0)
        wanted.append(np.log(joined))
    logits = found.compute_class_logits(torch.tensor(scores))
    np.testing.assert_allclose(logits.numpy(), np.stack(wanted, axis=1), rtol=1e-5)


@pytest.mark.parametrize("value", ["hole", None, 1, ["max"]])
def test_a_score_that_there_is_not_is_named_with_those_there_are(value: Any) -> None:
    for key, known in (("word_score", "first-token or whole"), ("label_score", "max or sum")):
        with pytest.raises(TaskError, match=rf"{key}: got .*, must be {known}"):
            make_task({"a": ["x"], "b": ["y"]}, **{key: value})


def test_only_scores_that_are_no_default_are_part_of_what_a_cache_is_of() -> None:
    labels = {"a": ["x"], "b": ["y"]}
    plain = parse_task(yaml.safe_load(MOOD) | {"labels": labels}, "mine", "mine")
    assert plain == make_task(labels, word_score="first-token", label_score="max")
    assert not {"word_score", "label_score"} & set(plain.describe())
    assert make_task(labels).describe()["word_score"] == "whole"
    assert make_task(labels, label_score="sum").describe()["label_score"] == "sum"


def test_in_a_chat_a_word_that_begins_with_a_letter_counts_with_all_its_tokens() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = PLAIN
    tokenizer.add_tokens(["Ware"])
    task = make_task({"business": ["Ware", "Qj"], "other": ["Qz"]})
    found = build_verbaliser(task, tokenizer, chat=True)
    assert all(word.counts for word in found.words) and found.describe_splits() == []
    for word in found.words:
        assert tokenizer.convert_ids_to_tokens((word.spellings or ((),))[0]) == list(word.tokens)
    texts = [tokenizer.decode(ids) for ids in found.words[1].spellings or ()]
    assert texts[0] == "Qj" and "qj" in texts
