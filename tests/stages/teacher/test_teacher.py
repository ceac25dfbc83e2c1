from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import (
    FAMILY_NAMES,
    LONGEST,
    OFTEN,
    Listener,
    draw_ids,
    embed_with,
    make_language_model,
    make_short_task,
    make_teacher,
    make_tokenizer,
)
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.checkpoints import load_tokenizer
from stages.errors import ModelError
from stages.lm import load_language_model
from stages.tasks.task import load_task
from stages.tasks.verbaliser import build_verbaliser
from stages.teacher.fill import average_next_token
from stages.teacher.forward import PackedPass, PrefixPass
from stages.teacher.teacher import Teacher

# How a family is run where there is a prompt, and where there is none.  A family that falls back
# to a slower way does so here on purpose, or a test fails.
TRIMMED = ("trimmed", "trimmed")
COPIED, FULL = ("copied", "full"), ("full", "full")
WAYS = dict.fromkeys(FAMILY_NAMES, TRIMMED) | {
    # Their layers take the shape from in front of attention.
    **dict.fromkeys(("gpt2", "bigcode"), ("packed", "packed")),
    # A layer of theirs does not see the beginning.
    **dict.fromkeys(("mistral", "gemma2", "gemma3", "llama4-chunks"), COPIED),
    "llama4-unturned": COPIED,
    # Attention of their own.
    **dict.fromkeys(("falcon", "falcon-alibi", "falcon-new", "bloom", "mpt", "gptj"), COPIED),
    "gpt-oss": COPIED,
    "diffllama": ("copied", "packed"),
    # What they keep of the prompt is more than keys and values, or changes with the row's length.
    **dict.fromkeys(("mamba", "jamba", "lfm2", "falcon-h1", "qwen3-next", "phi3-long"), FULL),
}


def name_way(teacher: Teacher) -> str:
    way = teacher.forward_pass
    if isinstance(way, PackedPass):
        return "trimmed" if way.trims else "packed"
    return "copied" if isinstance(way, PrefixPass) else "full"


class Plain:
    """A model as it comes, asked with token ids of prompt, input and suffix."""

    def __init__(self, family: str, suffix: str = "\nAnswer:", prompt: str | None = None) -> None:
        task = make_short_task(suffix, prompt)
        tokenizer = make_tokenizer(start=None if prompt == "" else "<s>")
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.prefix = [*start, *tokenizer.encode(task.prompt, add_special_tokens=False)]
        self.suffix = tokenizer.encode(task.suffix, add_special_tokens=False)
        self.around = self.prefix, self.suffix
        self.verbaliser = build_verbaliser(task, tokenizer)
        self.model = make_language_model(family, len(tokenizer))

    @torch.inference_mode()
    def ask(self, ids: torch.Tensor) -> torch.Tensor:
        around = [torch.tensor(part).long().expand(len(ids), -1) for part in self.around]
        whole = torch.cat([around[0], ids, around[1]], dim=1)
        logits = self.model(input_ids=whole).logits[:, -1]
        words = logits[:, list(self.verbaliser.token_ids)]
        return self.verbaliser.compute_class_logits(words).softmax(dim=1)


FRAMES = {"both": {}, "prefix only": {"suffix": ""}, "suffix only": {"prompt": ""}}


