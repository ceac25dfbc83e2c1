"""What stands around every input: the task's text, plain or as a chat template writes it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stages.tasks.task import Task

NO_SUFFIX = "Answer:"
"""The text that label words are tokenized behind where a task has no suffix."""

THINK_START, THINK_END = "<think>", "</think>"

TEMPLATE_DATE = datetime.date(2024, 7, 26)
"""The day that chat templates are told it is; Llama's own say it where there is no clock."""

DATE_FORMATS = ("Y", "y", "B", "b", "m", "-m", "d", "-d", "A", "a", "j")
"""What a chat template may ask of a day, as of ``strftime``."""

INPUT_ENDINGS = ("a", "0", ".")
"""Endings of an input that the text behind it is tokenized after."""


@dataclass(frozen=True)
class Frame:
    """What stands around every input, as text and as tokens.

    Attributes:
        prefix: Text in front of the input.
        suffix: Text behind the input, may be empty.
        gap: What separates the suffix from an answer; part of the answer's first token.
        notes: What a chat template was given or could not say, one line for each.
        prefix_ids: Tokens in front of the input, BOS first where there is one.
        suffix_ids: Tokens behind the input.
    """

    prefix: str
    suffix: str
    gap: str
    notes: tuple[str, ...]
    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]

    @property
    def anchor(self) -> str:
        """The text that label words are tokenized behind, the gap left out."""
        return self.suffix or NO_SUFFIX


def frame_task(task: Task, tokenizer: PreTrainedTokenizerBase, chat: bool = False) -> Frame:
    """Find the text around every input and its tokens, and what comes between it and an answer.

    With a chat template, white space that a tokenizer joins with the answer's first token
    ("[/INST] " and "Good" are "▁Good" in Llama-2) is the gap, and not put to the model; all else
    that the template writes in front of an answer is.

    Args:
        task: The task.
        tokenizer: The language model's tokenizer.
        chat: Whether the prompt goes through the tokenizer's chat template.

    Returns:
        Text and tokens.

    Raises:
        ModelError: The tokenizer has no chat template, or the template cannot be used.
    """
    if not chat:
        gap = "" if (task.suffix or NO_SUFFIX)[-1].isspace() else " "
        prefix_ids = encode_prompt(task.prompt, tokenizer)
        suffix_ids = encode_text(task.suffix, tokenizer) if task.suffix else []
        return Frame(task.prompt, task.suffix, gap, (), tuple(prefix_ids), tuple(suffix_ids))
    prefix, whole, notes = _apply_template(task.prompt, task.suffix, tokenizer)
    suffix, gap = whole, "" if whole else " "
    before = encode_continuation(whole, tokenizer)
    words = [word for label in task.labels for word in label.words]
    if whole and any(
        encode_continuation(whole + word, tokenizer)[: len(before)] != before for word in words
    ):
        suffix = whole.rstrip(" ")
        gap = whole[len(suffix) :]
    suffix_ids = encode_continuation(suffix, tokenizer)
    prefix_ids, bos = encode_text(prefix, tokenizer), tokenizer.bos_token_id
    # Most templates write the BOS themselves, and a second one would be a text of its own.
    if bos is not None and prefix_ids[:1] != [bos]:
        prefix_ids = [bos, *prefix_ids]
    return Frame(prefix, suffix, gap, tuple(notes), tuple(prefix_ids), tuple(suffix_ids))


