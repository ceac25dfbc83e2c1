"""A disk that keeps for certain, when the power fails, only what was synced.

What a file holds is certain once the file was synced, and a name once its directory was; a
directory's own name is one in its parent.  Anything since then may be found or not, each by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

Image = dict[str, bytes]
"""What is found after a cut: contents by path; a directory's path ends in a slash."""

Pick = Callable[[object, int], int]


@dataclass(eq=False)
class File:
    now: bytes = b""
    certain: bytes = b""

    def settle(self) -> None:
        self.certain = self.now

    def remains(self) -> list[bytes]:
        """What can be found in it, the worst first."""
        if self.now == self.certain:
            return [self.now]
        half = self.now[: len(self.now) // 2]
        return [self.certain, half, bytes(len(self.now)), self.now]


@dataclass(eq=False)
class Directory:
    """Names, each with all that it may be found to stand for: first what is certain, last now."""

    names: dict[str, list[File | Directory | None]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> File | Directory:
        node = self.names[name][-1]
        if node is None:
            raise KeyError(name)
        return node

    def __setitem__(self, name: str, node: File | Directory | None) -> None:
        self.names.setdefault(name, [None]).append(node)

    def settle(self) -> None:
        self.names = {name: nodes[-1:] for name, nodes in self.names.items() if nodes[-1]}


class Platter:
    """What the calls told to :meth:`note` have left on the disk, for certain and perhaps."""

    def __init__(self, start: Path, hears: Callable[[File | Directory], bool]) -> None:
        """Begin with all that lies there, as certain; syncing a node works where ``hears`` says."""
        self._root = Directory()
        self._hears = hears
        for path in sorted(start.rglob("*")):
            if path.parent.name == "claims":
                continue
            data = path.read_bytes() if path.is_file() else b""
            node = File(data, data) if path.is_file() else Directory()
            directory, name = self._find(str(path.relative_to(start)))
            directory.names[name] = [node]

    def note(self, kind: str, path: str, more: object) -> None:
        """Take in a call that has happened; locks are no data, so calls to them are passed over."""
        if path == "." and kind == "fsync":
            self._settle(self._root)
        if path == "." or "/claims/" in path:
            return
        directory, name = self._find(path)
        if kind == "mkdir":
            directory[name] = Directory()
        elif kind == "create":
            directory[name] = File()
        elif kind == "write" and isinstance(node := directory[name], File):
            node.now += bytes(more)  # type: ignore[call-overload]
        elif kind == "fsync":
            self._settle(directory[name])
        elif kind in ("link", "replace"):
            other, new = self._find(str(more))
            other[new] = directory[name]
            if kind == "replace":
                directory[name] = None
        elif kind in ("unlink", "rmdir"):
            directory[name] = None

    def now(self) -> Image:
        """Return what is there while the power is on."""
        image: Image = {}
        self._render(self._root, "", lambda key, last: last, -1, image)
        return image

    def images(self, chance: random.Random) -> Iterator[Image]:
        """Yield what may be found if the power fails now, with uncertain files in every state.

        That is all or nothing of what is uncertain, all but one thing, nothing but one, and a few
        mixtures drawn by chance.
        """
        open_names = list(self._uncertain(self._root))
        picks: list[Pick] = [lambda key, last: 0, lambda key, last: last]
        for one in open_names:
            picks.append(lambda key, last, one=one: last * (key != one))
            picks.append(lambda key, last, one=one: last * (key == one))
        drawn = [
            {one: chance.random() for one in open_names} for _ in range(4 if open_names else 0)
        ]
        picks += [lambda key, last, at=at: round(at.get(key, 1) * last) for at in drawn]
        for pick, state in product(picks, range(4)):
            image: Image = {}
            self._render(self._root, "", pick, state, image)
            yield image

    def _settle(self, node: File | Directory) -> None:
        if self._hears(node):
            node.settle()

    def _find(self, path: str) -> tuple[Directory, str]:
        directory = self._root
        *steps, name = path.split("/")
        for step in steps:
            node = directory[step]
            assert isinstance(node, Directory), path
            directory = node
        return directory, name

    def _uncertain(self, directory: Directory) -> Iterator[tuple[int, str]]:
        for name, nodes in directory.names.items():
            if len(nodes) > 1:
                yield id(directory), name
            for node in nodes:
                if isinstance(node, Directory):
                    yield from self._uncertain(node)

    def _render(
        self, directory: Directory, path: str, pick: Pick, state: int, image: Image
    ) -> None:
        for name, nodes in directory.names.items():
            node = nodes[pick((id(directory), name), len(nodes) - 1)]
            if isinstance(node, File):
                remains = node.remains()
                image[path + name] = remains[min(state, len(remains) - 1)]
            elif node is not None:
                image[f"{path}{name}/"] = b""
                self._render(node, f"{path}{name}/", pick, state, image)


def restore(image: Image, root: Path) -> None:
    """Put what was found after a cut into an empty directory."""
    for path, data in sorted(image.items()):
        if path.endswith("/"):
            (root / path).mkdir(parents=True)
        else:
            (root / path).write_bytes(data)
