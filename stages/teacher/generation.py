"""Texts that the language model writes, many side by side, from seeds.

Every token is drawn by a row's own random number, so a row depends on its seed and the model alone,
up to the rounding of its batch.  A text that has ended gives its place to the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.draw import Purpose, random_integers_numpy, send
from stages.checkpoints import one_line
from stages.errors import ModelError, Settings
from stages.inputs import SamplingSettings
from stages.lm import measure_free
from stages.tasks import NO_SUFFIX, PLACE, frame_task, frame_writing
from stages.teacher.capabilities import check_room, is_out_of_memory, refuse_out_of_memory
from stages.teacher.endings import Endings, find_end_ids
from stages.teacher.slots import Slots, find_fault, run_prompt

if TYPE_CHECKING:
    from stages.teacher.teacher import Advance, Teacher

MOST_ROWS = {"cpu": 256, "cuda": 512}
"""Texts side by side; more are hardly faster, and a stop waits for longer steps."""
LIKELIEST = 4096
"""Tokens among which the likeliest are looked for first: sorting a vocabulary is slow."""


def write_texts(
    teacher: Teacher,
    seeds: NDArray[np.uint64],
    sampling: SamplingSettings,
    longest: int,
    advance: Advance,
    noise: NDArray[np.int64] | None = None,
) -> NDArray[np.int32]:
    """Have the model write a text for each seed; returns tokens padded with -1, (N, longest).

    A text is written behind what the task's ``write`` says, or continues the task's prompt.  It
    ends where the model ends it, in front of a blank line or the suffix of the prompt that it
    continues, or at ``longest``, without white space.  Where ``noise``, (N, longest), is a token
    instead of -1, the text has that one, and the model goes on behind it.  ``longest`` tokens a
    text are told of as progress.
    """
    writer = _Writer(teacher, seeds, sampling, longest, advance, noise)
    single, size = f"a single written text of {longest} tokens", 1
    with torch.inference_mode(), teacher.suspend():
        while not writer.done.all():
            try:
                writer.begin()
                size = writer.choose_width()
                writer.write(size)
            except (MemoryError, RuntimeError) as error:
                if size == 1 or not is_out_of_memory(error):
                    refuse_out_of_memory(error, teacher.device, single)
                teacher.rows_written = size // 2
                teacher.warn(
                    f"{teacher.device} has no memory to write {size} texts at once; going on with "
                    f"{size // 2} (other rounding in the last bits, so other words)"
                )
    return writer.tokens


@dataclass
class _Writer:
    """Writes texts; those that are done stay so where the others are begun anew."""

    teacher: Teacher
    seeds: NDArray[np.uint64]
    sampling: SamplingSettings
    longest: int
    advance: Advance
    noise: NDArray[np.int64] | None

    def __post_init__(self) -> None:
        teacher, labelled = self.teacher, self.sampling.labelled
        self.tokens = np.full((len(self.seeds), self.longest), -1, dtype=np.int32)
        self.done = np.zeros(len(self.seeds), dtype=bool)
        self._prompts = find_prompts(teacher, labelled)
        if not all(self._prompts):
            raise ModelError("without a prompt and a start token there is nothing to continue")
        what = f"what stands in front of a written text and {self.longest} tokens of it"
        check_room(teacher.model, what, max(map(len, self._prompts)), self.longest)
        # Behind a prompt of its own a text is no question that the suffix could follow.
        suffix = [] if teacher.task.choose_write(labelled) else teacher.suffix_ids
        self._endings = Endings(teacher.tokenizer, find_end_ids(teacher.model), suffix)
        if self.noise is not None:  # the table may have rows of no token
            self.noise = np.where(self.noise < len(self._endings.can_end), self.noise, -1)

    def begin(self) -> None:
        """Run the prompts, and see that texts can be continued behind them."""
        model, look_up = self.teacher.model, self.teacher.look_up
        embedded = [look_up(np.array([prompt])) for prompt in self._prompts]
        length = max(2, self.longest)
        rows = look_up(np.arange(2 * length).reshape(2, length) % len(self.teacher.table))
        self._past = []
        try:
            for prompt in embedded:
                self._past.append(run_prompt(model, prompt))
                self.advance(0)
            fault = find_fault(model, embedded[0], self._past[0], rows)
        except Exception as error:  # whatever a family's code does with what it does not expect
            if is_out_of_memory(error):
                raise
            fault = one_line(error)
        if fault:
            raise ModelError(
                f"{type(model).__name__} cannot write texts: it keeps no keys and values that "
                f"several texts could be continued with ({fault})",
                Settings(("sampler",), "unigram"),
            )

    def choose_width(self) -> int:
        """Return how many texts to write side by side: what half of the free memory holds."""
        device = self.teacher.device
        past, length = self._past[0], self._past[0].get_seq_length()
        kept = sum(x.keys.nbytes + x.values.nbytes for x in past.layers if x.is_initialized)
        each: int = kept * (length + self.longest) // max(1, length)
        each += 32 * len(self.teacher.table)  # logits, sorted, summed up and in between
        most = self.teacher.rows_written or MOST_ROWS[device.type]
        return max(1, min(most, int((~self.done).sum()), measure_free(str(device)) // 2 // each))

    def write(self, size: int) -> None:
        """Write the texts that are not done, so many side by side."""
        rows, waiting = np.split(np.flatnonzero(~self.done), [size])  # in the slots, and to come
        draws = random_integers_numpy(self.seeds, self.longest, stream=Purpose.WRITING)
        chosen = choose_labels(self.seeds, len(self._prompts))
        lasts = np.array([prompt[-1] for prompt in self._prompts])[chosen]
        slots = Slots(self.teacher.model, self._past, len(rows))
        slots.begin(np.arange(len(rows)), chosen[rows])
        ids, ages = lasts[rows], np.zeros(len(self.seeds), dtype=np.int64)
        while len(rows):
            logits = slots.run(self.teacher.look_up(ids[:, None]))
            ids = self._draw(logits, draws[rows, ages[rows]], ages[rows])
            if self.noise is not None:
                given = self.noise[rows, ages[rows]]
                ids = np.where(given >= 0, given, ids)
            self.tokens[rows, ages[rows]] = ids
            ages[rows] += 1
            ended = self._end(rows, ids, ages[rows])
            self.advance(len(rows) + int((self.longest - ages[rows[ended]]).sum()))
            # The next texts take the places of those that have ended, as long as there are any.
            begun, waiting = np.split(waiting, [len(ended)])
            filled, free = np.split(ended, [len(begun)])
            slots.begin(filled, chosen[begun])
            rows[filled], ids[filled] = begun, lasts[begun]
            if len(free):
                kept = np.delete(np.arange(len(rows)), free)
                slots.keep(kept)
                rows, ids = rows[kept], ids[kept]

    def _end(self, rows: NDArray[Any], ids: NDArray[Any], ages: NDArray[Any]) -> NDArray[np.int64]:
        """Cut the texts that have come to their end with a token; returns the slots of those."""
        ended = []
        for slot in np.flatnonzero(self._endings.can_end[ids] | (ages == self.longest)):
            row, age = rows[slot], int(ages[slot])
            begun = self.tokens[row, :age].tolist()
            text = self._endings.cut(begun, age == self.longest)
            if text is not None:
                self.tokens[row] = -1
                self.tokens[row, : len(text)] = text
                self.done[row] = True
                ended.append(slot)
        return np.array(ended, dtype=np.int64)

    def _draw(
        self, logits: torch.Tensor, draws: NDArray[np.uint32], ages: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Draw the next token of texts of so many tokens, shape (B,), by logits, shape (B, V)."""
        cannot_begin = self._endings.cannot_begin[: len(self.teacher.table)]
        logits = logits[:, : len(cannot_begin)].float().div_(self.sampling.temperature)
        if not float(logits.sum()) < torch.inf:
            raise ModelError("the model's logits are NaN or infinite, so that it cannot write")
        if not ages.all():
            young = send(ages == 0, logits.device)[:, None]
            logits.masked_fill_(young & send(cannot_begin, logits.device), -torch.inf)
        uniform = torch.from_numpy(draws.astype(np.float64) * 2.0**-32).to(logits.device)
        found: NDArray[np.int64] = draw_tokens(logits, uniform, self.sampling.top_p).cpu().numpy()
        return found


