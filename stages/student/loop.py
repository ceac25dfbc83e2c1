"""The training loop of stage two: a student against cached answers, on accelerate.

A step sees a few slices of rows, each of one input length, or masked where tokens are kept;
gradients are summed over the slices.  A GPU, which would wait for its kernels to be launched, takes
a small step's slices padded in one pass.  All that is random follows from the seed and the step, so
a killed run continues to the weights that an unbroken one ends with.
"""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cache.draw import mix_seeds
from stages.errors import TrainingError
from stages.metrics import Projection, compute_projection
from stages.reporter import Interrupted, Reporter
from stages.student.config import TrainingConfig
from stages.student.data import Rows, RowSource, join_slices
from stages.student.model import Student
from stages.student.objectives import Objective
from stages.student.optimiser import group_parameters, scale_rate

if TYPE_CHECKING:
    from accelerate import Accelerator


Point = dict[str, float | None]
"""A value for each of the columns; None where a column does not apply to the objective."""

MEASURED = ("centred_angle", "agreement", "angle", "norm_g", "norm_h")
CURVE = ("step", "loss", *MEASURED, "c_learned", "c_closed_form")
"""Columns of the curve; angles in radians, norms per root row."""

LEAST_SCALE = 2.0**-10
"""What a loss in float16 is multiplied by at the least: from 2¹⁶ on, after 26 steps left out."""

CHECKPOINT_SECONDS = 120.0
"""A checkpoint is written at the latest after so long, however slow the steps are."""


