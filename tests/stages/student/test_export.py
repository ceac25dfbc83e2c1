from __future__ import annotations

import contextlib
import functools
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tiny import (
    ENCODER_NAMES,
    FURTHER_ENCODERS,
    make_encoder_config,
    make_tokenizer,
    write_encoder,
)

from stages.classify.loading import load_classifier
from stages.errors import ExportError, ModelError
from stages.records import RECORD, read_record
from stages.reporter import SilentReporter
from stages.student.config import TrainingConfig
from stages.student.data import Rows, RowSource
from stages.student.folding import check_foldable, write_student
from stages.student.loop import train_student
from stages.student.model import Student, build_encoder
from stages.student.tokenizer import build_tokenizer

CASES = (*((arch, "pretrained") for arch in ENCODER_NAMES), ("roberta", "random"))
LABELS = ("bad", "good", "neither")
BLOCKS = (0x21, 0x300, 0x590, 0x900, 0xE01, 0x1100, 0x4E00, 0xE000, 0xFB1D, 0xFE00, 0xFFF0)
BLOCKS += (0x1D400, 0x1F1E6, 0x1F300, 0xE0020)
"""Where scripts, combining marks, private characters, presentation forms, emoji and tags begin."""


def make_texts() -> tuple[str, ...]:
    """Texts that nobody writes on purpose, the same ones each time."""
    spaces = "\t\n\v\f\r\x1c\x85\xa0\u1680\u2000\u2009\u200b\u2028\u2029\u202f\u3000\ufeff"
    specials = "<s> </s> <unk> <pad> [PAD] [CLS] [SEP] [MASK] <0x0A> <|endoftext|> ▁ Ġ Ċ ##s"
    texts = [
        "Good film",
        "",
        "Bad film. Great film! " * 40,
        "x" * 5000,
        "so good " * 10_000,
        "👍🏽👍🏿 👩‍👩‍👧‍👦! 1️⃣ 🇩🇪🇫🇷🇦 🏴\U000e0067\U000e007f",
        "סרט טוב — فيلم جيد",
        "a\x00b\x01\x07\x1b[31m\u200b\u202e\ufeff",
        "\u202eמ\u2066abc\u2069\u200f!",
        "e\u0301 é ﬁ 漢字 \U0001f9ff\ufdd0\uffff\U0010ffff<pad\ufdd1>",
        "\u0301",
        "a" + "\u0300\u0323" * 200,
    ]
    texts += [one * 3 for one in spaces] + [f"Good{one}film{one}" for one in spaces]
    texts += [form for one in specials.split() for form in (one, f"Good{one}Bad {one}")]
    texts += [f"Good{chr(code)}Bad" for code in (*range(0x20), *range(0x7F, 0xA0, 4))]
    chance = random.Random(0)  # noqa: S311
    while len(texts) < 160:
        places = [chance.choice(BLOCKS) + chance.randrange(64) for _ in range(chance.randrange(40))]
        words = [chr(place) for place in places] + chance.choices(["Good", " ", "a"], k=4)
        texts.append("".join(chance.sample(words, len(words))))
    return tuple(texts)


TEXTS = make_texts()
FEW = tuple(text for text in TEXTS[:20] if len(text) < 1000)
"""Texts try tokenizers, of which there are two; a few try an architecture."""
PLAIN = {"add_special_tokens": False, "split_special_tokens": True}
STOCK = """
import json, sys
import torch
import transformers

def ask(folder, texts):
    classify = transformers.pipeline("text-classification", model=folder, top_k=None, batch_size=4)
    tokenizer, model = classify.tokenizer, classify.model
    def answer(part):
        inputs = tokenizer(part, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            return model(**inputs).logits.softmax(dim=1).tolist()
    return {
        "alone": [answer([text])[0] for text in texts],
        "together": [row for k in range(0, len(texts), 25) for row in answer(texts[k : k + 25])],
        "pipeline": [
            [{row["label"]: row["score"] for row in rows}[label] for label in sys.argv[1].split()]
            for rows in classify(texts[:12], truncation=True)
        ],
        "short": classify(texts[0], top_k=1),
    }

given = json.load(sys.stdin)
found = {folder: ask(folder, texts) for folder, texts in given.items()}
assert not {"stages", "pipeline", "cache"} & set(sys.modules)
json.dump(found, sys.stdout)
"""


