from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import (
    FAMILY_NAMES,
    LONGEST,
    Listener,
    draw_ids,
    embed_with,
    make_language_model,
    make_short_task,
    make_teacher,
    make_tokenizer,
)
from transformers import PreTrainedModel

from stages.errors import ModelError
from stages.lm import embed_vocabulary
from stages.tasks import Label, Question, Task, grow_tree
from stages.teacher import forward, word_scores
from stages.teacher.branches import Branches
from stages.teacher.capabilities import find_layers, find_passes
from stages.teacher.forward import FullPass, PackedPass, PrefixPass, WordHead
from stages.teacher.teacher import Teacher
from stages.teacher.word_scores import WordScorer

LABELS = (Label("bad", ("Bad", "Qjx")), Label("good", ("Good", "Qjz", "Zq")))
VOCABULARY = 300
QUESTIONS = (
    Question(((5,), (6, 7), (6, 8, 9), (10, 11, 12, 13))),
    Question(((5,), (6, 7)), tokens=(20, 21, 22)),
    Question(((30,), (20, 21, 24)), tokens=(20, 21, 24)),
)


def make_whole_task(suffix: str = "\nAnswer:", prompt: str | None = None, **own: Any) -> Task:
    task = make_short_task(suffix, prompt)
    return replace(task, labels=LABELS, word_score="whole", **own)


def make_whole_teacher(family: str, **frame: Any) -> Teacher:
    tokenizer = make_tokenizer(start=None if frame.get("prompt") == "" else "<s>")
    model = make_language_model(family, len(tokenizer))
    return Teacher(model, tokenizer, make_whole_task(**frame))


@torch.inference_mode()
def score_plainly(
    model: PreTrainedModel, rows: torch.Tensor, questions: tuple[Question, ...]
) -> torch.Tensor:
    """Each word's score by plain forward passes over row and tokens in one sequence."""
    known: dict[tuple[int, ...], torch.Tensor] = {}

    def read(behind: tuple[int, ...]) -> torch.Tensor:
        if behind not in known:
            tokens = torch.tensor(behind).long().expand(len(rows), -1)
            whole = torch.cat([rows, tokens], dim=1)
            known[behind] = model(input_ids=whole, use_cache=False).logits[:, -1].double()
        return known[behind]

    scores = []
    for question in questions:
        for word in question.words:
            score = read(question.tokens)[:, word[0]]
            for k in range(1, len(word)):
                behind = read(question.tokens + word[:k])
                score = score + behind.log_softmax(dim=1)[:, word[k]]
            scores.append(score)
    return torch.stack(scores, dim=1)


YES_NO = (Question(((5,), (6,)), (20, 21)), Question(((5,), (6,)), (20, 22, 23)))

# One of each kind of attention, and of what is none.
KINDS = ("llama", "gpt2", "mistral", "gemma2-wide", "bloom", "mamba", "qwen3-next", "phi3-long")

FRAMES = {"both": {}, "prefix only": {"suffix": ""}, "suffix only": {"prompt": ""}}


