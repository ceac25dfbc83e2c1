"""The generator: known answers, and the same bits however a draw is split or computed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
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
from cache.errors import CacheError, SamplerError

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
uint64s = st.integers(0, 2**64 - 1)


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


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_the_reference_gives_the_known_answers(counter: str, key: str, answer: str) -> None:
    assert philox(words(counter), words(key)) == words(answer)


def test_a_draw_is_the_known_answer_for_seed_zero() -> None:
    assert random_integers_numpy(as_seeds(0), 4)[0].tolist() == words(KNOWN[0][2])
    assert random_integers(as_seeds(0), 4)[0].tolist() == words(KNOWN[0][2])


@settings(max_examples=60, deadline=None)
@given(
    seed=uint64s,
    first=st.one_of(st.integers(0, 100), st.integers(2**34 - 20, 2**34), st.integers(0, 2**65)),
    count=st.integers(0, 13),
    stream=st.integers(0, 2**32 - 1),
)
def test_numpy_and_torch_give_the_reference(seed: int, first: int, count: int, stream: int) -> None:
    expected = [reference(seed, first, count, stream)]
    made = random_integers_numpy(as_seeds(seed), count, first=first, stream=stream)
    assert made.dtype == np.uint32
    assert made.tolist() == expected
    tensor = random_integers(as_seeds(seed), count)
    assert tensor.dtype == torch.int64
    assert tensor.tolist() == [reference(seed, 0, count, 0)]


@pytest.mark.parametrize("first", [2**34 - 8, 2**34, 2**64 - 8, 2**66 - 20])
def test_counters_beyond_32_and_63_bits(first: int) -> None:
    seeds = as_seeds(3, 2**64 - 1)
    expected = [reference(int(seed), first, 20, 7) for seed in seeds]
    assert random_integers_numpy(seeds, 20, first=first, stream=7).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(
    seeds=st.lists(uint64s, min_size=1, max_size=6),
    count=st.integers(1, 40),
    data=st.data(),
)
def test_any_split_of_rows_and_columns_and_any_order_give_the_same(
    seeds: list[int], count: int, data: st.DataObject
) -> None:
    whole = random_integers_numpy(as_seeds(*seeds), count)
    row = data.draw(st.integers(0, len(seeds)))
    column = data.draw(st.integers(0, count))
    for low, high in ((0, row), (row, len(seeds))):
        left = random_integers_numpy(as_seeds(*seeds[low:high]), column)
        right = random_integers_numpy(as_seeds(*seeds[low:high]), count - column, first=column)
        assert np.array_equal(np.hstack([left, right]), whole[low:high])
    order = data.draw(st.permutations(range(len(seeds))))
    shuffled = random_integers_numpy(as_seeds(*(seeds[index] for index in order)), count)
    assert np.array_equal(shuffled, whole[list(order)])


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
    row, step = rows - 1, TILE // 4
    for start in range(0, 4 * blocks, step):
        count = min(step, 4 * blocks - start)
        part = random_integers_numpy(seeds[row : row + 1], count, first=start)
        assert np.array_equal(made[row, start : start + step], part[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_s_numbers_are_the_processor_s(dtype: torch.dtype) -> None:
    seeds = mix_seeds(2, 0, 40)
    made = generator._draw(seeds, 43, torch.device("cpu"), dtype)
    assert torch.equal(made, random_uniform(seeds, 43, dtype=dtype))


def test_an_empty_draw_has_its_shape() -> None:
    for draw in (random_integers, random_integers_numpy):
        assert draw(as_seeds(1, 2), 0).shape == (2, 0)
        assert draw(as_seeds(), 5).shape == (0, 5)


def test_row_seeds_depend_on_the_run_and_the_index_alone() -> None:
    seeds = mix_seeds(7, 0, 100)
    assert seeds.dtype == np.uint64
    assert np.array_equal(mix_seeds(7, 40, 10), seeds[40:50])
    assert len(set(seeds.tolist()) | set(mix_seeds(8, 0, 100).tolist())) == 200
    low, high = reference(7, 4 * 41, 2, Purpose.ROW_SEED)
    assert int(seeds[41]) == low | high << 32


def test_purposes_never_share_a_block() -> None:
    drawn = [draw_blocks(7, 0, 50, purpose).tobytes() for purpose in Purpose]
    assert len(set(drawn)) == len(Purpose)


def test_another_process_draws_the_same() -> None:
    code = (
        "from cache.draw.philox import mix_seeds, random_integers_numpy as draw;"
        "import sys; sys.stdout.write(draw(mix_seeds(5, 9, 4), 300).tobytes().hex())"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True
    )
    assert result.stdout == random_integers_numpy(mix_seeds(5, 9, 4), 300).tobytes().hex()


def test_bits_and_words_are_as_frequent_as_they_should_be() -> None:
    made = random_integers_numpy(mix_seeds(0, 0, 64), 4096)
    ones = np.unpackbits(made.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 0.001
    counts = np.bincount((made >> 24).ravel(), minlength=256)
    expected = made.size / 256
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert 170 < chi_square < 350  # 255 degrees of freedom: beyond 5 sigma


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.array([1, 2]), 4), r"seeds: got int64 \(2,\), must be a vector of uint64"),
        (([1, 2], 4), "seeds: got list, must be a vector of uint64"),
        ((as_seeds(1)[None], 4), r"seeds: got uint64 \(1, 1\)"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[np.ndarray, int], message: str) -> None:
    for draw in (random_integers_numpy, random_integers):
        with pytest.raises(SamplerError, match=message):
            draw(*arguments)


def test_a_wrong_run_seed_is_named() -> None:
    with pytest.raises(CacheError, match=r"run seed: got -1, must be in \[0, 18446744073709551615"):
        mix_seeds(-1, 0, 1)
