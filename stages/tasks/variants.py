"""Other ways to ask what a task asks, for `pipeline task tune`: bundled ones, or a file's."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from stages.errors import TaskError
from stages.tasks.task import SCORES, Task, parse_task
from stages.yaml_files import read_yaml

VARIANTS = Path(__file__).parent / "variants"
LABELS = "{labels}"  # stands for the task's labels in a prompt and a suffix
ASKED = ("prompt", "suffix", "labels", *SCORES)  # what may be otherwise than in the task


def load_variants(task: Task, path: Path | None = None) -> list[Task]:
    """Read a YAML list of mappings, each of a task's keys that are to be otherwise.

    Without a path they are those bundled for the task's name, or for any task.  TaskError: the file
    cannot be read, or a variant is no way to ask for the task's labels.
    """
    if path is None:
        named = VARIANTS / f"{task.name}.yaml"
        path = named if named.is_file() else VARIANTS / "any.yaml"
    found = read_yaml(path, "the file of variants", TaskError)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise TaskError(f"{path}: must be a list of mappings with the keys {', '.join(ASKED)}")
    return list(_make_variants(task, found, path))


def _make_variants(task: Task, found: list[dict[str, object]], path: Path) -> Iterator[Task]:
    *others, last = [label.spoken for label in task.labels]
    names = f"{', '.join(others)} or {last}"
    own = {key: getattr(task, key) for key in ("prompt", "suffix", "max_length", *SCORES)}
    own["labels"] = {label.name: list(label.words) for label in task.labels}
    for number, variant in enumerate(found, 1):
        where = f"{path}, variant {number}"
        if foreign := [key for key in variant if key not in ASKED]:
            raise TaskError(f"{where}: {foreign[0]!r:.80} is none of the keys {', '.join(ASKED)}")
        texts = {k: x.replace(LABELS, names) for k, x in variant.items() if isinstance(x, str)}
        asked = parse_task(own | variant | texts, where, task.name)
        if asked.label_names != task.label_names or {"prompt", "suffix"} & {*variant} - {*texts}:
            known = ", ".join(map(repr, task.label_names))
            raise TaskError(
                f"{where}: must be one prompt and suffix, of the labels {known}, in order"
            )
        yield replace(task, others=(), **{key: getattr(asked, key) for key in ASKED})
