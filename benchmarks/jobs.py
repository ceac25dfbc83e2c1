"""Jobs of `benchmarks.inputs`: caches of answered rows, and the students that are asked of them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from cache.directory import Cache
from stages.teacher import Teacher, TeacherPlan


def name_student(args: argparse.Namespace, job: str) -> str:
    """Name the students of a job, all but their seeds."""
    return f"{job}-{Path(args.arch).name}-{args.steps}"


def write_job(path: Path, args: argparse.Namespace, kind: str, fingerprint: str) -> None:
    """Ask for students of a cache."""
    told = {"model": args.model, "task": args.task, "kind": kind, "fingerprint": fingerprint}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(told))
    part.replace(path)


def fill(
    cache: Cache, plan: TeacherPlan, teacher: Teacher, tokens: np.ndarray, logits: np.ndarray
) -> None:
    """Commit rows with their tokens and answers, by their lengths."""
    wide = np.full((len(tokens), teacher.task.max_length), -1, dtype=np.int32)
    wide[:, : tokens.shape[1]] = tokens
    order = np.argsort((wide >= 0).sum(axis=1), kind="stable")
    while (claim := cache.claim_next()) is not None:
        with claim:
            span = cache.rows_of(claim.shard)
            rows = order[span.start : span.stop]
            columns = {
                "seed": plan.inputs.seeds[span.start : span.stop],
                "length": (wide[rows] >= 0).sum(axis=1).astype(np.int32),
                "logits": logits[rows],
                "probabilities": torch.from_numpy(logits[rows]).softmax(dim=1).numpy(),
                "tokens": wide[rows],
            }
            cache.commit(claim, columns, 0.0)
