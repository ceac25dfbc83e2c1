"""TODO."""

from stages.evaluate.evaluation import Evaluation, EvaluationConfig, evaluate

__all__ = ["Evaluation", "EvaluationConfig", "evaluate"]
