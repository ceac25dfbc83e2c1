"""Typed errors of the stages; only the command line turns them into messages."""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class Settings:
    """The settings that an error is about, by their names in a stage's config."""

    names: tuple[str, ...]
    example: str = ""  # a value that may be meant


class Hint(Enum):
    """What a person can do about an error; only the command line knows the command for it."""

    TRAIN = "train a student"
    EXPORT = "export a student"


class StageError(Exception):
    """Anything a stage refuses or cannot do, as one sentence for the person who ran it.

    ``usage`` says whether what was asked for is at fault, rather than how it went; ``hint`` what
    helps, or the settings to look at, None where the message says it.
    """

    usage = False

    def __init__(self, message: str, hint: Hint | Settings | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class SettingError(StageError):
    """A setting is out of its range or names nothing there is."""

    usage = True


class TaskError(StageError):
    """A task file, or a task against a tokenizer, is not usable."""

    usage = True


class ModelError(StageError):
    """A model directory or hub id cannot be loaded or does not fit what is asked of it."""


class TextDataError(StageError):
    """A file of texts cannot be read as what it is said to be."""


class LabelError(TextDataError):
    """A text has no label, or one that is none of those there are."""


class TrainingError(StageError):
    """Training cannot start, continue or be trusted."""


class ExportError(StageError):
    """A student cannot be written in the format asked for."""


class HubError(StageError):
    """A model hub cannot be reached, or does not take what is to be uploaded."""


class ReportError(StageError):
    """There is nothing to report, or it cannot be drawn or written."""
