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
from stages.tasks import Label, Task
from stages.teacher import forward, word_scores
from stages.teacher.branches import Branches
from stages.teacher.capabilities import find_layers
from stages.teacher.forward import PackedPass, PrefixPass
from stages.teacher.teacher import Teacher

LABELS = (Label("bad", ("Bad", "Qjx")), Label("good", ("Good", "Qjz", "Zq")))


def make_whole_task(suffix: str = "\nAnswer:", prompt: str | None = None, **own: Any) -> Task:
    task = make_short_task(suffix, prompt)
    return replace(task, labels=LABELS, word_score="whole", **own)


def make_whole_teacher(family: str, dtype: torch.dtype = torch.float32, **frame: Any) -> Teacher:
    tokenizer = make_tokenizer(start=None if frame.get("prompt") == "" else "<s>")
    model = make_language_model(family, len(tokenizer)).to(dtype)
    return Teacher(model, tokenizer, make_whole_task(**frame))


@torch.inference_mode()
def score_plainly(
    model: PreTrainedModel, rows: torch.Tensor, words: tuple[tuple[int, ...], ...]
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
    for word in words:
        score = read(())[:, word[0]]
        for k in range(1, len(word)):
            score = score + read(word[:k]).log_softmax(dim=1)[:, word[k]]
        scores.append(score)
    return torch.stack(scores, dim=1)


# One of each kind of attention, of what is none, and of what is done to logits.
KINDS = ("llama", "gpt2", "gemma2-wide", "bloom", "mamba", "phi3-long", "granite", "cohere")

FRAMES = {"both": {}, "prefix only": {"suffix": ""}, "suffix only": {"prompt": ""}}


@pytest.mark.parametrize(
    ("family", "frame"),
    [
        pytest.param(family, "both", marks=() if family in KINDS else pytest.mark.slow)
        for family in FAMILY_NAMES
    ]
    # Of each way one family.
    + [(x, frame) for x in ("llama", "gpt2", "mamba") for frame in ("prefix only", "suffix only")],
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
        scores = score_plainly(plain, rows, verbaliser.sequences)
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


def count_positions(teacher: Teacher, ids: torch.Tensor) -> list[int]:
    """Positions that each layer is run for."""
    seen: list[int] = []
    for layer in find_layers(teacher.model):
        layer.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    teacher.compute_class_logits(teacher.table[ids])
    return seen


def test_in_the_last_layer_only_what_is_read_is_run() -> None:
    teacher = make_whole_teacher("llama")
    tree = teacher.verbaliser.tree
    nodes, read = len(tree.tokens), len(tree.read_nodes)
    assert nodes >= read > 1
    length = 6 + len(teacher.suffix_ids)
    seen = count_positions(teacher, draw_ids(4, 6, len(teacher.table)))
    assert seen == [4 * (length + nodes), 4 * (length + nodes), 4 * (1 + read)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fault", ["shifted", "sees all", "a neighbour's row"])
def test_branches_that_are_wrong_are_not_believed(
    fault: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    teacher = make_whole_teacher("llama", dtype)
    assert [type(way) for way in teacher.passes] == [PrefixPass]
    assert len(teacher.fallbacks) == 2 and all("off by" in x for x in teacher.fallbacks)


def test_words_of_one_token_cost_what_they_cost() -> None:
    whole, first = make_whole_teacher("llama"), make_teacher("llama")
    assert whole.positions_around == first.positions_around + len(whole.verbaliser.tree.tokens)
    task = replace(first.task, word_score="whole")
    model = make_language_model("llama", len(first.table))
    teacher = Teacher(model, first.tokenizer, task)
    assert teacher.positions_around == first.positions_around
    assert teacher.forward_pass.description == first.forward_pass.description
    assert count_positions(teacher, draw_ids(7, 9, len(teacher.table)))[-1] == 7


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


def test_what_cannot_be_scored_as_a_whole_is_refused() -> None:
    whole = make_whole_teacher("llama")
    tokenizer, around = whole.tokenizer, len(whole.prefix_ids) + len(whole.suffix_ids)
    model = make_language_model("llama", len(tokenizer))
    task = replace(make_whole_task(), max_length=512 - around)
    with pytest.raises(ModelError, match=r"suffix, a label word and an input .* set max_l"):
        Teacher(model, tokenizer, task)

    def cube(_: Any, args: Any, output: Any) -> Any:
        output.logits = output.logits**3
        return output

    model = make_language_model("llama", len(tokenizer))
    model.register_forward_hook(cube)
    with pytest.raises(ModelError, match=r"LlamaForCausalLM does .* word_score to first-token"):
        Teacher(model, tokenizer, make_whole_task())


def test_half_precision_is_scored_in_float32() -> None:
    exact, half = (make_whole_teacher("gemma2-wide", x) for x in (torch.float32, torch.bfloat16))
    assert half.forward_pass.description == exact.forward_pass.description
    ids = draw_ids(7, 9, len(exact.table))
    found, wanted = (t.compute_class_logits(t.table[ids]).softmax(1) for t in (half, exact))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=0.15, rtol=0)


def test_what_stands_around_rows_that_are_tried_moves_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or a way's one rounding of it, which no number of turns averages out, is called a fault."""
    begin, read, seen = PackedPass.__init__, PackedPass.run_branches, set[tuple[bytes, ...]]()

    def keep_prompt(self: Any, model: Any, prefix: torch.Tensor, last: Any) -> None:
        begin(self, model, prefix, last)
        self.prompt = prefix

    def keep_both(self: Any, inputs: Any, branches: Any) -> Any:
        both = self.prompt, branches.embeddings
        seen.add(tuple(x.float().numpy().tobytes() for x in both))
        return read(self, inputs, branches)

    monkeypatch.setattr(PackedPass, "__init__", keep_prompt)
    monkeypatch.setattr(PackedPass, "run_branches", keep_both)
    teacher = make_whole_teacher("llama", torch.bfloat16)
    assert isinstance(teacher.forward_pass, PackedPass), teacher.fallbacks
    prompts, nodes = ({each[k] for each in seen} for k in (0, 1))
    assert len(seen) == len(prompts) == len(nodes) == 6
