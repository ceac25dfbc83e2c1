"""Packed rows on the device: right against plain forward passes, and refused where wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from shaped import SHAPES, make_shaped

from stages.lm import embed_vocabulary
from stages.tasks import Question, grow_tree
from stages.teacher import attention, forward
from stages.teacher.capabilities import find_layers, find_passes, keeps_rows_apart
from stages.teacher.forward import FullPass, PackedPass, WordHead
from stages.teacher.word_scores import WordScorer

pytestmark = pytest.mark.gpu

Record = Callable[[str, object], None]

BOUND = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}
"""Largest difference between two passes' logits by rounding alone, relative to the largest one."""

# The narrow heads of small models, and the width that each fused kernel takes.
MODELS = [*((family, 64) for family in SHAPES), ("llama", 8), ("gpt2", 8)]

VOCABULARY, KNOWN, SUFFIX, LONGEST = 300, 11, 2, 140
ROWS = ((3, 1), (2, 7), (5, 2), (1, LONGEST), (2, 33))
"""How many rows of which length, in one batch; one is longer than a kernel's tile."""


@pytest.fixture(params=BOUND, ids=str)
def dtype(request: pytest.FixtureRequest, device: str) -> torch.dtype:
    found: torch.dtype = request.param
    family = request.node.callspec.params.get("family", "llama")
    if device == "cpu" and found != torch.float32 and (found, family) != (torch.bfloat16, "llama"):
        pytest.skip("slow on the processor, where Llama's shape in bfloat16 stands in")
    return found


class Case:
    """A model, a prompt and rows; the model's own answers, by a forward pass over whole inputs."""

    def __init__(
        self, family: str, width: int, dtype: torch.dtype, device: str, known: int = KNOWN
    ) -> None:
        generator = torch.Generator().manual_seed(7)
        draw = functools.partial(torch.randint, VOCABULARY, generator=generator)
        self.model = make_shaped(family, width, dtype, device, VOCABULARY)
        self.table = embed_vocabulary(self.model)
        self.ids = [draw(size=(1, known)).to(device), *(draw(size=x).to(device) for x in ROWS)]
        self.prompt, *self.inputs = [self.table[ids] for ids in self.ids]
        self.wanted = self.answer_plainly()

    def answer_plainly(self) -> torch.Tensor:
        prefix, *rows = self.ids
        whole = [torch.cat([prefix.expand(len(part), -1), part], dim=1) for part in rows]
        logits = [self.model(input_ids=ids, use_cache=False).logits[:, -1] for ids in whole]
        return torch.cat(logits)

    def choose(self) -> tuple[Any, list[str]]:
        suffix = self.table[None, :SUFFIX]
        passes, reasons = find_passes(self.model, self.prompt, suffix, self.table, LONGEST)
        passes[0].enter()
        return passes[0], reasons

    def measure(self, chosen: PackedPass) -> float:
        """The largest difference relative to the largest logit; infinite where one is NaN."""
        found, wanted = chosen.run(self.inputs).float(), self.wanted.float()
        return float(((found - wanted).abs().max() / wanted.abs().max()).nan_to_num(torch.inf))


@torch.inference_mode()
@pytest.mark.parametrize(("family", "width"), MODELS)
def test_packed_rows_are_answered_as_by_a_plain_forward_pass(
    family: str, width: int, dtype: torch.dtype, device: str, record_property: Record
) -> None:
    for known in (KNOWN, 0):
        case = Case(family, width, dtype, device, known)
        chosen, reasons = case.choose()
        assert isinstance(chosen, PackedPass), reasons
        assert chosen.trims == (family != "gpt2"), reasons
        apart = case.measure(chosen)
        record_property(f"known {known}", apart)
        assert apart < BOUND[dtype]
        chosen.leave()
        assert torch.equal(case.answer_plainly(), case.wanted)


