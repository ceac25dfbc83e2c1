from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from store_worker import SMALL, fill, make_cache

from cache.directory import Cache


def make_full(root: Path, **settings: int) -> Cache:
    cache = make_cache(root, **settings)
    fill(cache)
    return cache


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A full cache of ten shards and 300 rows, for reading alone."""
    return make_full(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def small_whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_full(tmp_path_factory.mktemp("small"), **SMALL).place.path


@pytest.fixture
def full(whole: Cache, tmp_path: Path) -> Cache:
    """A copy of the one with ten shards, to damage."""
    shutil.copytree(whole.place.path, tmp_path / whole.place.path.name)
    return make_cache(tmp_path)


@pytest.fixture
def mine(small_whole: Path, tmp_path: Path) -> Cache:
    """A full cache of two shards, to damage."""
    shutil.copytree(small_whole, tmp_path / small_whole.name)
    return make_cache(tmp_path, **SMALL)
