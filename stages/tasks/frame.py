"""What stands around every input: the task's text, plain or as a chat template writes it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stages.tasks.task import Task

NO_SUFFIX = "Answer:"
"""What label words are cut behind where nothing stands behind the input."""

THOUGHT, THOUGHT_END = "<think>", "</think>"

DAY = datetime.date(2024, 7, 26)
"""The day that chat templates are told it is; Llama's own say it where there is no clock."""

DAY_STYLES = ("Y", "y", "B", "b", "m", "-m", "d", "-d", "A", "a", "j")
"""What a chat template may ask of a day, as of ``strftime``."""

INPUT_ENDS = ("a", "0", ".")
"""Ends of an input that the text behind it is cut after."""


@dataclass(frozen=True)
class Frame:
    """What stands around every input.

    Attributes:
        prefix_ids: Tokens in front of the input, BOS first where there is one.
        suffix_ids: Tokens behind the input.
        lead_in: The text directly in front of the answer, behind which label words are cut.
    """

    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    lead_in: str


@dataclass(frozen=True)
class FrameText:
    """What stands around every input, as text.

    Attributes:
        prefix: Text in front of the input.
        suffix: Text behind the input, may be empty.
        gap: What separates the suffix from an answer; part of the answer's first token.
        notes: What a chat template was given or could not say, one line for each.
    """

    prefix: str
    suffix: str
    gap: str
    notes: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        """The text that label words are cut behind, the gap left out."""
        return self.suffix or NO_SUFFIX


def frame_task(task: Task, tokenizer: PreTrainedTokenizerBase, chat: bool = False) -> Frame:
    """Cut what stands around every input into tokens.

    Args:
        task: The task.
        tokenizer: The language model's tokenizer.
        chat: Whether the prompt goes through the tokenizer's chat template.

    Returns:
        The tokens, and the text that answers follow.

    Raises:
        ModelError: The tokenizer has no chat template, or the template cannot be used.
    """
    text = frame_text(task, tokenizer, chat)
    lead_in = text.anchor + text.gap
    if chat:
        suffix = cut_behind(text.suffix, tokenizer)
        prefix = cut_start(text.prefix, tokenizer)
        bos = tokenizer.bos_token_id
        # Most templates write the BOS themselves, and a second one would be a text of its own.
        if bos is not None and prefix[:1] != [bos]:
            prefix = [bos, *prefix]
    else:
        suffix = cut_start(text.suffix, tokenizer) if text.suffix else []
        prefix = encode_prompt(text.prefix, tokenizer)
    return Frame(tuple(prefix), tuple(suffix), lead_in)


def frame_text(task: Task, tokenizer: PreTrainedTokenizerBase, chat: bool = False) -> FrameText:
    """Find the text around every input, and what comes between it and an answer.

    With a chat template, white space that a tokenizer joins with the answer's first token
    ("[/INST] " and "Good" are "▁Good" in Llama-2) is the gap, and not put to the model; all else
    that the template writes in front of an answer is.

    Raises:
        ModelError: The tokenizer has no chat template, or the template cannot be used.
    """
    if not chat:
        gap = "" if (task.suffix or NO_SUFFIX)[-1].isspace() else " "
        return FrameText(task.prompt, task.suffix, gap)
    text = _render_frame(task.prompt, task.suffix, tokenizer)
    if not text.suffix:
        return FrameText(text.prefix, "", " ", text.notes)
    before = cut_behind(text.suffix, tokenizer)
    words = [word for label in task.labels for word in label.words]
    joined = [cut_behind(text.suffix + word, tokenizer)[: len(before)] for word in words]
    stem = text.suffix
    if any(start != before for start in joined):
        stem = text.suffix.rstrip(" ")
    return FrameText(text.prefix, stem, text.suffix[len(stem) :], text.notes)


