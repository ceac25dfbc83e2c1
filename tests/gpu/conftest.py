from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from stages.teacher.stage import TeacherResult

ROOT = Path(__file__).parents[2]


def pytest_runtest_setup(item: pytest.Item) -> None:
    # Not in a fixture: pytest then tells of all skipped tests in a single line.
    if item.config.getoption("--gpu-device") == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Where the tests run: ``cuda``, or ``cpu`` in its place where that is asked for."""
    # With TF32 a float32 product keeps ten bits, and a small fault could not be told from rounding.
    assert torch.get_float32_matmul_precision() == "highest"
    name: str = request.config.getoption("--gpu-device")
    return name


@pytest.fixture
def compiler(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A compiler for the device; on the processor one that only traces, in seconds."""
    from cache.draw.philox_torch import compiler_problem

    if device == "cpu":
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    elif problem := compiler_problem(device):
        pytest.skip(problem)
    yield
    torch.compiler.reset()


@pytest.fixture(scope="session")
def news(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundled task of short inputs, which the bundled model answers in all ways."""
    bundled = (ROOT / "stages/tasks/ag_news.yaml").read_text()
    path = tmp_path_factory.mktemp("tasks") / "news.yaml"
    path.write_text(
        bundled.replace("name: ag_news", "name: news").replace("_length: 128", "_length: 16")
    )
    return path


@pytest.fixture(scope="session")
def cached(
    device: str, news: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TeacherResult]:
    """A root with one cache for students, filled on the device, partly with texts of the model."""
    from tiny import make_teacher_config

    from stages.reporter import SilentReporter
    from stages.teacher.stage import run_teacher

    root = tmp_path_factory.mktemp("cached")
    own = {"sampler": "self=0.1,vocabulary=0.9", "self_generated": 8, "rows": 512}
    own |= {"batch_positions": 4096, "device": device, "dtype": "float32"}
    return root, run_teacher(make_teacher_config(news, "mini", root, **own), SilentReporter())