def compare_with_plain(
    family: str, frame: str, lengths: Sequence[int], alone: Sequence[int]
) -> None:
    """Some lengths alone in batches of 1 and 7, then 7 rows of each length in one call."""
    teacher, plain = make_teacher(family, **FRAMES[frame]), Plain(family, **FRAMES[frame])
    assert (teacher.prefix_ids, teacher.suffix_ids) == plain.around
    ids = draw_ids(7, LONGEST, len(teacher.table))
    wanted = torch.stack([plain.ask(ids[:, :length]) for length in lengths])
    for length in alone:
        # By turns, so that one call's leavings would show in the next.
        for rows in (1, 7, 1):
            found = teacher.compute_class_logits(teacher.table[ids[:rows, :length]])
            assert found.dtype == torch.float32
            answers = wanted[lengths.index(length), :rows]
            torch.testing.assert_close(found.softmax(dim=1), answers, atol=1e-5, rtol=0)
    order = np.random.default_rng(0).permutation(7 * len(lengths))
    rows, listener = order % 7, Listener()
    logits = teacher.answer_rows(
        np.array(lengths)[order // 7], embed_with(teacher, ids[rows]), 600, listener.hear(teacher)
    )
    answers = wanted[order // 7, rows]
    found = torch.from_numpy(logits).softmax(dim=1)
    torch.testing.assert_close(found, answers, atol=1e-5, rtol=0)
    assert sum(listener.counts) == len(order)
    assert listener.warnings == []
    assert answers.std(dim=0).max() > 0.005, "answers this alike prove nothing"
    assert name_way(teacher) == WAYS[family][not plain.prefix], teacher.fallbacks


# Without a prompt, or with nothing behind the input, one family stands for those like it.
CASES = [
    pytest.param(x, frame, marks=() if frame == "both" or x in OFTEN else pytest.mark.slow)
    for x in FAMILY_NAMES
    for frame in FRAMES
]


@pytest.mark.parametrize(("family", "frame"), CASES)
def test_the_teacher_answers_as_a_plain_forward_pass(family: str, frame: str) -> None:
    if family == "llama":
        every = range(LONGEST + 1)
        compare_with_plain(family, frame, every, every)
    elif frame == "both":
        compare_with_plain(family, frame, (0, 1, 2, 7, LONGEST), (1, LONGEST))
    else:
        compare_with_plain(family, frame, (0, 1, LONGEST), (1,))


def test_an_input_needs_something_around_it_or_in_it() -> None:
    teacher, plain = make_teacher("llama", "", ""), Plain("llama", "", "")
    assert plain.around == ([], [])
    ids = draw_ids(7, 5, len(teacher.table))
    found = teacher.compute_class_logits(teacher.table[ids]).softmax(dim=1)
    torch.testing.assert_close(found, plain.ask(ids), atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match="an empty input needs a prompt or a suffix"):
        teacher.compute_class_logits(teacher.table[ids[:, :0]])


def test_only_the_label_words_are_multiplied_and_in_float32() -> None:
    tokenizer = make_tokenizer()
    model = make_language_model("gpt2", len(tokenizer)).to(torch.bfloat16)
    teacher = Teacher(model, tokenizer, make_short_task())
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Module)
    assert head.out_features == len(teacher.verbaliser.words) == 4
    assert teacher.table.shape == (len(tokenizer), 32)
    assert teacher.table.dtype == torch.bfloat16
    logits = teacher.compute_class_logits(teacher.table[draw_ids(7, 9, len(tokenizer))])
    assert logits.dtype == torch.float32
    assert (logits != logits.bfloat16().float()).any(), "they went through bfloat16"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gemma2-wide", "phi3-long", "mamba"])
def test_the_average_next_token_is_a_plain_forward_pass_s(family: str) -> None:
    teacher, plain = make_teacher(family), Plain(family)
    ids = draw_ids(3, 40, len(teacher.table))  # longer than any input
    before = teacher.compute_class_logits(teacher.table[ids[:, :LONGEST]])
    found = average_next_token(teacher, ids)
    compare_average(found, plain, ids)
    after = teacher.compute_class_logits(teacher.table[ids[:, :LONGEST]])
    torch.testing.assert_close(after, before, atol=0, rtol=0)


def test_contexts_longer_than_a_window_that_no_input_fills_are_averaged_all_the_same() -> None:
    tokenizer, plain = make_tokenizer(), Plain("mistral-wide")
    longest = len(plain.prefix) + LONGEST + len(plain.suffix)
    for window, way in ((longest, "trimmed"), (longest - 1, "copied")):
        model = make_language_model("mistral-wide", len(tokenizer))
        for own in (model, plain.model):
            own.config.sliding_window = window
            for layer in own.model.layers:
                layer.self_attn.sliding_window = window
        teacher = Teacher(model, tokenizer, make_short_task())
        assert name_way(teacher) == way, "a window may be as wide as the longest row"
        ids = draw_ids(3, 40, len(tokenizer))
        compare_average(average_next_token(teacher, ids), plain, ids)


def compare_average(found: torch.Tensor, plain: Plain, ids: torch.Tensor) -> None:
    start = torch.tensor(plain.prefix).expand(len(ids), -1)
    with torch.inference_mode():
        logits = plain.model(input_ids=torch.cat([start, ids], dim=1)).logits
    wanted = logits[:, start.shape[1] - 1 : -1].softmax(dim=-1).double().mean(dim=(0, 1))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert found.sum().item() == pytest.approx(1.0)


def test_a_task_too_long_for_the_model_is_refused_with_what_fits() -> None:
    tokenizer = make_tokenizer()
    task = replace(make_short_task(), max_length=500)
    with pytest.raises(ModelError, match="the model has 512; set max_length to at most") as found:
        Teacher(make_language_model("llama", len(tokenizer)), tokenizer, task)
    room = int(str(found.value).rsplit(" ", 1)[1])
    Teacher(make_language_model("llama", len(tokenizer)), tokenizer, replace(task, max_length=room))


class TestBundledModel:
    FOLDER = Path(__file__).parents[3] / "stages" / "mini"

    def test_it_is_an_ordinary_model_of_at_most_8_mb_that_generates_text(self) -> None:
        assert (self.FOLDER / "model.safetensors").stat().st_size <= 8_000_000
        assert sum(path.stat().st_size for path in self.FOLDER.glob("*.*")) <= 10_000_000
        endings = {path.suffix for path in self.FOLDER.iterdir() if path.is_file()}
        assert endings <= {".json", ".py", ".safetensors"}
        tokenizer = AutoTokenizer.from_pretrained(self.FOLDER)
        model = AutoModelForCausalLM.from_pretrained(self.FOLDER, dtype=torch.float32)
        torch.manual_seed(0)
        given = tokenizer("this movie", return_tensors="pt")
        out = model.generate(**given, max_new_tokens=24)[0, given["input_ids"].shape[1] :]
        assert len(set(out.tolist())) > 5
        assert any(char.isalpha() for char in tokenizer.decode(out))

    def test_it_answers_each_bundled_task_as_a_plain_forward_pass(self) -> None:
        tokenizer = load_tokenizer(self.FOLDER)
        for name in ("imdb", "ag_news", "reddit"):
            task = replace(load_task(name), word_score="first-token", label_score="max")
            plain = load_language_model(self.FOLDER, "cpu", "float32")
            teacher = Teacher(load_language_model(self.FOLDER, "cpu", "float32"), tokenizer, task)
            assert name_way(teacher) == "trimmed"
            owners = {word.token_id: word.label for word in teacher.verbaliser.words}
            assert sorted(set(owners.values())) == sorted(task.label_names)
            ids = draw_ids(5, 20, len(tokenizer))
            around = (
                torch.tensor(x).expand(5, -1) for x in (teacher.prefix_ids, teacher.suffix_ids)
            )
            prefix, suffix = around
            with torch.inference_mode():
                logits = plain(input_ids=torch.cat([prefix, ids, suffix], dim=1)).logits[:, -1]
            words = logits[:, list(teacher.verbaliser.token_ids)]
            wanted = teacher.verbaliser.compute_class_logits(words).softmax(dim=1)
            found = teacher.compute_class_logits(teacher.table[ids]).softmax(dim=1)
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
