"""The student function h, and stage two, which trains it on a cache.

Gives ``run_student`` and what a written student's record says.  Knows the cache's rows and its
vocabulary; never loads the teacher's model, except its embeddings for labelled texts.
"""

from stages.student.card import write_card
from stages.student.config import GOLD, StudentConfig, TrainingConfig
from stages.student.data import RowSource, choose_held_out, open_rows, sum_seconds
from stages.student.loop import measure_projection, train_student
from stages.student.model import Student, build_encoder, configure_encoder
from stages.student.objectives import OBJECTIVES, Objective
from stages.student.optimiser import choose_rates, group_parameters, scale_rate
from stages.student.stage import StudentResult, check_students, run_student
from stages.student.tokenizer import TokenRemap

__all__ = [
    "GOLD",
    "OBJECTIVES",
    "Objective",
    "RowSource",
    "Student",
    "StudentConfig",
    "StudentResult",
    "TokenRemap",
    "TrainingConfig",
    "build_encoder",
    "check_students",
    "choose_held_out",
    "choose_rates",
    "configure_encoder",
    "group_parameters",
    "measure_projection",
    "open_rows",
    "run_student",
    "scale_rate",
    "sum_seconds",
    "train_student",
    "write_card",
]
