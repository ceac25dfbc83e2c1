"""Keys and values of texts that are being written side by side, a slot each.

All texts grow by a column at a time and end in the same one; they begin where they began, and what
lies in front of a text in its slot is masked, as padding on the left is.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.draw import send
from stages.teacher.capabilities import Rounding
from stages.teacher.forward import FullPass

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel


def run_prompt(model: PreTrainedModel, prompt: torch.Tensor) -> DynamicCache:
    """Return the keys and values of a prompt, shape (1, P, d_T), all but those of its last token.

    That token is the first that the text behind it is continued with.
    """
    from transformers import DynamicCache

    past = DynamicCache()  # with no window in any layer: what one hides is masked
    if prompt.shape[1] > 1:
        model(inputs_embeds=prompt[:, :-1], past_key_values=past, use_cache=True, logits_to_keep=1)
    return past


class Slots:
    """Texts under way, each behind one of some prompts; to be begun before they are run."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[DynamicCache], size: int) -> None:
        self._model, self._prompts = model, prompts
        longest = max(prompts, key=lambda prompt: prompt.get_seq_length())
        self._front = longest.get_seq_length()  # columns for which there is always room
        self._past: Any = copy.deepcopy(longest)
        self._past.batch_repeat_interleave(size)
        self._starts = np.zeros(size, dtype=np.int64)  # the column of each text's first position
        self._takes_positions = "position_ids" in inspect.signature(type(model).forward).parameters

    def begin(self, slots: NDArray[np.int64], chosen: NDArray[np.int64]) -> None:
        """Begin texts in some slots, whatever is there, behind the prompts of these numbers."""
        end = self._past.get_seq_length()
        for number in np.unique(chosen):
            prompt, mine = self._prompts[number], slots[chosen == number]
            begin = end - prompt.get_seq_length()
            self._starts[mine] = begin
            for kept, new in zip(self._past.layers, prompt.layers, strict=False):
                if new.is_initialized:  # else it has another layer's keys and values
                    where = send(mine, new.keys.device)
                    kept.keys[where, :, begin:end] = new.keys
                    kept.values[where, :, begin:end] = new.values

    def run(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the next positions of all texts, shape (rows, T, d_T); returns their last logits."""
        end, device, settings = self._past.get_seq_length(), inputs.device, {}
        over = min(int(self._starts.min()), end - self._front)  # columns of no text any more
        if over > 0:
            self._starts, end = self._starts - over, end - over
            for layer in self._past.layers:
                if layer.is_initialized:
                    layer.keys, layer.values = layer.keys[:, :, over:], layer.values[:, :, over:]
        if self._starts.any():
            columns = torch.arange(end + inputs.shape[1], device=device)
            starts = send(self._starts, device)[:, None]
            settings["attention_mask"] = (columns >= starts).long()
            if self._takes_positions:
                settings["position_ids"] = columns[end:] - starts
        output = self._model(
            inputs_embeds=inputs,
            past_key_values=self._past,
            use_cache=True,
            logits_to_keep=1,
            **settings,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def keep(self, slots: NDArray[np.int64]) -> None:
        """Give up the texts of all other slots."""
        self._starts = self._starts[slots]
        self._past.batch_select_indices(torch.from_numpy(slots))


def find_fault(
    model: PreTrainedModel, prompt: torch.Tensor, past: DynamicCache, rows: torch.Tensor
) -> str:
    """Say what is wrong with a text that begins while another goes on, which families may bear.

    The other is the first of ``rows``, shape (2, T, d_T), and comes to its end as the new one has
    two tokens: the last of the prompt, shape (1, P, d_T), and the second row's first.
    """
    rounding = Rounding(FullPass(model, prompt).run, [rows[:1], rows[1:, :1]])

    def run(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        (old,), (new,) = (torch.cat([prompt[0, -1:], part[0]])[None] for part in inputs)
        slots = Slots(model, [past], 2)
        slots.run(old[:-2].expand(2, -1, -1))
        slots.begin(np.array([1]), np.array([0]))
        for token in (0, 1):
            logits = slots.run(torch.stack([old[token - 2], new[token]])[:, None])
        return logits

    return rounding.compare(run)
