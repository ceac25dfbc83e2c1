from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import write_encoder

from stages.student.config import TrainingConfig
from stages.student.model import Student, build_encoder
from stages.student.objectives import Objective
from stages.student.optimiser import choose_rates, group_parameters, scale_rate


def make_student(source: str, init: str) -> Student:
    return Student(build_encoder(source, init, ("a", "b"), 12), torch.zeros(8), 0.1)


def test_a_pretrained_encoder_learns_slower_than_what_is_new_on_it(tmp_path: Path) -> None:
    student = make_student(str(write_encoder(tmp_path, "bert")), "pretrained")
    rate, share, said = choose_rates(None, "pretrained", student)
    assert said == "0.001, the encoder's 0.0003 (pretrained start, width 32)"
    config = TrainingConfig(learning_rate=rate, encoder_share=share)
    objective = Objective("generalised-kl")
    groups = group_parameters(student, objective, config)
    peak = {id(p): group["peak"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(peak) == len(list(student.parameters())) + 1
    assert peak[id(objective.c)] == 1e-3
    assert decay[id(objective.c)] == 0.0
    for name, parameter in student.named_parameters():
        new = name.startswith(("adapter", "encoder.classifier")) or ".pooler." in name
        assert peak[id(parameter)] == pytest.approx(1e-3 if new else 3e-4), name
        assert decay[id(parameter)] == (0.01 if parameter.ndim > 1 else 0.0), name


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("mini", "0.002 (random start, width 128)"),
        ("static", "0.01 (an encoder without layers)"),
        ("distilbert", "0.0001 (random start, width 768)"),
    ],
)
def test_a_random_start_learns_at_one_rate(arch: str, said: str) -> None:
    student = make_student(arch, "random")
    assert choose_rates(None, "random", student)[2] == said
    assert choose_rates(0.5, "random", student)[2] == "0.5 (as asked)"


def test_the_rate_rises_and_falls_to_nothing() -> None:
    config = TrainingConfig(steps=100, warm_up=0.1)
    found = [scale_rate(step, config) for step in range(101)]
    assert found[0] == pytest.approx(0.1)
    assert found[9] == max(found) == 1.0
    assert found[55] == pytest.approx(0.5)
    assert found[100] == 0.0
