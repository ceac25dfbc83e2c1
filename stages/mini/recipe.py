"""Train the bundled mini teacher: ``python -m stages.mini.recipe --data DIR``.

``DIR`` holds ``<task>/train.jsonl.gz`` for each bundled task (JSON lines with ``text`` and
``label``).  The result is a Llama-architecture causal language model in the ordinary transformers
format, prompted by the same task files as any other model.  A killed run continues from its last
checkpoint when the same command is typed again.

Every example is ``<s> prompt text suffix answer </s>``.  The loss is the negative log-likelihood
of *any* word of the right label at the answer, plus a share of the next-token loss at the text.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from stages.errors import StageError, TextDataError, TrainingError
from stages.mini.batches import (
    BOS,
    EOS,
    Batch,
    Example,
    Frame,
    Item,
    Recipe,
    build_frames,
    collate_batch,
    plan_pass,
)

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

HELD_OUT = 0.02
"""Share of each training file kept out of training to report progress on."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a gzipped JSON-lines file of texts and labels."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise TextDataError(f"cannot read the training file {path}: {error}") from error


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train an uncased byte-level BPE; HTML line breaks become newlines."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"<br\s*/?>"), "\n"), normalizers.Lowercase()]
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BOS, eos_token=EOS)


def compute_loss(
    model: LlamaForCausalLM, batch: Batch, frames: list[Frame], recipe: Recipe
) -> tuple[torch.Tensor, int]:
    """Return the loss of one batch and how many of its answers were right."""
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    at = batch.targets >= 0
    text_loss = functional.cross_entropy(model.lm_head(hidden[at]), batch.targets[at])
    answers = model.lm_head(hidden[torch.arange(len(batch.ids)), batch.answer_at])
    right = answers.gather(1, batch.words.clamp(min=0)).masked_fill(batch.words < 0, -math.inf)
    losses = answers.logsumexp(dim=1) - right.logsumexp(dim=1)
    answer_loss = (losses * batch.weights).sum() / batch.weights.sum()
    hits = 0
    for number, frame in enumerate(frames):
        rows = batch.tasks == number
        words = answers[rows][:, list(frame.verbaliser.token_ids)]
        logits = frame.verbaliser.compute_class_logits(words.detach())
        hits += int((logits.argmax(dim=1) == batch.labels[rows]).sum())
    return answer_loss + recipe.text_weight * text_loss, hits


@torch.no_grad()
def measure_answers(
    model: LlamaForCausalLM, examples: list[Example], frames: list[Frame], recipe: Recipe
) -> dict[str, float]:
    """Return the accuracy on the beginnings of texts that were kept out of training, by task."""
    model.eval()
    quiet = replace(recipe, noise=0.0)
    scores = {}
    for number, frame in enumerate(frames):
        items = [
            (k, 0, min(len(example.ids), frame.task.max_length))
            for k, example in enumerate(examples)
            if example.task == number
        ]
        hits = 0
        for begin in range(0, len(items), 64):
            part = items[begin : begin + 64]
            batch = collate_batch(part, examples, frames, quiet, np.random.default_rng(0))
            hits += compute_loss(model, batch, frames, quiet)[1]
        scores[frame.task.name] = hits / len(items)
    model.train()
    return scores


def plan_run(
    examples: list[Example], frames: list[Frame], recipe: Recipe
) -> tuple[list[list[Item]], list[float], set[int]]:
    """Return every batch of the run, its learning rate, and the steps at which a pass ends."""
    batches: list[list[Item]] = []
    rates: list[float] = []
    ends: list[int] = []
    for phase in recipe.phases:
        for _ in range(phase.passes):
            batches += plan_pass(examples, frames, recipe, len(ends), phase.shares)
            ends.append(len(batches))
        steps = len(batches) - len(rates)
        warm = max(1, steps // 20)
        rates += [
            phase.learning_rate
            * min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))
            for step in range(steps)
        ]
    return batches, rates, set(ends)


