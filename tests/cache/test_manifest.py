import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import ManifestError, VersionError
from cache.format.documents import seal
from cache.format.layout import Column, Layout, answer_columns
from cache.format.manifest import LARGEST_MANIFEST, FileInfo, Manifest, check_attachment_name

LAYOUT = Layout(1000, 8, 64, answer_columns(2))
FILES = {
    path: FileInfo(3, "0" * 64)
    for path in ["attachments/a.json", "rows/zarr.json"]
    + [f"rows/{name}/zarr.json" for name in LAYOUT.columns]
}
INPUTS = {"model": "m", "seed": 2**64 - 1, "labels": {"pos": ["Good"]}, "bos": None, "é": "猫"}


def made(**changes: Any) -> Manifest:
    settings = {
        "label": "imdb",
        "inputs": INPUTS,
        "layout": LAYOUT,
        "notes": {"spread": 0.25},
        "files": FILES,
        "created": "2026-11-22T16:00:00+00:00",
    }
    return Manifest(**{**settings, **changes})


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64) + 1, 2**64 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
mappings = st.dictionaries(st.text(max_size=5), values, max_size=4)


def reverse(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reverse(item) for key, item in reversed(value.items())}
    return [reverse(item) for item in value] if isinstance(value, list) else value


@given(mappings, mappings)
def test_a_fingerprint_is_of_the_inputs_whatever_the_order_of_their_keys(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    prints = {made(inputs=inputs).fingerprint for inputs in (one, reverse(one), other)}
    # As JSON, since True is not 1.
    assert len(prints) == len({json.dumps(inputs, sort_keys=True) for inputs in (one, other)})


@given(mappings)
def test_what_is_written_is_read_back(inputs: dict[str, Any]) -> None:
    manifest = made(inputs=inputs)
    data = manifest.to_bytes()
    again = Manifest.from_bytes(data, "m")
    assert again == manifest
    assert again.to_bytes() == data


def test_the_layout_is_part_of_the_fingerprint_and_what_is_for_people_is_not() -> None:
    plain = made().fingerprint
    changes: list[dict[str, Any]] = [{"rows": 1001}, {"chunk_rows": 16}, {"shard_rows": 128}]
    changes += [{"columns": answer_columns(3)}, {"columns": answer_columns(2, tokens=9)}]
    for seed in (Column("int64"), Column("uint64", fill=1), Column("uint64", compressed=True)):
        changes.append({"columns": {**LAYOUT.columns, "seed": seed}})
    for change in changes:
        assert made(layout=replace(LAYOUT, **change)).fingerprint != plain
    assert made(label="x", notes={}, files={}, created="2020-01-01").fingerprint == plain


def test_the_fingerprint_is_the_same_in_every_release_and_a_person_can_read_the_file() -> None:
    column = '{"compressed":false,"dtype":"%s","fill":0,"shape":[%s]}'
    text = (
        '{"format_version":1,"inputs":{"bos":null,"labels":{"pos":["Good"]},"model":"m",'
        '"seed":18446744073709551615,"\\u00e9":"\\u732b"},"layout":{"chunk_rows":8,"columns":{'
        f'"length":{column % ("int32", "")},"logits":{column % ("float32", "2")},'
        f'"probabilities":{column % ("float32", "2")},"seed":{column % ("uint64", "")}}},'
        '"rows":1000,"shard_rows":64}}'
    )
    assert made().fingerprint == hashlib.sha256(text.encode()).hexdigest()
    written = made().to_bytes().decode("utf-8")
    assert '  "inputs": {\n    "model": "m",\n' in written
    assert '"é": "猫"' in written


ENDLESS: dict[str, Any] = {}
ENDLESS["again"] = ENDLESS


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"a": 1.0}, r"inputs\.a"),
        ({"a": [float("nan")]}, r"inputs\.a\[0\]"),
        ({"a": {"b": {1, 2}}}, r"inputs\.a\.b"),
        ({"a": b"x"}, "bytes"),
        ({"a": object()}, "object"),
        ({1: "a"}, r"inputs\.1"),
        ({"a": "\ud800"}, "surrogate"),
        ({"a": 2**64}, "64 bits"),
        ({"a": np.int64(1)}, "int64"),
        ({"again": ENDLESS}, "deep"),
    ],
)
def test_inputs_that_cannot_be_written_without_loss_are_refused(inputs: Any, named: str) -> None:
    with pytest.raises(ManifestError, match=named):
        made(inputs=inputs)


def test_infinite_notes_and_too_large_ones_are_refused() -> None:
    with pytest.raises(ManifestError, match=r"notes\.a"):
        made(notes={"a": float("inf")})
    with pytest.raises(ManifestError, match="attachments"):
        made(notes={"a": "x" * LARGEST_MANIFEST}).to_bytes()
    # Nor do later changes of the caller's mapping change anything.
    inputs = {"a": [1]}
    manifest = made(inputs=inputs)
    inputs["a"].append(2)
    assert manifest.inputs == {"a": [1]}


