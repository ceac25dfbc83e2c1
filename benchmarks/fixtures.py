"""What students are measured with: a small cache, students of a few steps, ONNX files.

How long a student takes does not depend on how well it has learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from cache.directory import Cache
from stages.export import FLOAT32, INT8, ExportConfig, export_student
from stages.inputs import read_table
from stages.reporter import SilentReporter
from stages.student import Student, StudentConfig, TrainingConfig, build_encoder, run_student
from stages.teacher import TeacherConfig, run_teacher


@dataclass(frozen=True, eq=False)
class Fixtures:
    """A place for all that is needed, made when it is first asked for."""

    folder: Path  # an empty one
    task: str
    rows: int  # of the cache
    device: str = "cpu"  # where the teacher answers

    @cached_property
    def cache(self) -> Cache:
        """The mini teacher's answers."""
        config = TeacherConfig(
            task=self.task,
            model="mini",
            sampler="vocabulary",
            self_generated=0,
            rows=self.rows,
            chunk_rows=64 if self.rows >= 2048 else 8,
            shard_rows=min(4096, self.rows // 2),
            cache=self.folder / "cache",
            device=self.device,
            batch_positions=2048 if self.device == "cpu" else 16384,
        )
        return run_teacher(config, SilentReporter()).cache

    def build_student(self, arch: str) -> Student:
        """Return an untrained student, the same one each time."""
        inputs = self.cache.manifest.inputs
        labels = tuple(label["name"] for label in inputs["task"]["labels"])
        torch.manual_seed(0)
        encoder = build_encoder(arch, "random", labels, inputs["task"]["max_length"])
        table = read_table(self.cache)
        return Student(encoder, table[inputs["start_id"]], float(table.std()))

    def train_student(self, arch: str) -> Path:
        """Return the directory of a student that has taken a few steps."""
        config = StudentConfig(
            task=self.task,
            arch=arch,
            init="random",
            cache=self.folder / "cache",
            source=(self.cache.fingerprint,),
            held_out_rows=64,
            device="cpu",
            out=self.folder / "students" / arch,
            training=TrainingConfig(steps=4, batch_size=16),
        )
        return run_student(config, SilentReporter()).out


def write_onnx(student: Path, folder: Path) -> tuple[Path, Path]:
    """Write a student's ONNX files as `pipeline export --int8` does.

    Returns:
        The float32 file and the one of 8 bits.
    """
    export_student(ExportConfig(student, int8=True, out=folder), SilentReporter())
    return folder / FLOAT32, folder / INT8