def cut_start(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Cut a text into the tokens it has where nothing is in front of it, without BOS."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def cut_behind(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Cut a text into the tokens it has where it follows an input.

    Tokenizers with a dummy space (Llama-2's and its kin) put one in front of whatever begins a
    text, which what follows an input does not.  So the text is cut with something in front of it,
    whose tokens are then taken off; where those are not the same without the text, the two have
    joined, and something else is put there.  Whatever an input's last token is, these are the
    tokens of the whole text as long as the tokenizer joins nothing across the border.

    Args:
        text: What follows the input; may be empty.
        tokenizer: The language model's tokenizer.

    Returns:
        The text's tokens.

    Raises:
        ModelError: The text joins with whatever is in front of it.
    """
    for end in INPUT_ENDS:
        before, whole = cut_start(end, tokenizer), cut_start(end + text, tokenizer)
        if whole[: len(before)] == before and tokenizer.unk_token_id not in before:
            return whole[len(before) :]
    raise ModelError(
        f"{_name(tokenizer)} joins the text behind the input, {text[:40]!r}, with the input; begin "
        "the task's suffix with a line break"
    )


def encode_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Cut the text in front of an input into tokens, BOS first where the tokenizer has one."""
    ids: list[int] = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    return ids if bos is None else [int(bos), *ids]


def describe_frame(
    task: Task, tokenizer: PreTrainedTokenizerBase, chat: bool = False
) -> tuple[str, ...]:
    r"""Say what the model sees around an input: a line of text (as ``"…\n"``), one of sizes.

    Raises:
        ModelError: The tokenizer has no chat template, or the template cannot be used.
    """
    text, frame = frame_text(task, tokenizer, chat), frame_task(task, tokenizer, chat)
    bos = tokenizer.bos_token
    unwritten = bos is not None and not text.prefix.startswith(bos)
    shown = repr((bos if unwritten else "") + text.prefix)
    behind = f" {text.suffix!r}" if text.suffix else ""
    return (
        f"{shown} <input>{behind}",
        f"{len(frame.prefix_ids)} tokens in front of the input, {len(frame.suffix_ids)} behind it",
    )


def describe_chat(tokenizer: PreTrainedTokenizerBase, chat: bool) -> str | None:
    """Return a line on what ``--chat`` would do, or what it did beyond the template's words.

    Raises:
        ModelError: The tokenizer has no chat template, or the template cannot be used.
    """
    if chat:
        return "; ".join(_render_frame("?", "", tokenizer).notes) or None
    if tokenizer.chat_template:
        return "the tokenizer has a chat template; --chat would put the prompt through it"
    return None


def _render_frame(prompt: str, suffix: str, tokenizer: PreTrainedTokenizerBase) -> FrameText:
    """Put a message through the chat template; everything up to the answer is the suffix."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"{_name(tokenizer)} has no chat template; leave --chat out, or use the model's "
            "chat/instruct version"
        )
    # One character for the input: it cannot overlap with its neighbours, it is no white space
    # that a template would trim, and where it stands the prompt's own line break survives.
    given = f"{prompt}{suffix}{tokenizer.chat_template}"
    spare = (chr(code) for code in range(0xE000, 0xF900) if chr(code) not in given)
    place, answer = next(spare), next(spare)
    template = _Template(tokenizer)
    question = {"role": "user", "content": prompt + place + suffix}
    asked = template.render([question], ask=True)
    if (times := asked.count(place)) != 1:
        raise ModelError(
            f"the chat template of {_name(tokenizer)} writes the message {times} times, must be "
            "once; leave --chat out"
        )
    notes = template.describe_settings()
    prefix, behind = asked.split(place)
    # What a template writes in front of an answer it is given is what the model has learned to
    # answer behind, be it more than the template writes to ask for one.
    try:
        answered = template.render([question, {"role": "assistant", "content": answer}], ask=False)
    except ModelError as error:
        answered = ""
        notes.append(f"with an answer in it, {error}")
    if answered.startswith(asked) and answered.count(answer) == 1:
        behind = answered.split(answer)[0].removeprefix(prefix + place)
    elif behind.rfind(THOUGHT) > behind.rfind(THOUGHT_END):
        behind = behind.rstrip("\n") + f"\n\n{THOUGHT_END}\n\n"
        notes.append("the chat template has the answer begin with a thought; it is left empty")
    else:
        spaced = behind[-1:].isspace()
        behind += "" if spaced else " "
        notes.append(
            "the chat template does not show what separates an answer from what is in front; "
            f"taken is {'nothing' if spaced else 'a space'}"
        )
    return FrameText(prefix, behind, "", tuple(notes))


class _Template:
    """A tokenizer's chat template, which is foreign code and may raise anything."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        with self._guard():
            self._text = tokenizer.get_chat_template()

    def render(self, messages: list[dict[str, str]], ask: bool) -> str:
        """Return the text of messages, and what asks for an answer.

        Raises:
            ModelError: The template refuses them, or is broken.
        """
        with self._guard():
            text: Any = self._tokenizer.apply_chat_template(
                messages,
                # Some write the date, and every day's rows would be another cache.
                chat_template=_stop_clock() + self._text if self._is_dated else self._text,
                add_generation_prompt=ask,
                tokenize=False,
                # The label words are to begin the answer, not a thought.
                enable_thinking=False,
            )
        return str(text)

    def describe_settings(self) -> list[str]:
        """Return what was settled for the template, one line for each."""
        lines = []
        if "enable_thinking" in self._text:
            lines.append("the chat template is told not to think (enable_thinking=False)")
        if self._is_dated:
            lines.append(f"the chat template is told that today is {DAY}, whatever day it is")
        return lines

    @property
    def _is_dated(self) -> bool:
        return "strftime_now" in self._text

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever Python can
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ModelError(
                f"the chat template of {_name(self._tokenizer)} cannot be used: {reason}"
            ) from error


def _stop_clock() -> str:
    """Return a macro that stands in for a chat template's clock.

    A template is given plain values only, so the clock cannot be another function.
    """
    told = "".join(f".replace('%{style}', '{DAY.strftime('%' + style)}')" for style in DAY_STYLES)
    return f"{{% macro strftime_now(style) %}}{{{{ style{told} }}}}{{% endmacro %}}"


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.name_or_path or "the tokenizer"
