"""What was measured, kept in a JSON file after every row, and the table made of it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import OBVIOUS, PARTS, ROWS

DONE, FAILED, LEFT_OUT = "done", "failed", "left out"
COLUMNS = {
    "correctness": "passed:d:passed, failed:d:failed, skipped:d:skipped, seconds:.1f:s",
    "teacher": "rate:,.0f:tokens/s, times:.2f:× the obvious loop, tflops:,.4g:TFLOP/s, "
    "share:.3f:of the peak, trimmed:.3f:last layer less, memory:.1f:peak memory (GiB), "
    "million:,.0f:s for a million rows, rows:,d:rows measured, compiled::layers, "
    "batch:,d:batch (positions), tuning:.0f:s to find it and compile, "
    "apart:.1e:from the obvious loop",
    "student": "steps:d:steps, own:.2f:stage two (steps/s), bare:.2f:bare (steps/s), "
    "ratio:.3f:ratio, low:.3f:lowest part, high:.3f:highest part",
    "job": "teacher:.1f:teacher (s), student:.1f:student (s), whole:.1f:both (s), rows:,d:rows, "
    "agreement:.4f:held-out agreement, angle:.4f:α (rad)",
}
"""Of each part: its columns as key, format and heading."""
WORDS = {
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
    """The records in a file, and the table beside it.

    A record is what became of a row: ``part``, ``name``, ``identity`` (what it was measured with),
    ``status``, ``seconds``, and the fields of :class:`benchmarks.gpu.worker.Found`.

    Args:
        out: The table's file; the records' has the same name with ``.json``.
        identity: What is measured with now.
        notes: Sentences above all parts.
    """

    def __init__(self, out: Path, identity: dict[str, Any], notes: Sequence[str] = ()) -> None:
        self._out, self.identity, self._notes = out, identity, notes
        self.file = out.with_suffix(".json")
        known = json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else []
        self._records = {(each["part"], each["name"]): each for each in known}

    def has(self, part: str, name: str) -> bool:
        """Whether a row was measured with the same."""
        record = self._records.get((part, name), {})
        return record.get("status") == DONE and record["identity"] == self.identity

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record in the place of an older one, and write both files."""
        self._records[record["part"], record["name"]] = record | {"identity": self.identity}
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
        others = {describe(record["identity"]) for record in self._records.values()}
        lines += [f"\n† {each}" for each in sorted(others - {describe(self.identity)})]
        for part in PARTS:
            columns = [column.split(":") for column in COLUMNS[part].split(", ")]
            lines += [f"\n## {part.capitalize()}\n", WORDS[part], ""]
            lines += [f"| | {' | '.join(head for _, _, head in columns)} |"]
            lines += ["|" + "---|" * (len(columns) + 1)]
            notes, missing = [], []
            for row in (row for row in ROWS if row.part == part):
                record = self._records.get((part, row.name))
                if record is None:
                    missing.append(row.name)
                    continue
                mark = "" if record["identity"] == self.identity else " †"
                for line in map(self._derive(record), record["lines"]):
                    values = [(line.get(key), form) for key, form, _ in columns]
                    cells = ["" if x is None else format(x, form) for x, form in values]
                    lines.append(f"| {line['name']}{mark} | {' | '.join(cells)} |")
                if record["status"] != DONE:
                    why = f"{record['status']}: {record['why'].replace('|', '/')}"
                    lines.append(f"| {row.name}{mark} | {why} |{' |' * (len(columns) - 1)}")
                notes += [f"- {note}" for note in record["notes"]]
            lines += [f"\nNot there: {'; '.join(missing)}."] if missing else []
            lines += ["", *notes] if notes else []
        return lines

    def _derive(self, record: dict[str, Any]) -> Any:
        """Return what adds to a line of figures those that follow from the obvious loop's."""
        kind = record["name"].rpartition(", ")[2]
        base = self._records.get((record["part"], f"{OBVIOUS}, {kind}"), {"lines": []})
        other = base["lines"][0] if base["lines"] else None

        def add(line: dict[str, Any]) -> dict[str, Any]:
            if other is None or "answers" not in line or base["identity"] != record["identity"]:
                return line
            pairs = zip(line["answers"], other["answers"], strict=True)
            apart = max(abs(a - b) for a, b in pairs) if base is not record else None
            return line | {"times": line["rate"] / other["rate"], "apart": apart}

        return add


def describe(identity: dict[str, Any]) -> str:
    """Return what was measured with, in words."""
    tried = "  Tiny models, to try the script: its figures mean nothing." * identity["quick"]
    return (
        f"{identity['device']}; torch {identity['torch']}, transformers "
        f"{identity['transformers']}; sources {identity['sources']}.{tried}"
    )