@dataclass
class Training:
    """The state of one training, which a checkpoint holds."""

    student: Student
    objective: Objective
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None  # with fp16 alone
    step: int = 0
    history: list[Point] = field(default_factory=list)  # the curve
    losses: list[torch.Tensor] = field(default_factory=list)
    # Wall time of steps and curve, over all parts of a run; what a kill lost is left out.
    seconds: float = 0.0
    is_changing: bool = False  # whether a step is half taken

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return self.student.start.device

    @property
    def on_gpu(self) -> bool:
        """Whether that is a GPU, which its dropout is drawn on then."""
        return self.device.type == "cuda"

    def state(self, identity: str) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        return {
            "identity": identity,
            "step": self.step,
            "history": self.history,
            "losses": self.losses,
            "seconds": self.seconds,
            "student": self.student.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what :meth:`state` returned."""
        self.student.load_state_dict(state["student"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.history = state["step"], state["history"]
        self.seconds = state["seconds"]
        self.losses = [loss.to(self.device) for loss in state["losses"]]
        if self.scaler is not None and state.get("scaler") is not None:
            self.scaler.load_state_dict(state["scaler"])


def train_student(
    student: Student,
    source: RowSource,
    config: TrainingConfig,
    accelerator: Accelerator,
    checkpoint: Path,
    identity: str,
    reporter: Reporter,
) -> Training:
    """Train a student in place, continuing from the checkpoint of a killed run.

    Another identity, which is what the run depends on beside ``config``, starts anew.  The
    checkpoint is removed by nobody but the caller.  Raises TrainingError where the gradient is NaN
    or infinite.
    """
    identity = f"{identity} {sorted(asdict(config).items())}"
    objective = Objective(config.objective)
    optimizer = torch.optim.AdamW(group_parameters(student, objective, config), betas=(0.9, 0.98))
    prepared, objective, optimizer = accelerator.prepare(student, objective, optimizer)
    run = Training(student, objective, optimizer, accelerator.scaler)
    _continue_run(run, checkpoint, identity, reporter)
    stream = source.open_stream(run.step * config.lengths_per_batch)
    since, skipped = time.monotonic() - run.seconds, 0
    saved = time.monotonic()
    with reporter.track("student", config.steps, run.step, "step") as advance:
        try:
            while run.losses or run.step < config.steps:
                run.seconds = time.monotonic() - since
                last = run.step == config.steps
                # First what a run that was stopped at this step had not come to.
                if run.losses and (run.step % config.log_every == 0 or last):
                    logits, teacher = answer_held_out(prepared, source, advance)
                    found = compute_projection(teacher.numpy(), logits.softmax(dim=1).numpy())
                    loss = torch.stack(run.losses).mean().item()
                    run.history.append(make_point(run.step, loss, run.objective.c, found))
                    run.losses.clear()
                    reporter.say(describe_point(run.history[-1]))
                    run.seconds = time.monotonic() - since
                late = time.monotonic() - saved > CHECKPOINT_SECONDS
                if run.step and (run.step % config.checkpoint_every == 0 or last or late):
                    _save(checkpoint, run.state(identity))
                    saved = time.monotonic()
                if not last:
                    _take_step(prepared, run, stream, config, accelerator, advance)
                    skipped += optimizer.step_was_skipped
                    advance(1)
        except Interrupted:
            if not run.is_changing:
                with suppress(Interrupted):  # it is heeded now, and saving may take its time
                    reporter.check_stop()
                _save(checkpoint, run.state(identity))
            raise
    if skipped:
        reporter.say(f"float16: {skipped:,} steps were left out, their gradient overflowed")
    return run


@torch.no_grad()
def answer_held_out(
    student: torch.nn.Module, source: RowSource, advance: Callable[[int], None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a student's logits and the teacher's probabilities on the held-out rows.

    Both have shape (N, K) and are on the CPU; the student is left in evaluation mode.  ``advance``
    is told 0 before every batch, and may raise to stop.
    """
    student.eval()
    logits, teacher = [], []
    for rows in source.held_out():
        advance(0)
        logits.append(student(rows.embeddings, rows.mask).float().cpu())
        teacher.append(rows.probabilities.cpu())
    return torch.cat(logits), torch.cat(teacher)


def make_point(step: int, loss: float, c: torch.Tensor | None, found: Projection) -> Point:
    """Return one point of the curve; ``loss`` is the mean over the steps since the last one."""
    learned = None if c is None else c.item()
    values = (float(step), loss, *(getattr(found, name) for name in MEASURED), learned, found.c)
    return dict(zip(CURVE, values, strict=True))


def describe_point(point: Point) -> str:
    """Say one point in a line of the log."""
    learned = "" if point["c_learned"] is None else f"c {point['c_learned']:.3f} learned, "
    return (
        f"step {point['step']:,.0f}: loss {point['loss']:.4f}, "
        f"agreement {point['agreement']:.1%}, centred α {point['centred_angle']:.3f}, "
        f"α {point['angle']:.3f}, {learned}c* {point['c_closed_form']:.3f}, "
        f"‖g‖ {point['norm_g']:.3f}, ‖h‖ {point['norm_h']:.3f}"
    )


def format_curve(points: Iterable[Point]) -> str:
    """Format a curve as CSV with the columns :data:`CURVE`; what does not apply stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CURVE, lineterminator="\n")
    writer.writeheader()
    for point in points:
        known = {key: value for key, value in point.items() if value is not None}
        cells = {key: f"{value:.6g}" for key, value in known.items() if not math.isnan(value)}
        writer.writerow(cells | {"step": f"{known['step']:.0f}"})
    return text.getvalue()


def _take_step(
    student: torch.nn.Module,
    run: Training,
    stream: Iterator[Rows],
    config: TrainingConfig,
    accelerator: Accelerator,
    advance: Callable[[int], None],
) -> None:
    torch.manual_seed(int(mix_seeds(config.seed, run.step, 1)[0]))
    for group in run.optimizer.param_groups:
        group["lr"] = group["peak"] * scale_rate(run.step, config)
    student.train()
    total = torch.zeros((), device=accelerator.device)
    slices = [next(stream) for _ in range(config.lengths_per_batch)]
    for rows, part in join_slices(slices, run.on_gpu):
        advance(0)
        with accelerator.autocast():
            logits = student(rows.embeddings, rows.mask)
        counts = [len(each.probabilities) for each in part]
        answers = zip(part, logits.float().log_softmax(dim=1).split(counts), strict=True)
        losses = [run.objective(each.probabilities, found) for each, found in answers]
        loss = torch.stack(losses).sum() / config.lengths_per_batch
        accelerator.backward(loss)
        total += loss.detach()
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = accelerator.clip_grad_norm_(parameters, config.clip)
    # A gradient scaler, which float16 needs, skips steps until its scale is small enough.
    judged = norm if accelerator.scaler is None else total
    if judged is not None and not torch.isfinite(judged):
        raise TrainingError(
            f"step {run.step + 1}: the gradient is NaN or infinite (loss {total.item():.4g}); "
            "lower the learning rate"
        )
    run.is_changing = True
    run.optimizer.step()
    run.optimizer.zero_grad()
    if accelerator.scaler is not None and accelerator.scaler.get_scale() < LEAST_SCALE:
        raise TrainingError(
            f"step {run.step + 1}: the gradient is NaN or infinite in float16 however small the "
            f"loss is made (by {accelerator.scaler.get_scale():.2g}); lower the learning rate"
        )
    run.losses.append(total)
    run.step += 1
    run.is_changing = False


def _continue_run(run: Training, checkpoint: Path, identity: str, reporter: Reporter) -> None:
    if not checkpoint.exists():
        return
    try:
        state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises whatever its zip and pickle layers met
        raise TrainingError(f"the checkpoint {checkpoint} is damaged; remove it") from error
    if state["identity"] != identity:
        why = "other settings, or of another version of the training code"
        reporter.say(f"the checkpoint {checkpoint} is of {why}: starting anew")
        return
    run.restore(state)
    reporter.say(f"continuing at step {run.step:,} from {checkpoint}")


def _save(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    torch.save(state, partial)
    partial.replace(path)
