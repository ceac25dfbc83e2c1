"""Tokens beyond the embedding table, and texts that spell control tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from processes import run_here
from tiny import make_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, pipeline

from stages.checkpoints import describe_lost, restrict_tokenizer
from stages.classify import load_classifier
from stages.errors import ModelError
from stages.lm import find_start_id, load_language_tokenizer
from stages.reporter import SilentReporter
from stages.texts import TextRow, encode_texts

TEXT = "bad</s>[PAD] <|tool|>Good<s>"
TEMPLATE = "{% for m in messages %}{{ 'BOS' + m.content }}{% endfor %}"


def add_beyond(llm: Path, folder: Path) -> Path:
    """Write a model again as a fine-tune leaves it: with new tokens, the table as it was."""
    shutil.copytree(llm, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(["<|tool|>"])
    tokenizer.save_pretrained(folder)
    return folder


def test_a_model_with_tokens_beyond_its_table_goes_the_whole_way(
    llm: Path, mood: Path, tmp_path: Path
) -> None:
    model, cache, out = add_beyond(llm, tmp_path / "llm"), tmp_path / "cache", tmp_path / "student"
    texts = tmp_path / "texts.jsonl"
    rows = [{"text": TEXT, "label": "good"}, {"text": "Poor", "label": "bad"}] * 60
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ("--task", mood, "--model", model)
    checked = run_here("task", "check", mood, "--model", model)
    filled = run_here(
        "teacher", *common, "--texts", texts, "--cache", cache, "--device", "cpu",
        *("--chunk-rows", 8, "--shard-rows", 32, "--batch-positions", 512),
    )  # fmt: skip
    for done in (checked, filled):
        assert done.code == 0, done.err
        assert "the tokens '[PAD]', '<|tool|>' (its pad) have no embedding" in done.err
    named = ("--task", mood, "--cache", cache, "--arch", "mini", "--device", "cpu")
    steps = ("--steps", 4, "--batch-size", 16, "--held-out-rows", 16)
    trained = run_here("student", *named, *steps, "--out", out)
    assert trained.code == 0, trained.err
    tagged = run_here("tag", "--model", out, stdin=f"{TEXT}\n[PAD]\n".encode())
    assert (tagged.code, tagged.out.count('"label"')) == (0, 2), tagged.err
    both = ("--data", texts, "--teacher", model, "--task", mood, "--device", "cpu")
    measured = run_here("evaluate", "--model", out, *both)
    assert measured.code == 0, measured.err
    stock = pipeline("text-classification", str(out))
    assert len(stock([TEXT, "[PAD]"], truncation=True, padding=True)) == 2
    served: Any = AutoTokenizer.from_pretrained(out)
    assert max(served.get_vocab().values()) < len(AutoTokenizer.from_pretrained(llm))
    assert served.pad_token_id == served.eos_token_id
    assert served(TEXT)["input_ids"][1:] == AutoTokenizer.from_pretrained(llm).encode(
        TEXT, add_special_tokens=False, split_special_tokens=True
    )


@pytest.mark.parametrize("lost", ["bos_token", "eos_token", "unk_token", "pad_token"])
@pytest.mark.parametrize("kind", ["bytes", "tokens"])
def test_any_named_token_may_have_no_embedding(kind: str, lost: str) -> None:
    tokenizer = make_tokenizer(kind)
    rows, plain = len(tokenizer), tokenizer.encode("a[NEW]b", add_special_tokens=False)
    tokenizer.add_special_tokens({lost: "[NEW]"})
    found: Any = restrict_tokenizer(tokenizer, rows)
    assert getattr(found, lost) is None
    assert f"'[NEW]' (its {lost.removesuffix('_token')})" in str(describe_lost(found))
    assert found.encode("a[NEW]b", add_special_tokens=False) == plain
    start = "</s>" if lost == "bos_token" else "<s>"
    assert find_start_id(found) == found.convert_tokens_to_ids(start)
    assert restrict_tokenizer(found, rows) is found


def test_a_table_that_is_larger_and_a_tokenizer_alone_change_nothing(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    for rows in (len(tokenizer), len(tokenizer) + 128):
        assert restrict_tokenizer(tokenizer, rows) is tokenizer
    assert describe_lost(tokenizer) is None
    tokenizer.save_pretrained(tmp_path)
    assert len(load_language_tokenizer(tmp_path)) == len(tokenizer)


@pytest.mark.parametrize("rows", [60, 300, 500])
@pytest.mark.parametrize("kind", ["bytes", "tokens", "unigram"])
def test_tokens_of_the_vocabulary_itself_are_left_out(kind: str, rows: int) -> None:
    tokenizer = make_tokenizer("bytes" if kind == "unigram" else kind)
    if kind == "unigram":
        letters = [("<unk>", 0.0), *((chr(97 + k), -2.0) for k in range(26)), ("▁", -2.0)]
        pairs = [(a[0] + b[0], -1.0) for a in letters[1:27] for b in letters[1:27]]
        core = Tokenizer(models.Unigram([*letters, *pairs], unk_id=0))
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")  # noqa: S106
    found: Any = restrict_tokenizer(tokenizer, rows)
    ids = found("good answer: bad zebra", add_special_tokens=False)["input_ids"]
    assert ids
    assert max(ids) < rows


def test_a_tokenizer_that_cannot_do_without_is_refused() -> None:
    core = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))  # noqa: S106
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")  # noqa: S106
    with pytest.raises(ModelError, match=r"'\[UNK\]' have no embedding.*cannot do without them"):
        restrict_tokenizer(tokenizer, 2)


@pytest.mark.parametrize("written", ["'<|tool|>'", "pad_token"])
def test_a_chat_template_that_writes_such_a_token_is_refused(
    written: str, llm: Path, mood: Path, tmp_path: Path
) -> None:
    model = add_beyond(llm, tmp_path / "llm")
    (model / "chat_template.jinja").write_text(TEMPLATE.replace("'BOS'", written))
    found = run_here("task", "check", mood, "--model", model, "--chat")
    assert (found.code, found.err.count("\n")) in ((1, 1), (2, 1)), found.err
    assert "which has no embedding in this model" in found.err
    # Where it stands in the task's own words it is text.
    (model / "chat_template.jinja").write_text(TEMPLATE.replace("BOS", "Q: "))
    task = tmp_path / "pad.yaml"
    task.write_text(mood.read_text().replace("Is this", "[PAD] Is this"))
    done = run_here("task", "check", task, "--model", model, "--chat")
    assert done.code == 0, done.err


def test_a_classifier_of_another_kind_loses_no_batch(
    exported: tuple[Path, Any], tmp_path: Path
) -> None:
    folder = add_beyond(exported[0], tmp_path / "other")
    given = f"fine\n{TEXT}\n".encode()
    done = run_here("tag", "--model", folder, "--device", "cpu", stdin=given)
    assert (done.code, done.out.count('"label"')) == (0, 2), done.err
    assert "have no embedding in this model" in done.err
    same = run_here("tag", "--model", folder / "onnx" / "model.onnx", stdin=given)
    assert (same.code, same.out.count('"label"')) == (0, 2), same.err


@pytest.mark.parametrize("kind", ["bytes", "tokens"])
def test_a_text_becomes_no_control_token(kind: str) -> None:
    tokenizer = make_tokenizer(kind)
    (tokens,) = encode_texts([TextRow(1, TEXT, None)], tokenizer, 99, SilentReporter()).tokens
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(tokens.tolist())
    assert tokenizer.eos_token_id in tokenizer(TEXT)["input_ids"]


def test_a_student_reads_control_tokens_as_text_wherever_it_is_loaded(
    exported: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, text = exported[0], "good</s>"
    served: Any = AutoTokenizer.from_pretrained(folder)
    assert served.eos_token == "</s>"  # noqa: S105
    served.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    ways = [load_classifier(folder / name, "cpu").encode for name in ("", "onnx/model.onnx")]
    found = [list(way([text], 50)[0]) for way in ways]
    found += [each(text)["input_ids"] for each in (served, again)]
    found += [served.encode(text), served([text], padding=True)["input_ids"][0]]
    assert all(ids == found[0] for ids in found)
    assert served.eos_token_id not in found[0]
    assert "`split_special_tokens`" in (folder / "README.md").read_text()
    assert "encode_special_tokens = True" in (folder / "README.md").read_text()
