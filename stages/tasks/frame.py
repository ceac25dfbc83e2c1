"""What stands around every input: the task's text, plain or as a chat template writes it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.checkpoints import (
    check_template,
    explained,
    has_dummy_space,
    make_input_tokenizer,
    name_lost,
)
from stages.errors import ModelError, Settings
from stages.tasks.writing import request_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stages.tasks.task import Task

NO_SUFFIX = "Answer:"
"""The text that label words are tokenized behind where a task has no suffix."""

TEMPLATE_DATE = datetime.date(2024, 7, 26)
"""The day that chat templates are told it is; Llama's own say it where there is no clock."""

DATE_FORMATS = ("Y", "y", "B", "b", "m", "-m", "d", "-d", "A", "a", "j")
"""What a chat template may ask of a day, as of ``strftime``."""


@dataclass(frozen=True)
class Frame:
    """What stands around every input, as text and as tokens."""

    prefix: str
    suffix: str  # may be empty
    gap: str  # what separates the suffix from an answer; part of the answer's first token
    prefix_ids: tuple[int, ...]  # first what the tokenizer puts in front of a text, as BOS
    suffix_ids: tuple[int, ...]
    spaced: bool = False  # the prefix's last space is part of the input's first token
    warning: str | None = None  # where the tokens are not those of the whole text
    is_plain: bool = True  # whether the tokens are what the task's texts alone are cut into

    @property
    def anchor(self) -> str:
        """The text that label words are tokenized behind, the gap left out."""
        return self.suffix or NO_SUFFIX


def frame_task(task: Task, tokenizer: PreTrainedTokenizerBase, chat: bool = False) -> Frame:
    """Find the text around every input and its tokens, and what separates it from an answer.

    White space that a tokenizer joins with the answer's first token ("[/INST] " and "Good" are
    "▁Good" in Llama-2) is the gap, and not put to the model; all else in front of an answer is.
    Prefix, input and suffix are each cut into the tokens that they have in the whole text, as long
    as the tokenizer joins none of them.

    Raises:
        ModelError: The tokenizer has no chat template, or the template cannot be used.
    """
    prefix, suffix = task.prompt, task.suffix
    if chat:
        prefix, suffix, _ = _apply_template(prefix, suffix, tokenizer)
    whole, gap = suffix, "" if (suffix if chat else suffix[-1:].isspace()) else " "
    if whole and not gap:
        before = encode_behind(whole, tokenizer, chat)
        words = (encode_behind(whole + w, tokenizer, chat) for x in task.labels for w in x.words)
        if any(found[: len(before)] != before for found in words):
            suffix = whole.rstrip(" ")
            gap = whole[len(suffix) :]
    suffix_ids = encode_behind(suffix, tokenizer, chat) if suffix else []
    alone, bos = encode_text(prefix, tokenizer), tokenizer.bos_token_id
    prefix_ids, spaced, warning = _cut_prefix(prefix, alone, tokenizer)
    # What is plain is what caches before were of, which had a BOS wherever one is named.
    behind = encode_text(task.suffix, tokenizer) if task.suffix else []
    plain = [*([] if bos is None else [bos]), *alone], behind
    # Most templates write the BOS themselves, and a second one would be a text of its own.
    start = find_start(tokenizer)
    if prefix_ids[: len(start)] != start:
        prefix_ids = [*start, *prefix_ids]
    is_plain = not chat and plain == (prefix_ids, suffix_ids)
    ids = tuple(prefix_ids), tuple(suffix_ids)
    return Frame(prefix, suffix, gap, *ids, spaced, warning, is_plain)


def frame_writing(prompt: str, tokenizer: PreTrainedTokenizerBase, chat: bool) -> list[int]:
    """Return the tokens in front of a written text; a chat model is asked for it."""
    text = "".join(_apply_template(request_text(prompt), "", tokenizer)[:2]) if chat else prompt
    # A last space is part of the first token of what follows.
    ids, start = encode_text(text.rstrip(" "), tokenizer), find_start(tokenizer)
    return ids if ids[: len(start)] == start else [*start, *ids]


def fit_tokenizer(
    task: Task, tokenizer: PreTrainedTokenizerBase, chat: bool = False
) -> PreTrainedTokenizerBase:
    """Return the tokenizer that cuts inputs as they are cut behind a task's prompt."""
    return make_input_tokenizer(tokenizer, frame_task(task, tokenizer, chat).spaced)


def _cut_prefix(
    prefix: str, alone: list[int], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], bool, str | None]:
    """Return the prefix's tokens, whether the input has its last space, and a warning."""
    joined = encode_text(prefix + "a", tokenizer)
    if prefix.endswith(" "):
        shorter = encode_text(prefix[:-1], tokenizer)
        if joined == [*shorter, *encode_continuation(" a", tokenizer)]:
            return shorter, True, None
    if joined == [*alone, *encode_continuation("a", tokenizer)]:
        return alone, False, None
    fault = f"joins the end of the prompt, {prefix[-20:]!r}, with the input"
    return alone, False, f"{_name(tokenizer)} {fault}; end the prompt with a line break"


def find_start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that a tokenizer puts in front of every text: BOS, nothing, or others."""
    ids, own = list(tokenizer("a")["input_ids"]), encode_text("a", tokenizer)
    fits = (k for k in range(len(ids)) if ids[k : k + len(own)] == own)
    return ids[: next(fits, 0)]


def encode_text(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens of a text that has nothing in front of it, without BOS."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_continuation(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that a text has where it follows an input.

    Tokenizers with a dummy space (Llama-2's and its kin) put one in front of whatever begins a
    text, which what follows an input does not.  So the text is tokenized with something in front
    of it, whose tokens are then dropped; where those are not the same without the text, the two
    have joined, and something else is put there.  Whatever an input's last token is, these are the
    tokens of the whole text as long as the tokenizer joins nothing across the border.
    """
    for ending in ("a", "0", "."):
        before, whole = encode_text(ending, tokenizer), encode_text(ending + text, tokenizer)
        if whole[: len(before)] == before and tokenizer.unk_token_id not in before:
            return whole[len(before) :]
    raise ModelError(
        f"{_name(tokenizer)} joins the text behind the input, {text[:40]!r}, with the input; begin "
        "the task's suffix with a line break"
    )


