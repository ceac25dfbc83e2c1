"""Numbers and what is found of a cache, as people and programs read them; small JSON files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cache.verification import Report

MOST_STRAYS = 5


def format_duration(seconds: float) -> str:
    """Return a time as hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def format_size(count: int) -> str:
    """Return a number of bytes in MiB, or in GiB from a thousand of those."""
    return f"{count / 2**30:,.1f} GiB" if count >= 1000 * 2**20 else f"{count / 2**20:,.1f} MiB"


def format_json(data: Any) -> str:
    """Format as JSON; NaN, such as the angle of a constant, becomes null."""

    def read(constant: str) -> float | None:
        return None if constant == "NaN" else float(constant)

    return json.dumps(json.loads(json.dumps(data), parse_constant=read), indent=2, allow_nan=False)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of this process's own: torchrun's ranks all write the one summary.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(format_json(data) + "\n")
    try:
        partial.replace(path)
    except OSError as error:
        partial.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def printable(text: str) -> str:
    """Replace what could steer a terminal: manifests come from anywhere."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def report_lines(report: Report, removed: list[str] | None) -> Iterator[str]:
    """Yield a line per fault, per path that repair has removed, and one for the whole cache."""
    for fault in report.faults:
        where = "" if fault.shard is None else f"shard {fault.shard}: "
        yield f"{where}{report.place}/{fault.file}: {fault.fault}"
    for path in removed or ():
        yield f"removed {report.place}/{path}"
    shards, name, label = f"{report.committed:,} unchecked shards", str(report.place), ""
    if report.cache is not None:
        shards = f"{report.committed:,} of {report.cache.shards:,} shards"
        name, label = report.cache.fingerprint[:12], f"  {report.cache.manifest.label}"
    count = len(report.faults)
    faults = f", {count:,} fault{'s' * (count > 1)}" if count else ""
    state = "damaged" if count else "OK"
    yield f"{state:<8} {name:<13} {shards}{faults}, {report.bytes:,} bytes{label}"
    if report.strays:
        some = ", ".join(report.strays[:MOST_STRAYS])
        rest = len(report.strays) - MOST_STRAYS
        yield f"  strays, which nothing reads: {some}{f' and {rest:,} more' if rest > 0 else ''}"


def report_data(report: Report, removed: list[str] | None) -> dict[str, Any]:
    """Return a verification's result for JSON."""
    cache = report.cache
    return {
        "path": str(report.place),
        "fingerprint": cache.fingerprint if cache else None,
        "label": cache.manifest.label if cache else None,
        "sound": not report.faults,
        "shards": cache.shards if cache else None,
        "committed": report.committed,
        "bytes": report.bytes,
        "faults": [asdict(fault) for fault in report.faults],
        "strays": report.strays,
        "removed": removed,
    }


def format_overview(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what :func:`cache.overview.describe_cache` says of a cache as titles and values."""
    layout = found["layout"]
    for key in ("fingerprint", "label", "path", "created"):
        yield key, found[key]
    try:
        yield from list(_format_inputs(found["inputs"], found["notes"]))
    except (KeyError, TypeError, AttributeError):
        # Not one of the teacher's: shown as it is.
        yield from ((name, json.dumps(value)) for name, value in found["inputs"].items())
    columns = ", ".join(
        f"{name} {column['dtype']}{list(column['shape']) or ''}"
        for name, column in layout["columns"].items()
    )
    yield (
        "layout",
        f"{layout['rows']:,} rows in chunks of {layout['chunk_rows']:,} and shards of "
        f"{layout['shard_rows']:,}: {columns}",
    )
    yield (
        "progress",
        f"{found['committed']:,} of {found['shards']:,} shards, {found['rows']:,} of "
        f"{layout['rows']:,} rows{', complete' if found['complete'] else ''}",
    )
    if found["rate"] is not None:
        yield "rate", f"{found['rate']:,.1f} rows a second by one worker"
    if found["seconds_left"] is not None:
        yield "time left", format_duration(found["seconds_left"])
    for one in found["workers"] or ():
        yield "worker", f"{one['host'] or '?'}, process {one['pid'] or '?'}, shard {one['shard']}"
    if not found["workers"]:
        yield "workers", "none" if found["workers"] is not None else "unknown"
    row_bytes = f", {found['row_bytes']:,.1f} a row" if found["row_bytes"] is not None else ""
    yield "bytes", f"{found['bytes']:,}{row_bytes}"
    for name, share in found["balance"].items():
        yield (
            "class",
            f"{name}: most probable in {share['rows']:,} rows "
            f"({share['rows'] / found['rows']:.1%}), mean probability {share['probability']:.4f}",
        )


def _format_inputs(
    inputs: Mapping[str, Any], notes: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    task, sampler, compute = inputs["task"], inputs["sampler"], inputs["compute"]
    yield "task", f"{task['name']}: {', '.join(label['name'] for label in task['labels'])}"
    for key in ("prompt", "suffix"):
        yield key, json.dumps(task[key], ensure_ascii=False)
    yield "model", f"{notes['model']}, weights {inputs['model']['weights'][:12]}…"
    if "lengths" in sampler:
        rule = sampler["lengths"]
        yield "sampler", f"{sampler['name']}, seed {sampler['seed']}"
        yield "lengths", f"{rule['kind']}, {rule['minimum']} to {rule['maximum']} tokens"
        for name, value in sampler.get("writing", {}).items():
            yield name.replace("_", "-"), value
    else:
        yield "texts", notes["source"]
    # The note keeps the name that it had when the first caches were written.
    if notes.get("own_texts"):
        yield "self-generated texts", f"{notes['own_texts']}, written by the model itself"
    tuning = notes.get("tuning", {})
    positions = tuning.get("batch_positions", compute["batch_positions"])
    yield (
        "computed",
        f"{compute['device']}, {compute['dtype']}, attention {compute['attention']}, "
        f"{positions} positions a batch{', compiled' if tuning.get('compiled') else ''}",
    )
