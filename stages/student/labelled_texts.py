"""Labelled texts to train on in place of a teacher's answers.

They are written into a temporary cache, as a teacher's cache of the same texts is laid out, and
read like any other: two students of the same texts differ by their labels alone.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from cache.directory import Cache
from cache.format import Layout, Manifest, answer_columns
from cache.lookup import find_cache
from cache.opening import create_or_open
from cache.reader import CacheReader
from stages import lm
from stages.devices import choose_device, choose_dtype, choose_model
from stages.errors import LabelError, SettingError, TrainingError
from stages.inputs import TEXTS, InputsConfig, read_vocabulary
from stages.reporter import Reporter
from stages.student.config import GOLD, StudentConfig
from stages.student.data import TrainingData
from stages.tasks import Task
from stages.texts import EncodedTexts, encode_texts, read_labelled_texts


def open_labelled_texts(
    config: StudentConfig, path: Path, task: Task, reporter: Reporter
) -> TrainingData:
    """Open a file of labelled texts to train on, with the vocabulary of a cache or of a model."""
    columns = (config.text_column, config.label_column)
    try:
        texts, labels = read_labelled_texts(
            path, task.label_names, *columns, config.label_map, reporter
        )
    except LabelError as error:
        raise SettingError(str(error), error.hint) from error
    _check_balance(labels, task.label_names, path, reporter)
    if len(texts) <= (least := InputsConfig().chunk_rows):
        raise TrainingError(
            f"there are {len(texts)} texts; training needs more than {least}, some of which are "
            "held out"
        )
    if config.source:
        cache = find_cache(config.cache, task.name, config.source[0], partial=True)
        names = tuple(label["name"] for label in cache.manifest.inputs["task"]["labels"])
        if names != task.label_names:
            raise SettingError(
                f"the cache {cache.place} is of the labels {', '.join(names)}, the task "
                f"{task.name} has {', '.join(task.label_names)}"
            )
        where, model = str(cache.place), str(cache.manifest.notes.get("model", ""))
        identity = cache.fingerprint
        load: Callable[[], lm.Vocabulary] = partial(read_vocabulary, cache)
    else:
        device = choose_device(config.device).value
        chosen = choose_model(config.model, device)
        dtype = choose_dtype("auto", device).value
        reporter.say(
            f"model: {chosen.value} ({chosen.reason}), for its tokens and their embeddings"
        )
        folder = lm.resolve_model(chosen.value)
        where = model = chosen.value
        weights = sorted(lm.describe_identity(folder, reporter).items())
        identity = repr((weights, dtype, asdict(task)))
        load = partial(lm.load_vocabulary, folder, device, dtype, task.describe(), reporter)
    reporter.say(f"texts: {path} ({len(texts):,} with labels, no teacher); tokens of {where}")

    def open_readers(vocabulary: lm.Vocabulary, temporary: Path) -> list[CacheReader]:
        tokenizer, longest = lm.unpack_tokenizer(vocabulary.files), vocabulary.task["max_length"]
        encoded = encode_texts(texts, tokenizer, longest, reporter)
        return [CacheReader(_write_cache(encoded, labels, len(task.labels), temporary))]

    content = "".join(f"{len(row.text)} {row.text} {row.label}\n" for row in texts)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return TrainingData(
        (GOLD, digest, identity),
        {
            "fingerprint": "",
            "labels": GOLD,
            "texts": str(path),
            "texts_sha256": digest,
            "cache": "",
            "sampler": TEXTS,
            "teacher": "",
            "words_of": model,
            "rows": len(texts),
            "preparation": {"seconds": 0.0, "rows": len(texts)},
        },
        load,
        open_readers,
    )


def _write_cache(texts: EncodedTexts, labels: np.ndarray, classes: int, root: Path) -> Cache:
    """Write texts with their classes, shape (N,), as a cache whose probabilities are one-hot."""
    # In the order and in chunks as `prepare_inputs` has texts answered.
    usual = InputsConfig()
    order = np.argsort(texts.lengths, kind="stable")
    columns = {
        "length": texts.lengths[order],
        "tokens": texts.tokens[order],
        "probabilities": np.eye(classes, dtype=np.float32)[labels[order]],
    }
    known = answer_columns(classes, texts.tokens.shape[1])
    layout = Layout(
        len(order), usual.chunk_rows, usual.shard_rows, {name: known[name] for name in columns}
    )
    cache = create_or_open(root, Manifest("labelled texts", {}, layout), dict)
    while (claim := cache.claim_next()) is not None:
        rows = slice(claim.shard * usual.shard_rows, (claim.shard + 1) * usual.shard_rows)
        with claim:
            cache.commit(claim, {name: column[rows] for name, column in columns.items()}, 0.0)
    return cache


def _check_balance(
    labels: np.ndarray, names: tuple[str, ...], path: Path, reporter: Reporter
) -> None:
    counts = dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))
    missing = [name for name, count in counts.items() if not count]
    if len(missing) == len(names) - 1:
        (only,) = set(names) - set(missing)
        raise SettingError(
            f"{path}: every text has the label {only!r}; there is nothing to learn from it"
        )
    if missing:
        reporter.warn(
            f"{path}: no text has the label {', '.join(missing)}; the student will not give it"
        )
    reporter.say(f"labels: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
