from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import Result
from tiny import make_tokenizer

from stages.classify.classifier import Classifier
from stages.classify.loading import load_classifier
from stages.errors import SettingError
from stages.student.tokenizer import build_tokenizer

LABELS = ("even", "odd")
STRANGE = (
    "",
    "\n\n",
    "Good film",
    "😀 great 👩‍👩‍👧‍👦! סרט טוב — فيلم جيد",
    "a\x00b\x01\x07\x1b[31m\u200b\u202e\ufeff",
    "</s> <s> <unk> [PAD] <0x41><s></s><s>Good</s>",
    "e\u0301 é ﬁ 漢字 \U0001f9ff \U0010ffff \ufffd",
    "Bad film. Great film! " * 40,
    "Good " * 10_000,
)


def make_strange_texts(count: int) -> list[str]:
    draw = random.Random(0)  # noqa: S311 - the same texts each time
    planes = ((0, 0x7F), (0x80, 0x24F), (0x370, 0xD7FF), (0xE000, 0xFFFF), (0x1F000, 0x1FAFF))
    texts = list(STRANGE)
    while len(texts) < count:
        low, high = draw.choice(planes)
        length = draw.choice((1, 3, 11, 12, 13, 60))
        texts.append("".join(chr(draw.randint(low, high)) for _ in range(length)))
    return texts


def count_ids(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Logits that tell a row's own tokens from its padding: half of them counts for nothing."""
    total = (ids * mask).sum(axis=1) % 7
    return np.stack([total, mask.sum(axis=1) % 5], axis=1).astype(np.float32)


def make_classifier(max_length: int = 6, batch_rows: int = 3) -> Classifier:
    def encode(texts: list[str], limit: int) -> list[list[int]]:
        return [[ord(letter) for letter in text][:limit] for text in texts]

    return Classifier(encode, count_ids, LABELS, max_length, 99, "nowhere", batch_rows)


class TestBatches:
    @given(st.lists(st.text(max_size=9), max_size=20))
    def test_together_is_alone_in_the_order_of_the_texts(self, texts: list[str]) -> None:
        classifier = make_classifier()
        found = classifier.classify(texts)
        assert found.probabilities.shape == (len(texts), 2)
        assert found.probabilities.dtype == np.float32
        assert found.cut.tolist() == [len(text) > 6 for text in texts]
        for text, row in zip(texts, found.probabilities, strict=True):
            np.testing.assert_array_equal(row, classifier.classify([text]).probabilities[0])
            ids = np.array([[*map(ord, text[:6])] or [99]])
            mask = np.full_like(ids, bool(text))
            np.testing.assert_array_equal(row, classifier.answer(ids, mask)[0])

    def test_probabilities_are_those_of_the_logits_however_large(self) -> None:
        logits = np.array([[1e4, -1e4], [0.0, 0.0], [np.log(3), 0.0]], np.float32)
        classifier = Classifier(lambda texts, limit: [], lambda *_: logits, LABELS, 6, 0, "")
        found = classifier.answer(np.zeros((3, 1), np.int64))
        np.testing.assert_allclose(found, [[1, 0], [0.5, 0.5], [0.75, 0.25]], atol=1e-6)


@pytest.fixture(scope="module", params=("bytes", "metaspace"))
def both_ways(
    request: pytest.FixtureRequest,
    exported: tuple[Path, Result],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Classifier, Classifier]:
    """One export loaded with torch and with onnxruntime, under either kind of tokenizer."""
    folder = tmp_path_factory.mktemp("both") / "export"
    shutil.copytree(exported[0], folder)
    source = make_tokenizer(request.param)
    source.save_pretrained(folder / "source")
    files = {path.name: path.read_bytes() for path in (folder / "source").iterdir()}
    build_tokenizer(files, source.bos_token_id, 12).save_pretrained(folder)
    return load_classifier(folder, "cpu"), load_classifier(folder / "onnx/model.onnx", "cpu")


class TestBothWays:
    def test_strange_texts_have_the_same_ids(
        self, both_ways: tuple[Classifier, Classifier]
    ) -> None:
        texts = make_strange_texts(200)
        for limit in (1, 2, 13, 100_000):
            found, other = ([list(ids) for ids in way.encode(texts, limit)] for way in both_ways)
            assert found == other
            assert max(map(len, found)) == limit or limit == 100_000
        for way in both_ways:
            with pytest.raises(TypeError):  # half a surrogate pair
                way.encode(["a\ud83d"], 13)

    @given(st.lists(st.text(), min_size=1, max_size=5))
    def test_any_texts_have_the_same_ids(
        self, both_ways: tuple[Classifier, Classifier], texts: list[str]
    ) -> None:
        in_torch, in_onnx = ([list(ids) for ids in way.encode(texts, 13)] for way in both_ways)
        assert in_torch == in_onnx

    def test_they_say_the_same(self, exported: tuple[Path, Result]) -> None:
        in_torch = load_classifier(exported[0], "cpu")
        in_onnx = load_classifier(exported[0] / "onnx/model.onnx", "cpu")
        for name in ("labels", "max_length", "pad_id"):
            assert getattr(in_torch, name) == getattr(in_onnx, name)
        wanted, found = (way.classify(make_strange_texts(200)) for way in (in_torch, in_onnx))
        np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-5)
        assert found.cut.tolist() == wanted.cut.tolist()
        assert 0 < found.cut.sum() < 200


class TestLoading:
    def test_the_labels_are_in_the_order_of_the_columns(
        self, exported: tuple[Path, Result], tmp_path: Path
    ) -> None:
        folder = tmp_path / "export"
        shutil.copytree(exported[0], folder)
        config = json.loads((folder / "config.json").read_text())
        config["id2label"] = {"1": "b", "0": "a"}
        (folder / "config.json").write_text(json.dumps(config))
        assert load_classifier(folder / "onnx/model.onnx", "auto").labels == ("a", "b")

    @pytest.mark.parametrize("file", ["", "onnx/model.onnx"])
    def test_a_device_that_is_not_there(self, file: str, exported: tuple[Path, Result]) -> None:
        for device in ("cuda:99", "tpu", "all"):
            with pytest.raises(SettingError, match=device):
                load_classifier(exported[0] / file, device)
