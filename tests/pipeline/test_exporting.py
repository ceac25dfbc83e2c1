from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import Result, run_here

TAG = """
import importlib.abc, sys

REFUSED = {"torch", "transformers", "accelerate", "zarr", "obstore", "safetensors", "onnx"}

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in REFUSED:
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Refuse())
sys.argv = ["pipeline", *sys.argv[1:]]
from pipeline.cli import main
main()
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["model.onnx", "model_int8.onnx"])
def test_an_onnx_file_is_tagged_with_without_torch_and_the_rest(
    name: str, student: Path, exported: tuple[Path, Result], here: Path
) -> None:
    texts = "Good film\n\nBad " + "bad " * 50 + "\n😀\n"
    (here / "params.yaml").write_text("functional_projection:\n  tag:\n    device: cpu\n")
    done = subprocess.run(
        [sys.executable, "-c", TAG, "tag", "--all", "--model", str(exported[0] / "onnx" / name)],
        input=texts.encode(),
        capture_output=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode().splitlines() == [
        "device: cpu (as asked), 1 thread",
        "input: plain text (auto: by its first line)",
        "blank lines skipped: 1",
    ]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    by_torch = run_here("tag", "--all", "--model", student, stdin=texts.encode())
    wanted = [json.loads(line) for line in by_torch.out.splitlines()]
    assert [answer.keys() for answer in found] == [answer.keys() for answer in wanted]
    for own, other in zip(found, wanted, strict=True):
        assert own["text"] == other["text"]
        if other["label"] is not None:
            near = 1e-5 if name == "model.onnx" else 0.1
            assert own["scores"] == pytest.approx(other["scores"], abs=near)


def test_the_command_says_what_it_measured(exported: tuple[Path, Result]) -> None:
    out, done = exported
    lines = done.out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["onnx/model.onnx", "onnx/model_int8.onnx"]
    for line in lines:
        for part in ("agreement", "largest difference", "texts a second on one core (torch: "):
            assert part in line
        assert line.endswith("random texts")
    assert done.err.splitlines()[-1] == f"export: {out}"


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ([], 2, "Missing option '--model'"),
        (["--model", "nowhere"], 1, "nowhere is no student"),
        (["--model", "STUDENT", "--format", "gguf"], 2, "is not one of 'onnx', 'transformers'"),
        (["--model", "STUDENT", "--private"], 2, "--private is of --push-to-hub"),
        (["--model", "STUDENT", "--format", "transformers", "--int8"], 2, "(--format)"),
        (["--model", "STUDENT", "--metrics", "nowhere.json"], 2, "nowhere.json"),
    ],
)
def test_a_refusal_is_one_sentence(
    arguments: list[str], code: int, named: str, student: Path
) -> None:
    given = [str(student) if word == "STUDENT" else word for word in arguments]
    found = run_here("export", *given)
    assert found.code == code
    assert named in found.err
    assert "Traceback" not in found.err
