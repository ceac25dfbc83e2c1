from __future__ import annotations

import os

# Before torch is imported: the tests share two cores with each other's processes, and what two
# processes compute is compared bit by bit.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from processes import Result

    from stages.teacher.stage import TeacherResult

SHARED = Path(__file__).parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--gpu-device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="where the tests marked gpu run; cpu stands in, so that they are run at all",
    )


@pytest.fixture(scope="session", autouse=True)
def _float32() -> Iterator[None]:
    """Where ``auto`` would be bfloat16 on this processor, tests that compare still get float32."""
    import torch

    from stages.devices import FAST_BF16

    found = getattr(torch.cpu, "get_capabilities", dict)()
    plain = {name: there for name, there in found.items() if name not in FAST_BF16}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: plain, raising=False)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """What the project was given: real data and the real Llama-2 tokenizer."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    return SHARED


@pytest.fixture(scope="session")
def object_server() -> Iterator[str]:
    """The address of an S3 server."""
    from object_server import serve

    with serve() as endpoint:
        yield endpoint


@pytest.fixture
def s3(object_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty prefix on the server, which the environment names."""
    from object_server import BUCKET

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", object_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import write_language_model

    return write_language_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def mood(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import MOOD

    path = tmp_path_factory.mktemp("tasks") / "mood.yaml"
    path.write_text(MOOD)
    return path


@pytest.fixture(scope="session")
def filled(
    llm: Path, mood: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TeacherResult]:
    """A root with one full cache, and what filling it gave; for reading alone."""
    from tiny import make_teacher_config

    from stages.reporter import SilentReporter
    from stages.teacher.stage import run_teacher

    root = tmp_path_factory.mktemp("filled")
    return root, run_teacher(make_teacher_config(mood, llm, root), SilentReporter())


@pytest.fixture(scope="session")
def student(
    filled: tuple[Path, TeacherResult], mood: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A trained student's directory, for reading alone."""
    from tiny import make_student_config

    from stages.reporter import SilentReporter
    from stages.student.stage import run_student

    out = tmp_path_factory.mktemp("students") / "mood-mini"
    config = make_student_config(mood, filled[0], out, steps=60)
    return run_student(config, SilentReporter()).out


@pytest.fixture(scope="session")
def exported(student: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The student's export in every form, for reading alone, and what the command said."""
    from processes import run_here

    out = tmp_path_factory.mktemp("exports") / "mood-mini"
    both = ("--format", "onnx", "--format", "transformers", "--int8")
    done = run_here("export", "--model", student, *both, "--out", out)
    assert done.code == 0, done.err
    return out, done
