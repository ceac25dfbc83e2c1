from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILY_NAMES, LONGEST, Listener, make_teacher

from cache.draw.philox import Purpose, mix_seeds, random_integers_numpy
from stages.errors import ModelError, SettingError
from stages.inputs.preparation import SamplingSettings
from stages.tasks.frame import frame_task
from stages.teacher.endings import find_end_ids
from stages.teacher.generation import LIKELIEST, draw_tokens, write_texts
from stages.teacher.teacher import Teacher

# What they keep of a prompt is more than keys and values, or changes with the row's length.
STATEFUL = ("mamba", "jamba", "lfm2", "falcon-h1", "qwen3-next", "phi3-long")
QUICK = ("llama", "gpt2", "gemma3", "falcon-alibi", "gpt-oss", "deepseek3", "mamba", "phi3-long")
FAMILIES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILY_NAMES
]
SEEDS = mix_seeds(5, 0, 24)


def write(
    teacher: Teacher, seeds: np.ndarray = SEEDS, listener: Listener | None = None, **own: Any
) -> np.ndarray:
    hear = (listener or Listener()).hear(teacher)
    return write_texts(teacher, seeds, SamplingSettings(**own), LONGEST, hear)


@torch.inference_mode()
def predict(teacher: Teacher, ids: np.ndarray) -> torch.Tensor:
    """What the model as it was loaded expects at every position of a row, (T, V)."""
    whole = torch.tensor([[*teacher.prefix_ids, *ids]])
    with teacher.suspend():
        output = teacher.model(inputs_embeds=teacher.table[whole], use_cache=False)
    logits: torch.Tensor = output.logits[0, len(teacher.prefix_ids) - 1 : -1].float()
    # What cannot begin a text is impossible there.
    decoded = [teacher.tokenizer.decode([number]) for number in range(len(teacher.table))]
    leads = {"\n", *teacher.tokenizer.decode(teacher.suffix_ids)[:1]}
    first = [k for k, text in enumerate(decoded) if text[-1:] in [*" \t\r"] or leads & {*text}]
    ends = [*find_end_ids(teacher.model), *teacher.tokenizer.all_special_ids]
    logits[0, [*first, *ends]] = -torch.inf
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_is_drawn_from_what_the_model_expects_there(family: str) -> None:
    teacher = make_teacher(family)
    if family in STATEFUL:
        with pytest.raises(ModelError, match="no keys and values"):
            write(teacher)
        return
    teacher.rows_written = 3  # so that texts of all ages are side by side
    texts = write(teacher, SEEDS[:10])
    draws = random_integers_numpy(SEEDS[:10], LONGEST, stream=Purpose.WRITING) * 2.0**-32
    for ids, uniform in zip(texts, draws, strict=True):
        ids = ids[ids >= 0][: None if ids[-1] >= 0 else -1]  # an end loses its white space
        logits = predict(teacher, ids)
        p = logits.softmax(dim=1).double()
        at = torch.arange(len(ids)), torch.from_numpy(ids).long()
        above = p.cumsum(dim=1)[at]
        drawn = torch.from_numpy(uniform[: len(ids)])
        assert (drawn <= above + 1e-3).all()
        assert (drawn >= above - p[at] - 1e-3).all()


def test_texts_end_before_the_models_end_and_before_the_suffix() -> None:
    teacher = make_teacher("llama")
    ends = find_end_ids(teacher.model) or [7]
    teacher.model.generation_config.eos_token_id = ends
    teacher.suffix_ids = [9]
    texts = write(teacher, mix_seeds(1, 0, 200), temperature=3.0)
    lengths = (texts >= 0).sum(axis=1)
    assert not np.isin(texts, [*ends, 9]).any()
    assert lengths.min() >= 1 and lengths.max() == LONGEST and len(set(lengths.tolist())) > 5
    # Nothing behind an end.
    assert ((texts >= 0) == (np.arange(LONGEST) < lengths[:, None])).all()


def test_a_text_depends_on_its_seed_and_not_on_those_beside_it() -> None:
    teacher = make_teacher("llama")
    rows = teacher.table[torch.arange(12).view(2, 6)]
    before = teacher.compute_class_logits(rows)
    for own in ({}, {"labelled": True, "top_p": 0.8}):
        together = write(teacher, **own)
        again = np.concatenate([write(teacher, SEEDS[k : k + 8], **own) for k in range(0, 24, 8)])
        assert (together == again).all(axis=1).mean() > 0.9
        assert len(np.unique(together, axis=0)) == len(SEEDS)
    assert torch.equal(teacher.compute_class_logits(rows), before), "it answers as before"


