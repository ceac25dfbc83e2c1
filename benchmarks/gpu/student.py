"""Steps a second of students in training on a GPU, against a bare loop on resident tensors."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.gpu.worker import Found, Setting
from benchmarks.stepping import compare_loops
from benchmarks.trial import Effort, Trial
from stages.student import TrainingConfig

TASK = "ag_news"
STEPS = {"roberta-large": 120, "minilm": 400}
TURN = 10
"""Steps that a loop takes before the other's turn: a GPU is set going several steps ahead."""
QUICK = "static"
"""What stands in where next to nothing is to be measured."""


class Part:
    """A cache of the mini teacher, and students trained on it."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._folder = tempfile.TemporaryDirectory(prefix="gpu-")
        effort = Effort(rows=256 if setting.quick else 8192)
        self._trial = Trial(Path(self._folder.name), TASK, effort, setting.device, "uniform")

    def measure(self, name: str, limit: float) -> Found:
        """Compare the loops for one architecture; ``limit`` is the caller's affair."""
        quick = self._setting.quick
        arch, steps, turn = (QUICK, 16, 2) if quick else (name, STEPS[name], TURN)
        found = compare_loops(self._trial, arch, steps, turn)
        config, lengths = TrainingConfig(), found.lengths
        line = {"name": name, "steps": steps, "own": found.own, "bare": found.bare}
        line |= {"ratio": found.own / found.bare, "low": min(found.parts), "high": max(found.parts)}
        lengths_per_batch = (
            f"{config.batch_size} rows a step in {config.lengths_per_batch} lengths_per_batch"
        )
        note = f"{name}: {lengths_per_batch} of {lengths[0]}-{lengths[2]} tokens, {lengths[1]:.0f} on average"
        own = (
            f", {found.width} wide, of {self._trial.effort.rows:,} rows of the mini teacher's cache"
        )
        return Found([line], [note + own])
