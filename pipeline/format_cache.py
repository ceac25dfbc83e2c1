"""What is found out about a cache, in words and as data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.formats import format_duration

if TYPE_CHECKING:
    from cache.format import Manifest
    from cache.overview import CacheOverview
    from cache.verification import Report

MOST_STRAYS = 5


def printable(text: str) -> str:
    """Replace what could steer a terminal: manifests come from anywhere."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def report_lines(report: Report, removed: list[str] | None) -> Iterator[str]:
    """Yield a line per fault, per path removed, and one for the cache as a whole.

    Args:
        report: What a verification found.
        removed: Paths that repair has removed; None where none was asked for.
    """
    for fault in report.faults:
        where = "" if fault.shard is None else f"shard {fault.shard}: "
        yield f"{where}{report.place}/{fault.file}: {fault.fault}"
    for path in removed or ():
        yield f"removed {report.place}/{path}"
    if report.cache is None:
        shards, name, label = f"{report.committed:,} unchecked shards", str(report.place), ""
    else:
        shards = f"{report.committed:,} of {report.cache.shards:,} shards"
        name, label = report.cache.fingerprint[:12], f"  {report.cache.manifest.label}"
    count = len(report.faults)
    faults = f", {count:,} fault{'s' * (count > 1)}" if count else ""
    state = "damaged" if count else "OK"
    yield f"{state:<8} {name:<13} {shards}{faults}, {report.bytes:,} bytes{label}"
    if report.strays:
        some = ", ".join(report.strays[:MOST_STRAYS])
        rest = len(report.strays) - MOST_STRAYS
        yield (f"  strays, which nothing reads: {some}{f' and {rest:,} more' if rest > 0 else ''}")


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
        "faults": [
            {"file": fault.file, "fault": fault.fault, "shard": fault.shard}
            for fault in report.faults
        ],
        "strays": list(report.strays),
        "removed": removed,
    }


def format_overview(found: CacheOverview) -> Iterator[tuple[str, str]]:
    """Yield what there is to say about a cache as titles and values."""
    cache = found.cache
    manifest, layout = cache.manifest, cache.layout
    yield "fingerprint", cache.fingerprint
    yield "label", manifest.label
    yield "path", str(cache.place)
    yield "created", manifest.created
    yield from _format_inputs(manifest)
    columns = ", ".join(
        f"{name} {column.dtype}{list(column.shape) or ''}"
        for name, column in layout.columns.items()
    )
    yield (
        "layout",
        f"{layout.rows:,} rows in chunks of {layout.chunk_rows:,} and shards of "
        f"{layout.shard_rows:,}: {columns}",
    )
    yield (
        "progress",
        f"{found.committed:,} of {cache.shards:,} shards, {found.rows:,} of {layout.rows:,} rows"
        f"{', complete' if found.is_complete else ''}",
    )
    if found.rate is not None:
        yield "rate", f"{found.rate:,.1f} rows a second while it was being filled"
    if found.seconds_left is not None:
        yield "time left", format_duration(found.seconds_left)
    if found.workers:
        for claim in found.workers:
            yield "worker", f"{claim.host or '?'}, process {claim.pid or '?'}, shard {claim.shard}"
    else:
        yield "workers", "none" if found.workers is not None else "unknown"
    row_bytes = f", {found.row_bytes:,.1f} a row" if found.row_bytes is not None else ""
    yield "bytes", f"{found.bytes:,}{row_bytes}"
    for name, (rows, probability) in found.balance.items():
        yield (
            "class",
            f"{name}: most probable in {rows:,} rows ({rows / found.rows:.1%}), mean probability "
            f"{probability:.4f}",
        )


def overview_data(found: CacheOverview) -> dict[str, Any]:
    """Return what there is to know about a cache for JSON."""
    cache = found.cache
    workers = found.workers
    return {
        "fingerprint": cache.fingerprint,
        "label": cache.manifest.label,
        "path": str(cache.place),
        "created": cache.manifest.created,
        "inputs": cache.manifest.inputs,
        "notes": cache.manifest.notes,
        "layout": asdict(cache.layout),
        "shards": cache.shards,
        "committed": found.committed,
        "rows": found.rows,
        "complete": found.is_complete,
        "rate": found.rate,
        "seconds_left": found.seconds_left,
        "workers": None
        if workers is None
        else [{"shard": w.shard, "host": w.host, "pid": w.pid} for w in workers],
        "bytes": found.bytes,
        "row_bytes": found.row_bytes,
        "balance": {
            name: {"rows": rows, "probability": probability}
            for name, (rows, probability) in found.balance.items()
        },
        "damage": list(found.damage),
    }


def _format_inputs(manifest: Manifest) -> Iterator[tuple[str, str]]:
    inputs, notes = manifest.inputs, manifest.notes
    try:
        task, sampler, compute = inputs["task"], inputs["sampler"], inputs["compute"]
        labels = ", ".join(label["name"] for label in task["labels"])
        weights = inputs["model"]["weights"][:12]
        words = [
            ("task", f"{task['name']}: {labels}"),
            ("prompt", json.dumps(task["prompt"], ensure_ascii=False)),
            ("suffix", json.dumps(task["suffix"], ensure_ascii=False)),
            ("model", f"{notes['model']}, weights {weights}…"),
        ]
        if "lengths" in sampler:
            rule = sampler["lengths"]
            words += [
                ("sampler", f"{sampler['name']}, seed {sampler['seed']}"),
                ("lengths", f"{rule['kind']}, {rule['minimum']} to {rule['maximum']} tokens"),
            ]
            words += [
                (name.replace("_", "-"), value)
                for name, value in sampler.get("writing", {}).items()
            ]
        else:
            words += [("texts", notes["source"])]
        if notes.get("self_generated"):
            words += [
                ("self-generated texts", f"{notes['self_generated']}, written by the model itself")
            ]
        words += [
            (
                "computed",
                f"{compute['device']}, {compute['dtype']}, attention {compute['attention']}, "
                + _format_batch(compute, notes),
            )
        ]
    except (KeyError, TypeError, AttributeError):
        # Not one of the teacher's: shown as it is.
        words = [(name, json.dumps(value)) for name, value in inputs.items()]
    yield from words


def _format_batch(compute: Mapping[str, Any], notes: Mapping[str, Any]) -> str:
    tuning = notes.get("tuning", {})
    words = f"{tuning.get('batch_positions', compute['batch_positions'])} positions a batch"
    if compute["batch_positions"] == "auto" and tuning:
        words += f" (found on {tuning['found_on']})"
    return words + (", compiled" if tuning.get("compiled") else "")
