"""Records of students and evaluations that a report is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

APPROACHES = {
    "direct": {"labels": "gold", "sampler": "texts", "fingerprint": "", "texts": "train.csv"},
    "texts": {"sampler": "texts", "fingerprint": "ab" * 32},
    "texts-small": {"sampler": "texts", "fingerprint": "ab" * 32, "arch": "static"},
    "self": {"sampler": "self", "fingerprint": "cd" * 32},
    "letter": {"sampler": "uniform", "fingerprint": "ef" * 32},
    "projection": {"sampler": "unigram", "fingerprint": "01" * 32},
}


def make_record(task: str, approach: str, seed: int, agreement: float) -> dict[str, Any]:
    """What a student's training.json holds."""
    letter = approach == "letter"
    curve = [
        {
            "step": 10.0 * k,
            "c_learned": 0.5 + k / 10 if letter else None,
            "c_closed_form": 1 + 0.1 / k,
            "norm_g": 0.8,
            "norm_h": 0.8 - 0.1 / k,
            "angle": 0.6 / k,
            "centred_angle": None if letter and k == 1 else 1.2 / k,
        }
        for k in range(1, 6)
    ]
    held_out = {"rows": 100, "agreement": agreement}
    interval = [agreement - 0.02, agreement + 0.02]
    usual = {
        "task": {"name": task, "max_length": 12, "labels": []},
        "start_id": 0,
        "arch": "mini",
        "init": "random",
        "labels": "teacher",
        "rows": 4096,
        "held_out": held_out,
        "self_generated": {"rows": 50, "agreement": agreement - 0.05, "interval": interval},
        "training": {"objective": "algorithm-1" if letter else "kl", "steps": 50, "batch_size": 64,
                     "lengths_per_batch": 4, "seed": seed},
        "seconds": {"training": 10.0 + seed},
        "preparation": {"seconds": 0.0 if approach == "direct" else 30.0, "rows": 4096},
        "versions": {"python": "3.11", "machine": "2 cores, x86_64", "threads": 1},
        "curve": curve,
    }  # fmt: skip
    return usual | APPROACHES[approach]


def write_student(root: Path, task: str, approach: str, seed: int, accuracy: float) -> Path:
    """Write a student and its evaluation as `pipeline` lays them out."""
    folder = root / "students" / task / f"{approach}-{seed}"
    folder.mkdir(parents=True)
    record = make_record(task, approach, seed, min(0.99, accuracy + 0.05))
    (folder / "training.json").write_text(json.dumps(record))
    target = root / "evaluations" / task / f"{approach}-{seed}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    scores = {"accuracy": accuracy, "macro_f1": accuracy - 0.01}
    target.write_text(json.dumps({"rows": 500, "model": str(folder), "student": scores}))
    return folder


def write_everything(root: Path, tasks: tuple[str, ...] = ("ag_news", "imdb")) -> None:
    """Every approach on some tasks, three seeds each, the teacher itself too."""
    for number, task in enumerate(tasks):
        for place, approach in enumerate(APPROACHES):
            for seed in range(3):
                accuracy = 0.9 - 0.05 * number - 0.02 * place + 0.01 * seed
                write_student(root, task, approach, seed, accuracy)
        scores = {"accuracy": 0.91, "macro_f1": 0.9}
        path = root / "evaluations" / task / "teacher.json"
        path.write_text(json.dumps({"rows": 500, "task": task, "teacher": scores}))
