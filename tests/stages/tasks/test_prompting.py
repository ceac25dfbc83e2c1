from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_templates import CHATML, FAMILIES, GEMMA, LLAMA2, LLAMA3, LOOP, MISTRAL
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_language_model, make_tokenizer
from tokenizers import AddedToken

from stages.checkpoints import load_tokenizer
from stages.errors import ModelError, TaskError
from stages.tasks.frame import (
    describe_chat,
    describe_frame,
    encode_continuation,
    encode_text,
    frame_task,
)
from stages.tasks.task import Label, Task
from stages.tasks.verbaliser import build_verbaliser
from stages.teacher.teacher import Teacher

CONTROL = [
    *("im_start", "im_end", "User", "Assistant", "start_header_id", "end_header_id", "eot_id"),
    *("user", "assistant", "start", "end", "message", "channel"),
]


def make_chat_tokenizer(template: Any, kind: str = "bytes", start: str | None = "<s>") -> Any:
    tokenizer = make_tokenizer(kind, start)
    names = [*(f"<|{name}|>" for name in CONTROL), "<start_of_turn>", "<end_of_turn>"]
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.chat_template = template
    return tokenizer


def make_task(prompt: str = "Is this good or bad?\n", suffix: str = "\nAnswer:") -> Task:
    labels = (Label("bad", ("Bad", "Poor")), Label("good", ("Good", "Great")))
    return Task("mood", prompt, suffix, labels, 12)


@pytest.mark.parametrize("kind", ["bytes", "tokens", "llama2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_text_and_tokens_around_the_input_are_those_of_the_whole_text_of_the_template(
    family: str, kind: str, request: pytest.FixtureRequest
) -> None:
    template, opening, closing, gap = FAMILIES[family]
    if kind == "llama2":
        tokenizer = load_tokenizer(request.getfixturevalue("shared") / "llama2-tokenizer")
        tokenizer.chat_template = template
    else:
        tokenizer = make_chat_tokenizer(template, kind)
    task, start, inside = make_task(), tokenizer.bos_token_id, "good, so \nGreat stuff 12"
    frame = frame_task(task, tokenizer, True)
    assert (frame.prefix, frame.gap) == (opening + task.prompt, gap)
    assert frame.suffix == task.suffix + closing
    assert frame.prefix_ids[0] == start and frame.prefix_ids.count(start) == 1
    whole = encode_text(frame.prefix + inside + frame.suffix, tokenizer)
    whole = whole if whole[0] == start else [start, *whole]
    assert tuple(whole[: len(frame.prefix_ids)]) == frame.prefix_ids
    assert tuple(whole[-len(frame.suffix_ids) :]) == frame.suffix_ids
    middle = whole[len(frame.prefix_ids) : -len(frame.suffix_ids)]
    assert middle == encode_continuation(inside, tokenizer)
    if family not in ("deepseek", "llama3", "vicuna", "harmony"):  # what is more than the template
        messages = [{"role": "user", "content": task.prompt + inside + task.suffix}]
        asked = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, enable_thinking=False, return_dict=False
        )
        assert asked[asked[0] == start :] == whole[1:]
    joined = ("Ġ" if kind == "bytes" else "▁") if gap else ""
    if kind == "tokens" and closing.endswith("|>"):
        joined = "▁"  # this tokenizer puts one behind every control token
    for word in build_verbaliser(task, tokenizer, True).words if kind != "llama2" else ():
        assert "".join(word.tokens) == joined + word.word
        assert len(word.tokens) == 1 or not joined


@settings(deadline=None)
@given(st.text("a0. \n▁é猫'Go", max_size=12), st.sampled_from(["bytes", "tokens"]))
def test_what_is_encode_continuation_an_input_is_all_of_the_text(text: str, kind: str) -> None:
    tokenizer = make_tokenizer(kind)
    tokens = tokenizer.convert_ids_to_tokens(encode_continuation(text, tokenizer))
    if kind == "bytes":
        assert tokenizer.convert_tokens_to_string(tokens) == text
    else:
        raw = b"".join(
            bytes([int(token[3:5], 16)]) if token.startswith("<0x") else token.encode()
            for token in tokens
        )
        assert raw.decode() == text.replace(" ", "▁")


