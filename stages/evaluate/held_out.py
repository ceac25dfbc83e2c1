"""A written student, as it is used, beside the cached rows that were held out from its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cache.draw import TokenSampler
from cache.lookup import open_named_cache
from cache.reader import CacheReader
from stages.classify import Classifier, model_directory
from stages.errors import SettingError
from stages.inputs import read_sampler, read_self_generated, read_table
from stages.metrics import (
    Confidence,
    Projection,
    ProjectionMeter,
    Share,
    measure_calibration,
    measured_rows,
    read_temperature,
)
from stages.records import read_record
from stages.student import GOLD, TokenRemap, choose_held_out

if TYPE_CHECKING:
    from stages.reporter import Reporter


@dataclass(frozen=True)
class HeldOut:
    """A written student against its cache.

    Attributes:
        projection: Agreement and angles on all held-out rows.
        calibration: On those of them that no temperature was fitted on.
        self_generated: Agreement on texts that the teacher wrote itself; None where there are none.
    """

    projection: Projection
    calibration: Confidence
    self_generated: Share | None


def measure_held_out(
    model: Path, classifier: Classifier, root: str | Path, reporter: Reporter
) -> HeldOut:
    """Compare a written student with the held-out cached rows.

    Args:
        model: The student's directory or ONNX file.
        classifier: The same, loaded.
        root: Where its cache lies.
        reporter: Told which cache it is.

    Raises:
        SettingError: It has no cache, or the cache's inputs are not tokens.
        CacheChoiceError: Its cache is not below the root.
        CacheError: The cache is incomplete or damaged.
    """
    record = read_record(model_directory(model))
    if record.get("labels") == GOLD:
        raise SettingError(
            f"{model} was trained on labelled texts and has no cache to be compared with; give "
            "--data FILE"
        )
    cache = open_named_cache(root, record["task"]["name"], record["fingerprint"])
    reporter.say(f"no --data: the rows held out of {cache.place} ({cache.manifest.label})")
    sampler = read_sampler(cache, read_table(cache))
    if sampler is not None and not isinstance(sampler, TokenSampler):
        raise SettingError(
            f"the inputs of the sampler {sampler.name} are no tokens, which the written student "
            "reads; give --data FILE"
        )
    # The very shards of the training: more of them since would mean other rows held out.
    reader = CacheReader(cache, shards=record.get("shards"))
    held = choose_held_out(reader.chunks, cache.layout.chunk_rows, record["held_out"]["rows"])
    move = TokenRemap(*record["remapped_id"]) if record.get("remapped_id") else None

    def answer(ids: np.ndarray) -> np.ndarray:
        inputs = np.insert(ids, 0, record["start_id"], axis=1)
        return classifier.answer(move.apply(inputs) if move else inputs)

    meter = ProjectionMeter(len(classifier.labels))
    ours, theirs = [], []
    for part in reader.read_chunks(held):
        lengths, g = part.columns["length"], part.columns["probabilities"]
        h = np.empty_like(g)
        for length in np.unique(lengths):
            alike = lengths == length
            if sampler is None:
                ids = part.columns["tokens"][alike, :length].astype(np.int64)
            else:
                ids = sampler.draw_ids(part.columns["seed"][alike], int(length))
            h[alike] = answer(ids)
        meter.update(torch.from_numpy(g.copy()), torch.from_numpy(h))
        ours.append(h)
        theirs.append(g)
    found = meter.compute()
    rows = measured_rows(found.rows) if record.get("calibration") else np.arange(found.rows)
    temperature = read_temperature(record)
    errors = measure_calibration(
        np.concatenate(ours)[rows], np.concatenate(theirs)[rows], temperature
    )
    own = read_self_generated(cache)
    return HeldOut(
        found,
        Confidence(temperature, against_teacher=errors),
        None if own is None else own.measure(answer),
    )
