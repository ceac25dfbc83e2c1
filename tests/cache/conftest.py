from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from store_worker import SMALL, fill, make_cache

from cache.directory import Cache


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A full cache of ten shards and 300 rows, for reading alone."""
    cache = make_cache(tmp_path_factory.mktemp("whole"))
    fill(cache)
    return cache


@pytest.fixture(scope="session")
def small_whole(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A full cache of two shards, for reading alone."""
    cache = make_cache(tmp_path_factory.mktemp("small"), **SMALL)
    fill(cache)
    return cache


@pytest.fixture
def full(whole: Cache, tmp_path: Path) -> Cache:
    """A copy of the one with ten shards, to damage."""
    path = whole.place.path
    shutil.copytree(path, tmp_path / path.name)
    return make_cache(tmp_path)


@pytest.fixture
def mine(small_whole: Cache, tmp_path: Path) -> Cache:
    """A copy of the one with two shards, to damage."""
    path = small_whole.place.path
    shutil.copytree(path, tmp_path / path.name)
    return make_cache(tmp_path, **SMALL)