@pytest.mark.parametrize(
    ("family", "frame"),
    [
        pytest.param(family, "both", marks=() if family in KINDS else pytest.mark.slow)
        for family in FAMILY_NAMES
    ]
    # Of each way one family.
    + [
        (family, frame)
        for family in ("llama", "gpt2", "gemma2", "phi3-long", "mamba")
        for frame in ("prefix only", "suffix only")
    ],
)
def test_whole_words_are_scored_as_by_plain_forward_passes(family: str, frame: str) -> None:
    teacher = make_whole_teacher(family, **FRAMES[frame])
    verbaliser, vocabulary = teacher.verbaliser, len(teacher.table)
    assert len(verbaliser.tree.tokens) > 3
    plain = make_language_model(family, vocabulary)
    lengths, ids = (0, 1, 9, LONGEST), draw_ids(3, LONGEST, vocabulary)
    around = [
        torch.tensor(part).long().expand(3, -1) for part in (teacher.prefix_ids, teacher.suffix_ids)
    ]
    wanted = []
    for length in lengths:
        rows = torch.cat([around[0], ids[:, :length], around[1]], dim=1)
        scores = score_plainly(plain, rows, (Question(verbaliser.sequences),))
        wanted.append(verbaliser.compute_class_logits(scores).softmax(dim=1))
    listener = Listener()
    order = np.random.default_rng(0).permutation(12)
    found = teacher.answer_rows(
        np.array(lengths)[order // 3],
        embed_with(teacher, ids[order % 3]),
        300,
        listener.hear(teacher),
    )
    answers = torch.stack(wanted)[order // 3, order % 3]
    torch.testing.assert_close(torch.from_numpy(found).softmax(dim=1), answers, atol=1e-5, rtol=0)
    assert answers.std(dim=0).max() > 0.005, "answers this alike prove nothing"
    first_token = make_teacher(family, **FRAMES[frame]).forward_pass
    assert teacher.forward_pass.description == first_token.description, teacher.fallbacks


class TestQuestions:
    """Several over one row, each with words of its own."""

    def make(
        self,
        family: str,
        dtype: torch.dtype = torch.float32,
        questions: tuple[Question, ...] = QUESTIONS,
    ) -> tuple[WordScorer, PreTrainedModel, torch.Tensor]:
        model = make_language_model(family, VOCABULARY).to(dtype)
        table = embed_vocabulary(model)
        head = model.get_output_embeddings()
        scorer = WordScorer(grow_tree(questions), model, head, table)
        model.set_output_embeddings(WordHead(head, grow_tree(questions).columns))
        return scorer, model, table

    @torch.inference_mode()
    @pytest.mark.parametrize(
        "family", ["llama", "gpt2", "gemma2-wide", "granite", "cohere", "deepseek3"]
    )
    @pytest.mark.parametrize("questions", [QUESTIONS, YES_NO], ids=["mixed", "yes or no"])
    def test_every_way_answers_as_plain_forward_passes(
        self, family: str, questions: tuple[Question, ...]
    ) -> None:
        scorer, model, table = self.make(family, questions=questions)
        prefix, plain = torch.arange(5, 12), make_language_model(family, VOCABULARY)
        inputs = [draw_ids(3, length, VOCABULARY) for length in (1, 4, 9)]
        wanted = torch.cat(
            [
                score_plainly(plain, torch.cat([prefix.expand(3, -1), rows], dim=1), questions)
                for rows in inputs
            ]
        )
        before = table[prefix][None]
        last = None if family == "gpt2" else find_layers(model)[-1]
        for make in (
            lambda: PackedPass(model, before, last),
            lambda: PackedPass(model, before, None),
            lambda: PrefixPass(model, before),
            lambda: FullPass(model, before),
        ):
            way = make()
            found = scorer.score(way, [table[rows] for rows in inputs])
            torch.testing.assert_close(found.double(), wanted, atol=5e-5, rtol=0)
            way.leave()

    @torch.inference_mode()
    def test_in_the_last_layer_only_what_is_read_is_run(self) -> None:
        scorer, model, table = self.make("llama")
        assert scorer.branches is not None
        (way, _), reasons = find_passes(
            model, table[None, :5], table[None, 5:7], table, LONGEST, scorer.branches
        )
        way.enter()
        assert isinstance(way, PackedPass) and way.trims and reasons == []
        seen: list[int] = []
        for layer in find_layers(model):
            layer.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
        scorer.score(way, [table[draw_ids(4, 6, VOCABULARY)]])
        nodes, read = len(scorer.branches.sees), len(scorer.branches.read)
        assert nodes > read > 1
        assert seen == [4 * (6 + nodes), 4 * (6 + nodes), 4 * (1 + read)]

    @torch.inference_mode()
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("fault", ["shifted", "sees all", "a neighbour's row"])
    def test_branches_that_are_wrong_are_not_believed(
        self, fault: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scorer, model, table = self.make("llama", dtype)
        assert scorer.branches is not None
        describe = forward.describe_rows

        def shift(groups: Any, known: int, device: Any, branches: Branches | None = None) -> Any:
            rows, positions = describe(groups, known, device, branches)
            if branches is None:
                return rows, positions
            if fault == "shifted":
                positions[:, -len(rows.ends) * len(branches.sees) :] += 1
            if fault == "sees all":
                every = replace(branches, sees=torch.ones_like(branches.sees))
                rows = replace(rows, branches=every)
            if fault == "a neighbour's row":
                rows = replace(rows, groups=tuple(reversed(rows.groups)))
            return rows, positions

        monkeypatch.setattr(forward, "describe_rows", shift)
        (way,), reasons = find_passes(
            model, table[None, :5], table[None, 5:7], table, LONGEST, scorer.branches
        )
        assert isinstance(way, PrefixPass)
        assert len(reasons) == 2 and all("off by" in reason for reason in reasons)


def test_words_of_one_token_cost_what_they_cost() -> None:
    labels = (Label("bad", ("Bad", "Poor")), Label("good", ("Good", "Great")))
    tokenizer = make_tokenizer()
    model = make_language_model("llama", len(tokenizer))
    task = replace(make_whole_task(), labels=labels)
    teacher, first = Teacher(model, tokenizer, task), make_teacher("llama")
    assert teacher.positions_around == first.positions_around
    assert teacher.forward_pass.description == first.forward_pass.description
    seen: list[int] = []
    for layer in find_layers(model):
        layer.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    teacher.compute_class_logits(teacher.table[draw_ids(7, 9, len(tokenizer))])
    assert seen[-1] == 7
    whole = make_whole_teacher("llama")
    assert whole.positions_around == first.positions_around + len(whole.verbaliser.tree.tokens)


def test_the_whole_vocabulary_is_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, sizes = make_whole_teacher("gemma2-wide"), []
    inputs = teacher.table[draw_ids(7, 9, len(teacher.table))]
    wanted = teacher.compute_class_logits(inputs)
    monkeypatch.setattr(word_scores, "SLICE", 100)
    monkeypatch.setattr(word_scores, "POSITIONS", 4)
    tanh = torch.tanh
    monkeypatch.setattr(torch, "tanh", lambda x: sizes.append(tuple(x.shape)) or tanh(x))
    torch.testing.assert_close(teacher.compute_class_logits(inputs), wanted, atol=1e-5, rtol=0)
    parts = [size for size in sizes if len(size) == 2]
    assert max(rows for rows, _ in parts) == 4 and max(columns for _, columns in parts) == 100


def test_a_family_that_does_something_unknown_to_its_logits_is_refused() -> None:
    tokenizer = make_tokenizer()
    model = make_language_model("llama", len(tokenizer))

    def cube(_: Any, args: Any, output: Any) -> Any:
        output.logits = output.logits**3
        return output

    model.register_forward_hook(cube)
    Teacher(model, tokenizer, make_short_task())
    model = make_language_model("llama", len(tokenizer))
    model.register_forward_hook(cube)
    with pytest.raises(ModelError, match=r"LlamaForCausalLM does .* word_score to first-token"):
        Teacher(model, tokenizer, make_whole_task())


def test_half_precision_is_scored_in_float32() -> None:
    tokenizer = make_tokenizer()
    exact = make_whole_teacher("gemma2-wide")
    model = make_language_model("gemma2-wide", len(tokenizer)).to(torch.bfloat16)
    half = Teacher(model, tokenizer, make_whole_task())
    assert half.forward_pass.description == exact.forward_pass.description
    ids = draw_ids(7, 9, len(tokenizer))
    found, wanted = (t.compute_class_logits(t.table[ids]).softmax(1) for t in (half, exact))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=0.15, rtol=0)


def test_what_does_not_fit_behind_a_row_is_refused() -> None:
    tokenizer = make_tokenizer()
    teacher = make_whole_teacher("llama")
    around = len(teacher.prefix_ids) + len(teacher.suffix_ids)
    task = replace(make_whole_task(), max_length=512 - around)
    model = make_language_model("llama", len(tokenizer))
    with pytest.raises(ModelError, match=r"suffix, a label word and an input .* set max_l"):
        Teacher(model, tokenizer, task)


def test_a_way_is_tried_on_three_nodes_however_many_there_are() -> None:
    words = [(k, k + 1, *range(k % 3)) for k in range(10, 60)] + [(70, 71, 72, 73, 74), (80, 81)]
    table = torch.arange(100.0)[:, None]
    whole = Branches.plant(grow_tree([Question(tuple(words))]), table)
    some = whole.thin()
    assert len(whole.ways) > 50
    ends = (whole.ways[0], max(whole.ways, key=len), whole.ways[-1])
    assert some.read.tolist() == sorted(way[-1] for way in some.ways)
    for own, way in zip(some.ways, ends, strict=True):
        assert torch.equal(some.embeddings[list(own)], whole.embeddings[list(way)])
        seen = [k for k in range(len(some.sees)) if some.sees[own[-1], k]]
        assert seen == list(own)
