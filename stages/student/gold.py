"""Direct training: texts with labels of their own, and no answers of a teacher.

The rows are read in the order and in the slices that a cache of the same texts is read in, so that
two students differ by their labels alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cache.format import Layout, answer_columns
from cache.lookup import find_cache
from cache.order import arrange, cut, windows
from cache.reader import WINDOW_SHARDS, Slice
from stages.devices import choose_device, choose_dtype, choose_model
from stages.errors import SettingError, TextDataError, TrainingError
from stages.inputs import TEXTS, InputsConfig, read_vocabulary
from stages.lm import (
    Vocabulary,
    describe_identity,
    load_vocabulary,
    resolve_model,
    unpack_tokenizer,
)
from stages.student.config import GOLD, StudentConfig, TrainingConfig
from stages.student.data import TrainingData
from stages.student.loop import Rows, RowSource
from stages.student.rows import choose_held_out, to_rows
from stages.tasks import Task, load_task
from stages.texts import EncodedTexts, TextRow, encode_rows, number_labels, read_texts

if TYPE_CHECKING:
    from stages.reporter import Reporter


def open_gold(config: StudentConfig, reporter: Reporter) -> TrainingData:
    """Open a file of labelled texts as what a student is taught.

    Raises:
        SettingError: A text has no label of the task, or all have the same one.
        TextDataError: The file cannot be read.
        StageError: The language model or the cache of its words is not usable.
        CacheError: Likewise.
    """
    if config.texts is None:
        raise SettingError("labels gold: name the labelled texts with --texts FILE")
    path = config.texts
    task = load_task(config.task)
    texts = read_texts(path, config.text_column, config.label_column)
    try:
        labels = number_labels(texts, task.label_names, path)
    except TextDataError as error:
        raise SettingError(str(error)) from error
    _check_balance(labels, task.label_names, path, reporter)
    where, name, identity, load = _find_vocabulary(config, task, reporter)
    digest = _hash_texts(texts)
    reporter.say(f"texts: {path} ({len(texts):,} with labels, no teacher); tokens of {where}")

    def open_rows(
        words: Vocabulary, training: TrainingConfig, held_out_rows: int, device: torch.device
    ) -> RowSource:
        tokenizer, longest = unpack_tokenizer(words.files), words.task["max_length"]
        encoded = encode_rows(texts, tokenizer, longest, reporter)
        classes, table = len(task.labels), words.table.to(device)
        return open_texts(encoded, labels, classes, table, training, held_out_rows, device)

    return TrainingData(
        (GOLD, digest, identity),
        {
            "labels": GOLD,
            "texts": str(path),
            "texts_sha256": digest,
            "cache": "",
            "sampler": TEXTS,
            "teacher": "",
            "words_of": name,
            "rows": len(texts),
            "preparation": {"seconds": 0.0, "rows": len(texts)},
        },
        "",
        "the labels",
        load,
        open_rows,
    )


def open_texts(
    texts: EncodedTexts,
    labels: np.ndarray,
    classes: int,
    table: torch.Tensor,
    training: TrainingConfig,
    held_out_rows: int,
    device: torch.device,
) -> RowSource:
    """Turn labelled texts into the training loop's rows, some of them held out.

    Args:
        texts: The texts as tokens.
        labels: Each one's class, shape (N,).
        classes: K.
        table: The language model's embedding table, shape (V, d_T), on the device to train on.
        training: How the rows are read.
        held_out_rows: Rows to keep out, as whole chunks, at most a tenth of all.
        device: Device to train on.

    Raises:
        TrainingError: There are too few texts to hold some out.
    """
    # As `pipeline teacher --texts` lays them out, and its cache is read.
    usual = InputsConfig()
    order = np.argsort(texts.lengths, kind="stable")
    columns = {
        "length": texts.lengths[order],
        "tokens": texts.tokens[order],
        "probabilities": np.eye(classes, dtype=np.float32)[labels[order]],
    }
    layout = Layout(
        len(order),
        usual.chunk_rows,
        usual.shard_rows,
        answer_columns(classes, texts.tokens.shape[1]),
    )
    if layout.chunks < 2:
        raise TrainingError(
            f"there are {layout.rows} texts; training needs more than {layout.chunk_rows}, some of "
            "which are held out"
        )
    held = choose_held_out(tuple(range(layout.chunks)), layout.chunk_rows, held_out_rows)

    def pick(begin: int, end: int) -> Rows:
        part = Slice(begin, {name: values[begin:end] for name, values in columns.items()})
        return to_rows(part, None, table, device)

    def open_stream(consumed: int) -> Iterator[Rows]:
        rows, without = training.batch_size // training.lengths_per_batch, frozenset(held)
        cuts = {shard: cut(layout, shard, rows, without) for shard in range(layout.shards)}
        sizes = {shard: len(token.starts) for shard, token in cuts.items()}
        for window in windows(sizes, WINDOW_SHARDS, training.seed, consumed):
            for _, begin, end in arrange(cuts, window, training.seed):
                yield pick(begin, end)

    def held_out() -> Iterable[Rows]:
        for chunk in held:
            rows = layout.rows_of_chunk(chunk)
            yield pick(rows.start, rows.stop)

    return RowSource(open_stream, held_out, classes)


def _find_vocabulary(
    config: StudentConfig, task: Task, reporter: Reporter
) -> tuple[str, str, str, Callable[[], Vocabulary]]:
    """Return where the words are, whose they are, what they depend on, and how to have them."""
    if config.source is not None:
        cache = find_cache(config.cache, task.name, config.source, partial=True)
        described = cache.manifest.inputs["task"]
        names = tuple(label["name"] for label in described["labels"])
        if names != task.label_names:
            raise SettingError(
                f"the cache {cache.place} is of the labels {', '.join(names)}, the task "
                f"{task.name} has {', '.join(task.label_names)}"
            )
        name = str(cache.manifest.notes.get("model", ""))
        return f"{cache.place}", name, cache.fingerprint, lambda: read_vocabulary(cache)
    device = choose_device(config.device)
    model = choose_model(config.model, device.value)
    dtype = choose_dtype("auto", device.value)
    reporter.say(f"model: {model.value} ({model.reason}), for its tokens and their embeddings")
    folder = resolve_model(model.value)
    identity = (sorted(describe_identity(folder, reporter).items()), dtype.value, asdict(task))

    def load() -> Vocabulary:
        return load_vocabulary(folder, device.value, dtype.value, task.describe())

    return model.value, model.value, repr(identity), load


def _check_balance(
    labels: np.ndarray, names: tuple[str, ...], path: Path, reporter: Reporter
) -> None:
    counts = np.bincount(labels, minlength=len(names)).tolist()
    there = [name for name, count in zip(names, counts, strict=True) if count]
    if len(there) == 1:
        raise SettingError(
            f"{path}: every text has the label {there[0]!r}; there is nothing to learn from it"
        )
    if len(there) < len(names):
        missing = ", ".join(name for name in names if name not in there)
        reporter.warn(f"{path}: no text has the label {missing}; the student will not give it")
    shares = (f"{name} {count:,}" for name, count in zip(names, counts, strict=True))
    reporter.say(f"labels: {', '.join(shares)}")


def _hash_texts(texts: list[TextRow]) -> str:
    digest = hashlib.sha256()
    for row in texts:
        digest.update(f"{len(row.text)} {row.text} {row.label}\n".encode())
    return digest.hexdigest()