def choose_labels(seeds: NDArray[np.uint64], labels: int) -> NDArray[np.int64]:
    """Return the column of the label that each labelled text is asked to be of, shape (N,)."""
    draws = random_integers_numpy(seeds, 1, stream=Purpose.LABEL).astype(np.uint64)[:, 0]
    return (draws * np.uint64(labels) >> np.uint64(32)).astype(np.int64)


def find_prompts(teacher: Teacher, labelled: bool) -> list[list[int]]:
    """Return the tokens in front of texts, those for all or those of each label."""
    task, tokenizer, chat = teacher.task, teacher.tokenizer, teacher.chat
    if prompt := task.choose_write(labelled):
        names = [label.spoken for label in task.labels] if PLACE in prompt else [""]
        return [frame_writing(prompt.replace(PLACE, name), tokenizer, chat) for name in names]
    if not labelled:
        return [list(teacher.prefix_ids)]
    marker, start = task.suffix.strip() or NO_SUFFIX, tokenizer.bos_token or ""
    start = start if task.prompt.startswith(start) else ""
    behind = task.prompt.removeprefix(start)
    texts = [f"{start}{marker} {label.words[0]}\n{behind}" for label in task.labels]
    named = (replace(task, prompt=text) for text in texts)
    return [list(frame_task(each, tokenizer, chat).prefix_ids) for each in named]


def draw_tokens(
    logits: torch.Tensor, uniform: torch.Tensor, top_p: float, most: int = LIKELIEST
) -> torch.Tensor:
    """Draw a token a row, shape (B,), by where a number falls in the cumulated probabilities.

    Logits, shape (B, V), are float32, -inf where a token is impossible, the numbers float64, shape
    (B,), in [0, 1).  Those drawn from have ``top_p`` together, sought among ``most`` at first.
    """
    probabilities, order, flat = logits.softmax(dim=1), None, None
    if top_p < 1:
        if most < logits.shape[1]:
            kept, order = probabilities.topk(most, dim=1)
            flat = kept.sum(dim=1) < top_p
        else:
            kept, order = probabilities.sort(dim=1, descending=True, stable=True)
        probabilities = kept
        before = probabilities.cumsum(dim=1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
        probabilities[:, 0] = probabilities[:, 0].clamp(min=torch.finfo(torch.float32).tiny)
    sums = probabilities.cumsum(dim=1)
    # Strictly below the last sum, which rounding might reach: the first sum above it then belongs
    # to a token that has a probability.
    target = (uniform * sums[:, -1].double()).float()
    target = torch.minimum(target, torch.nextafter(sums[:, -1], torch.zeros_like(target)))
    found = torch.searchsorted(sums, target[:, None], right=True)
    found = (found if order is None else order.gather(1, found))[:, 0]
    if flat is not None and bool(flat.any()):
        found[flat] = draw_tokens(logits[flat], uniform[flat], top_p, logits.shape[1])
    return found
