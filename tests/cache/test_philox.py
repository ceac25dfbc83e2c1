"""The generator: known answers, and the same bits however a draw is split or computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cache.draw import philox as generator
from cache.draw.philox import (
    TILE,
    Purpose,
    draw_blocks,
    mix_seeds,
    random_integers,
    random_integers_numpy,
    random_uniform,
)
from cache.errors import SamplerError

# Random123's kat_vectors for philox4x32-10: counter, key, words.
KNOWN = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def as_seeds(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 with Python's own integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p, q = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = q >> 32 ^ c1 ^ k0, q % 2**32, p >> 32 ^ c3 ^ k1, p % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def reference(seed: int, first: int, count: int, stream: int) -> list[int]:
    """A row's integers, one at a time."""
    key = [seed % 2**32, seed >> 32]
    return [
        philox([word // 4 % 2**32, word // 4 >> 32, stream, 0], key)[word % 4]
        for word in range(first, first + count)
    ]


def test_the_reference_gives_the_known_answers() -> None:
    for counter, key, answer in KNOWN:
        assert philox(words(counter), words(key)) == words(answer)


@settings(max_examples=60, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 2**64 - 1), max_size=4),
    first=st.one_of(st.integers(0, 100), st.integers(2**34 - 20, 2**34), st.integers(0, 2**65)),
    count=st.integers(0, 13),
    stream=st.integers(0, 2**32 - 1),
)
@example(seeds=[3, 2**64 - 1], first=2**64 - 8, count=20, stream=7)
@example(seeds=[3, 2**64 - 1], first=2**66 - 20, count=20, stream=7)
def test_numpy_and_torch_give_the_reference(
    seeds: list[int], first: int, count: int, stream: int
) -> None:
    made = random_integers_numpy(as_seeds(*seeds), count, first=first, stream=stream)
    assert (made.dtype, made.shape) == (np.uint32, (len(seeds), count))
    assert made.tolist() == [reference(seed, first, count, stream) for seed in seeds]
    tensor = random_integers(as_seeds(*seeds), count)
    assert (tensor.dtype, tensor.shape) == (torch.int64, made.shape)
    assert tensor.tolist() == [reference(seed, 0, count, 0) for seed in seeds]


SHAPES = [(3, TILE + 5), (2, TILE // 2 + 1), (5, TILE // 4), (TILE + 3, 1)]


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(("rows", "blocks"), SHAPES)
def test_tiles_meet_without_a_seam(
    library: str, rows: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "GPU_TILE", TILE)
    seeds = mix_seeds(1, 0, rows)
    draw = random_integers if library == "torch" else random_integers_numpy
    made = np.asarray(draw(seeds, 4 * blocks))
    for row in (0, rows // 2, rows - 1):
        assert made[row, :4].tolist() == reference(int(seeds[row]), 0, 4, 0)
        assert made[row, -4:].tolist() == reference(int(seeds[row]), 4 * blocks - 4, 4, 0)
    # Against draws that fit one tile, so a wrong column or row in the middle shows as well.
    step = TILE // 4
    for start in range(0, 4 * blocks, step):
        count = min(step, 4 * blocks - start)
        part = random_integers_numpy(seeds[-1:], count, first=start)
        assert np.array_equal(made[-1, start : start + step], part[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_s_numbers_are_the_processor_s(dtype: torch.dtype) -> None:
    seeds = mix_seeds(2, 0, 40)
    made = generator._draw(seeds, 43, torch.device("cpu"), dtype)
    assert torch.equal(made, random_uniform(seeds, 43, dtype=dtype))


def test_row_seeds_depend_on_the_run_and_the_index_alone() -> None:
    seeds = mix_seeds(7, 0, 100)
    assert seeds.dtype == np.uint64
    assert np.array_equal(mix_seeds(7, 40, 10), seeds[40:50])
    assert len(set(seeds.tolist()) | set(mix_seeds(8, 0, 100).tolist())) == 200
    low, high = reference(7, 4 * 41, 2, Purpose.ROW_SEED)
    assert int(seeds[41]) == low | high << 32
    # Nor do purposes ever share a block.
    drawn = [draw_blocks(7, 0, 50, purpose).tobytes() for purpose in Purpose]
    assert len(set(drawn)) == len(Purpose)


def test_wrong_arguments_are_named() -> None:
    for seeds, message in [
        (np.array([1, 2]), r"seeds: got int64 \(2,\), must be a vector of uint64"),
        ([1, 2], r"seeds: got list, must be a vector of uint64"),
        (as_seeds(1)[None], r"seeds: got uint64 \(1, 1\)"),
    ]:
        for draw in (random_integers_numpy, random_integers):
            with pytest.raises(SamplerError, match=message):
                draw(seeds, 4)
    with pytest.raises(SamplerError, match=r"run seed: got -1, must be in \[0, 1844674407370955"):
        mix_seeds(-1, 0, 1)
