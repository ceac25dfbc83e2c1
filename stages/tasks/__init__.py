"""TODO."""

from stages.tasks.frame import NO_SUFFIX, Frame, describe_chat, describe_frame, frame_task
from stages.tasks.task import Label, Task, list_tasks, load_task, parse_task
from stages.tasks.verbaliser import Verbaliser, build_verbaliser

__all__ = [
    "NO_SUFFIX",
    "Frame",
    "Label",
    "Task",
    "Verbaliser",
    "build_verbaliser",
    "describe_chat",
    "describe_frame",
    "frame_task",
    "list_tasks",
    "load_task",
    "parse_task",
]
