from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from processes import run_here
from tiny import make_tokenizer

from stages.checkpoints import INDEX, one_line

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 13476838\n"


def write(name: str, content: str = "x") -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)

    return do


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def configure(name: str = "config.json", **changes: Any) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        config = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return do


def instead(name: str, content: str = "x") -> Callable[[Path], None]:
    """Another file of weights than the one that is read."""

    def do(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        write(name, content)(folder)

    return do


def alone(*names: str, content: str = "{}") -> Callable[[Path], None]:
    """These files and nothing else."""

    def do(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        for name in names:
            write(name, content)(folder)

    return do


def split(folder: Path) -> list[Path]:
    (folder / "model.safetensors").unlink()
    hf.AutoModelForCausalLM.from_config(hf.AutoConfig.from_pretrained(folder)).save_pretrained(
        folder, max_shard_size="40KB"
    )
    return sorted(folder.glob("*-of-*"))


def become(name: str) -> Callable[[Path], None]:
    """A model of another kind, with this tokenizer."""

    def do(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        small = {"d_model": 32, "d_ff": 64, "vocab_size": 50, "num_layers": 1, "num_heads": 2}
        small |= {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        kind = getattr(hf, name)
        kind(kind.config_class(**small)).save_pretrained(folder)

    return do


LORA = json.dumps({"base_model_name_or_path": "some/base", "peft_type": "LORA"})
TOKENIZER = {"AutoTokenizer": ["tokenization_glm.Tokenizer", None]}
REMOTE = {"AutoConfig": "configuration_glm.Config", "AutoModelForCausalLM": "modeling_glm.Model"}

CASES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "adapter": (
        alone("adapter_config.json", "adapter_model.safetensors", content=LORA),
        "holds an adapter (LORA) of the model some/base, not a model; merge them once (pip install",
    ),
    "adapter beside its base": (write("adapter_config.json", "{}"), "that it does not name"),
    "pointer to weights": (
        write("model.safetensors", POINTER),
        "model.safetensors is a git-lfs pointer, not the file itself; run 'git lfs pull' in",
    ),
    "pointer to a tokenizer": (write("tokenizer.json", POINTER), "tokenizer.json is a git-lfs"),
    "pointer to a vocabulary": (write("tokenizer.model", POINTER), "tokenizer.model is a git-lfs"),
    "pointer to a part": (
        lambda folder: split(folder)[1].write_text(POINTER),
        "model-00002-of-00005.safetensors is a git-lfs pointer",
    ),
    "no index": (
        lambda folder: [split(folder), remove(INDEX)(folder)],
        "has weights in parts (model-00001-of-00005.safetensors), but no "
        "model.safetensors.index.json; fetch it",
    ),
    "a part missing": (
        lambda folder: split(folder)[1].unlink(),
        "lacks 1 of its 5 files of weights (model-00002-of-00005.safetensors); fetch what",
    ),
    "index of nothing": (instead(INDEX, "{}"), "is no index of weights"),
    "index out of it": (instead(INDEX, '{"weight_map": {"a": "../b"}}'), "is no index of weights"),
    "index cut off": (instead(INDEX, '{"weight'), f"{INDEX}: Unterminated string"),
    "remote code": (
        configure(model_type="glm-9", auto_map=REMOTE),
        "it needs code of its own (auto_map: ",
    ),
    "remote tokenizer": (
        lambda folder: [
            configure("tokenizer_config.json", auto_map=TOKENIZER, tokenizer_class="X")(folder),
            remove("tokenizer.json")(folder),
        ],
        "it needs code of its own",
    ),
    "no tokenizer": (
        remove("tokenizer.json", "tokenizer_config.json"),
        "there is none (tokenizer.json, tokenizer.model, or vocab.json with merges.txt); copy",
    ),
    "a tokenizer that is made up": (
        lambda folder: [
            remove("tokenizer.json")(folder),
            configure("tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")(folder),
        ],
        "there is none (tokenizer.json",
    ),
    "a tokenizer without merges": (
        lambda folder: [
            remove("tokenizer.json")(folder),
            write("vocab.json", '{"a": 0}')(folder),
            configure("tokenizer_config.json", tokenizer_class="GPT2Tokenizer")(folder),
        ],
        "there is none (tokenizer.json",
    ),
    "tokenizer cut off": (write("tokenizer.json", '{"version":'), "tokenizer.json is damaged"),
    "unknown dtype": (
        configure(dtype="float9"),
        "dtype in config.json: got 'float9', must be one such as float32",
    ),
    "unknown dtype, as of old": (configure(dtype=None, torch_dtype="half9"), "got 'half9'"),
    "unknown family": (configure(model_type="llama9"), "does not know the model_type 'llama9'"),
    "no family": (configure(model_type=None), "config.json has no model_type"),
    "broken configuration": (write("config.json", "{"), "config.json: Expecting property name"),
    "a list of configurations": (write("config.json", "[]"), "config.json holds no JSON object"),
    "nesting": (write("config.json", "[" * 100_000), "cannot read"),
    "pickles": (instead("pytorch_model.bin"), "holds pytorch_model.bin: weights as pickles"),
    "checkpoint": (instead("consolidated.00.pth"), "consolidated.00.pth: weights as pickles"),
    "tensorflow": (instead("tf_model.h5"), "holds tf_model.h5: weights of another framework"),
    "makers' own": (alone("params.json", "consolidated.safetensors"), "in its makers' own format"),
    "onnx": (instead("onnx/model.onnx"), "holds onnx/model.onnx: an ONNX file"),
    "another name": (instead("weights.safetensors"), "index.json); there is weights.safetensors"),
    "empty": (alone(), "it is empty"),
    "diffusers": (alone("model_index.json", "unet/config.json"), "a diffusers pipeline"),
    "directory above": (alone("checkpoint-9/config.json", "a.bin"), "in {folder}/checkpoint-9"),
    "encoder-decoder": (become("T5ForConditionalGeneration"), "it holds an encoder-decoder"),
    "classifier": (become("LlamaForSequenceClassification"), "it holds a classifier (Llama"),
    "student": (write("training.json", "{}"), "it holds a student"),
    "cut off": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-9]
        ),
        "fetch them again",
    ),
    # Layers without weights, which transformers makes up at random.
    "another number of layers": (configure(num_hidden_layers=4), "and 8 more is missing"),
    "another shape": (configure(intermediate_size=48), "of another shape"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_mistaken_for_a_model_is_called_by_its_name(
    name: str, llm: Path, mood: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llm, folder)
    spoil, said = CASES[name]
    spoil(folder)
    own = ("--rows", 64, "--cache", tmp_path / "cache")
    done = run_here("teacher", "--task", mood, "--model", folder, *own)
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert said.format(folder=folder) in last
    assert last.count(str(folder)) >= 1
    # Weights are known when they are read.
    late = ("cut off", "another number of layers", "another shape")
    assert name in late or not (tmp_path / "cache").exists()


def test_the_command_that_merges_an_adapter_is_one_that_runs(llm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "it's an adapter"
    shutil.copytree(llm, folder)
    write("adapter_config.json", LORA)(folder)
    (folder / "config.json").unlink()
    done = run_here("task", "check", "imdb", "--model", folder)
    assert done.code == 0, "its tokenizer is there"
    done = run_here("teacher", "--task", "imdb", "--model", folder)
    command = done.err.split("pip install peft; ")[1].rsplit(") and give", 1)[0]
    python, option, code = shlex.split(command)
    assert (python, option) == ("python", "-c")
    compile(code, "command", "exec")
    assert str(folder) in code
    assert "some/base" in code


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{here}/x.gguf", "x.gguf is no GGUF file: got b'x' at its begin"),
        ("{here}/x.safetensors", "x.safetensors is a file; give its directory"),
        ("{here}/gguf", "x.gguf is no GGUF file"),
        ("{here}", "x.gguf is no GGUF file"),
        ("some/x.gguf", "there is no file 'some/x.gguf'; one of a hub is repository:file.gguf"),
        ("x" * 300, "there is neither a directory nor a hub model"),
        ("x/" * 3000, "there is no model directory"),
        ("mistrallai/Mistral-7B", "no local directory, and the hub cannot be reached (HF_HUB"),
    ],
)
def test_what_is_no_directory_is_said(model: str, said: str, tmp_path: Path) -> None:
    for name in ("x.gguf", "x.safetensors", "gguf/x.gguf"):
        write(name)(tmp_path)
    done = run_here("task", "check", "imdb", "--model", model.format(here=tmp_path))
    assert done.code == 1
    assert said in done.err


@pytest.mark.parametrize("command", ["tag", "student"])
def test_other_models_are_called_by_their_names_too(
    command: str, filled: tuple[Path, object], mood: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    hf.BertForSequenceClassification(
        hf.BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    ).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    settings = ("--task", mood, "--cache", filled[0], "--arch", folder, "--init", "pretrained")
    given = ("--model", folder) if command == "tag" else settings
    for name in ("adapter_config.json", "config.json", "model.safetensors"):
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        write(name, POINTER)(folder)
        assert f"{folder}/{name} is a git-lfs pointer" in run_here(command, *given).err
        write(name, "{}")(folder)
        if name == "adapter_config.json":
            assert "holds an adapter" in run_here(command, *given).err
        (folder / name).unlink()
        if before is not None:
            (folder / name).write_bytes(before)


def test_a_long_message_ends_behind_a_whole_word() -> None:
    words = [f"word{number}" for number in range(100)]
    *kept, end = one_line("\n".join(words)).split(" ")
    assert end == "…" and kept == words[: len(kept)] and len(" ".join(kept)) <= 300
    found = [one_line(each) for each in ("short\ntext", "x" * 400, ValueError())]
    assert found == ["short text", "x" * 300 + " …", "ValueError"]
