"""What a report reads of students and evaluations, and which students are one.

Files may come from anywhere, so each is checked strictly against a model of what is used of it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AliasPath, BaseModel, ConfigDict, Field, ValidationError

APPROACHES: Mapping[str, str] = {
    "direct": "direct training on labelled texts",
    "texts": "distilled on training texts",
    "self": "distilled on the teacher's self-generated texts",
    "self-labelled": "distilled on the teacher's self-generated texts, a label in its prompt",
    "self-noisy": "distilled on the teacher's self-generated texts, with a label and random tokens",
    "algorithm-1": "projection, uniform inputs, Algorithm 1",
    "projection": "projection, no text",
}
"""Ways to a student, in the order of the paper's Table 1, ours last."""

Count = Annotated[int, Field(ge=0, lt=2**64)]
Rows = Annotated[int, Field(ge=1, lt=2**64)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # files may be called so
Value = Annotated[float, Field(allow_inf_nan=True)]


def _at(*path: str) -> Any:
    """Return a field that is read from within objects; None where there is no such key."""
    return Field(None, validation_alias=AliasPath(*path))


class Strict(BaseModel):
    """Refuses what is of another type, infinite or NaN."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Evaluation(Strict):
    """What `evaluate --metrics` wrote into a file; ``model`` is the student's path."""

    file: Path
    rows: Any
    accuracy: Share | None = _at("student", "accuracy")
    macro_f1: Share | None = _at("student", "macro_f1")
    agreement: Share | None = None
    teacher_accuracy: Share | None = _at("teacher", "accuracy")
    teacher_macro_f1: Share | None = _at("teacher", "macro_f1")
    task: Name | None = None
    model: Name | None = None
    identity: Name | None = None


class Run(Strict):
    """A student: what its record says, a file, and what it scored.  None is what is not known."""

    file: Path
    evaluation: Evaluation | None = None
    task: Name = Field(validation_alias=AliasPath("task", "name"), min_length=1)
    fingerprint: str
    held_out_rows: Rows = Field(validation_alias=AliasPath("held_out", "rows"))
    held_out: Share = Field(validation_alias=AliasPath("held_out", "agreement"))
    centred_angle: Value | None = _at("held_out", "centred_angle")  # NaN: of a constant
    prior: Any = None  # what was taken off the teacher's answers
    self_generated_rows: Rows | None = _at("self_generated", "rows")
    self_generated: Share | None = _at("self_generated", "agreement")
    identity: str | None = None
    arch: str | None = None
    init: str | None = None
    labels: str | None = None
    sampler: str | None = None
    teacher: str | None = None
    rows: Count | None = None
    objective: str | None = _at("training", "objective")
    steps: Count | None = _at("training", "steps")
    batch_size: Count | None = _at("training", "batch_size")
    lengths_per_batch: Count | None = _at("training", "lengths_per_batch")
    learning_rate: float | None = _at("training", "learning_rate")
    seed: Count | None = _at("training", "seed")
    training: Seconds | None = _at("seconds", "training")
    preparation: Seconds | None = _at("preparation", "seconds")
    temperature: float | None = _at("calibration", "temperature")
    versions: dict[str, Any] | None = None
    curve: list[dict[str, Value | None]] | None = None

    @property
    def path(self) -> Path:
        """Its directory."""
        return self.file.parent

    def score(self, name: str) -> float | None:
        """Return ``accuracy``, ``macro_f1`` or ``agreement`` on labelled texts."""
        found: float | None = getattr(self.evaluation, name, None)
        return found

    @property
    def approach(self) -> str:
        """The way to this student, a key of :data:`APPROACHES`."""
        if self.labels == "gold":
            return "direct"
        if self.sampler in ("texts", "self", "self-labelled", "self-noisy"):
            return self.sampler
        literal = (self.sampler, self.objective) == ("uniform", "algorithm-1")
        return "algorithm-1" if literal else "projection"

    @property
    def recipe(self) -> str:
        """Its approach in words, with its sampler where it is a projection."""
        if self.approach == "projection":
            return f"projection, {self.sampler or 'unknown'} inputs, no text"
        return APPROACHES[self.approach]

    @property
    def cache(self) -> str:
        """The first digits of its cache's fingerprint; empty where it has none."""
        return self.fingerprint[:12]

    @property
    def encoder(self) -> str:
        """Its architecture, without the path to it."""
        return Path(self.arch or "unknown encoder").name


def describe_flaw(error: Exception) -> str:
    """Return in one line what is wrong with a document, and where for a model's first flaw."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


class Group(NamedTuple):
    """Students that differ in nothing but seed and task, by task in the order of their seeds."""

    approach: str
    small: bool  # of another encoder than most students without text
    name: str
    runs: Mapping[str, Sequence[Run]]


_SETTINGS = ("arch", "init", "teacher", "objective")
# Each task may have its own.  Caches of the same settings may differ all the same, by their seed.
_TASK_SETTINGS = ("steps", "batch_size", "lengths_per_batch", "learning_rate", "rows", "cache")


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group students that differ in nothing but seed and task, in the order of the approaches.

    What depends on the task, such as the number of steps, may differ between tasks.  A group's name
    says the settings by which it differs from other groups.
    """
    families: dict[tuple[int, str, str, str], list[Run]] = defaultdict(list)
    for run in runs:
        rank = list(APPROACHES).index(run.approach)
        families[rank, run.approach, run.encoder, run.recipe].append(run)
    encoders = sorted(run.encoder for run in runs if run.approach == "projection")
    encoders = encoders or sorted(run.encoder for run in runs)
    usual = max(encoders, key=encoders.count, default="")
    return [
        Group(approach, encoder != usual, ", ".join((recipe, encoder, *settings)), by_task)
        for (_, approach, encoder, recipe), family in sorted(families.items())
        for settings, by_task in sorted(_split(family).items())
    ]


def _split(family: Sequence[Run]) -> dict[tuple[str, ...], dict[str, list[Run]]]:
    """Split students by the settings in which some of them differ, and by task."""
    shown: list[str] = []

    def describe(run: Run) -> tuple[str, ...]:
        return tuple(f"{name.replace('_', ' ')} {getattr(run, name)}" for name in shown)

    for name in (*_SETTINGS, *_TASK_SETTINGS):
        values = defaultdict(set)
        for run in family:
            scope = (run.task, *describe(run)) if name in _TASK_SETTINGS else ()
            values[scope].add(getattr(run, name))
        if any(len(different) > 1 for different in values.values()):
            shown.append(name)
    found: dict[tuple[str, ...], dict[str, list[Run]]] = {}
    for run in sorted(family, key=lambda run: run.seed or 0):
        found.setdefault(describe(run), {}).setdefault(run.task, []).append(run)
    return found
