"""Prompt, input and suffix have the tokens of the whole text, with one BOS in front."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from processes import run_here
from test_prompting import make_task
from tiny import make_tokenizer
from transformers import AutoTokenizer

from stages.lm import load_language_tokenizer
from stages.reporter import SilentReporter
from stages.tasks.frame import encode_text, fit_tokenizer, frame_task
from stages.tasks.verbaliser import build_verbaliser
from stages.texts import TextRow, encode_texts

PROMPTS = ["Is this good or bad?\n", "Review: ", "Is it good?", "Text:  "]
SUFFIXES = ["\nAnswer:", " Answer:", "\nThe answer is ", "\nAnswer:\n", ""]
INPUTS = ["Great film", "good, so \nGreat stuff 12", " x", "a", "1 2", "Me too"]


def write_llama(shared: Path, folder: Path) -> Path:
    """Write Llama-2's tokenizer as models have it on the hub whose spaces are cut beforehand."""
    tokenizer: Any = AutoTokenizer.from_pretrained(shared / "llama2-tokenizer")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    begun = {"type": "TemplateProcessing", "single": [start, text], "pair": [start, text]}
    begun["special_tokens"] = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    state |= {"normalizer": None, "pre_tokenizer": space, "post_processor": begun}
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    names["tokenizer_class"] = "PreTrainedTokenizerFast"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(state))
    (folder / "tokenizer_config.json").write_text(json.dumps(names | {"legacy": False}))
    return folder


def check_cut(tokenizer: Any, prompt: str, suffix: str) -> None:
    task = make_task(prompt, suffix)
    frame = frame_task(task, tokenizer)
    cut = fit_tokenizer(task, tokenizer)
    found = encode_texts([TextRow(1, text, None) for text in INPUTS], cut, 99, SilentReporter())
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for row, text in enumerate(INPUTS):
        whole = prompt + text + frame.suffix
        tokens = found.tokens[row, : found.lengths[row]].tolist()
        assert [*frame.prefix_ids, *tokens, *frame.suffix_ids] == [
            *start,
            *encode_text(whole, tokenizer),
        ]
    if suffix:
        before = encode_text(prompt + "a" + frame.suffix, tokenizer)
        for word in build_verbaliser(task, tokenizer).words:
            answered = encode_text(prompt + "a" + frame.suffix + frame.gap + word.word, tokenizer)
            assert answered[: len(before)] == before
            assert answered[len(before)] == word.token_id
    assert frame.warning is None


@pytest.mark.parametrize("kind", ["bytes", "tokens"])
def test_the_parts_have_the_tokens_of_the_whole_text(kind: str) -> None:
    tokenizer = make_tokenizer(kind)
    for prompt, suffix in product(PROMPTS, SUFFIXES):
        check_cut(tokenizer, prompt, suffix)


def test_llama_2_s_tokenizer_has_no_stray_piece_in_any_of_its_forms(
    shared: Path, tmp_path: Path
) -> None:
    for folder in (shared / "llama2-tokenizer", write_llama(shared, tmp_path / "other")):
        tokenizer = load_language_tokenizer(folder)
        for prompt, suffix in ((0, 0), (1, 2), (2, 1), (0, 4)):
            check_cut(tokenizer, PROMPTS[prompt], SUFFIXES[suffix])
        frame = frame_task(make_task(), tokenizer)
        assert tokenizer.convert_ids_to_tokens(frame.suffix_ids) == ["<0x0A>", "Answer", ":"]


def test_a_prompt_that_joins_the_input_is_a_warning() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["#a"])
    found = frame_task(make_task("Good#"), tokenizer)
    assert "joins the end of the prompt, 'Good#'" in str(found.warning)


@pytest.mark.parametrize("prompt", ["<s>Is this good?\n", "<s> Is this good?\n"])
@pytest.mark.parametrize("kind", ["bytes", "tokens"])
def test_a_prompt_that_begins_with_the_bos_text_has_one_bos(
    kind: str, prompt: str, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(kind)
    # As one that puts BOS and EOS around every text by itself.
    tokenizer.add_bos_token = tokenizer.add_eos_token = True
    frame = frame_task(make_task(prompt), tokenizer)
    ids = frame.prefix_ids
    assert (ids[0], ids.count(tokenizer.bos_token_id)) == (tokenizer.bos_token_id, 1)
    assert tokenizer.eos_token_id not in (*ids, *frame.suffix_ids)
    assert not frame.is_plain
    tokenizer.save_pretrained(tmp_path)
    task = tmp_path / "mine.yaml"
    text = json.dumps({"prompt": prompt, "max_length": 9, "labels": {"a": ["Good"], "b": ["Bad"]}})
    task.write_text(text)
    shown = run_here("task", "check", task, "--model", tmp_path)
    assert f"{prompt!r} <input>" in shown.out
    assert f"{len(ids)} tokens in front of the input" in shown.out
