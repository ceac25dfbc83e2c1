from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stages.errors import SettingError, TrainingError
from stages.metrics.projection import compute_projection
from stages.student.objectives import OBJECTIVES, Objective

Values = npt.NDArray[np.float64]


def softmax(logits: Values) -> Values:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Values, Values]:
    """Two functions with values in the simplex, on the same rows."""
    shape = draw(st.tuples(st.integers(2, 12), st.integers(2, 5)))
    logits = arrays(np.float64, (2, *shape), elements=st.floats(-4, 4))
    g, h = draw(logits)
    return softmax(g), softmax(h)


def angle(left: Values, right: Values) -> float:
    """The angle between two functions, through the half-angle, which loses no digits."""
    left, right = left / np.linalg.norm(left), right / np.linalg.norm(right)
    return 2 * math.atan2(float(np.linalg.norm(left - right)), float(np.linalg.norm(left + right)))


def evaluate(name: str, g: Values, h: Values, c: float | None = None) -> tuple[float, float | None]:
    """An objective's value, and its gradient in c where c is learned."""
    objective = Objective(name).double()
    if c is not None:
        with torch.no_grad():
            assert objective.c is not None
            objective.c.fill_(c)
    loss = objective(torch.from_numpy(g), torch.from_numpy(h).log())
    if objective.c is None:
        return loss.item(), None
    loss.backward()
    return loss.item(), objective.c.grad.item()


@given(pairs())
def test_norms_and_c_have_their_closed_forms(pair: tuple[Values, Values]) -> None:
    g, h = pair
    found = compute_projection(g, h)
    assert found.rows == len(g)
    assert found.norm_g == pytest.approx(np.linalg.norm(g) / math.sqrt(len(g)))
    assert found.norm_h == pytest.approx(np.linalg.norm(h) / math.sqrt(len(h)))
    assert found.c == pytest.approx((g * h).sum() / (h * h).sum())
    spread = np.linalg.norm(g - g.mean(axis=0)) / math.sqrt(len(g))
    assert found.spread == pytest.approx(spread, abs=1e-6)
    top = g.argmax(axis=1)
    assert found.agreement == pytest.approx((top == h.argmax(axis=1)).mean())
    assert found.balance == pytest.approx([(top == k).mean() for k in range(g.shape[1])])


@given(pairs())
def test_angles_are_those_between_the_functions(pair: tuple[Values, Values]) -> None:
    g, h = pair
    found = compute_projection(g, h)
    assert 0.0 <= found.angle <= math.pi
    assert found.angle == pytest.approx(angle(g, h), abs=1e-6)
    around = g - g.mean(axis=0), h - h.mean(axis=0)
    if min(map(np.linalg.norm, around)) > 1e-2:
        assert 0.0 <= found.centred_angle <= math.pi
        assert found.centred_angle == pytest.approx(angle(*around), abs=1e-4)
    same = compute_projection(g, g)
    assert same.angle == pytest.approx(0.0, abs=1e-6)
    assert (same.c, same.agreement) == (pytest.approx(1.0), 1.0)


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_a_constant_function_has_no_centred_angle(rows: int) -> None:
    g = np.full((rows, 3), [0.1, 0.2, 0.7])
    varying = softmax(np.random.default_rng(0).normal(size=(rows, 3)))
    for h in (np.full((rows, 3), [0.3, 0.3, 0.4]), varying):
        for found in (compute_projection(g, h), compute_projection(h, g)):
            assert math.isnan(found.centred_angle)
            assert 0.0 < found.angle < 1.0
        found = compute_projection(g, h)
        assert found.spread == found.constant_angle == 0.0


def test_the_angle_of_a_constant_is_what_the_mean_has() -> None:
    g = softmax(np.random.default_rng(3).normal(size=(50, 3)))
    found = compute_projection(g, np.broadcast_to(g.mean(axis=0), g.shape).copy())
    assert found.constant_angle == pytest.approx(found.angle)
    found = compute_projection(np.eye(2), np.full((2, 2), 0.5))
    assert found.constant_angle == found.angle == pytest.approx(math.pi / 4)
    with pytest.raises(TrainingError, match="no rows"):
        compute_projection(np.empty((0, 2)), np.empty((0, 2)))


@given(pairs(), st.floats(0.1, 5))
def test_the_objectives_are_their_formulas(pair: tuple[Values, Values], c: float) -> None:
    g, h = pair
    n = len(g)
    best = (g * h).sum() / (h * h).sum()
    wanted = {
        "kl": (g * np.log(g / h)).sum() / n,
        "generalised-kl": (g * np.log(g / (c * h)) - g + c * h).sum() / n,
        "algorithm-1": (g * np.log(g / (c * h))).sum() / n,
        "l2": ((g - best * h) ** 2).sum() / n,
    }
    assert set(wanted) == set(OBJECTIVES)
    for name, value in wanted.items():
        learned = c if name in ("generalised-kl", "algorithm-1") else None
        assert evaluate(name, g, h, learned)[0] == pytest.approx(value, abs=1e-10)


@given(pairs(), st.floats(0.1, 5))
def test_generalised_kl_is_least_at_the_ratio_of_the_sums(
    pair: tuple[Values, Values], c: float
) -> None:
    g, h = pair
    best = float(g.sum() / h.sum())
    value, slope = evaluate("generalised-kl", g, h, best)
    assert slope == pytest.approx(0.0, abs=1e-6)
    assert evaluate("generalised-kl", g, h, c)[0] >= value - 1e-9


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(6, 3, generator=generator, dtype=torch.float64).softmax(dim=1)
    logits = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    objective = Objective(name).double()
    parameters = [logits, *objective.parameters()]

    def loss(values: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return objective(g, values.log_softmax(dim=1))

    assert torch.autograd.gradcheck(loss, parameters)
    learned = [0.5] if name in ("generalised-kl", "algorithm-1") else []
    assert [c.item() for c in objective.parameters()] == learned
    # A teacher that is certain gives no NaN.
    logits = torch.tensor([[3.0, -90.0], [1.0, 2.0]], requires_grad=True)
    value = Objective(name)(torch.eye(2), logits.log_softmax(dim=1))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(logits.grad).all()


def test_an_unknown_objective_is_answered_with_all() -> None:
    with pytest.raises(SettingError, match=r"'kll'.*generalised-kl, kl, l2, algorithm-1"):
        Objective("kll")
