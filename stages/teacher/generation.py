"""Texts that the language model writes: it continues its prompt, many rows at once, from seeds.

Every token is drawn by a row's own random number, so a row depends on its seed and the model
alone, up to the rounding that another batch brings.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.draw import Purpose, random_integers_numpy, send
from stages.checkpoints import one_line
from stages.errors import ModelError
from stages.inputs import SamplingSettings
from stages.tasks import NO_SUFFIX, frame_task
from stages.teacher.capabilities import (
    Rounding,
    check_room,
    is_out_of_memory,
    refuse_out_of_memory,
)
from stages.teacher.forward import FullPass

if TYPE_CHECKING:
    from stages.teacher.teacher import Advance, Teacher

MOST_ROWS = 256
"""Rows that are continued side by side."""

WORTH_COMPACTING = 0.9
"""Share of rows still running below which the keys and values of the others are dropped."""


def write_texts(
    teacher: Teacher,
    seeds: NDArray[np.uint64],
    sampling: SamplingSettings,
    longest: int,
    advance: Advance,
    shortest: int = 1,
) -> NDArray[np.int32]:
    """Have the model continue its prompt once a seed; returns tokens padded with -1, (N, longest).

    A text ends where the model ends it, where it begins the task's suffix, or at ``longest``; the
    model may not end it before ``shortest``.  ``longest`` tokens a text are told of as progress.
    """
    tokens = np.full((len(seeds), longest), -1, dtype=np.int32)
    single = f"a single written text of {longest} tokens"
    with torch.inference_mode(), teacher.suspend():
        for prompt, rows in _choose_prompts(teacher, seeds, sampling.labelled):
            size, writer = MOST_ROWS, None
            while len(rows):
                part = rows[:size]
                try:
                    if writer is None:
                        writer = _Writer(teacher, prompt, sampling, longest, shortest, advance)
                    tokens[part] = writer.write(seeds[part])
                except (MemoryError, RuntimeError) as error:
                    if writer is None or size == 1 or not is_out_of_memory(error):
                        refuse_out_of_memory(error, teacher.device, single)
                    size //= 2
                    teacher.warn(
                        f"{teacher.device} has no memory to write {len(part)} texts at once; going "
                        f"on with {size} (other rounding in the last bits, so other words)"
                    )
                    continue
                rows = rows[len(part) :]
    return tokens


def _choose_prompts(
    teacher: Teacher, seeds: NDArray[np.uint64], labelled: bool
) -> Iterator[tuple[Sequence[int], NDArray[np.int64]]]:
    """Yield the tokens in front of texts, and which rows those are."""
    task = teacher.task
    if not labelled:
        yield teacher.prefix_ids, np.arange(len(seeds))
        return
    draws = random_integers_numpy(seeds, 1, stream=Purpose.LABEL).astype(np.uint64)[:, 0]
    labels = draws * np.uint64(len(task.labels)) >> np.uint64(32)
    marker = task.suffix.strip() or NO_SUFFIX
    for column, label in enumerate(task.labels):
        start = teacher.tokenizer.bos_token or ""
        start = start if task.prompt.startswith(start) else ""
        prompt = f"{start}{marker} {label.words[0]}\n{task.prompt.removeprefix(start)}"
        named = replace(task, prompt=prompt)
        frame = frame_task(named, teacher.tokenizer, teacher.chat)
        yield frame.prefix_ids, np.flatnonzero(labels == column)


class _Writer:
    """Continues one prompt."""

    def __init__(
        self,
        teacher: Teacher,
        prompt: Sequence[int],
        sampling: SamplingSettings,
        longest: int,
        shortest: int,
        advance: Advance,
    ) -> None:
        from transformers import DynamicCache

        if not prompt:
            raise ModelError("without a prompt and a start token there is nothing to continue")
        what = f"what stands in front of a written text and {longest} tokens of it"
        check_room(teacher.model, what, len(prompt), longest)
        self._teacher, self._sampling, self._advance = teacher, sampling, advance
        self._longest, self._shortest = longest, shortest
        self._suffix = np.array(teacher.suffix_ids, dtype=np.int32)
        self._ends = find_end_ids(teacher.model)
        self._forbidden = sorted({*self._ends, *teacher.suffix_ids[:1]})
        self._prompt = teacher.look_up(np.array([prompt]))
        output = teacher.model(inputs_embeds=self._prompt, use_cache=True, logits_to_keep=1)
        advance(0)
        self._past, self._first = getattr(output, "past_key_values", None), output.logits[:, -1]
        fault = self._find_fault() if isinstance(self._past, DynamicCache) else "it has no such"
        if fault:
            raise ModelError(
                f"{type(teacher.model).__name__} cannot write texts: it keeps no keys and values "
                f"that several texts could be continued with ({fault})"
            )

    def _find_fault(self) -> str:
        """Say what is wrong with continuing two rows token by token, which families may bear."""
        teacher, length = self._teacher, max(2, self._longest)
        ids = np.arange(2 * length).reshape(2, length) % len(teacher.table)
        rows = teacher.look_up(ids)
        rounding = Rounding(FullPass(teacher.model, self._prompt).run, [rows])

        def run(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            past: Any = copy.deepcopy(self._past)
            past.batch_repeat_interleave(2)
            for part in (inputs[0][:, :-1], inputs[0][:, -1:]):
                output = teacher.model(inputs_embeds=part, past_key_values=past, use_cache=True)
            past.batch_select_indices(torch.tensor([1], device=teacher.device))
            logits: torch.Tensor = output.logits[:, -1]
            return logits

        try:
            return rounding.compare(run)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a family's code does with what it does not expect
            return one_line(error)

    def write(self, seeds: NDArray[np.uint64]) -> NDArray[np.int32]:
        teacher = self._teacher
        tokens = np.full((len(seeds), self._longest), -1, dtype=np.int32)
        lengths = np.full(len(seeds), self._longest)
        draws = random_integers_numpy(seeds, self._longest, stream=Purpose.WRITING)
        # Every call appends to the cache it is given.
        past: Any = copy.deepcopy(self._past)
        past.batch_repeat_interleave(len(seeds))
        logits = self._first.expand(len(seeds), -1)
        rows = np.arange(len(seeds))  # those in the cache, `running` those not at their end
        running = np.ones(len(seeds), dtype=bool)
        for position in range(self._longest):
            self._advance(len(seeds))
            ids = self._draw(logits, draws[rows, position], position < self._shortest)
            tokens[rows[running], position] = ids[running]
            # A text ends in front of the model's end token, or of the suffix.
            by_model, begin = np.isin(ids, self._ends), position + 1 - len(self._suffix)
            ended = running & by_model
            if len(self._suffix) and begin >= self._shortest:
                found = tokens[rows, begin : position + 1] == self._suffix
                ended |= running & found.all(axis=1)
            lengths[rows[ended]] = np.where(by_model[ended], position, begin)
            running &= ~ended
            if not running.any() or position + 1 == self._longest:
                break
            if running.mean() < WORTH_COMPACTING:
                kept = np.flatnonzero(running)
                past.batch_select_indices(send(kept, teacher.device))
                rows, ids, running = rows[kept], ids[kept], running[kept]
            inputs = teacher.look_up(ids[:, None])
            output = teacher.model(inputs_embeds=inputs, past_key_values=past, use_cache=True)
            logits = output.logits[:, -1]
        self._advance(len(seeds) * (self._longest - 1 - position))
        tokens[np.arange(self._longest) >= lengths[:, None]] = -1
        return tokens

    def _draw(
        self, logits: torch.Tensor, draws: NDArray[np.uint32], forbid: bool
    ) -> NDArray[np.int32]:
        logits = logits[:, : len(self._teacher.table)].float() / self._sampling.temperature
        if logits.isnan().any():
            raise ModelError("the model's logits are NaN or infinite, so that it cannot write")
        if forbid:
            logits[:, self._forbidden] = -torch.inf
        uniform = torch.from_numpy(draws.astype(np.float64) * 2.0**-32).to(logits.device)
        return draw_tokens(logits, uniform, self._sampling.top_p).cpu().numpy().astype(np.int32)


def draw_tokens(logits: torch.Tensor, uniform: torch.Tensor, top_p: float) -> torch.Tensor:
    """Draw a token a row, shape (B,), by where a number falls in the cumulated probabilities.

    Logits, shape (B, V), are float32, -inf where a token is impossible, the numbers float64, shape
    (B,), in [0, 1).  Those drawn from have ``top_p`` of the probability together.
    """
    probabilities = logits.softmax(dim=1)
    order = None
    if top_p < 1:
        probabilities, order = probabilities.sort(dim=1, descending=True, stable=True)
        before = probabilities.cumsum(dim=1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
        probabilities[:, 0] = probabilities[:, 0].clamp(min=torch.finfo(torch.float32).tiny)
    sums = probabilities.cumsum(dim=1)
    # Strictly below the last sum, which rounding might reach: the first sum above it then belongs
    # to a token that has a probability.
    target = (uniform * sums[:, -1].double()).float()
    target = torch.minimum(target, torch.nextafter(sums[:, -1], torch.zeros_like(target)))
    found = torch.searchsorted(sums, target[:, None], right=True)
    return (found if order is None else order.gather(1, found))[:, 0]


def find_end_ids(model: Any) -> list[int]:
    """Return the token ids by which a model ends a text."""
    settings = (getattr(model, "generation_config", None), model.config.get_text_config())
    known = (getattr(own, "eos_token_id", None) for own in settings)
    return [int(end) for end in np.unique(next((x for x in known if x is not None), []))]
