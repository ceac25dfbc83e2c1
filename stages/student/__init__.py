"""The student function h, and stage two, which trains it on a cache.

Gives ``run_student`` and what a written student's record says.  Knows the cache's rows and its
vocabulary; never loads the teacher's model, except its embeddings for labelled texts.
"""

from stages.student.answers import find_teacher_prior, join_answers
from stages.student.card import write_card
from stages.student.config import GOLD, StudentConfig, TrainingConfig
from stages.student.data import Rows, choose_held_out, join_slices, open_rows
from stages.student.loop import train_student
from stages.student.model import Student, build_encoder
from stages.student.stage import StudentResult, check_students, run_student
