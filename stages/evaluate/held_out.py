"""A written student, as it is used, against the cached rows held out from its training."""

from pathlib import Path

import numpy as np

from cache.draw import TokenSampler
from cache.lookup import open_named_cache
from cache.reader import CacheReader
from stages import metrics
from stages.classify import Classifier, model_directory
from stages.errors import SettingError, Settings
from stages.inputs import read_sampler, read_self_generated, read_table
from stages.records import read_record, read_temperature
from stages.reporter import Reporter
from stages.student import GOLD, choose_held_out, join_answers


def measure_held_out(
    model: Path, classifier: Classifier, root: str | Path, reporter: Reporter
) -> tuple[metrics.Projection, metrics.Confidence, metrics.Share | None]:
    """Compare a student, given by its directory or ONNX file and loaded, with the held-out rows.

    Returns agreement and angles on all held-out rows; the calibration on those of them that no
    temperature was fitted on; and the agreement on self-generated texts, if there are any.
    """
    record = read_record(model_directory(model))
    if record.get("labels") == GOLD:
        raise SettingError(
            f"{model} was trained on labelled texts and has no cache to be compared with; give "
            "labelled texts",
            Settings(("data",)),
        )
    fingerprints = record.get("averaged") or [record["fingerprint"]]
    caches = [open_named_cache(root, record["task"]["name"], each) for each in fingerprints]
    cache = caches[0]
    reporter.say(f"no texts given: the rows held out of {cache.place} ({cache.manifest.label})")
    sampler = read_sampler(cache, read_table(cache))
    if sampler is not None and not isinstance(sampler, TokenSampler):
        raise SettingError(
            f"the sampler {sampler.name} draws embeddings of no tokens, and the written student "
            "reads tokens; give labelled texts",
            Settings(("data",)),
        )
    # The very shards of the training: more of them since would mean other rows held out.
    readers = [CacheReader(each, shards=record.get("shards")) for each in caches]
    reader = readers[0]
    held = choose_held_out(reader.chunks, cache.layout.chunk_rows, record["held_out"]["rows"])
    source, target = record.get("remapped_id") or (-1, -1)  # of MPNet's, in earlier versions

    def answer(ids: np.ndarray) -> np.ndarray:
        reporter.check_stop()
        inputs = np.insert(ids, 0, record["start_id"], axis=1)
        return classifier.answer(inputs + (inputs == source) * (target - source))

    prior = metrics.read_prior(record)
    student, teacher = [], []
    with reporter.track("student", len(held), 0, "chunk") as advance:
        for parts in zip(*(each.read_chunks(held) for each in readers), strict=True):
            part, lengths = parts[0], parts[0]["length"]
            probabilities = join_answers(parts)
            answers = np.empty_like(probabilities)
            for length in np.unique(lengths):
                alike = lengths == length
                if sampler is None:
                    ids = part["tokens"][alike, :length].astype(np.int64)
                else:
                    ids = sampler.draw_ids(part["seed"][alike], int(length))
                answers[alike] = answer(ids)
            student.append(answers)
            teacher.append(probabilities if prior is None else prior.remove(probabilities))
            advance(1)
    g, h = np.concatenate(teacher), np.concatenate(student)
    temperature = read_temperature(record)
    rows = metrics.measured_rows(len(h)) if record.get("calibration") else np.arange(len(h))
    errors = metrics.measure_calibration(h[rows], g[rows], temperature)
    share = None
    if len(caches) == 1 and (texts := read_self_generated(cache)) is not None:
        with reporter.track("self-generated texts", 1, 0, "student"):
            share = texts.without(prior).measure(answer)
    return (
        metrics.compute_projection(g, h),
        metrics.Confidence(temperature, against_teacher=errors),
        share,
    )