@dataclass
class Exported:
    student: Student
    folder: Path
    table: torch.Tensor
    tokenizer: Any
    start_id: int
    max_length: int
    texts: tuple[str, ...]

    @functools.cached_property
    def tokens(self) -> list[list[int]]:
        return [self.tokenizer.encode(text, **PLAIN) for text in self.texts]

    @functools.cached_property
    @torch.inference_mode()
    def wanted(self) -> np.ndarray:
        """What the student says as it was when trained: embeddings in, no tokenizer."""
        answers = []
        for tokens in self.tokens:
            ids = torch.tensor(tokens[: self.max_length], dtype=torch.long)
            answers.append(self.student(self.table[ids][None]).softmax(dim=1)[0])
        return torch.stack(answers).numpy()


def make_record(start_id: int, **more: Any) -> dict[str, Any]:
    return {"task": {}, "start_id": start_id, "fingerprint": "f" * 64, "held_out": {}} | more


def train(student: Student, table: torch.Tensor, checkpoint: Path) -> None:
    """A few steps towards answers that depend on nothing but the first token."""
    generator = torch.Generator().manual_seed(5)

    def draw() -> Rows:
        ids = torch.randint(len(table), (16, 6), generator=generator)
        wanted = torch.eye(len(LABELS))[ids[:, 0] % len(LABELS)]
        return Rows(table[ids], 0.8 * wanted + 0.2 / len(LABELS))

    source = RowSource(lambda done: iter(draw, None), lambda: [draw()])
    config = TrainingConfig(steps=4, batch_size=32, lengths_per_batch=2, learning_rate=5e-4)
    accelerator, reporter = Accelerator(cpu=True), SilentReporter()
    train_student(student, source, config, accelerator, checkpoint, "test", reporter)


def export(folder: Path, arch: str, init: str, source: Path | None = None) -> Exported:
    """A student that was trained for a few steps, written."""
    # Of either kind of tokenizer; longer inputs than the encoder's table is made for, if random.
    of_bytes = init == "pretrained"
    kind, start, max_length = ("bytes", None, 30) if of_bytes else ("metaspace", "<s>", 60)
    tokenizer = make_tokenizer(kind, start)
    tokenizer.save_pretrained(folder / "tokenizer")
    files = {path.name: path.read_bytes() for path in (folder / "tokenizer").iterdir()}
    start_id = tokenizer.bos_token_id if start else tokenizer.eos_token_id
    torch.manual_seed(3)
    table = torch.randn(len(tokenizer), 24) * 0.1
    source = source or write_encoder(folder / "encoder", arch)
    encoder = build_encoder(str(source), init, LABELS, max_length)
    student = Student(encoder, table[start_id], float(table.std()))
    check_foldable(student, max_length)
    # What training leaves at its start must be carried over as well.
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    train(student, table, folder / "checkpoint")
    (folder / "checkpoint").unlink()
    student.eval()
    served = build_tokenizer(files, start_id, max_length)
    write_student(student, table, served, make_record(start_id), "# card\n", folder / "out")
    texts = TEXTS if arch == "roberta" else FEW
    return Exported(student, folder / "out", table, tokenizer, start_id, max_length, texts)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Exported]:
    root = tmp_path_factory.mktemp("exports")
    return functools.cache(lambda arch, init: export(root / f"{arch}-{init}", arch, init))


@pytest.fixture(scope="module")
def stock(exported: Callable[[str, str], Exported]) -> dict[str, Any]:
    """What stock transformers says in a process that has never heard of this project."""
    folders = {}
    for arch, init in CASES:
        with contextlib.suppress(Exception):  # raised again where that one is tested
            made = exported(arch, init)
            folders[str(made.folder)] = made.texts
    command = [sys.executable, "-c", STOCK, " ".join(LABELS)]
    done = subprocess.run(
        command, input=json.dumps(folders), capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("arch", "init"), CASES)
def test_stock_transformers_says_what_the_student_said_in_training(
    arch: str, init: str, exported: Callable[[str, str], Exported], stock: dict[str, Any]
) -> None:
    made = exported(arch, init)
    said = stock[str(made.folder)]
    assert np.ptp(made.wanted, axis=0).max() > 0.02, "answers this alike prove nothing"
    for way in ("alone", "together", "pipeline"):
        wanted = made.wanted[: len(said[way])]
        np.testing.assert_allclose(said[way], wanted, atol=1e-5, rtol=0, err_msg=way)
    assert said["short"][0]["label"] == LABELS[int(made.wanted[0].argmax())]