def test_an_answer_follows_a_space_where_the_template_of_llama_2_puts_one(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "llama2-tokenizer")
    tokenizer.chat_template = LLAMA2
    frame = frame_task(make_task(), tokenizer, True)
    assert tokenizer.convert_ids_to_tokens(frame.suffix_ids) == [
        *("<0x0A>", "Answer", ":", "▁[", "/", "INST", "]")
    ]
    found = build_verbaliser(make_task(), tokenizer, True)
    assert [word.tokens[0] for word in found.words] == ["▁Bad", "▁Po", "▁Good", "▁Great"]
    tokenizer.chat_template = CHATML
    found = build_verbaliser(make_task(), tokenizer, True)
    assert [word.tokens[0] for word in found.words] == ["Bad", "Po", "Good", "Gre"]


def test_white_space_and_unusual_characters_are_kept_but_by_a_trimming_template() -> None:
    task = make_task(" \n Good?\n \n", " \n Answer: \n")
    for template in (GEMMA, LLAMA2):
        text = frame_task(task, make_chat_tokenizer(template), True)
        assert text.prefix.endswith(("\nGood?\n \n", "] Good?\n \n"))
        assert text.suffix.startswith((" \n Answer:<", " \n Answer: [/INST]"))
    text = frame_task(task, make_chat_tokenizer(CHATML), True)
    assert text.prefix.endswith("user\n" + task.prompt)
    assert text.suffix.startswith(task.suffix + "<|im_end|>")
    task = make_task("\ue000\ue001 <input> {{ 7 * 7 }}\n", "\ue000")
    text = frame_task(task, make_chat_tokenizer(MISTRAL), True)
    assert (text.prefix, text.suffix) == ("<s>[INST] " + task.prompt, "\ue000 [/INST]")


def test_bos_is_there_once_where_the_tokenizer_has_one() -> None:
    for start in ("<s>", None, "<|im_start|>"):
        tokenizer = make_chat_tokenizer(CHATML, start=start)
        ids = frame_task(make_task(), tokenizer, True).prefix_ids
        wanted = ["<s>", "<|im_start|>"] if start == "<s>" else ["<|im_start|>", "s"]
        assert tokenizer.convert_ids_to_tokens(ids[:2]) == wanted


def test_a_text_begins_with_bos_where_the_tokenizer_puts_one_there() -> None:
    for adds in (True, False):
        tokenizer, task = make_tokenizer(adds_start=adds), make_task()
        frame = frame_task(task, tokenizer)
        assert list(frame.prefix_ids) == tokenizer(task.prompt)["input_ids"]
        assert (frame.prefix_ids[0] == tokenizer.bos_token_id) == adds
        # A cache of rows with a BOS that the tokenizer does not put there was another one.
        assert frame.is_plain == adds
        assert describe_frame(task, tokenizer)[0].startswith("'<s>" if adds else "'Is this")