def train(
    model: LlamaForCausalLM,
    examples: list[Example],
    held_out: list[Example],
    frames: list[Frame],
    recipe: Recipe,
    checkpoint: Path,
) -> None:
    """Train the model in place, continuing from ``checkpoint`` where it is there."""
    batches, rates, ends = plan_run(examples, frames, recipe)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    first, spent, settings = 0, 0.0, json.dumps(asdict(recipe))
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["recipe"] != settings:
            raise TrainingError(f"{checkpoint} is of another recipe; remove it to start again")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, spent = state["step"], state["seconds"]
        print(f"continuing at step {first:,} of {len(batches):,}", flush=True)
    began = time.monotonic() - spent
    losses: list[float] = []
    hits: list[float] = []
    for step in range(first, len(batches)):
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        rng = np.random.default_rng((recipe.seed, 1_000_000 + step))
        batch = collate_batch(batches[step], examples, frames, recipe, rng)
        loss, right = compute_loss(model, batch, frames, recipe)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        hits.append(right / len(batch.ids))
        done, seconds = step + 1, time.monotonic() - began
        if done % 50 == 0 or done == len(batches):
            left = seconds / done * (len(batches) - done)
            print(
                f"step {done:,}/{len(batches):,}  loss {np.mean(losses):.3f}  "
                f"right {np.mean(hits):.1%}  {seconds / 60:.1f} min, {left / 60:.1f} left",
                flush=True,
            )
            losses.clear()
            hits.clear()
        if done in ends:
            scores = measure_answers(model, held_out, frames, recipe)
            found = "  ".join(f"{name} {score:.1%}" for name, score in scores.items())
            print(f"held out: {found}", flush=True)
        if done % 200 == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            partial = checkpoint.with_suffix(".partial")
            torch.save(state | {"recipe": settings, "step": done, "seconds": seconds}, partial)
            partial.replace(checkpoint)


def read_examples(
    folder: Path, recipe: Recipe
) -> tuple[PreTrainedTokenizerFast, list[Frame], list[Example]]:
    """Read the training files, train the tokenizer on them and cut the texts into tokens."""
    rows = {name: read_rows(folder / name / "train.jsonl.gz") for name in recipe.tasks}
    print("training the tokenizer", flush=True)
    texts = [row["text"] for name in recipe.tasks for row in rows[name]]
    tokenizer = train_tokenizer(texts, recipe.vocabulary)
    labels = [[row["label"] for row in rows[name]] for name in recipe.tasks]
    frames = build_frames(recipe, tokenizer, labels)
    examples = []
    for number, (name, frame) in enumerate(zip(recipe.tasks, frames, strict=True)):
        tokens = tokenizer([row["text"] for row in rows[name]], add_special_tokens=False)
        for row, ids in zip(rows[name], tokens["input_ids"], strict=True):
            label = frame.task.label_names.index(row["label"])
            examples.append(Example(number, label, np.array(ids, dtype=np.int64)))
    return tokenizer, frames, examples


def main(arguments: list[str] | None = None) -> int:
    """Run the recipe from the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m stages.mini.recipe", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of <task>/train.jsonl.gz")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="model directory")
    parser.add_argument("--work", type=Path, default=Path("data/mini"), help="for the checkpoint")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    options = parser.parse_args(arguments)
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    recipe = Recipe(seed=options.seed)
    try:
        tokenizer, frames, examples = read_examples(options.data, recipe)
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=recipe.width,
                num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads,
                intermediate_size=recipe.intermediate,
                max_position_embeddings=512,
                tie_word_embeddings=True,
                bos_token_id=0,
                eos_token_id=1,
            )
        )
        options.work.mkdir(parents=True, exist_ok=True)
        keep = np.random.default_rng(recipe.seed).random(len(examples)) >= HELD_OUT
        held_out = [examples[number] for number in np.flatnonzero(~keep)]
        examples = [examples[number] for number in np.flatnonzero(keep)]
        size = sum(p.numel() for p in model.parameters())
        print(f"{len(examples):,} texts, {len(held_out):,} held out, {size:,} parameters")
        train(model, examples, held_out, frames, recipe, options.work / "checkpoint.pt")
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.generation_config = GenerationConfig(
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            do_sample=True,
            max_new_tokens=max(frame.task.max_length for frame in frames),
        )
        # Rounded to float16 to stay small.
        model.half().save_pretrained(options.out)
        tokenizer.save_pretrained(options.out)
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
