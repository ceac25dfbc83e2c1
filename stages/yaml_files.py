"""YAML that people write: tasks and ``params.yaml``.

Every value is text as it is written: what 024, no, 1e3 or 2024-02-30 mean is for whoever asks for
it to say.  A file's size, its depth and all that its aliases stand for are bounded.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from stages.errors import StageError

LARGEST = 2**18  # bytes of a file; and characters, once every alias is replaced
DEEPEST = 50  # levels of lists and mappings

_TAG = "tag:yaml.org,2002:"
_MERGE = re.compile(r"<<\Z")
_SINGLE = ("str", "null", "merge", "bool", "int", "float")
_NULL = re.compile(r"(~|null|Null|NULL|)\Z")


def read_yaml(path: Path, what: str, kind: type[StageError], key: str | None = None) -> Any:
    """Read a YAML file, or what stands below one of its top keys; the others may hold anything.

    The result is mappings, lists and text; None for null, an empty document, or one without the
    key.  ``what`` the file is stands in messages; an error is of the given kind.
    """
    name = f"{what} {path}".strip()
    try:
        # A pipe would be empty when it is read once more, or never end.
        if path.exists() and not path.is_file():
            raise kind(f"cannot read {name}: it is no file, but a directory, a pipe or a device")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise kind(f"cannot read {name}: {error.strerror}") from error
    if len(data) > LARGEST:
        raise kind(f"cannot read {name}: it has more than {LARGEST:,} bytes")
    text, line = "", None
    try:
        text = data.decode(json.detect_encoding(data))
        # YAML lets tabs indent what is in brackets, such as JSON; the parser does not.
        if text.lstrip()[:1] in ("{", "["):
            text = re.sub(r"(?m)^[ \t]+", " ", text)
        return _Loader(text).read(key)
    except UnicodeDecodeError as error:
        line, fault = data.count(b"\n", 0, error.start), f"not {error.encoding}; convert the file"
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        fault = f"the character U+{ord(text[error.position]):04X} is not YAML"
    except _LineError as error:
        line, fault = error.args
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else error.problem_mark.line
        fault = f"not YAML: {error.problem}"
    except (ValueError, OverflowError):  # of an escape, or of a directive
        fault = "not YAML: a number in it is too large"
    raise kind(f"{name}{'' if line is None else f', line {line + 1}'}: {fault}")


class _LineError(Exception):
    """A line, from 0, and what is wrong there."""


class _Loader(yaml.SafeLoader):
    """Takes every value as it is written, and keeps count of what was read."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class has it
        None: [(f"{_TAG}merge", _MERGE), (f"{_TAG}null", _NULL)]
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth, self._left = 0, LARGEST

    def read(self, key: str | None) -> Any:
        root = self.get_single_node()
        if key is not None:
            pairs = root.value if isinstance(root, yaml.MappingNode) else []
            found = [pair for pair in pairs if pair[0].value == key]
            if len(found) > 1:
                raise _fault(found[1][0], f"the key {key!r} is given twice")
            root = found[0][1] if found else None
        return None if root is None else self._build(root, 0)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            where: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise _fault(where, f"more than {DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _build(self, node: yaml.Node, depth: int) -> Any:
        self._left -= 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self._left < 0 or depth > DEEPEST:
            limit = f"{LARGEST:,} characters" if self._left < 0 else f"{DEEPEST} levels"
            raise _fault(node, f"with its aliases replaced this has more than {limit}")
        tag = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and tag == "map":
            return self._build_mapping(node, depth)
        if isinstance(node, yaml.SequenceNode) and tag == "seq":
            return [self._build(each, depth + 1) for each in node.value]
        if not isinstance(node, yaml.ScalarNode) or tag not in _SINGLE:
            shown = node.tag.replace(_TAG, "!!")
            raise _fault(node, f"the tag {shown!r:.80} cannot be read here; leave it out")
        if tag == "null":
            return None
        try:
            # JSON writes a character beyond U+FFFF as a pair.
            text: str = node.value
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            raise _fault(node, "half a surrogate pair is no character") from error

    def _build_mapping(self, node: yaml.MappingNode, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        own = set()
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _fault(key_node, "a key must be a single value")
            key, merges = self._build(key_node, depth + 1), key_node.tag == f"{_TAG}merge"
            if (key, merges) in own:
                raise _fault(key_node, f"the key {key!r:.80} is given twice")
            own.add((key, merges))
            value = self._build(value_node, depth + 1)
            if not merges:
                found[key] = value
                continue
            # The first source wins; what the mapping itself says wins over all.
            for source in value if isinstance(value, list) else [value]:
                if not isinstance(source, dict):
                    raise _fault(value_node, "'<<' takes a mapping, or a list of mappings")
                found |= {name: each for name, each in source.items() if name not in found}
        return found


def _fault(node: Any, problem: str) -> _LineError:
    return _LineError(node.start_mark.line, problem)