def test_rows_chunks_and_shards_of_a_layout_that_does_not_divide_evenly() -> None:
    layout = Layout(1000, 7, 70, {"x": Column("int8")})
    assert (layout.shards, layout.chunks_per_shard) == (15, 10)
    assert layout.rows_of(14) == range(980, 1000)
    assert layout.chunks_of(14) == range(140, 143)


def test_every_flipped_byte_and_every_cut_is_refused() -> None:
    files = dict.fromkeys(("rows/zarr.json", "rows/x/zarr.json"), FILES["rows/zarr.json"])
    layout = replace(LAYOUT, columns={"x": Column("int8")})
    data = made(inputs={"a": 1}, notes={}, layout=layout, files=files).to_bytes()
    Manifest.from_bytes(data, "m")
    for place in range(len(data)):
        for flip in (0x01, 0x07, 0x20, 0x80, 0xFF):
            changed = bytearray(data)
            changed[place] ^= flip
            with pytest.raises(ManifestError):
                Manifest.from_bytes(bytes(changed), "m")
        with pytest.raises(ManifestError):
            Manifest.from_bytes(data[:place], "m")


def refuse(keys: str, value: Any, error: type[Exception], match: str) -> None:
    """Expect an error of a manifest in which someone put a value and gave it a fitting checksum."""
    document = inside = json.loads(made().to_bytes())
    del document["checksum"]
    *steps, last = keys.split("|")
    for step in steps:
        inside = inside[step]
    inside[last] = value
    if value is GONE:
        del inside[last]
    with pytest.raises(error, match=match):
        Manifest.from_bytes(seal(document), "m")


def test_an_edited_manifest_and_one_of_another_version_are_refused_by_name() -> None:
    refuse("inputs|seed", 3, ManifestError, "fingerprint")
    for version in (0, 2, 99):
        found = f"version {version} .*reads version 1"
        refuse("format_version", version, VersionError, found)


GONE = object()
SEED = {"dtype": "uint64", "shape": [], "fill": 0, "compressed": False}
ANY_FILE = {"size": 1, "sha256": "0" * 64}
WRONG: dict[str, list[Any]] = {
    "extra": [1],
    "notes": [GONE],
    "format_version": ["1", True],
    "label": [3, "x" * 10**6],
    "inputs": [[]],
    "created": ["yesterday"],
    "fingerprint": [None],
    "layout|rows": [-1, 10**30, "1000", 2**40],
    "layout|chunk_rows": [0],
    "layout|shard_rows": [63, 2**39],
    "layout|columns": [{}, [], {f"c{i}": SEED for i in range(1000)}],
    "layout|columns|../x": [SEED],
    "layout|columns|seed|dtype": ["object", ["int8"]],
    "layout|columns|seed|shape": [[2**31, 2**31], [-1], [1] * 40, "2"],
    "layout|columns|seed|fill": [-1, GONE],
    "layout|columns|seed|compressed": [1],
    "layout|columns|logits|fill": [1],
    "files": [3],
    "files|rows/seed/zarr.json": [GONE],
    "files|attachments/../../x": [ANY_FILE],
    "files|attachments//x": [ANY_FILE],
    "files|/etc/passwd": [ANY_FILE],
    "files|rows/../zarr.json": [ANY_FILE],
    "files|rows/no/zarr.json": [ANY_FILE],
    "files|rows/zarr.json|size": [-1, 2**60],
    "files|rows/zarr.json|sha256": ["z" * 64],
}


@pytest.mark.parametrize("keys", WRONG)
def test_a_hostile_manifest_ends_in_the_error(keys: str) -> None:
    for value in WRONG[keys]:
        refuse(keys, value, ManifestError, "m is not a sound manifest: ")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 10**6,
        b'{"a":' * 10**5,
        b'{"format_version": 1e999}',
        b'{"format_version": NaN}',
        b'{"format_version": ' + b"9" * 5000 + b"}",
        b'{"format_version": 1, "a": "\\ud800"}',
        b" " * (LARGEST_MANIFEST + 1),
        b"cos\nsystem\n(S'true'\ntR.",
        made().to_bytes() + b"\n",
    ],
)
def test_what_is_not_a_manifest_at_all_ends_in_the_error(data: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data, "m")


def test_attachment_names_stay_in_their_directory() -> None:
    for name in ("", ".", "..", "a/b", "/a", "a\\b", ".hidden", "a..b", "a\0", "é"):
        with pytest.raises(ManifestError, match="attachment name"):
            check_attachment_name(name)
