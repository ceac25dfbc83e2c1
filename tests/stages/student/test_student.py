from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import ENCODER_NAMES, write_encoder, write_language_model

from stages.errors import ModelError, SettingError
from stages.student import Rows, join_slices
from stages.student.architectures import ARCHITECTURES
from stages.student.model import Student, build_encoder, find_room

LABELS = ("bad", "good")
WIDTH = 24


def make_student(folder: Path, arch: str, init: str = "pretrained") -> Student:
    encoder = build_encoder(str(write_encoder(folder, arch)), init, LABELS, 12)
    torch.manual_seed(2)
    return Student(encoder, torch.randn(WIDTH) * 0.1, 0.1).eval()


@pytest.mark.parametrize("arch", ENCODER_NAMES)
@torch.inference_mode()
def test_padding_behind_an_input_changes_nothing(arch: str, tmp_path: Path) -> None:
    student = make_student(tmp_path, arch)
    embeddings = torch.randn(3, 12, WIDTH)
    lengths = (0, 5, 12)
    mask = (torch.arange(12) < torch.tensor(lengths)[:, None]).long()
    together = student(embeddings, mask).softmax(dim=1)
    for row, length in enumerate(lengths):
        alone = student(embeddings[row : row + 1, :length]).softmax(dim=1)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_gpu_takes_a_small_step_in_one_pass(tmp_path: Path) -> None:
    student = make_student(tmp_path, "roberta")
    ids = torch.tensor([[True, True, False], [True, True, True]])
    slices = [
        Rows(torch.randn(2, length, WIDTH), torch.rand(2, 2), mask)
        for length, mask in ((5, None), (0, None), (3, ids.long()))
    ]
    alone = join_slices(slices, on_gpu=False)
    assert [rows for rows, _ in alone] == slices
    ((together, inside),) = join_slices(slices, on_gpu=True)
    assert list(inside) == slices
    wanted = torch.cat([student(rows.embeddings, rows.mask) for rows in slices])
    found = student(together.embeddings, together.mask)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert torch.equal(together.probabilities, torch.cat([x.probabilities for x in slices]))
    large = [Rows(torch.empty(80, 100, 1), torch.rand(80, 2)) for _ in range(3)]
    assert [rows for rows, _ in join_slices(large, on_gpu=True)] == large


@pytest.mark.parametrize("arch", ENCODER_NAMES)
def test_the_encoder_meets_inputs_as_wide_as_its_own_words(arch: str, tmp_path: Path) -> None:
    encoder = build_encoder(str(write_encoder(tmp_path, arch)), "pretrained", LABELS, 12)
    word_std = encoder.get_input_embeddings().weight.std().item()
    table = torch.randn(500, WIDTH) * 0.03
    torch.manual_seed(0)
    student = Student(encoder, table[0], table.std().item())
    found = student.adapter(table).std().item()
    assert found == pytest.approx(word_std, rel=0.25)
    assert encoder.get_input_embeddings().weight.shape[0] == 1


