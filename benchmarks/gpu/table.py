"""What is measured on a GPU: the rows, their records in a JSON file, and the table of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("constant", "uniform")
OURS, COMPILED, CAREFUL, OBVIOUS = "ours", "ours compiled", "careful loop", "obvious loop"
PEAK, KERNELS = "peak", "kernels, uniform"
DONE, FAILED, LEFT_OUT = "done", "failed", "left out"


@dataclass(frozen=True)
class Row:
    """Something that is measured by itself."""

    part: str
    name: str
    seconds: float  # predicted for an H100, the start of its process included
    group: int  # rows of one group are measured by one process

    @property
    def limit(self) -> float:
        """Seconds after which it is ended."""
        return 1.5 * self.seconds + 30


ROWS = (
    Row("correctness", "pytest", 100, 0),
    Row("teacher", PEAK, 20, 1),
    Row("teacher", f"{OURS}, constant", 35, 1),
    Row("teacher", f"{OURS}, uniform", 28, 1),
    Row("teacher", KERNELS, 10, 1),
    Row("teacher", f"{CAREFUL}, constant", 14, 1),
    Row("teacher", f"{CAREFUL}, uniform", 8, 1),
    Row("teacher", f"{OBVIOUS}, constant", 8, 1),
    Row("teacher", f"{OBVIOUS}, uniform", 12, 1),
    Row("student", "roberta-large", 60, 2),
    Row("student", "minilm", 20, 2),
    Row("job", "mini to mini", 70, 3),
    # Behind all others, since they are the first that may be left out.
    Row("teacher", f"{COMPILED}, constant", 110, 4),
    Row("teacher", f"{COMPILED}, uniform", 30, 4),
)
PARTS = tuple(dict.fromkeys(row.part for row in ROWS))

COLUMNS = {
    "correctness": "passed:d:passed, failed:d:failed, skipped:d:skipped, seconds:.1f:s",
    "teacher": "rate:,.0f:tokens/s, times:.2f:× the obvious loop, tflops:,.4g:TFLOP/s, "
    "share:.3f:of the peak, trimmed:.3f:last layer less, memory:.1f:peak memory (GiB), "
    "million:,.0f:s for a million rows, rows:,d:rows measured, compiled::layers, "
    "batch:,d:batch (positions), tuning:.0f:s to find it and compile, "
    "apart:.1e:from the obvious loop",
    "student": "steps:d:steps, stage:.2f:stage two (steps/s), bare:.2f:bare (steps/s), "
    "ratio:.3f:ratio, low:.3f:lowest part, high:.3f:highest part",
    "job": "teacher:.1f:teacher (s), student:.1f:student (s), whole:.1f:both (s), rows:,d:rows, "
    "agreement:.4f:held-out agreement, angle:.4f:α (rad)",
}
"""Of each part: its columns as key, format and heading."""
DESCRIPTIONS = {
    "correctness": "`pytest -m gpu`, a line for each file of tests.",
    "teacher": """\
Llama-2-7b's shape, random weights made on the device in bfloat16, behind a prompt of 11 tokens;
inputs of 512 tokens (constant) or of 1 to 512 (uniform).  Tokens are the rows' own tokens: neither
the prompt nor padding counts.  Operations are 2 × parameters × tokens, embeddings, output layer and
attention's own products not counted; the peak was measured by the same process.  To reach: 0.65 of
it.  "Last layer less" leaves out what the last layer does not compute.  Memory is the device's,
weights included.  Batches were found as for a run of 1,000,000 rows.  The last column is the
largest difference of a probability.""",
    "student": """\
Stage two's loop, reading a cache, against a bare loop on tensors that lie on the device, in turns;
bfloat16 autocast, random starts.  To reach: a ratio of 0.95.""",
    "job": """\
