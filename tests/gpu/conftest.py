from __future__ import annotations

from pathlib import Path

import pytest
import torch

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


@pytest.fixture(scope="session")
def news(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundled task of short inputs, which the bundled model answers in all ways."""
    bundled = (ROOT / "stages/tasks/ag_news.yaml").read_text()
    path = tmp_path_factory.mktemp("tasks") / "news.yaml"
    path.write_text(
        bundled.replace("name: ag_news", "name: news").replace("_length: 128", "_length: 16")
    )
    return path
