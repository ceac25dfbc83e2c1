"""Train the bundled mini teacher: ``python -m benchmarks.mini.recipe --data DIR``.

``DIR`` holds ``<task>/train.jsonl.gz`` for each bundled task (JSON lines with ``text`` and
``label``).  The result is a Llama-architecture causal language model in the ordinary transformers
format, prompted by the same task files as any other model.  A killed run continues from its last
checkpoint when the same command is typed again.

Every example is ``<s> prompt text suffix answer </s>``.  The loss is the negative log-likelihood
of *any* word of the right label at the answer, plus a share of the next-token loss at the text.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.mini.batches import (
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
from stages.errors import StageError, TrainingError
from stages.texts import read_texts

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

HELD_OUT = 0.02  # share of the training texts that progress is reported on


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


def compute_loss(model: LlamaForCausalLM, batch: Batch, text_weight: float) -> Any:
    """Return the loss of one batch."""
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    at = batch.targets >= 0
    text_loss = functional.cross_entropy(model.lm_head(hidden[at]), batch.targets[at])
    answers = model.lm_head(hidden[torch.arange(len(batch.ids)), batch.answer_at])
    right = answers.gather(1, batch.words.clamp(min=0)).masked_fill(batch.words < 0, -math.inf)
    losses = answers.logsumexp(dim=1) - right.logsumexp(dim=1)
    answer_loss = (losses * batch.weights).sum() / batch.weights.sum()
    return answer_loss + text_weight * text_loss


@torch.no_grad()
def measure_answers(
    model: LlamaForCausalLM, examples: list[Example], frames: list[Frame]
) -> dict[str, float]:
    """Return the accuracy on the beginnings of texts that were kept out of training, by task."""
    model.eval()
    hits: dict[str, list[bool]] = {frame.task.name: [] for frame in frames}
    for example in examples:
        frame = frames[example.task]
        ids = [*frame.prefix, *example.ids[: frame.task.max_length], *frame.suffix]
        logits = model(torch.tensor([ids]), logits_to_keep=1).logits[:, -1]
        words = logits[:, list(frame.verbaliser.token_ids)]
        answer = int(frame.verbaliser.compute_class_logits(words).argmax())
        hits[frame.task.name].append(answer == example.label)
    model.train()
    return {name: float(np.mean(found)) for name, found in hits.items()}


def plan_run(
    examples: list[Example], frames: list[Frame], recipe: Recipe
) -> tuple[list[list[Item]], list[float], set[int]]:
    """Return every batch of the run, its learning rate, and the steps at which a pass ends."""
    batches: list[list[Item]] = []
    rates: list[float] = []
    ends: list[int] = []
    for passes, shares, peak in recipe.phases:
        for _ in range(passes):
            batches += plan_pass(examples, frames, recipe, len(ends), shares)
            ends.append(len(batches))
        steps = len(batches) - len(rates)
        warm = max(1, steps // 20)
        rates += [
            peak * min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))
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
    first, settings = 0, json.dumps(asdict(recipe))
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["recipe"] != settings:
            raise TrainingError(f"{checkpoint} is of another recipe; remove it to start again")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        print(f"continuing at step {first:,} of {len(batches):,}", flush=True)
    losses: list[float] = []
    for step in range(first, len(batches)):
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        rng = np.random.default_rng((recipe.seed, 1_000_000 + step))
        batch = collate_batch(batches[step], examples, frames, recipe, rng)
        loss = compute_loss(model, batch, recipe.text_weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        done = step + 1
        if done % 50 == 0 or done == len(batches):
            print(f"step {done:,}/{len(batches):,}  loss {np.mean(losses):.3f}", flush=True)
            losses.clear()
        if done in ends:
            scores = measure_answers(model, held_out, frames)
            found = "  ".join(f"{name} {score:.1%}" for name, score in scores.items())
            print(f"held out: {found}", flush=True)
        if done % 200 == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            partial = checkpoint.with_suffix(".partial")
            torch.save(state | {"recipe": settings, "step": done}, partial)
            partial.replace(checkpoint)


def read_examples(
    folder: Path, recipe: Recipe
) -> tuple[PreTrainedTokenizerFast, list[Frame], list[Example]]:
    """Read the training files, train the tokenizer on them and cut the texts into tokens."""
    files = [read_texts(folder / name / "train.jsonl.gz") for name in recipe.tasks]
    print("training the tokenizer", flush=True)
    tokenizer = train_tokenizer([row.text for rows in files for row in rows], recipe.vocabulary)
    frames = build_frames(recipe, tokenizer, [[str(row.label) for row in rows] for rows in files])
    examples = []
    for number, (rows, frame) in enumerate(zip(files, frames, strict=True)):
        tokens = tokenizer([row.text for row in rows], add_special_tokens=False)["input_ids"]
        for row, ids in zip(rows, tokens, strict=True):
            label = frame.task.label_names.index(str(row.label))
            examples.append(Example(number, label, np.array(ids, dtype=np.int64)))
    return tokenizer, frames, examples


def main(arguments: list[str] | None = None) -> int:
    """Run the recipe from the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mini.recipe", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of <task>/train.jsonl.gz")
    parser.add_argument("--out", type=Path, default=Path("stages/mini"), help="model directory")
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
        print(f"{len(examples):,} texts, {len(held_out):,} held out")
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
