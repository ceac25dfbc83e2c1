"""Texts that the mini teacher writes when it continues its own prompt."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from stages.language_model import load_language_model, load_tokenizer, resolve_model
from stages.task import load_task

BATCH = 256


@torch.inference_mode()
def write_own_texts(path: Path, task_name: str, count: int) -> Path:
    """Write JSON lines of texts, sampled at temperature 1, unless they are there.

    Args:
        path: The file to write.
        task_name: The task whose prompt is continued, up to the task's longest input.
        count: Texts to write; empty ones are drawn again.
    """
    if path.is_file():
        return path
    task, folder = load_task(task_name), resolve_model("mini")
    tokenizer = load_tokenizer(folder)
    model = load_language_model(folder, "cpu", "float32")
    prompt = [tokenizer.bos_token_id, *tokenizer.encode(task.prompt, add_special_tokens=False)]
    # What the model takes the end of an input for: its own end, or the suffix as it spells it.
    end = tokenizer.decode(tokenizer.encode(task.suffix, add_special_tokens=False)).lstrip(" ")
    torch.manual_seed(1)
    texts: list[str] = []
    while len(texts) < count:
        found = model.generate(
            torch.tensor([prompt] * BATCH),
            attention_mask=torch.ones(BATCH, len(prompt), dtype=torch.long),
            do_sample=True,
            top_k=0,
            max_new_tokens=task.max_length,
            pad_token_id=tokenizer.eos_token_id,
        )
        for ids in found[:, len(prompt) :].tolist():
            own = ids[: ids.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in ids else ids
            text = tokenizer.decode(own).split(end)[0].strip()
            if text:
                texts.append(text)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:count]))
    return path
