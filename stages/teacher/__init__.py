"""The teacher g: a language model behind a prompt; and stage one, which caches its answers.

Gives ``Teacher``, ``run_teacher`` and ``estimate_teacher``.  Knows how forward passes are packed,
sized and compiled; knows nothing of students.
"""

from stages.teacher.attachments import average_next_token
from stages.teacher.autotune import compile_layers, find_compiling_problem, find_tuning
from stages.teacher.config import TeacherConfig
from stages.teacher.dry_run import Estimate, estimate_teacher
from stages.teacher.fill import ShardWriter
from stages.teacher.forward import PackedPass
from stages.teacher.generation import draw_tokens, write_texts
from stages.teacher.plan import report_forward_pass
from stages.teacher.stage import run_teacher
from stages.teacher.teacher import Batch, Callbacks, Teacher, plan_batches

__all__ = [
    "Batch",
    "Callbacks",
    "Estimate",
    "PackedPass",
    "ShardWriter",
    "Teacher",
    "TeacherConfig",
    "average_next_token",
    "compile_layers",
    "draw_tokens",
    "estimate_teacher",
    "find_compiling_problem",
    "find_tuning",
    "plan_batches",
    "report_forward_pass",
    "run_teacher",
    "write_texts",
]