AG's News' task, from nothing to a written student: `pipeline teacher` with the mini teacher, then
`pipeline student --arch mini`, with the defaults of `params.yaml`, their start included.""",
}


class Book:
    """The records of rows in a file, and the table beside it.

    Args:
        out: The table's file; the records' has the same name with ``.json``.
        identity: What is measured with now.
        notes: Sentences above all parts.
    """

    def __init__(self, out: Path, identity: dict[str, Any], notes: Sequence[str] = ()) -> None:
        self._out, self.identity, self._notes = out, identity, notes
        self.file = out.with_suffix(".json")
        self.read()

    def read(self) -> None:
        """Read the records in the file; those of another device or version are dropped.

        Those of other sources are shown, with what they are of, until they are measured again.
        """
        known = json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else []
        self._records: dict[tuple[str, str], dict[str, Any]] = {
            (each["part"], each["name"]): each
            for each in known
            if each["identity"] | {"sources": ""} == self.identity | {"sources": ""}
        }

    def find(self, row: Row) -> dict[str, Any]:
        """Return the record of a row, or an empty one."""
        return self._records.get((row.part, row.name), {})

    def has(self, row: Row) -> bool:
        """Whether a row was measured, with these sources."""
        record = self.find(row)
        return record.get("status") == DONE and record["identity"] == self.identity

    def add(self, row: Row, run: float, status: str, **found: Any) -> None:
        """Keep what became of a row in a run, in the place of what was known; write both files.

        ``found`` are lines of the table, notes below it, and why it failed, as there are any.
        """
        record = {"part": row.part, "name": row.name, "run": run, "status": status}
        record |= {"lines": [], "notes": [], "why": "", "identity": self.identity} | found
        self._records[row.part, row.name] = record
        self.write()

    def write(self) -> None:
        """Write both files, each as a whole or not at all."""
        self._out.parent.mkdir(parents=True, exist_ok=True)
        records = json.dumps(list(self._records.values()), indent=1, ensure_ascii=False)
        for path, text in ((self.file, records), (self._out, "\n".join(self._format()))):
            partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
            partial.write_text(text + "\n", encoding="utf-8")
            partial.replace(path)

    def _format(self) -> list[str]:
        lines = ["# On a GPU (`make gpu`)", "", describe(self.identity), *self._notes]
        for part in PARTS:
            columns = [column.split(":") for column in COLUMNS[part].split(", ")]
            lines += [f"\n## {part.capitalize()}\n", DESCRIPTIONS[part], ""]
            lines += [f"| | {' | '.join(head for _, _, head in columns)} |"]
            lines += ["|" + "---|" * (len(columns) + 1)]
            notes, missing, earlier = [], [], dict[str, list[str]]()
            for row in (row for row in ROWS if row.part == part):
                if not (record := self.find(row)):
                    missing.append(row.name)
                    continue
                for line in record["lines"]:
                    line = line | self._compare(record, line)
                    values = [(line.get(key), form) for key, form, _ in columns]
                    cells = ["" if x is None else format(x, form) for x, form in values]
                    lines.append(f"| {line['name']} | {' | '.join(cells)} |")
                if record["status"] != DONE:
                    why = f"{record['status']}: {record['why'].replace('|', '/')}"
                    lines.append(f"| {row.name} | {why} |{' |' * (len(columns) - 1)}")
                notes += [f"- {note}" for note in record["notes"]]
                if record["identity"] != self.identity:
                    earlier.setdefault(record["identity"]["sources"], []).append(row.name)
            lines += [f"\nNot measured: {'; '.join(missing)}."] if missing else []
            for sources, names in earlier.items():
                lines.append(f"\nMeasured at sources {sources}: {'; '.join(names)}.")
            lines += ["", *notes] if notes else []
        return lines

    def _compare(self, record: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
        """Return the figures that follow from the obvious loop's."""
        kind = record["name"].rpartition(", ")[2]
        base = self._records.get((record["part"], f"{OBVIOUS}, {kind}"), {"lines": []})
        if "answers" not in line or not base["lines"]:
            return {}
        (other,) = base["lines"]
        pairs = zip(line["answers"], other["answers"], strict=True)
        apart = max(abs(a - b) for a, b in pairs) if base is not record else None
        return {"times": line["rate"] / other["rate"], "apart": apart}


def describe(identity: dict[str, Any]) -> str:
    """Return what was measured with, in words."""
    tried = "  Tiny models, to try the script: its figures mean nothing." * identity["quick"]
    return (
        f"{identity['device']}; torch {identity['torch']}, transformers "
        f"{identity['transformers']}; sources {identity['sources']}.{tried}"
    )
