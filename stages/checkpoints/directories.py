"""What a directory holds, told from its files alone: a model, or something mistaken for one."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.errors import Hint, ModelError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""What transformers reads, in this order."""

ADAPTER = "adapter_config.json"
POINTER = b"version https://git-lfs"
"""How git-lfs begins what stands for a file that it has not fetched."""

FORMAT = "give the model in transformers' format, config.json with safetensors"
PICKLES = (
    "weights as pickles, which can run code when they are read; where you trust them, convert them "
    "once with transformers' from_pretrained and save_pretrained, and give that directory"
)
OTHERS = {
    "model_index.json": "a diffusers pipeline, which makes images; give a language model",
    "*.gguf": f"weights of llama.cpp (GGUF); as a language model give that file, else {FORMAT}",
    "params.json": f"a model in its makers' own format; {FORMAT}",
    **dict.fromkeys(("*.onnx", "onnx/*.onnx"), f"an ONNX file, not weights for torch; {FORMAT}"),
    **dict.fromkeys(("*.bin", "*.pt", "*.pth", "*.ckpt"), PICKLES),
    **dict.fromkeys(("*.h5", "*.msgpack"), f"weights of another framework; {FORMAT}"),
}
"""Files by which other things than a model for torch are known, and what these are."""


def check_directory(folder: Path, hint: Hint | None = None) -> None:
    """Check that a place is a model's directory, its weights aside, or raise ModelError.

    The message says what it is and what to do; where nothing can be said of it the hint does.
    """
    if folder.is_file():
        known = next((what for pattern, what in OTHERS.items() if folder.match(pattern)), None)
        raise ModelError(f"{folder} is a file{f': {known}' if known else '; give its directory'}")
    check_pointers(folder.glob("*"))
    if (folder / ADAPTER).is_file():
        raise ModelError(describe_adapter(folder))
    if (folder / "config.json").is_file():
        read_json(folder / "config.json")
        return
    found = (*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json"))
    inner = sorted(str(each.parent) for each in found)
    near = bool(inner) or any(folder.glob("model*.safetensors"))
    if not near or (folder / "model_index.json").is_file():
        refuse_others(folder)
    there = f"; there is one in {', '.join(inner[:3])}" if inner else ""
    if folder.is_dir() and not any(folder.iterdir()):
        there = ": it is empty"
    raise ModelError(f"{folder} is no model directory (it has no config.json){there}", hint)


def find_weights(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers reads of a model's directory, by name.

    Copies in another form, which may lie beside them, are not among them.  Raises ModelError where
    it is no model's directory, or has no such weights or not all of them.
    """
    check_directory(folder)
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        files = list_shards(folder / INDEX)
        if lost := [file.name for file in files if not file.is_file()]:
            raise ModelError(
                f"{folder} lacks {len(lost)} of its {len(files)} files of weights "
                f"({', '.join(lost[:3])}); fetch what is missing"
            )
        return files
    names = sorted(file.name for file in folder.glob("*.safetensors"))
    if any("-of-" in name for name in names):
        raise ModelError(f"{folder} has weights in parts ({names[0]}), but no {INDEX}; fetch it")
    if not names:
        refuse_others(folder)
    there = f"; there is {names[0]}" if names else ""
    raise ModelError(
        f"{folder} has no safetensors weights ({WEIGHTS}, or parts and {INDEX}){there}; other "
        "formats are not read, since they can run code when loaded"
    )


def list_shards(index: Path) -> list[Path]:
    """Return the files that an index of weights in parts tells of, by name, or raise ModelError."""
    weights = read_json(index).get("weight_map")
    names = list(weights.values()) if isinstance(weights, dict) else []
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise ModelError(f"{index} is no index of weights (its weight_map); fetch it again")
    return [index.with_name(name) for name in sorted(set(names))]


def check_pointers(files: Iterable[Path]) -> None:
    """Refuse files that git-lfs has not fetched."""
    for file in sorted(file for file in files if file.is_file()):
        try:
            with file.open("rb") as opened:
                begins = opened.read(len(POINTER))
        except OSError as error:
            raise ModelError(f"cannot read {file}: {error.strerror}") from error
        if begins == POINTER:
            where = f"run 'git lfs pull' in {file.parent}"
            raise ModelError(f"{file} is a git-lfs pointer, not the file itself; {where}")


def read_json(file: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object, or raise ModelError."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {file}: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds no JSON object, but {type(found).__name__}")
    return found


def refuse_others(folder: Path) -> None:
    """Refuse a directory by what it holds in place of what was looked for, if that is known."""
    for pattern, what in OTHERS.items():
        if file := min(folder.glob(pattern), default=None):
            raise ModelError(f"{folder} holds {file.relative_to(folder)}: {what}")


def describe_adapter(folder: Path, repository: str = "") -> str:
    """Say what an adapter's directory, fetched from a hub or not, is and how a model is made."""
    settings = read_json(folder / ADAPTER)
    base, kind = settings.get("base_model_name_or_path"), settings.get("peft_type") or "adapter"
    task = "SequenceClassification" if settings.get("task_type") == "SEQ_CLS" else "CausalLM"
    # JSON's quotes are ones that Python reads and a shell's single quotes leave alone.
    source = json.dumps(repository or str(folder))
    out = json.dumps(f"{Path(repository).name if repository else folder.resolve()}-merged")
    code = (
        f"from peft import AutoPeftModelFor{task} as P; "
        "from transformers import AutoTokenizer as T; "
        f"P.from_pretrained({source}).merge_and_unload().save_pretrained({out}); "
        f"T.from_pretrained({json.dumps(base) if base else source}).save_pretrained({out})"
    )
    return (
        f"{repository or folder} holds an adapter ({kind}) of the model "
        f"{base or 'that it does not name'}, not a model; merge them once "
        f"(pip install peft; python -c {shlex.quote(code)}) and give {out}"
    )
