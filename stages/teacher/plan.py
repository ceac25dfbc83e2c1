"""What a teacher's cache is to be, known before the model is loaded; and the model, when needed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cache.format import Layout, Manifest, answer_columns
from stages import devices, lm, tasks
from stages.checkpoints import describe_lost
from stages.inputs import Inputs, prepare_inputs
from stages.reporter import Reporter
from stages.tasks import Task, Verbaliser
from stages.teacher.config import TeacherConfig
from stages.teacher.forward import FullPass
from stages.teacher.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ENGINE = {"float32": 2, "bfloat16": 3, "float16": 4}
"""By number format; raised whenever the same settings would give other bits of the same answers."""


@dataclass(frozen=True)
class TeacherPlan:
    """Everything that is settled before the first row."""

    config: TeacherConfig  # the model chosen
    task: Task
    folder: Path
    identity: Mapping[str, str]  # the model's hashes
    tokenizer: PreTrainedTokenizerBase
    input_tokenizer: PreTrainedTokenizerBase  # as it cuts behind the prompt
    verbaliser: Verbaliser
    inputs: Inputs
    device: str
    dtype: str
    reporter: Reporter

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher; its model is loaded the first time."""
        self.reporter.say(lm.keep_freed_memory(self.device))
        began, config = time.monotonic(), self.config
        with self.reporter.track("loading the model", 1, 0, "model"):
            model = lm.load_language_model(
                self.folder, self.device, self.dtype, config.quantise, self.reporter
            )
        self.reporter.say(f"model loaded in {time.monotonic() - began:.1f} s")
        return make_teacher(
            model, self.tokenizer, self.task, config.chat, self.verbaliser, self.reporter
        )

    @cached_property
    def manifest(self) -> Manifest:
        """What the cache is of."""
        config, task, rows = self.config, self.task, len(self.inputs.lengths)
        words = self.verbaliser.words
        identity = {
            "model": dict(self.identity),
            "task": task.describe({w.word: w.stands_for for w in words if w.counts}),
            "sampler": dict(self.inputs.identity),
            "start_id": lm.find_start_id(self.tokenizer),
            "compute": {
                "device": torch.device(devices.find_main_device(self.device)).type,
                "dtype": self.dtype,
                "attention": lm.choose_attention(self.folder),
                "batch_positions": config.batch_positions or "auto",
                "compile": config.compile,
                "weights": config.quantise,
                "engine": ENGINE[self.dtype],
            },
        }
        frame = tasks.frame_task(task, self.tokenizer, config.chat)
        # Where prompt and suffix are not what each alone is cut into, the task does not tell them.
        if not frame.is_plain:
            identity["chat" if config.chat else "frame"] = {
                "prefix_ids": list(frame.prefix_ids),
                "suffix_ids": list(frame.suffix_ids),
            }
        columns = answer_columns(len(task.labels), self.inputs.token_width)
        layout = Layout(rows, config.chunk_rows, config.shard_rows, columns)
        notes = {
            "model": config.model,
            "torch": str(torch.__version__),
            "source": str(config.texts) if config.texts else "",
            "prior": task.prior,
        }
        title = f"{task.name}, {rows:,} {self.inputs.identity['name']}"
        return Manifest(title, identity, layout, notes)


def prepare_teacher(config: TeacherConfig, reporter: Reporter) -> TeacherPlan:
    """Settle what the settings leave open, and say so."""
    task = tasks.load_task(config.task)
    device = devices.choose_device(config.device, several=True)
    model = devices.choose_model(config.model, device.value)
    dtype = devices.choose_dtype(config.dtype, device.value)
    lm.check_quantisation(config.quantise, device.value, dtype.value)
    config = replace(config, model=model.value)
    reporter.say(f"model: {model.value} ({model.reason})")
    if model.value == "mini" and task.choose_write(False):
        task = replace(task, write=None, write_labelled=None)
        reporter.say("texts: mini continues the task's prompt, as it was trained to, not `write`")
    folder = lm.resolve_model(model.value)
    device = lm.place_model(folder, config.device, device, dtype.value, config.quantise)
    reporter.say(f"device: {device.value} ({device.reason}), {dtype.value} ({dtype.reason})")
    reporter.say(devices.describe_threads())
    tokenizer = lm.load_language_tokenizer(folder)
    verbaliser = tasks.build_verbaliser(task, tokenizer, config.chat)
    for label in verbaliser.labels:
        counted = [w for w in verbaliser.words if w.label == label and w.counts]
        read = [(w.word, w.tokens if verbaliser.is_whole else w.tokens[:1]) for w in counted]
        words = [f"{word} → {' '.join(tokens)}" for word, tokens in read]
        reporter.say(f"label {label}: {', '.join(words)}")
    reporter.say(verbaliser.describe_scores())
    joined = tasks.frame_task(task, tokenizer, config.chat).warning
    for line in filter(None, (describe_lost(tokenizer), *verbaliser.describe_splits(), joined)):
        reporter.warn(line)
    if hint := tasks.describe_chat(tokenizer, config.chat):
        reporter.say(hint)
    input_tokenizer = tasks.fit_tokenizer(task, tokenizer, config.chat)
    return TeacherPlan(
        config=config,
        task=task,
        folder=folder,
        tokenizer=tokenizer,
        input_tokenizer=input_tokenizer,
        verbaliser=verbaliser,
        inputs=prepare_inputs(config, task, input_tokenizer, reporter),
        identity=lm.describe_identity(folder, reporter),
        device=device.value,
        dtype=dtype.value,
        reporter=reporter,
    )


def make_teacher(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    chat: bool,
    verbaliser: Verbaliser | None,
    reporter: Reporter,
) -> Teacher:
    """Make a :class:`Teacher`; say how the model is run, and why not better."""
    with reporter.track("trying ways to run the model", 1, 0, "way"):
        teacher = Teacher(model, tokenizer, task, chat, verbaliser, reporter.warn)
    reporter.say(f"forward pass: {teacher.forward_pass.description}")
    for reason in teacher.fallbacks:
        reporter.say(f"not used: {reason}")
    if teacher.prefix_ids and isinstance(teacher.forward_pass, FullPass):
        reporter.warn(
            f"the prompt's {len(teacher.prefix_ids)} tokens are run with every row, since this "
            f"model's answers would change otherwise ({teacher.fallbacks[-1]})"
        )
    return teacher