def test_a_label_is_named_in_front_of_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = make_teacher("llama")
    seen = []

    def frame(task: Any, *rest: Any) -> Any:
        seen.append(task.prompt)
        return frame_task(task, *rest)

    monkeypatch.setattr("stages.teacher.generation.frame_task", frame)
    write(teacher, labelled=True)
    first = [label.words[0] for label in teacher.task.labels]
    assert seen == [f"Answer: {word}\n{teacher.task.prompt}" for word in first]
    # What a label adds in front may be more than the model has positions for.
    room = len(teacher.prefix_ids) + LONGEST
    monkeypatch.setattr(teacher.model.config, "max_position_embeddings", room)
    write(teacher)
    with pytest.raises(ModelError, match=f"the model has {room}; set max_length to at most"):
        write(teacher, labelled=True)


def test_fewer_at_once_where_the_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, listener = make_teacher("llama"), Listener()
    wanted, forward, calls = write(teacher), teacher.model.forward, iter(range(100))

    def run_out(**inputs: Any) -> Any:
        if len(inputs["inputs_embeds"]) > 8:
            raise MemoryError
        return forward(**inputs)

    monkeypatch.setattr(teacher.model, "forward", run_out)
    for known, steps in ((16, [8]), (None, [12, 6])):
        teacher.rows_written, listener.warnings = known, []
        got = write(teacher, listener=listener)
        assert (got == wanted).all(axis=1).mean() > 0.9
        assert teacher.rows_written <= 8
        for size, line in zip(steps, listener.warnings, strict=True):
            assert f"going on with {size} " in line

    def run_out_for_good(**inputs: Any) -> Any:
        if next(calls) >= 5:  # behind the trial of two rows
            raise MemoryError
        return forward(**inputs)

    monkeypatch.setattr(teacher.model, "forward", run_out_for_good)
    with pytest.raises(ModelError, match="no memory for a single written text of 24"):
        write(teacher)


@given(
    st.one_of(st.integers(1, 40), st.just(2 * LIKELIEST)),
    st.sampled_from([0.1, 8]),  # a flat distribution, whose likeliest are many, and a peaked one
    st.floats(0, 1, exclude_max=True),
    st.floats(0.01, 1),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_no_impossible_token_is_drawn(
    size: int, scale: float, uniform: float, top_p: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(0, scale, (3, size)).astype(np.float32))
    logits[torch.from_numpy(random.random((3, size)) < 0.4)] = -torch.inf
    logits[:, random.integers(size)] = 0.0
    number = torch.full((3,), uniform, dtype=torch.float64)
    found = draw_tokens(logits, number, top_p)
    assert logits[torch.arange(3), found].isfinite().all()
    if top_p < 1:
        # Those likelier than the token drawn have less than top_p together.
        p = logits.softmax(dim=1)
        likelier = (p * (p > p[torch.arange(3), found][:, None])).sum(dim=1)
        assert (likelier < top_p + 1e-5).all()


def test_a_flat_row_is_sorted_whole_and_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn((4, 50), generator=torch.Generator().manual_seed(0))
    logits[:3] *= 9  # eight tokens have all of these rows, and little of the last one
    uniform = torch.full((4,), 0.8, dtype=torch.float64)
    wanted = draw_tokens(logits, uniform, 0.95, 50)
    sort, sizes = torch.Tensor.sort, list[int]()

    def count(rows: torch.Tensor, **how: Any) -> Any:
        sizes.append(len(rows))
        return sort(rows, **how)

    monkeypatch.setattr(torch.Tensor, "sort", count)
    assert torch.equal(draw_tokens(logits, uniform, 0.95, 8), wanted)
    assert sizes == [1]


@pytest.mark.parametrize("rows", [1, 2])
def test_the_whole_output_layer_is_run_on_dense_states(rows: int) -> None:
    """Of a slice, a CPU copies all weights of a layer in bfloat16 for each row, for seconds."""
    teacher, seen = make_teacher("llama"), list[torch.Tensor]()
    head: Any = teacher.model.get_output_embeddings
    inputs = teacher.look_up(np.arange(6 * rows).reshape(rows, 6))
    with teacher.suspend(), torch.inference_mode():
        hook = head().register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        wanted = teacher.model(inputs_embeds=inputs).logits
        found = teacher.model(inputs_embeds=inputs, logits_to_keep=2).logits
        hook.remove()
        layer = head()
    assert torch.allclose(found, wanted[:, -2:], atol=1e-5)
    width = seen[-1].shape[2]
    assert seen[-1].shape == (rows, 2, width) and seen[-1].stride() == (2 * width, width, 1)
    assert not layer._forward_pre_hooks


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    logits = torch.tensor([0.5, 0.2, 0.3]).log().expand(10_000, -1)
    uniform = (torch.arange(10_000).double() + 0.5) / 10_000
    counts = torch.bincount(draw_tokens(logits, uniform, 1.0), minlength=3)
    assert counts.tolist() == [5000, 2000, 3000]
    counts = torch.bincount(draw_tokens(logits, uniform, 0.6), minlength=3)
    assert counts.tolist() == pytest.approx([6250, 0, 3750], abs=2)
    for own in ({"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(SettingError, match="got"):
            SamplingSettings(**own)