@pytest.mark.parametrize("arch", ENCODER_NAMES)
def test_this_project_s_own_loader_agrees_and_nothing_in_the_directory_runs(
    arch: str, exported: Callable[[str, str], Exported]
) -> None:
    made = exported(arch, "pretrained")
    classifier = load_classifier(made.folder, "cpu")
    found = classifier.classify(made.texts)
    np.testing.assert_allclose(found.probabilities, made.wanted, atol=1e-5, rtol=0)
    assert found.cut.tolist() == [len(tokens) > made.max_length for tokens in made.tokens]
    assert classifier.labels == LABELS
    config = json.loads((made.folder / "config.json").read_text())
    assert config["id2label"] == {str(k): label for k, label in enumerate(LABELS)}
    assert config["label2id"] == {label: k for k, label in enumerate(LABELS)}
    assert config["vocab_size"] == len(made.table)
    assert {path.suffix for path in made.folder.iterdir()} <= {".json", ".safetensors", ".md"}
    assert "auto_map" not in config
    assert [path.name for path in made.folder.parent.iterdir() if path.name[0] == "."] == []


@pytest.mark.slow
@pytest.mark.parametrize("arch", sorted(FURTHER_ENCODERS))
def test_further_families_are_written_as_they_were_trained(arch: str, tmp_path: Path) -> None:
    make_encoder_config(arch, FURTHER_ENCODERS[arch]).save_pretrained(tmp_path / "encoder")
    made = export(tmp_path, arch, "random", tmp_path / "encoder")
    found = load_classifier(made.folder, "cpu").classify(made.texts)
    np.testing.assert_allclose(found.probabilities, made.wanted, atol=1e-5, rtol=0)


@pytest.fixture
def small(exported: Callable[[str, str], Exported], tmp_path: Path) -> Exported:
    """One to spoil."""
    made = exported("bert", "pretrained")
    shutil.copytree(made.folder.parent, tmp_path, dirs_exist_ok=True)
    return replace(made, folder=tmp_path / "out")


def write_again(made: Exported, out: Path, table: torch.Tensor | None = None) -> None:
    files = {"tokenizer.json": (made.folder / "tokenizer.json").read_bytes()}
    tokenizer = build_tokenizer(files, made.start_id, made.max_length)
    table = made.table if table is None else table
    record = make_record(made.start_id, again=1)
    write_student(made.student, table, tokenizer, record, "# card\n", out)


def test_an_older_student_is_replaced_and_what_is_none_is_not(
    small: Exported, tmp_path: Path
) -> None:
    names = {path.name for path in tmp_path.iterdir()}
    write_again(small, small.folder)
    assert read_record(small.folder)["again"] == 1
    assert {path.name for path in tmp_path.iterdir()} == names
    (tmp_path / "empty").mkdir()
    write_again(small, tmp_path / "empty")
    assert (tmp_path / "empty" / RECORD).is_file()
    thesis = tmp_path / "there" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    for there in (thesis.parent, thesis):
        with pytest.raises(ExportError, match=f"{there} is there and is no student"):
            write_again(small, there)
        assert thesis.read_text() == "years of work"


def test_a_written_student_that_is_not_the_trained_one_is_not_kept(small: Exported) -> None:
    before = (small.folder / "model.safetensors").read_bytes()
    with pytest.raises(ExportError, match="differs from the trained one by"):
        write_again(small, small.folder, table=small.table + 0.3)
    assert (small.folder / "model.safetensors").read_bytes() == before
    assert read_record(small.folder) == make_record(small.start_id)


def test_a_tokenizer_without_a_fast_form_is_refused() -> None:
    with pytest.raises(ExportError, match=r"no tokenizer\.json"):
        build_tokenizer({"tokenizer.model": b""}, 0, 5)


def test_the_llama_2_tokenizer_serves_a_student(shared: Path, tmp_path: Path) -> None:
    from stages.checkpoints import load_tokenizer

    llama = load_tokenizer(shared / "llama2-tokenizer")
    llama.save_pretrained(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    served = build_tokenizer(files, llama.bos_token_id, 20)
    assert served.pad_token_id is not None
    for text in TEXTS:
        wanted = [llama.bos_token_id, *llama.encode(text, **PLAIN)]
        assert served(text, truncation=True)["input_ids"] == wanted[:21]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_student_that_lacks_a_file_is_named(name: str, small: Exported) -> None:
    (small.folder / name).unlink()
    with pytest.raises(ModelError, match=str(small.folder)):
        load_classifier(small.folder, "cpu")
    # Nor are weights made up.
    with pytest.raises(ModelError, match=r"the weight classifier\.bias and 1 more is missing"):
        load_classifier(small.folder.parent / "encoder", "cpu")