def test_a_template_that_writes_an_answer_otherwise_than_it_asks_is_followed_and_noted() -> None:
    other = "{% for m in messages %}{{ m.role + ':' + m.content }}{% endfor %}"
    asking = other + "{% if add_generation_prompt %}ASK{% endif %}"
    refusing = "{% if messages | length > 1 %}{{ raise_exception('one only') }}{% endif %}" + asking
    for template, ending, gap, note in (
        (asking.replace("ASK", "|bot|"), "|bot|", " ", "taken is a space"),
        (asking.replace("ASK", "{{ '|bot|\\n' }}"), "|bot|\n", "", "taken is nothing"),
        (refusing.replace("ASK", "|bot|"), "|bot|", " ", "one only"),
        (asking.replace("ASK", "<think>"), "<think>\n\n</think>\n\n", "", "it is left empty"),
    ):
        tokenizer = make_chat_tokenizer(template)
        text = frame_task(make_task(), tokenizer, True)
        assert (text.suffix, text.gap) == ("\nAnswer:" + ending, gap)
        assert note in str(describe_chat(tokenizer, True))


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        (None, ["has no chat template", "turn the template off", "chat/instruct version"]),
        ("{% for m in messages %}{{ m.content * 2 }}{% endfor %}", ["writes the message 2 times"]),
        ("{{ raise_exception('no\nusers') }}", ["cannot be used: no users"]),
        ("{{ messages[0].content + 1 }}", ["cannot be used: "]),
        ({"tool_use": "x", "rag": "y"}, ["cannot be used: ", "multiple chat templates"]),
    ],
)
def test_a_template_that_cannot_be_used_is_named(template: Any, parts: list[str]) -> None:
    tokenizer = make_chat_tokenizer(template)
    tokenizer.name_or_path = "some/model"
    for use in (frame_task, build_verbaliser, describe_frame):
        with pytest.raises(ModelError, match="some/model") as found:
            use(make_task(), tokenizer, True)
        assert all(part in str(found.value) for part in parts)
        assert "\n" not in str(found.value)
    tokenizer = make_chat_tokenizer(MISTRAL.replace("/INST]", " G"))
    with pytest.raises(TaskError, match="joins the word 'ood' with the end"):
        task = Task("mood", "P", "", (Label("a", ("ood",)), Label("b", ("Bad",))), 5)
        build_verbaliser(task, tokenizer, True)


def test_a_default_among_several_templates_is_taken_and_the_clock_stands_still() -> None:
    tokenizer = make_chat_tokenizer({"default": LLAMA3, "tool_use": "x"})
    assert "Today: 26 Jul 2024" in frame_task(make_task(), tokenizer, True).prefix
    assert "today is 2024-07-26" in str(describe_chat(tokenizer, True))
    styles = "%d %B %Y, %Y-%m-%d, %A %-d.%-m.%y"
    body = LOOP + "{{ message.content }}{% endfor %}"
    tokenizer.chat_template = "{{ strftime_now('" + styles + "') }}" + body
    day = datetime.date(2024, 7, 26).strftime(styles)
    assert frame_task(make_task(), tokenizer, True).prefix == day + make_task().prompt


def test_without_chat_nothing_is_different_and_a_template_is_pointed_out() -> None:
    tokenizer = make_chat_tokenizer(CHATML, "tokens")
    for task in (make_task(), make_task(suffix=""), make_task(suffix="\nIt is ")):
        frame = frame_task(task, tokenizer)
        start = tokenizer.bos_token_id
        assert list(frame.prefix_ids) == [start, *encode_text(task.prompt, tokenizer)]
        behind = encode_continuation(task.suffix.rstrip(" "), tokenizer)
        assert list(frame.suffix_ids) == behind
        assert frame.anchor + frame.gap == (task.suffix or "Answer:").rstrip() + " "
    assert "is not put through it" in str(describe_chat(tokenizer, False))
    assert describe_chat(tokenizer, True) is None
    assert describe_chat(make_tokenizer(), False) is None


@pytest.mark.parametrize("family", ["chatml", "llama2"])
def test_a_teacher_answers_what_the_whole_chat_would_be_answered(family: str) -> None:
    tokenizer, task = make_chat_tokenizer(FAMILIES[family][0]), make_task()
    messages = [{"role": "user", "content": task.prompt + "Great" + task.suffix}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text.removeprefix("<s>"), add_special_tokens=False)["input_ids"]
    model = make_language_model("llama", len(tokenizer))
    with torch.inference_mode():
        logits = model(torch.tensor([[tokenizer.bos_token_id, *ids]])).logits[0, -1]
    teacher = Teacher(model, tokenizer, task, chat=True)
    wanted = logits[list(teacher.verbaliser.token_ids)].view(2, 2).amax(dim=1)
    given = torch.tensor([tokenizer("Great", add_special_tokens=False)["input_ids"]])
    found = teacher.compute_class_logits(teacher.look_up(given.numpy()))
    torch.testing.assert_close(found[0], wanted, rtol=1e-5, atol=1e-5)