def encode_text(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens of a text that has nothing in front of it, without BOS."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens of the text in front of an input, BOS first where there is one."""
    bos = tokenizer.bos_token_id
    return [*([] if bos is None else [int(bos)]), *encode_text(prompt, tokenizer)]


def encode_continuation(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that a text has where it follows an input.

    Tokenizers with a dummy space (Llama-2's and its kin) put one in front of whatever begins a
    text, which what follows an input does not.  So the text is tokenized with something in front
    of it, whose tokens are then dropped; where those are not the same without the text, the two
    have joined, and something else is put there.  Whatever an input's last token is, these are the
    tokens of the whole text as long as the tokenizer joins nothing across the border.

    Args:
        text: What follows the input; may be empty.
        tokenizer: The language model's tokenizer.

    Raises:
        ModelError: The text joins with whatever is in front of it.
    """
    for ending in INPUT_ENDINGS:
        before, whole = encode_text(ending, tokenizer), encode_text(ending + text, tokenizer)
        if whole[: len(before)] == before and tokenizer.unk_token_id not in before:
            return whole[len(before) :]
    raise ModelError(
        f"{_name(tokenizer)} joins the text behind the input, {text[:40]!r}, with the input; begin "
        "the task's suffix with a line break"
    )


def describe_frame(
    task: Task, tokenizer: PreTrainedTokenizerBase, chat: bool = False
) -> tuple[str, ...]:
    r"""Say what the model sees around an input: a line of text (as ``"…\n"``), one of sizes.

    Raises:
        ModelError: The tokenizer has no chat template, or the template cannot be used.
    """
    frame, bos = frame_task(task, tokenizer, chat), tokenizer.bos_token
    unwritten = bos is not None and not frame.prefix.startswith(bos)
    behind = f" {frame.suffix!r}" if frame.suffix else ""
    return (
        f"{(bos if unwritten else '') + frame.prefix!r} <input>{behind}",
        f"{len(frame.prefix_ids)} tokens in front of the input, {len(frame.suffix_ids)} behind it",
    )


def describe_chat(tokenizer: PreTrainedTokenizerBase, chat: bool) -> str | None:
    """Return a line on what ``--chat`` would do, or what it did beyond the template's words.

    Raises:
        ModelError: The tokenizer has no chat template, or the template cannot be used.
    """
    if chat:
        return "; ".join(_apply_template("?", "", tokenizer)[2]) or None
    if tokenizer.chat_template:
        return "the tokenizer has a chat template; --chat would put the prompt through it"
    return None


def _apply_template(
    prompt: str, suffix: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, str, list[str]]:
    """Return what a chat template writes in front of an input and behind it, and notes."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"{_name(tokenizer)} has no chat template; leave --chat out, or use the model's "
            "chat/instruct version"
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
            "once; leave --chat out"
        )
    notes, template = [], tokenizer.get_chat_template()
    if "enable_thinking" in template:
        notes.append("the chat template is told not to think (enable_thinking=False)")
    if "strftime_now" in template:
        notes.append(f"the chat template is told that today is {TEMPLATE_DATE}, whatever day it is")
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
    elif behind.rfind(THINK_START) > behind.rfind(THINK_END):
        behind = behind.rstrip("\n") + f"\n\n{THINK_END}\n\n"
        notes.append("the chat template has the answer begin with a thought; it is left empty")
    else:
        spaced = behind[-1:].isspace()
        behind += "" if spaced else " "
        notes.append(
            "the chat template does not show what separates an answer from what is in front; "
            f"taken is {'nothing' if spaced else 'a space'}"
        )
    return prefix, behind, notes


def _render(tokenizer: PreTrainedTokenizerBase, question: str, answer: str | None = None) -> str:
    """Put messages through the chat template, which is foreign code and may raise anything."""
    messages = [{"role": "user", "content": question}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    try:
        template: str = tokenizer.get_chat_template()
        if "strftime_now" in template:  # or every day's rows would be another cache
            template = _stop_clock() + template
        text: Any = tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            add_generation_prompt=answer is None,
            tokenize=False,
            # The label words are to begin the answer, not a thought.
            enable_thinking=False,
        )
    except Exception as error:  # whatever Python can
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"the chat template of {_name(tokenizer)} cannot be used: {reason}"
        ) from error
    return str(text)


def _stop_clock() -> str:
    """Return a macro that stands in for a chat template's clock.

    A template is given plain values only, so the clock cannot be another function.
    """
    days = {style: TEMPLATE_DATE.strftime(f"%{style}") for style in DATE_FORMATS}
    replaced = "".join(f".replace('%{style}', '{day}')" for style, day in days.items())
    return f"{{% macro strftime_now(style) %}}{{{{ style{replaced} }}}}{{% endmacro %}}"


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.name_or_path or "the tokenizer"
