"""Models in GGUF: what they answer, what they are known by, and what is refused."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from ggufs import Kind, quantise, write_gguf
from huggingface_hub.errors import RemoteEntryNotFoundError
from processes import run_here
from tiny import Stopping, draw_ids, make_language_model, make_tokenizer

from cache.opening import open_cache
from stages.checkpoints import load_tokenizer
from stages.errors import ModelError
from stages.lm import load_language_model, load_language_tokenizer, resolve_model
from stages.lm.memory import count_bytes
from stages.reporter import Interrupted, SilentReporter

CHAT = "{{ bos_token }}[{{ messages[0]['content'] }}]"
VOCABULARY = len(make_tokenizer())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "x.gguf", tokenizer__chat_template=CHAT)


@pytest.mark.parametrize(
    ("family", "kind"),
    [("llama", Kind.F32), ("llama", Kind.Q4_0), ("qwen2", Kind.F16), ("qwen2", Kind.Q8_0)],
)
def test_it_answers_as_the_same_weights_do(family: str, kind: Kind, tmp_path: Path) -> None:
    model, reporter = make_language_model(family, VOCABULARY), SilentReporter()
    file = resolve_model(str(write_gguf(tmp_path / "x.gguf", model, kind)))
    quantise(model, kind)
    model.save_pretrained(tmp_path / "same")
    ids = draw_ids(2, 20, VOCABULARY)
    for dtype in ("float32", "bfloat16"):
        found = load_language_model(file, "cpu", dtype, reporter=reporter)
        same = load_language_model(tmp_path / "same", "cpu", dtype)
        assert torch.equal(found(ids).logits, same(ids).logits)
    assert not reporter.warnings
    assert kind.name in reporter.lines[0]
    assert "de-quantised to float32: 0.00 GiB of memory" in reporter.lines[0]


def test_stretched_positions_are_read(tmp_path: Path) -> None:
    model = make_language_model("llama", VOCABULARY)
    model.config.rope_parameters |= {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
    model.config.rope_parameters["original_max_position_embeddings"] = 64
    model.config.rope_parameters["high_freq_factor"] = 4.0
    stretched = type(model)(model.config).eval()
    stretched.load_state_dict(model.state_dict())
    factors = model.model.rotary_emb.inv_freq / stretched.model.rotary_emb.inv_freq
    assert factors.max() > 7
    tensors = {"rope_freqs.weight": factors.numpy().astype(np.float32)}
    file = write_gguf(tmp_path / "x.gguf", model, tensors=tensors)
    reporter = SilentReporter()
    found = load_language_model(file, "cpu", "float32", reporter=reporter)
    ids = draw_ids(1, 60, 300)
    torch.testing.assert_close(found(ids).logits, stretched(ids).logits)
    assert not torch.allclose(found(ids).logits, model(ids).logits, atol=1e-2)
    assert not reporter.warnings


def test_what_is_not_read_of_it_is_told(tmp_path: Path) -> None:
    own = {"llama__rope__scaling__type": "yarn", "tokenizer__ggml__pre": "olmo"}
    tensors = {"blk.0.attn_q.bias": np.ones(32, dtype=np.float32)}
    file, reporter = write_gguf(tmp_path / "x.gguf", tensors=tensors, **own), SilentReporter()
    load_language_model(file, "cpu", "float32", reporter=reporter)
    (warning,) = reporter.warnings
    for part in ("32 weights", "positions (yarn)", "(olmo; done as GPT-2 does)", "may differ"):
        assert part in warning


def test_the_tokenizer_is_that_of_the_file(whole: Path, llm: Path, tmp_path: Path) -> None:
    for file in llm.glob("tokenizer*"):  # of another model
        (tmp_path / file.name).write_text("{}")
    file = Path(shutil.copy(whole, tmp_path))
    found, known = load_language_tokenizer(file), load_tokenizer(llm)
    for text in ("a Good answer: é", " x\n</s>y", "2024"):
        assert found(text).input_ids == known(text).input_ids
    assert found.chat_template == CHAT
    assert (found.bos_token, found.eos_token) == ("<s>", "</s>")


def test_a_teacher_and_a_student_are_made_of_it(whole: Path, mood: Path, tmp_path: Path) -> None:
    own = ("--rows", 64, "--chunk-rows", 8, "--shard-rows", 32, "--self-generated", 0)
    common = ("--task", mood, "--cache", tmp_path / "cache")
    teacher = ("teacher", *common, *own, "--sampler", "vocabulary", "--model")
    assert run_here("task", "check", mood, "--model", whole, "--chat").code == 0
    done = run_here(*teacher, whole, "--dry-run")
    assert done.code == 0, done.err
    for model in (whole, whole.parent, shutil.copy(whole, tmp_path / "renamed")):
        done = run_here(*teacher, model)
        assert done.code == 0, done.err
    (place,) = (tmp_path / "cache").glob("*/*")
    digest = hashlib.sha256(whole.read_bytes()).hexdigest()
    assert open_cache(place).manifest.inputs["model"] == {"gguf": digest}
    out = tmp_path / "student"
    short = ("--arch", "mini", "--steps", 4, "--batch-size", 8, "--held-out-rows", 16)
    done = run_here("student", *common, *short, "--out", out)
    assert done.code == 0, done.err
    assert load_tokenizer(out)("Good").input_ids[-1] == make_tokenizer()("Good").input_ids[-1]
    done = run_here("tag", "--model", out, stdin=b"What a film!\n")
    assert done.code == 0, done.err
    texts = tmp_path / "texts.csv"
    texts.write_text("label,text\n" + "good,fine\nbad,poor\n" * 8)
    done = run_here("evaluate", "--model", out, "--data", texts, "--teacher", whole)
    assert done.code == 0, done.err


def cut(part: float) -> Callable[[Path], object]:
    def do(file: Path) -> None:
        data = write_gguf(file).read_bytes()
        file.write_bytes(data[: int(len(data) * part)])

    return do


def own(**fields: Any) -> Callable[[Path], object]:
    return lambda file: write_gguf(file, **fields)


def text(content: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(content)


POINTER = "version https://git-lfs.github.com/spec/v1\n"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another file": (text("pickle"), "x.gguf is no GGUF file: got"),
    "empty": (text(""), "x.gguf is no GGUF file: got b''"),
    "pointer": (text(POINTER), "x.gguf is a git-lfs pointer"),
    "cut off": (cut(0.99), "x.gguf is damaged or was not fetched whole, fetch it again"),
    "cut in the header": (cut(0.01), "is damaged or was not fetched whole"),
    "architecture": (
        own(architecture="olmo2"),
        "cannot read the architecture 'olmo2' from GGUF, give the model in transformers' format",
    ),
    "adapter": (own(general__type="adapter"), "holds an adapter, not a model; merge it"),
    "mmproj": (own(architecture="clip"), "the part of a model that sees or hears"),
    "embeddings": (own(llama__pooling_type=3), "holds a model of embeddings (llama)"),
    "x-00001-of-00003": (own(), "is one of 3 parts of a GGUF file; merge them once"),
    "renamed part": (own(split__count=3), "holds one of 3 parts of a model; merge them"),
    "no tokenizer": (own(tokenizer__ggml__model="rwkv"), "cannot load the tokenizer of"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_such_model_is_called_by_its_name(name: str, mood: Path, tmp_path: Path) -> None:
    spoil, said = REFUSED[name]
    file, cache = tmp_path / f"{name if '-of-' in name else 'x'}.gguf", tmp_path / "cache"
    spoil(file)
    for model in (file, tmp_path):
        done = run_here("teacher", "--task", mood, "--model", model, "--cache", cache)
        assert done.code == 1
        assert said in done.err.splitlines()[-1]
        assert not cache.exists()


def test_of_several_files_one_is_to_be_named(whole: Path, tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf"):
        shutil.copy(whole, tmp_path / name)
    with pytest.raises(ModelError, match=r"holds 2 GGUF files, give one: .*/a.gguf, .*/b.gguf$"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"a.gguf: weights of llama.cpp .GGUF.; as a language"):
        resolve_model(str(tmp_path))


def test_a_stop_is_heeded_and_what_cannot_be_done_with_it_is_said(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):  # a stop is heeded between tensors
        load_language_model(whole, "cpu", "float32", reporter=Stopping())
    with pytest.raises(ModelError, match="quantised already; leave quantise out"):
        load_language_model(whole, "cpu", "bfloat16", "int8")
    file = write_gguf(tmp_path / "x.gguf", kind=Kind.Q4_0)
    weights = make_language_model("llama", VOCABULARY).num_parameters()
    assert count_bytes(file, "bfloat16") == 2 * weights
    monkeypatch.setattr("stages.lm.memory.measure_free", lambda device: 2**20)
    with pytest.raises(ModelError, match="does not fit on cpu: it needs"):
        load_language_model(file, "cpu", "bfloat16")
    monkeypatch.setattr("stages.lm.gguf_file.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"need gguf, which is not installed: pip.*'\.\[gguf\]'$"):
        resolve_model(str(whole))


class TestHub:
    @pytest.fixture(autouse=True)
    def hub(self, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """A hub with files of no more than names, of which one is there."""
        names = ["README.md", "q4/x.gguf"]

        def fetch(repository: str, name: str) -> str:
            assert repository == "some/model"
            if name not in names:
                error = RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)
                Exception.__init__(error, "404")
                raise error
            return str(whole)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_: names)
        return names

    def test_a_file_of_a_repository_is_found_and_what_is_not_there_is_said(
        self, whole: Path, hub: list[str]
    ) -> None:
        assert resolve_model("some/model:q4/x.gguf") == whole
        assert resolve_model("some/model") == whole
        with pytest.raises(ModelError, match=r"'Q4_K_M', give one: some/model:q4/x.gguf$"):
            resolve_model("some/model:Q4_K_M")
        hub.append("q8/x.gguf")
        with pytest.raises(ModelError, match=r"holds 2 .* some/model:q4/x.gguf, some/model:q8/x"):
            resolve_model("some/model")
        with pytest.raises(ModelError, match="is one of 2 parts"):
            resolve_model("some/model:x-00001-of-00002.gguf")

    def test_an_adapter_of_it_is_merged_from_there_and_no_hub_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
        merge = r'from_pretrained\("some/model"\).merge_and_unload\(\).save_pretrained\("model-m'
        with pytest.raises(ModelError, match=rf"^some/model holds an adapter.*{merge}"):
            resolve_model("some/model")
        monkeypatch.undo()
        with pytest.raises(ModelError, match="hub cannot be reached"):
            resolve_model("some/model:x.gguf")
