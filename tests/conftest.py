from __future__ import annotations

import os

# Before torch is imported: the tests share two cores with each other's processes, and what two
# processes compute is compared bit by bit.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import fcntl
import pickle
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
def _float32_and_short_timings() -> Iterator[None]:
    """Where ``auto`` would be bfloat16 on this processor, tests that compare still get float32.

    How long passes are timed, so that a machine's noise does not choose, is waiting to a test.
    """
    import torch

    from stages.devices import FAST_BF16
    from stages.teacher import autotune

    found = getattr(torch.cpu, "get_capabilities", dict)()
    plain = {name: there for name, there in found.items() if name not in FAST_BF16}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: plain, raising=False)
        patch.setattr(autotune, "SECONDS", 0.2)
        patch.setattr(autotune, "SAMPLE_SECONDS", 0.05)
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


Shared = Callable[[str, Callable[[Path], Any]], Any]


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Makes what all processes of a run read, in a folder of its own, in the first that asks."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def make_once(name: str, make: Callable[[Path], Any]) -> Any:
        folder, kept = root / f"shared-{name}", root / f"shared-{name}.pickle"
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                folder.mkdir()
                kept.write_bytes(pickle.dumps(make(folder)))
            return pickle.loads(kept.read_bytes())  # noqa: S301

    return make_once


@pytest.fixture(scope="session")
def llm(make_once: Shared) -> Path:
    from tiny import write_language_model

    path: Path = make_once("llm", lambda folder: write_language_model(folder / "llama"))
    return path


@pytest.fixture(scope="session")
def mood(make_once: Shared) -> Path:
    from tiny import MOOD

    def make(folder: Path) -> Path:
        (folder / "mood.yaml").write_text(MOOD)
        return folder / "mood.yaml"

    path: Path = make_once("mood", make)
    return path


@pytest.fixture(scope="session")
def filled(llm: Path, mood: Path, make_once: Shared) -> tuple[Path, TeacherResult]:
    """A root with one full cache, and what filling it gave; for reading alone."""
    from tiny import make_teacher_config

    from stages.reporter import SilentReporter
    from stages.teacher.stage import run_teacher

    def make(root: Path) -> tuple[Path, TeacherResult]:
        return root, run_teacher(make_teacher_config(mood, llm, root), SilentReporter())

    found: tuple[Path, TeacherResult] = make_once("filled", make)
    return found


@pytest.fixture(scope="session")
def student(filled: tuple[Path, TeacherResult], mood: Path, make_once: Shared) -> Path:
    """A trained student's directory, for reading alone."""
    from tiny import make_student_config

    from stages.reporter import SilentReporter
    from stages.student.stage import run_student

    def make(folder: Path) -> Path:
        out = folder / "mood-mini"
        config = make_student_config(mood, filled[0], out, steps=60, prior="balanced")
        return run_student(config, SilentReporter()).out

    path: Path = make_once("student", make)
    return path


@pytest.fixture(scope="session")
def exported(student: Path, make_once: Shared) -> tuple[Path, Result]:
    """The student's export in every form, for reading alone, and what the command said."""
    from processes import run_here

    def make(folder: Path) -> tuple[Path, Result]:
        out = folder / "mood-mini"
        both = ("--format", "onnx", "--format", "transformers", "--int8")
        done = run_here("export", "--model", student, *both, "--out", out)
        assert done.code == 0, done.err
        return out, done

    found: tuple[Path, Result] = make_once("exported", make)
    return found
