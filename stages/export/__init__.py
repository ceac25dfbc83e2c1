"""A student for others: ONNX files, int8 weights, a model card, a model hub.

Gives ``export_student``.  Knows classifiers and a student's record; knows nothing of training.
"""

from stages.export.comparison import draw_texts
from stages.export.hub import check_push, push_folder
from stages.export.stage import FLOAT32, FORMATS, INT8, ExportConfig, export_student
