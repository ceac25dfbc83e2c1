from __future__ import annotations

import contextlib
import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny import ENCODER_NAMES, make_tokenizer, write_encoder

from stages.classifier import load_classifier
from stages.errors import ExportError, ModelError
from stages.export import RECORD, build_tokenizer, read_record, write_student
from stages.student import Student, build_encoder

INITS = ("pretrained", "random")
LABELS = ("bad", "good", "neither")
TEXTS = (
    "Good film",
    "",
    " ",
    "\n\n",
    "😀 great 👩‍👩‍👧‍👦!",
    "סרט טוב — فيلم جيد",
    "a\x00b\x01\x07\x1b[31m\u200b\u202e\ufeff",
    "</s> <s> <unk> [PAD]",
    "e\u0301 é ﬁ 漢字 \U0001f9ff",
    "Bad film. Great film! " * 40,
    "x" * 5000,
)
STOCK = """
import json, sys
import torch
import transformers

def ask(folder, texts):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    def answer(own):
        inputs = tokenizer(own, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            return model(**inputs).logits.softmax(dim=1).tolist()
    classify = transformers.pipeline("text-classification", model=folder, top_k=None, batch_size=4)
    return {
        "alone": [answer([text])[0] for text in texts],
        "together": answer(texts),
        "pipeline": [
            [{row["label"]: row["score"] for row in rows}[label] for label in sys.argv[1].split()]
            for rows in classify(texts, truncation=True)
        ],
        "short": classify(texts[0], top_k=1),
    }

given = json.load(sys.stdin)
found = {folder: ask(folder, given["texts"]) for folder in given["folders"]}
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

    @torch.inference_mode()
    def ask_trained(self, text: str) -> list[float]:
        """What the student says as it was when trained: embeddings in, no tokenizer of its own."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)[: self.max_length]
        embeddings = self.table[torch.tensor(ids, dtype=torch.long)][None]
        answer: list[float] = self.student(embeddings).softmax(dim=1)[0].tolist()
        return answer


def make_record(**own: Any) -> dict[str, Any]:
    needed = {"task": {}, "start_id": 0, "fingerprint": "f" * 64, "held_out": {}}
    return needed | own


def export(folder: Path, arch: str, init: str) -> Exported:
    """A student of random weights, written."""
    # Of either kind of tokenizer; longer inputs than the encoder's table is made for, if random.
    kind, start, max_length = (
        ("bytes", None, 12) if init == "pretrained" else ("metaspace", "<s>", 60)
    )
    tokenizer = make_tokenizer(kind, start)
    tokenizer.save_pretrained(folder / "tokenizer")
    files = {path.name: path.read_bytes() for path in (folder / "tokenizer").iterdir()}
    start_id = tokenizer.bos_token_id if start else tokenizer.eos_token_id
    torch.manual_seed(3)
    table = torch.randn(len(tokenizer), 24) * 0.1
    source = write_encoder(folder / "encoder", arch)
    encoder = build_encoder(str(source), init, LABELS, max_length)
    student = Student(encoder, table[start_id], float(table.std())).eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    own = build_tokenizer(files, start_id, max_length)
    write_student(student, table, own, make_record(start_id=start_id), "# card\n", folder / "out")
    return Exported(student, folder / "out", table, tokenizer, start_id, max_length)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Exported]:
    root = tmp_path_factory.mktemp("exports")
    return functools.cache(lambda arch, init: export(root / f"{arch}-{init}", arch, init))


@pytest.fixture(scope="module")
def stock(exported: Callable[[str, str], Exported]) -> dict[str, Any]:
    """What stock transformers says in a process that has never heard of this project."""
    folders = []
    for arch, init in itertools.product(ENCODER_NAMES, INITS):
        with contextlib.suppress(Exception):  # raised again where that one is tested
            folders.append(str(exported(arch, init).folder))
    done = subprocess.run(
        [sys.executable, "-c", STOCK, " ".join(LABELS)],
        input=json.dumps({"folders": folders, "texts": TEXTS}),
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("arch", ENCODER_NAMES)
def test_stock_transformers_says_what_the_student_said_in_training(
    arch: str, init: str, exported: Callable[[str, str], Exported], stock: dict[str, Any]
) -> None:
    own = exported(arch, init)
    said = stock[str(own.folder)]
    wanted = np.array([own.ask_trained(text) for text in TEXTS])
    assert wanted.std(axis=0).max() > 0.02, "answers this alike prove nothing"
    for way in ("alone", "together", "pipeline"):
        np.testing.assert_allclose(said[way], wanted, atol=1e-5, rtol=0, err_msg=way)
    assert said["short"][0]["label"] == LABELS[int(wanted[0].argmax())]


@pytest.mark.parametrize("arch", ENCODER_NAMES)
def test_this_project_s_own_loader_agrees(
    arch: str, exported: Callable[[str, str], Exported]
) -> None:
    own = exported(arch, "random")
    classifier = load_classifier(own.folder, "cpu")
    found = classifier.classify(TEXTS)
    wanted = np.array([own.ask_trained(text) for text in TEXTS])
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-5, rtol=0)
    pieces = [len(own.tokenizer.encode(text, add_special_tokens=False)) for text in TEXTS]
    assert found.cut.tolist() == [count > own.max_length for count in pieces]
    assert classifier.labels == LABELS