def test_a_pretrained_start_has_the_weights_and_a_random_one_has_not(tmp_path: Path) -> None:
    source = write_encoder(tmp_path, "bert")
    one, two = (build_encoder(str(source), "pretrained", LABELS, 12) for _ in range(2))
    new = build_encoder(str(source), "random", LABELS, 12)
    name = "bert.encoder.layer.1.output.dense.weight"
    weights = [dict(model.named_parameters())[name] for model in (one, two, new)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert one.config.id2label == {0: "bad", 1: "good"}
    assert one.config.problem_type == "single_label_classification"


@pytest.mark.parametrize("arch", ENCODER_NAMES)
def test_a_random_start_is_made_long_enough(arch: str, tmp_path: Path) -> None:
    encoder = build_encoder(str(write_encoder(tmp_path, arch)), "random", LABELS, 100)
    room = find_room(encoder.config)
    assert room is not None and room >= 101
    student = Student(encoder, torch.zeros(WIDTH), 0.1).eval()
    assert student(torch.randn(1, 100, WIDTH)).shape == (1, 2)


@pytest.mark.parametrize(("arch", "room"), [("bert", 39), ("roberta", 37)])
def test_a_pretrained_start_that_is_too_short_is_refused_with_what_fits(
    arch: str, room: int, tmp_path: Path
) -> None:
    source = str(write_encoder(tmp_path, arch))
    with pytest.raises(ModelError, match=f"at most {room} tokens.*up to {room + 1}"):
        build_encoder(source, "pretrained", LABELS, room + 1)
    encoder = build_encoder(source, "pretrained", LABELS, room)
    student = Student(encoder, torch.zeros(WIDTH), 0.1).eval()
    assert student(torch.randn(1, room, WIDTH)).shape == (1, 2)


MILLIONS = {"static": 1, "mini": 1, "minilm": 11}
MILLIONS |= {"distilbert": 43, "modernbert-base": 111}
MILLIONS |= {"roberta-large": 304}
"""Parameters as published, without word embeddings, in roughly so many millions; others: 86."""


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_short_names_build_without_a_download(arch: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder(arch, "random", LABELS, 512)
    room = find_room(encoder.config)
    assert room is not None and room >= 513
    count = sum(p.numel() for p in encoder.parameters())
    count -= encoder.get_input_embeddings().weight.numel()
    assert count / 1e6 == pytest.approx(MILLIONS.get(arch, 86), rel=0.03, abs=1)


def test_a_student_keeps_the_start_token_alone_of_the_table(tmp_path: Path) -> None:
    encoder = build_encoder("static", "random", LABELS, 8)
    student = Student(encoder, torch.randn(50_000, WIDTH)[7], 0.1)
    torch.save(student.state_dict(), tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint").stat().st_size < 10**6


def test_a_student_without_layers_maps_tokens_through_a_hidden_layer() -> None:
    encoder = build_encoder("static", "random", LABELS, 256)
    word_std = encoder.get_input_embeddings().weight.std().item()
    table = torch.randn(500, WIDTH) * 0.03
    torch.manual_seed(0)
    student = Student(encoder, table[0], table.std().item()).eval()
    found = student.adapter(table)
    assert found.std().item() == pytest.approx(word_std, rel=0.4)
    halves = (student.adapter(table[:1]) + student.adapter(table[1:2])) / 2
    assert not torch.allclose(student.adapter((table[:1] + table[1:2]) / 2), halves, atol=1e-4)
    # The order of the tokens is nothing to it.
    one = student(table[None, :9])
    torch.testing.assert_close(student(table[None, :9].flip(1)), one, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arch", "init", "kind", "named"),
    [
        ("mini", "pretraind", SettingError, r"'pretraind'.*pretrained, random"),
        ("mini", "pretrained", SettingError, "mini has no pretrained weights"),
        ("distilbert", "pretrained", ModelError, "distilbert: start it at random"),
        ("nobody", "random", ModelError, r"nobody \(short names are static, mini, minilm"),
    ],
)
def test_a_start_that_cannot_be_is_refused(
    arch: str, init: str, kind: type[Exception], named: str
) -> None:
    with pytest.raises(kind, match=named):
        build_encoder(arch, init, LABELS, 12)


def test_pretrained_weights_are_whole_and_no_pickles(tmp_path: Path) -> None:
    source = write_encoder(tmp_path, "bert")
    config = source / "config.json"
    config.write_text(config.read_text().replace('_layers": 2', '_layers": 3'))
    with pytest.raises(ModelError, match=r"bert\.encoder\.layer\.2.*missing"):
        build_encoder(str(source), "pretrained", LABELS, 12)
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: weights as pickles.*convert"):
        build_encoder(str(source), "pretrained", LABELS, 12)


def test_a_decoder_is_no_encoder(tmp_path: Path) -> None:
    source = write_language_model(tmp_path, "gpt2")
    with pytest.raises(ModelError, match="no encoder"):
        build_encoder(str(source), "random", LABELS, 12)