def encode_behind(text: str, tokenizer: PreTrainedTokenizerBase, chat: bool) -> list[int]:
    """Return the tokens of a text behind an input, without a dummy space in front of it."""
    # A byte-level ``add_prefix_space`` stays: models that have it, as mini, have learned it so.
    behind = chat or has_dummy_space(tokenizer)
    return encode_continuation(text, tokenizer) if behind else encode_text(text, tokenizer)


def describe_frame(
    task: Task, tokenizer: PreTrainedTokenizerBase, chat: bool = False
) -> tuple[str, ...]:
    r"""Say what the model sees around an input: a line of text (as ``"…\n"``), one of sizes.

    Raises:
        ModelError: The tokenizer has no chat template, or the template cannot be used.
    """
    frame, start = frame_task(task, tokenizer, chat), find_start(tokenizer)
    written = encode_text(frame.prefix, tokenizer)[: len(start)] == start
    behind = f" {frame.suffix!r}" if frame.suffix else ""
    return (
        f"{('' if written else tokenizer.decode(start)) + frame.prefix!r} <input>{behind}",
        f"{len(frame.prefix_ids)} tokens in front of the input, {len(frame.suffix_ids)} behind it",
    )


def describe_chat(tokenizer: PreTrainedTokenizerBase, chat: bool) -> str | None:
    """Return a line on a template that is not used, or what is done beyond the template's words.

    Raises:
        ModelError: The tokenizer has no chat template, or the template cannot be used.
    """
    if chat:
        return "; ".join(_apply_template("?", "", tokenizer)[2]) or None
    if tokenizer.chat_template:
        return "the tokenizer has a chat template, which is off: the prompt is not put through it"
    return None


def _apply_template(
    prompt: str, suffix: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, str, tuple[str, ...]]:
    """Return what a chat template writes in front of an input and behind it, and notes."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"{_name(tokenizer)} has no chat template; turn the template off, or use the model's "
            "chat/instruct version",
            Settings(("chat",)),
        )
    # One character for the input: it cannot overlap with its neighbours, it is no white space
    # that a template would trim, and where it stands the prompt's own line break survives.
    given = f"{prompt}{suffix}{tokenizer.chat_template}"
    unused = (chr(code) for code in range(0xE000, 0xF900) if chr(code) not in given)
    place, answer = next(unused), next(unused)
    question = prompt + place + suffix
    asked = _render(tokenizer, question)
    if (times := asked.count(place)) != 1:
        raise ModelError(
            f"the chat template of {_name(tokenizer)} writes the message {times} times, must be "
            "once; turn the template off",
            Settings(("chat",)),
        )
    told = {
        "enable_thinking": "not to think (enable_thinking=False)",
        "strftime_now": f"that today is {TEMPLATE_DATE}, whatever day it is",
    }
    template = tokenizer.get_chat_template()
    notes = [f"the chat template is told {what}" for key, what in told.items() if key in template]
    prefix, behind = asked.split(place)
    # What a template writes in front of an answer it is given is what the model has learned to
    # answer behind, be it more than the template writes to ask for one.
    try:
        answered = _render(tokenizer, question, answer)
    except ModelError as error:
        answered = ""
        notes.append(f"with an answer in it, {error}")
    if answered.startswith(asked) and answered.count(answer) == 1:
        behind = answered.split(answer)[0].removeprefix(prefix + place)
    elif behind.rfind("<think>") > behind.rfind("</think>"):
        behind = behind.rstrip("\n") + "\n\n</think>\n\n"
        notes.append("the chat template has the answer begin with a thought; it is left empty")
    else:
        taken, space = ("nothing", "") if behind[-1:].isspace() else ("a space", " ")
        behind += space
        notes.append(
            "the chat template does not show what separates an answer from what is in front; "
            f"taken is {taken}"
        )
    check_template(prefix + behind, prompt + suffix, tokenizer)
    return prefix, behind, tuple(notes)


def _render(tokenizer: PreTrainedTokenizerBase, question: str, answer: str | None = None) -> str:
    """Put messages through the chat template, which is foreign code and may raise anything."""
    said = [("user", question)] + ([] if answer is None else [("assistant", answer)])
    with explained(ModelError, f"the chat template of {_name(tokenizer)} cannot be used"):
        template: str = tokenizer.get_chat_template()
        if "strftime_now" in template:  # or every day's rows would be another cache
            # A template is given plain values only, so the clock cannot be another function.
            days = {style: TEMPLATE_DATE.strftime(f"%{style}") for style in DATE_FORMATS}
            dated = "".join(f".replace('%{style}', '{day}')" for style, day in days.items())
            macro = f"{{% macro strftime_now(style) %}}{{{{ style{dated} }}}}{{% endmacro %}}"
            template = macro + template
        text: Any = tokenizer.apply_chat_template(
            [{"role": role, "content": text} for role, text in said],
            chat_template=template,
            add_generation_prompt=answer is None,
            tokenize=False,
            # The label words are to begin the answer, not a thought.
            enable_thinking=False,
            **name_lost(tokenizer),
        )
    return str(text)


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.name_or_path or "the tokenizer"
