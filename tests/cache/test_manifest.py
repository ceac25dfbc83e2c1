import hashlib
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import ManifestError
from cache.format.documents import canonical, plain
from cache.format.layout import Column, Layout, answer_columns
from cache.format.manifest import LARGEST_MANIFEST, FileInfo, Manifest

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


def shuffle(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        chance.shuffle(items)
        return {key: shuffle(item, chance) for key, item in items}
    return [shuffle(item, chance) for item in value] if isinstance(value, list) else value


def same(one: Any, other: Any) -> bool:
    """Equality that tells True from 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@given(mappings, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_change_the_fingerprint(
    inputs: dict[str, Any], chance: random.Random
) -> None:
    assert made(inputs=shuffle(inputs, chance)).fingerprint == made(inputs=inputs).fingerprint


@given(mappings, mappings)
def test_different_inputs_have_different_fingerprints(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    prints = made(inputs=one).fingerprint, made(inputs=other).fingerprint
    assert (prints[0] == prints[1]) == same(one, other)


@given(st.data())
def test_a_change_of_any_one_value_changes_the_fingerprint(data: st.DataObject) -> None:
    inputs = {"a": {"b": [1, {"c": "text"}]}, "d": None, "e": True, "f": "1"}
    paths = [("a", "b", 0), ("a", "b", 1, "c"), ("d",), ("e",), ("f",), ("a", "b"), ("a",)]
    path = data.draw(st.sampled_from(paths))
    changed = plain(inputs, "inputs")
    place = changed
    for key in path[:-1]:
        place = place[key]
    old = place[path[-1]]
    place[path[-1]] = data.draw(values.filter(lambda value: not same(value, old)))
    assert made(inputs=changed).fingerprint != made(inputs=inputs).fingerprint


@given(mappings)
def test_what_is_written_is_read_back(inputs: dict[str, Any]) -> None:
    manifest = made(inputs=inputs)
    data = manifest.to_bytes()
    again = Manifest.from_bytes(data, "m")
    assert again == manifest
    assert again.to_bytes() == data


@pytest.mark.parametrize(
    "layout",
    [
        replace(LAYOUT, rows=1001),
        replace(LAYOUT, chunk_rows=16),
        replace(LAYOUT, shard_rows=128),
        replace(LAYOUT, columns=answer_columns(3)),
        replace(LAYOUT, columns=answer_columns(2, tokens=9)),
        replace(LAYOUT, columns={**LAYOUT.columns, "seed": Column("int64")}),
        replace(LAYOUT, columns={**LAYOUT.columns, "seed": Column("uint64", fill=1)}),
        replace(LAYOUT, columns={**LAYOUT.columns, "seed": Column("uint64", compressed=True)}),
    ],
)
def test_the_layout_is_part_of_the_fingerprint(layout: Layout) -> None:
    assert made(layout=layout).fingerprint != made().fingerprint


def test_label_notes_files_and_time_are_not_part_of_the_fingerprint() -> None:
    other = made(label="x", notes={}, files={}, created="2020-01-01")
    assert other.fingerprint == made().fingerprint


def test_the_fingerprint_is_the_same_in_every_release() -> None:
    assert made().fingerprint == hashed_by_hand()


def hashed_by_hand() -> str:
    column = '{"compressed":false,"dtype":"%s","fill":0,"shape":[%s]}'
    text = (
        '{"format_version":1,"inputs":{"bos":null,"labels":{"pos":["Good"]},"model":"m",'
        '"seed":18446744073709551615,"\\u00e9":"\\u732b"},"layout":{"chunk_rows":8,"columns":{'
        f'"length":{column % ("int32", "")},"logits":{column % ("float32", "2")},'
        f'"probabilities":{column % ("float32", "2")},"seed":{column % ("uint64", "")}}},'
        '"rows":1000,"shard_rows":64}}'
    )
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_person_can_read_it() -> None:
    text = made().to_bytes().decode("utf-8")
    assert '  "inputs": {\n    "model": "m",\n' in text
    assert '"é": "猫"' in text


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
    ],
)
def test_inputs_that_cannot_be_written_without_loss_are_refused(inputs: Any, named: str) -> None:
    with pytest.raises(ManifestError, match=named):
        made(inputs=inputs)


def test_endless_inputs_are_refused() -> None:
    inputs: dict[str, Any] = {}
    inputs["again"] = inputs
    with pytest.raises(ManifestError, match="deep"):
        made(inputs=inputs)


def test_infinite_notes_are_refused_and_too_large_ones_too() -> None:
    with pytest.raises(ManifestError, match=r"notes\.a"):
        made(notes={"a": float("inf")})
    with pytest.raises(ManifestError, match="attachments"):
        made(notes={"a": "x" * LARGEST_MANIFEST}).to_bytes()


def test_later_changes_of_the_callers_mapping_change_nothing() -> None:
    inputs = {"a": [1]}
    manifest = made(inputs=inputs)
    before = manifest.fingerprint
    inputs["a"].append(2)
    assert manifest.inputs == {"a": [1]}
    assert made(inputs=manifest.inputs).fingerprint == before


def test_canonical_json_is_ascii_without_spaces() -> None:
    assert canonical({"b": [1, None], "a": "é"}) == b'{"a":"\\u00e9","b":[1,null]}'


def test_rows_chunks_and_shards_of_a_layout_that_does_not_divide_evenly() -> None:
    layout = Layout(1000, 7, 70, {"x": Column("int8")})
    assert (layout.shards, layout.chunks, layout.chunks_per_shard) == (15, 143, 10)
    assert layout.rows_of(14) == range(980, 1000)
    assert layout.chunks_of(14) == range(140, 143)
    assert layout.rows_of_chunk(142) == range(994, 1000)
