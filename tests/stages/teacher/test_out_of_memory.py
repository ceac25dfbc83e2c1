from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny import LONGEST, Listener, draw_ids, embed_with, make_teacher
from torch import nn

from stages.errors import ModelError
from stages.teacher.teacher import Teacher

OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
)


class TestOutOfMemory:
    """A device with room for so many positions; no real one runs out in a way to be tested."""

    SIZES = np.random.default_rng(3).integers(0, LONGEST + 1, 90)

    def make(self, family: str, room: int, error: BaseException) -> tuple[Teacher, list[int]]:
        teacher, seen = make_teacher(family), []

        def refuse(module: nn.Module, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
            seen.append(kwargs["inputs_embeds"].shape[:2].numel())
            if seen[-1] > room:
                raise error

        teacher.model.register_forward_pre_hook(refuse, with_kwargs=True)
        return teacher, seen

    def answer(self, teacher: Teacher, listener: Listener, budget: int = 400) -> np.ndarray:
        ids = draw_ids(len(self.SIZES), LONGEST, len(teacher.table))
        return teacher.answer_rows(
            self.SIZES, embed_with(teacher, ids), budget, listener.hear(teacher)
        )

    @pytest.mark.parametrize(
        ("family", "error"),
        [*(("llama", error) for error in OUT_OF_MEMORY), ("bloom", OUT_OF_MEMORY[0])],
    )
    def test_batches_are_made_smaller_once_and_no_row_is_lost(
        self, family: str, error: BaseException
    ) -> None:
        wanted = self.answer(make_teacher(family), Listener())
        # Bloom's prompt is copied and thus counted, but not run: its batches are smaller as seen.
        room = 210 if family == "llama" else 60
        (teacher, seen), listener = self.make(family, room, error), Listener()
        np.testing.assert_allclose(self.answer(teacher, listener), wanted, atol=1e-5)
        (warning,) = listener.warnings
        numbers = [int(word) for word in warning.replace(",", "").split() if word.isdigit()]
        assert warning.startswith("cpu has no memory for")
        assert numbers[1] == numbers[0] // 2
        assert numbers[0] <= 400
        assert sum(listener.counts) == len(self.SIZES)
        assert sum(size > room for size in seen) == 1
        refused = len(seen)
        np.testing.assert_allclose(self.answer(teacher, listener), wanted, atol=1e-5)
        assert len(listener.warnings) == 1, "what was found is remembered"
        assert max(seen[refused:]) <= min(room, numbers[1])

    def test_a_budget_far_too_large_is_halved_as_often_as_it_takes(self) -> None:
        wanted = self.answer(make_teacher("llama"), Listener())
        (teacher, seen), listener = self.make("llama", 40, OUT_OF_MEMORY[0]), Listener()
        np.testing.assert_allclose(self.answer(teacher, listener, 2000), wanted, atol=1e-5)
        assert sum(listener.counts) == len(self.SIZES)
        assert 2 <= len(listener.warnings) <= 6
        assert sum(size > 40 for size in seen) == len(listener.warnings)

    def test_inputs_that_do_not_fit_are_no_different(self) -> None:
        wanted, teacher = self.answer(make_teacher("llama"), Listener()), make_teacher("llama")
        ids, listener = draw_ids(len(self.SIZES), LONGEST, len(teacher.table)), Listener()

        def embed(rows: np.ndarray, length: int) -> torch.Tensor:
            if len(rows) * length > 60:
                raise OUT_OF_MEMORY[0]
            return teacher.look_up(ids.numpy()[rows, :length])

        found = teacher.answer_rows(self.SIZES, embed, 400, listener.hear(teacher))
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert listener.warnings

    def test_a_row_that_does_not_fit_alone_and_any_other_error_say_so(self) -> None:
        teacher, _ = self.make("llama", 20, OUT_OF_MEMORY[0])
        assert int(self.SIZES.max()) + len(teacher.suffix_ids) > 20
        with pytest.raises(ModelError, match=r"cpu has no memory for a single row of \d+ pos"):
            self.answer(teacher, Listener())
        (teacher, seen), listener = self.make("llama", 0, RuntimeError("shapes differ")), Listener()
        with pytest.raises(RuntimeError, match="shapes differ"):
            self.answer(teacher, listener)
        assert len(seen) == 1 and listener.warnings == []
