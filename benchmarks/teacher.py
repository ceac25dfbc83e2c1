"""The teacher against users' loops and the hardware: ``python -m benchmarks.teacher``.

A Llama of random weights, float32, on the CPU, answers rows of log-uniform lengths, in chunks of 64
of one length, behind a short and a long prompt; beside it a loop as anyone writes it, one as a
careful user writes it, and the floor, which is the matrix products alone.  The teacher and the
floor do all rows; the loops, in batches of 32, do some of the very same rows, of all lengths as
often: the obvious one in random order, the careful one whole batches of rows sorted by length.
Every answer of theirs is compared with the teacher's.  Ratios are of rows a second: the median of
the rounds, in brackets the lowest and the highest; all take turns, another one first each round.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import writing
from benchmarks.common import Spread, format_head, format_row, rotate, run_sections
from benchmarks.subjects import (
    SMALL,
    TINY,
    Rows,
    Shape,
    draw_rows,
    make_model,
    make_task,
    make_tokenizer,
)
from benchmarks.yardsticks import BATCH_ROWS, Floor, Loop, Ours
from pipeline.console import quieten_libraries
from stages.lm import keep_freed_memory
from stages.teacher import Teacher

AGREEMENT = 1e-4
"""How far probabilities may lie apart, in float32."""
OBVIOUS, CAREFUL, OURS, FLOOR = "obvious loop", "careful loop", "ours", "floor"
WORDS = {"whole words": "bad poor", "whole words, half of several tokens": "puppies kittens"}
_BOTH = {FLOOR: "≥ 0.7, aim 0.85", "whole words": "≤ 1.15"}
WANTED = ({OBVIOUS: "≥ 5", CAREFUL: "≥ 1.2"} | _BOTH, {OBVIOUS: "≥ 10", CAREFUL: "≥ 5"} | _BOTH)
"""The ratios to be reached behind the short prompt, and behind the long one."""

HEADS = ("prompt, tokens", "ratio", "measured", "to reach", "ours, rows/s", "other, rows/s")
HEADS += ("other's rows", "their mean tokens", "largest difference of a probability")


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    shape: Shape = SMALL
    rows: int = 512  # that the teacher and the floor answer in a round
    rounds: int = 3
    obvious: tuple[int, ...] = (32, 32)  # rows that the obvious loop answers, for each prompt
    careful: tuple[int, ...] = (256, 64)


QUICK = Effort(TINY, 256, 2, (32, 32), (64, 64))


def make_ours(shape: Shape, tokens: int, rows: Rows) -> Ours:
    """Make a model and the teacher around it, with the batches that suit these rows.

    Raises:
        RuntimeError: The tokenizer cuts the prompt into another number of tokens.
    """
    keep_freed_memory("cpu")  # as the stage does; all yardsticks of this process gain from it
    teacher = Teacher(make_model(shape), make_tokenizer(), make_task(tokens, shape.longest))
    if len(teacher.prefix_ids) != tokens:
        raise RuntimeError(f"the prompt is {len(teacher.prefix_ids)} tokens, must be {tokens}")
    return Ours.tune(teacher, rows.lengths)


def measure_speed(effort: Effort) -> Iterator[str]:
    """Yield the table of rows a second.

    Raises:
        RuntimeError: A loop's probabilities differ from the teacher's by more than rounding.
    """
    shape, rows, notes = effort.shape, draw_rows(effort.shape, effort.rows), []
    yield f"{__doc__}\n{effort.rounds} rounds of {effort.rows} rows; {shape}.\n"
    yield format_head(HEADS)
    for number, tokens in enumerate(shape.prompts):
        ours = make_ours(shape, tokens, rows)
        model, task = make_model(shape), make_task(tokens, shape.longest)
        floor = Floor(shape, tokens, list(ours.plan(rows)))
        careful = rows.choose(effort.careful[number], BATCH_ROWS)
        chosen = {OBVIOUS: rows.choose(effort.obvious[number]), CAREFUL: careful}
        ways: dict[str, Callable[[Rows], Any]] = {
            name: Loop.of(model, make_tokenizer(), task, name == CAREFUL).answer_rows
            for name in chosen
        }
        ways |= {OURS: ours.answer, FLOOR: lambda _, floor=floor: floor.run()}
        for name, bad in WORDS.items():
            task = make_task(tokens, shape.longest, bad, "whole")
            whole = Teacher(make_model(shape), make_tokenizer(), task)
            ways[name] = Ours(whole, ours.batch_positions).answer
        parts = {name: rows.select(chosen[name]) if name in chosen else rows for name in ways}
        rates, answers = measure_rates(ways, parts, effort.rounds)
        for name in (OBVIOUS, CAREFUL, FLOOR, *WORDS):
            apart = ""
            if name in chosen:
                difference = float(np.abs(answers[name] - answers[OURS][chosen[name]]).max())
                if not difference <= AGREEMENT:
                    raise RuntimeError(f"the {name} answers {difference:.2g} from the teacher")
                apart = f"{difference:.1e}"
            ratio = Spread.of([a / b for a, b in zip(rates[OURS], rates[name], strict=True)])
            label = f"first tokens / {name}" if name in WORDS else f"ours / {name}"
            cells = (tokens, label, ratio, WANTED[number].get(name, ""), Spread.of(rates[OURS]))
            n = parts[name].lengths
            yield format_row((*cells, Spread.of(rates[name]), len(n), f"{n.mean():.1f}", apart))
        notes.append(
            f"- {tokens} tokens: {ours.teacher.forward_pass.description}; {ours.notes[0]}; "
            f"probabilities have a standard deviation of {answers[OURS][:, 0].std():.3f}"
        )
    yield "\n" + "\n".join(notes)


def measure_rates(
    ways: dict[str, Callable[[Rows], Any]], parts: dict[str, Rows], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return the rows a second of each way in each round, and its last answers."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    answers = {}
    for name, answer in ways.items():
        answer(parts[name].select(np.arange(4)))  # what is slow the first time
    for turn in range(rounds):
        for name in rotate(list(ways), turn):
            start = time.perf_counter()
            answers[name] = ways[name](parts[name])
            rates[name].append(len(parts[name].lengths) / (time.perf_counter() - start))
    return rates, answers


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and keep it where told to."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.teacher")
    parser.add_argument("--out", type=Path, help="file for the table")
    parser.add_argument("--quick", action="store_true", help="a tiny model: figures mean nothing")
    parser.add_argument("--model", type=Path, help="directory of a further model that writes")
    parser.add_argument("--only", choices=("rows", "writing"), help="leave the other section out")
    options = parser.parse_args(given)
    quieten_libraries()
    quick = options.quick
    efforts = [writing.QUICK] * 2 if quick else [writing.Writing(), writing.LARGE]
    sections = {
        "Rows a second": lambda: measure_speed(QUICK if quick else Effort()),
        "Writing": lambda: writing.measure_writing(efforts[0], options.model, efforts[1]),
    }
    if options.only:
        del sections["Writing" if options.only == "rows" else "Rows a second"]
    # Where a model lies is nobody's business but the machine's.
    command = ["benchmarks.teacher", *("DIR" if x == str(options.model) else x for x in given)]
    run_sections("The teacher's pass", command, sections, options.out, quick)


if __name__ == "__main__":
    main()
