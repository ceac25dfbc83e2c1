"""The rooms' doors: what import-linter's layers do not see."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("pipeline", "stages", "cache", "benchmarks")
ROOMS = {
    f"{floor}.{folder.name}"
    for floor in ("stages", "cache")
    for folder in (ROOT / floor).iterdir()
    if (folder / "__init__.py").is_file()
}
DOCUMENTS = [f"{folder}/README.md" for folder in FLOORS]
SECOND_DOORS = {"stages.classify.torch_classifier"}
"""What may be imported past a room's door: torch, which the door itself must not import."""


def list_imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)


def test_a_room_is_entered_by_its_door() -> None:
    found = []
    for floor in FLOORS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            own = ".".join(path.relative_to(ROOT).parts[:-1])
            for line, module in list_imports(path):
                room = next((room for room in ROOMS if module.startswith(f"{room}.")), None)
                if room not in (None, own) and module not in SECOND_DOORS:
                    found.append(f"{path.relative_to(ROOT)}:{line}: {module}")
    assert not found, "\n".join(found)


def test_every_room_says_what_it_is() -> None:
    for room in ROOMS:
        text = (ROOT / room.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
        assert len((ast.get_docstring(ast.parse(text)) or "").splitlines()) >= 3, room


@pytest.mark.parametrize("floor", ["pipeline", "stages", "cache", "benchmarks"])
def test_rooms_are_small(floor: str) -> None:
    for path in (ROOT / floor).rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path


@pytest.mark.parametrize(
    "module",
    ["pipeline.cli", "stages.classify", "stages.tasks", "cache.lookup", "cache.verification"],
)
def test_it_is_imported_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "document",
    ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", *DOCUMENTS],
)
def test_files_that_a_document_names_are_there(document: str) -> None:
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`((?:stages|cache|pipeline|tests|benchmarks)/[\w/.]+)`", text)
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", text)
    assert named or linked
    lost = [name for name in named if not (ROOT / name).exists()]
    lost += [name for name in linked if not (path.parent / name).exists()]
    assert not lost


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    every = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.split(r"[\[<>=]", name)[0].lower() for group in every for name in group}
    imported = {
        module.partition(".")[0]
        for floor in FLOORS[:3]
        for path in (ROOT / floor).rglob("*.py")
        for _, module in list_imports(path)
    }
    other = {"yaml": "pyyaml", "google_crc32c": "google-crc32c"}
    foreign = imported - sys.stdlib_module_names - set(FLOORS)
    assert {name for name in foreign if other.get(name, name) not in declared} == set()
