"""The teacher g: a language model behind a prompt; and stage one, which caches its answers.

Gives ``Teacher``, ``run_teacher`` and ``estimate_teacher``.  Knows how forward passes are packed,
sized and compiled; knows nothing of students.
"""

from stages.teacher.autotune import find_tuning
from stages.teacher.candidates import Candidate, rank_candidates
from stages.teacher.config import TeacherConfig
from stages.teacher.endings import BLANK_LINE, Endings, find_end_ids
from stages.teacher.estimate import Estimate, estimate_teacher
from stages.teacher.fill import average_next_token
from stages.teacher.generation import MOST_ROWS, choose_labels, find_prompts, write_texts
from stages.teacher.plan import TeacherPlan, make_teacher, prepare_teacher
from stages.teacher.stage import TeacherResult, run_teacher
from stages.teacher.teacher import Batch, Teacher, plan_batches
