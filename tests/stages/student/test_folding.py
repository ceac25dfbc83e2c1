from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import ENCODERS, FURTHER_ENCODERS, REFUSED_ENCODERS, make_encoder_config

from stages.errors import ModelError
from stages.student.folding import check_foldable, fold_student
from stages.student.model import Student, build_encoder

SETTINGS = {**dict(ENCODERS), **FURTHER_ENCODERS}
REFUSED = {name: settings for name, (settings, _) in REFUSED_ENCODERS.items()}
WIDTH = 24


def make_student(arch: str, folder: Path) -> Student:
    make_encoder_config(arch, (SETTINGS | REFUSED)[arch]).save_pretrained(folder)
    encoder = build_encoder(str(folder), "random", ("bad", "good"), 30)
    torch.manual_seed(0)
    return Student(encoder, torch.randn(WIDTH) * 0.1, 0.1)


@pytest.mark.parametrize("arch", sorted(FURTHER_ENCODERS))  # others are written in test_export.py
def test_an_encoder_that_can_be_written_is_taken(arch: str, tmp_path: Path) -> None:
    student = make_student(arch, tmp_path)
    before = torch.get_rng_state()
    check_foldable(student, 30)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("arch", sorted(REFUSED))
def test_an_encoder_that_cannot_be_written_is_refused(arch: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=REFUSED_ENCODERS[arch][1]) as caught:
        check_foldable(make_student(arch, tmp_path), 30)
    assert "\n" not in str(caught.value)


def test_special_ids_of_another_vocabulary_do_not_outlive_it(tmp_path: Path) -> None:
    student = make_student("modernbert", tmp_path)
    student.encoder.config.pad_token_id = student.encoder.config.cls_token_id = 900
    folded = fold_student(student, torch.randn(50, WIDTH), pad_id=7)
    assert (folded.config.pad_token_id, folded.config.cls_token_id) == (7, 7)
    assert folded.config.vocab_size == 50
