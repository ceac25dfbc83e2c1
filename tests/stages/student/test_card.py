from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import Result

from stages.classify import load_classifier
from stages.records import read_record
from stages.student.card import write_card

SCORES = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "rows": 1234}
RECORD: dict[str, Any] = {
    "task": {
        "name": "mood",
        "prompt": "Good or bad?\n",
        "suffix": "\nAnswer:",
        "max_length": 64,
        "labels": [
            {"name": "bad", "words": [["Bad", 3], ["Poor", 4]]},
            {"name": "good", "words": [["Good", 5]]},
        ],
    },
    "start_id": 0,
    "fingerprint": "f" * 64,
    "arch": "distilbert",
    "init": "pretrained",
    "sampler": "vocabulary",
    "teacher": "some/model",
    "rows": 65536,
    "training": {"objective": "kl", "steps": 1000, "batch_size": 64, "seed": 0}
    | {"learning_rate": 1e-3, "encoder_share": 0.05},
    "held_out": {"rows": 1024, "agreement": 0.966, "angle": 0.061, "centred_angle": 0.13},
}
CALIBRATION = {"temperature": 1.25, "rows": 512, "measured_rows": 500, "folded": True}
CALIBRATION |= {"ece_before": 0.041, "ece_after": 0.012}
EXPORT = {
    "file": "onnx/model_int8.onnx",
    "bytes": 3 * 2**20,
    "agreement": 0.995,
    "largest_difference": 0.013,
    "rows": 2048,
} | {"texts_per_second": 450.0, "original_texts_per_second": 300.0}
EVALUATION = {
    "data": "/folder/test.jsonl.gz",
    "rows": 2933,
    "student": {"accuracy": 0.84, "macro_f1": 0.81, "classes": {"bad": SCORES, "good": SCORES}},
    "teacher": {"accuracy": 0.86, "macro_f1": 0.83},
    "agreement": 0.94,
    "calibration": {"against_labels": {"ece_before": 0.09, "ece_after": 0.03, "rows": 2933}},
}


def split(card: str) -> tuple[dict[str, Any], str]:
    start, head, body = re.split("^---\n", card, maxsplit=2, flags=re.MULTILINE)
    assert start == ""
    return yaml.safe_load(head), body


def test_a_card_says_what_the_record_says_and_no_more() -> None:
    head, body = split(write_card(RECORD))
    assert head["base_model"] == "distilbert/distilbert-base-uncased"
    assert (head["pipeline_tag"], head["library_name"]) == ("text-classification", "transformers")
    assert "model-index" not in head
    # An encoder of one's own is no base model of a hub.
    for init in ("random", "pretrained"):
        own = write_card(RECORD | {"arch": "models/mine", "init": init})
        assert "base_model" not in split(own)[0]
    for part in (
        "`bad` (`Bad`, `Poor`); `good` (`Good`)",
        "`some/model`",
        r'`"Good or bad?\n"`',
        "65,536 inputs of the sampler `vocabulary`; no text from elsewhere was used",
        "learning rate 0.001, the encoder's 5e-05",
        "agreement with the teacher 96.6%",
        "measured on no text that people wrote",
        "first 64 tokens",
    ):
        assert part in body
    for word in ("Temperature", "onnx", "ONNX", "Accuracy"):
        assert word not in body


def test_everything_that_was_measured_is_there() -> None:
    more = {"calibration": CALIBRATION, "exports": [EXPORT], "evaluations": [EVALUATION]}
    _, body = split(write_card(RECORD | more))
    for part in (
        "Temperature 1.25",
        "4.1% without it, 1.2% with it",
        "| `onnx/model_int8.onnx` | 3.0 MiB | 99.50% | 1.3e-02 | 1.50 |",
        "pipeline tag --model onnx/model_int8.onnx",
        "On 2,933 labelled texts (test.jsonl.gz):",
        "| `bad` | 50.0% | 25.0% | 33.3% | 1,234 |",
        "Accuracy 84.0%, macro-F1 81.0%; its teacher has 86.0% and 83.0%, and they agree on 94.0%",
        "Expected calibration error against these labels: 3.0%; 9.0% without the temperature.",
        "measured on the texts named above",
    ):
        assert part in body
    card = ModelCard(write_card(RECORD | more))  # as huggingface_hub reads the head
    found = [(each.metric_name, each.metric_value) for each in card.data.eval_results]
    assert found == [("accuracy", 0.84), ("macro-F1", 0.81)]
    # Of an exported file, and of a model that is not its teacher, it says so.
    other = EVALUATION | {"model": "model_int8.onnx", "teacher_name": "another"}
    _, body = split(write_card(RECORD | {"chat": True, "evaluations": [other]}))
    assert "(test.jsonl.gz), measured with `model_int8.onnx`:" in body
    assert "; `another` has 86.0% and 83.0%" in body and "its teacher has" not in body
    assert r'`"Good or bad?\n"`, through the chat template |' in body
    unfolded = {"calibration": CALIBRATION | {"folded": False}}
    assert "it is not in its weights" in write_card(RECORD | unfolded)


def test_the_code_for_onnx_runs_and_without_weights_there_is_none_for_them(
    exported: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_record(exported[0])
    body = write_card(record, weights=False)
    assert "import transformers" not in body
    assert "import transformers" in (exported[0] / "README.md").read_text()
    (code,) = re.findall("```python\n(.*?)```", body, flags=re.DOTALL)
    monkeypatch.chdir(exported[0])
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - as a reader of the card does
    wanted = load_classifier(exported[0] / "onnx/model_int8.onnx", "cpu").classify(["some text"])
    np.testing.assert_allclose(names["probabilities"], wanted.probabilities, atol=1e-6)


TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["---", "a|b", "`", "``a`", "key: [x", "\n---\n", "#", "<b>", "\x00", "\u2028", "'\"", "\\|"]
)


@settings(deadline=None, max_examples=30)
@given(name=TEXT, label=TEXT, word=TEXT, prompt=TEXT, teacher=TEXT, arch=TEXT, data=TEXT)
def test_whatever_the_names_are_the_head_parses_and_tables_keep_their_columns(
    name: str, label: str, word: str, prompt: str, teacher: str, arch: str, data: str
) -> None:
    record = copy.deepcopy(RECORD) | {"teacher": teacher, "arch": arch, "exports": [EXPORT]}
    record["task"] |= {"name": name, "prompt": prompt}
    record["task"]["labels"][0] = {"name": label, "words": [[word, 3]]}
    record["evaluations"] = [
        EVALUATION | {"data": data, "student": EVALUATION["student"] | {"classes": {label: SCORES}}}
    ]
    head, body = split(write_card(record))
    (model,) = head["model-index"]
    found = (model["name"], model["results"][0]["dataset"]["name"])
    for given_name, own in zip((f"{name}-{arch}", data.split("/")[-1]), found, strict=True):
        assert own.isprintable()
        assert own == given_name or not given_name.isprintable()
    widths = []
    for line in body.split("\n"):
        assert line.isprintable()
        if line.startswith("|"):
            widths.append(len(re.findall(r"(?<!\\)\|", line)) - 1)
    assert widths == [2] * 12 + [5] * 3 + [5] * 3
