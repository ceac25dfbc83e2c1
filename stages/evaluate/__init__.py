"""How good a student or a teacher is: on labelled texts, or on the rows held out of training.

Gives ``evaluate``.  Knows the teacher, the student and the classifiers.
"""

from stages.evaluate.evaluation import Evaluation, EvaluationConfig, evaluate