def change_prefix(part: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Negate one layer's keys (0) or values (1) of the prompt."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        begin = PackedPass.__init__

        def spoil(self: PackedPass, *arguments: Any) -> None:
            begin(self, *arguments)
            self._attention.prefix[1][part].neg_()

        patch.setattr(PackedPass, "__init__", spoil)

    return plant


def change_rows(change: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Have rows lie otherwise than they are described."""
    describe = forward.describe_rows
    return lambda patch: patch.setattr(
        forward, "describe_rows", lambda *given: change(*describe(*given))
    )


def merge(rows: attention.Rows, positions: torch.Tensor) -> tuple[attention.Rows, torch.Tensor]:
    """Take the rows of one length for one row."""
    one = tuple((1, count * length) for count, length in rows.groups)
    return replace(rows, groups=one), positions


def look_ahead(patch: pytest.MonkeyPatch) -> None:
    """Let a position see those behind it."""
    attend = attention.attend
    patch.setattr(attention, "attend", lambda q, k, v, _, *others: attend(q, k, v, False, *others))


FAULTS = {
    "prompt's keys": change_prefix(0),
    "prompt's values": change_prefix(1),
    "order of the rows": change_rows(lambda rows, at: (replace(rows, ends=rows.ends.flip(0)), at)),
    "positions": change_rows(lambda rows, at: (rows, at + 5)),
    "rows see each other": change_rows(merge),
    "positions see ahead": look_ahead,
}


@torch.inference_mode()
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_planted_fault_is_found(
    family: str, fault: str, dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(family, 32, dtype, device)
    FAULTS[fault](monkeypatch)
    chosen, _ = case.choose()
    assert not isinstance(chosen, PackedPass), f"{fault}: {chosen.description}"
    # And by what the other test measures.
    assert case.measure(PackedPass(case.model, case.prompt, None)) > 2 * BOUND[dtype]


@torch.inference_mode()
def test_large_rows_show_whether_rows_see_each_other(
    dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case("llama", 64, dtype, device)
    for last in (find_layers(case.model)[-1], None):
        packed = PackedPass(case.model, case.prompt, last)
        assert keeps_rows_apart(packed, case.inputs)
        packed.leave()
    change_rows(merge)(monkeypatch)
    packed = PackedPass(case.model, case.prompt, None)
    assert not keeps_rows_apart(packed, case.inputs)


@torch.inference_mode()
@pytest.mark.parametrize("family", SHAPES)
def test_branches_are_read_as_by_plain_forward_passes(
    family: str, dtype: torch.dtype, device: str
) -> None:
    case = Case(family, 64, dtype, device)
    words = ((5,), (6, 7), (6, 8, 9), (10, 11, 12, 13))
    tree = grow_tree([Question(words), Question(words[:2], tokens=(20, 21, 22))])
    head = case.model.get_output_embeddings()
    scorer = WordScorer(tree, case.model, head, case.table)
    case.model.set_output_embeddings(WordHead(head, tree.columns))
    suffix = case.table[None, :SUFFIX]
    given = (case.model, case.prompt, suffix, case.table, LONGEST, scorer.branches)
    (packed, _), reasons = find_passes(*given)
    assert isinstance(packed, PackedPass), reasons
    wanted = scorer.score(FullPass(case.model, case.prompt), case.inputs)
    packed.enter()
    apart = (scorer.score(packed, case.inputs) - wanted).abs().max() / wanted.abs().max()
    assert apart < BOUND[dtype]


OUTPUTS = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@torch.inference_mode()
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("width", [8, 64])
def test_every_kernel_gives_the_attention_and_its_sums(
    width: int, softcap: float | None, dtype: torch.dtype, device: str
) -> None:
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(1))
    for batch, asked, seen in ((1, 1, 1), (70, 5, 5), (1, 200, 200), (1, 201, 11), (65, 1, 129)):
        causal = asked == seen
        drawn = [draw(batch, 4, length, width).to(dtype) for length in (asked, seen, seen)]
        output, sums = attention.attend(*(x.to(device) for x in drawn), causal, None, softcap)
        q, k, v = (x.double() for x in drawn)
        scores = q @ k.mT * width**-0.5
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if causal:
            scores += torch.full(scores.shape[2:], -torch.inf).triu(1)
        assert output.dtype == dtype
        assert sums.dtype == torch.float32
        wanted = scores.softmax(-1) @ v
        torch.testing.assert_close(output.cpu().double(), wanted, atol=OUTPUTS[dtype], rtol=0)
        # Without a kernel scores are rounded to the dtype.
        bound = 2e-3 if softcap is None else OUTPUTS[dtype]
        torch.testing.assert_close(sums.cpu(), scores.logsumexp(-1).float(), atol=bound, rtol=0)