@pytest.mark.parametrize("arch", ENCODER_NAMES)
def test_the_directory_holds_labels_and_safetensors_and_nothing_that_runs(
    arch: str, exported: Callable[[str, str], Exported]
) -> None:
    own = exported(arch, "pretrained")
    config = json.loads((own.folder / "config.json").read_text())
    assert config["id2label"] == {str(k): label for k, label in enumerate(LABELS)}
    assert config["label2id"] == {label: k for k, label in enumerate(LABELS)}
    assert config["vocab_size"] == len(own.table)
    assert {path.suffix for path in own.folder.iterdir()} <= {".json", ".safetensors", ".md"}
    assert "auto_map" not in config
    assert [path.name for path in own.folder.parent.iterdir() if path.name[0] == "."] == []


@pytest.fixture
def small(tmp_path: Path) -> Exported:
    return export(tmp_path, "bert", "pretrained")


def write_again(own: Exported, out: Path, table: torch.Tensor | None = None) -> None:
    files = {"tokenizer.json": (own.folder / "tokenizer.json").read_bytes()}
    tokenizer = build_tokenizer(files, own.start_id, own.max_length)
    table = own.table if table is None else table
    write_student(
        own.student, table, tokenizer, make_record(start_id=own.start_id, again=1), "# card\n", out
    )


def test_an_older_student_is_replaced(small: Exported) -> None:
    write_again(small, small.folder)
    assert read_record(small.folder)["again"] == 1
    assert sorted(path.name for path in small.folder.parent.iterdir()) == [
        "encoder",
        "out",
        "tokenizer",
    ]


def test_an_empty_directory_is_filled(small: Exported, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_again(small, tmp_path / "empty")
    assert (tmp_path / "empty" / RECORD).is_file()


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_is_no_student_is_not_replaced(small: Exported, kind: str, tmp_path: Path) -> None:
    there = tmp_path / "there"
    if kind == "directory":
        there.mkdir()
        (there / "thesis.tex").write_text("years of work")
    else:
        there.write_text("years of work")
    with pytest.raises(ExportError, match=f"{there} is there and is no student"):
        write_again(small, there)
    kept = there / "thesis.tex" if kind == "directory" else there
    assert kept.read_text() == "years of work"


def test_a_written_student_that_is_not_the_trained_one_is_not_kept(small: Exported) -> None:
    before = (small.folder / "model.safetensors").read_bytes()
    with pytest.raises(ExportError, match="differs from the trained one by"):
        write_again(small, small.folder, table=small.table + 0.3)
    assert (small.folder / "model.safetensors").read_bytes() == before
    assert read_record(small.folder) == make_record(start_id=small.start_id)


def test_a_tokenizer_without_a_fast_form_is_refused() -> None:
    with pytest.raises(ExportError, match=r"no tokenizer\.json"):
        build_tokenizer({"tokenizer.model": b""}, 0, 5)


def test_the_llama_2_tokenizer_serves_a_student(shared: Path, tmp_path: Path) -> None:
    from stages.language_model import load_tokenizer

    llama = load_tokenizer(shared / "llama2-tokenizer")
    llama.save_pretrained(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    own = build_tokenizer(files, llama.bos_token_id, 20)
    assert own.pad_token_id is not None
    for text in TEXTS:
        wanted = [llama.bos_token_id, *llama.encode(text, add_special_tokens=False)]
        assert own(text, truncation=True)["input_ids"] == wanted[:21]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        (RECORD, None, "missing or damaged"),
        (RECORD, "[]", "does not say its task, start_id, fingerprint"),
        (RECORD, '{"task": {}}', "does not say its start_id, fingerprint, held_out"),
        (RECORD, "{", "missing or damaged"),
    ],
)
def test_a_damaged_record_is_named(
    name: str, content: str | None, named: str, small: Exported
) -> None:
    (small.folder / name).unlink()
    if content is not None:
        (small.folder / name).write_text(content)
    with pytest.raises(ExportError, match=named):
        read_record(small.folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_student_that_lacks_a_file_is_named(name: str, small: Exported) -> None:
    (small.folder / name).unlink()
    with pytest.raises(ModelError, match=str(small.folder)):
        load_classifier(small.folder, "cpu")


def test_weights_are_never_made_up(small: Exported) -> None:
    with pytest.raises(ModelError, match=r"the weight classifier\.bias and 1 more is missing"):
        load_classifier(small.folder.parent / "encoder", "cpu")


def test_the_card_says_what_the_student_is_and_came_from(student: Path) -> None:
    record = read_record(student)
    text = (student / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["pipeline_tag"] == "text-classification"
    assert metadata["library_name"] == "transformers"
    for part in (
        record["fingerprint"],
        record["teacher"],
        "`vocabulary`",
        "`bad`, `good`",
        "no text was used",
        "200 random inputs",
        f"agreement with the teacher {record['held_out']['agreement']:.1%}",
        r"Is this good or bad?\n",
    ):
        assert part in body
