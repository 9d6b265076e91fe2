from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distill.methods import PSSM
from tests.losses.cases import IGNORED, Case, assert_near, by_equation, kl, nontarget, random_case, softmax
from tests.methods.steps import terms_of

READINGS = ["text", "printed", "drop_wrong"]


def omega(student: Tensor, teacher: Tensor, target: int, reading: str, threshold: float, predictor: str) -> float:
    """Equations 5 to 7 at one position, of the outputs' logits."""
    if (teacher if predictor == "teacher" else student).argmax() == target:
        return 1.0
    if reading == "drop_wrong":
        return 0.0
    similarity = float((teacher @ student / (teacher.norm() * student.norm()) + 1) / 2)
    distance = similarity if reading == "printed" else 1 - similarity
    return 1.0 if distance < threshold else similarity


def kd(student: Tensor, teacher: Tensor, target: int, temperature: float) -> Tensor:
    return temperature**2 * kl(softmax(teacher / temperature), softmax(student / temperature))


def dkd(student: Tensor, teacher: Tensor, target: int, temperature: float, alpha: float, beta: float) -> Tensor:
    p_s, p_t = softmax(student / temperature)[target], softmax(teacher / temperature)[target]
    binary = kl(torch.stack([p_t, 1 - p_t]), torch.stack([p_s, 1 - p_s]))
    others_s, others_t = (softmax(nontarget(logits / temperature, target)) for logits in (student, teacher))
    return temperature**2 * (alpha * binary + beta * kl(others_t, others_s))


def wrong_and_right() -> Case:
    """Predictions of both models are right at some positions and wrong at others, alike and unlike."""
    case = random_case(seed=1, samples=40, classes=3)
    for prediction in (case.teacher.argmax(1), case.student.argmax(1)):
        right = (prediction == case.target)[case.target != IGNORED]
        assert right.any()
        assert not right.all()
    return case


@pytest.mark.parametrize("predictor", ["teacher", "student"])
@pytest.mark.parametrize("threshold", [0.1, 0.5])
@pytest.mark.parametrize("reading", READINGS)
def test_kd_is_masked_as_in_equation_8(reading: Any, threshold: float, predictor: Any) -> None:
    case = wrong_and_right()
    method = PSSM(loss="kd", temperature=3.0, weight=0.5, reading=reading, threshold=threshold, predictor=predictor)
    expected = by_equation(case, lambda s, t, y: 0.5 * omega(s, t, y, reading, threshold, predictor) * kd(s, t, y, 3.0))
    labelled = case.target != IGNORED
    terms = terms_of(method, case)
    assert list(terms) == ["pssm"]
    assert_near(terms["pssm"][labelled], expected[labelled])


@pytest.mark.parametrize("predictor", ["teacher", "student"])
@pytest.mark.parametrize("reading", READINGS)
def test_dkd_is_masked_as_in_equation_9(reading: Any, predictor: Any) -> None:
    case = wrong_and_right()
    method = PSSM(loss="dkd", alpha=5.0, beta=2.0, temperature=2.0, weight=0.3, reading=reading, predictor=predictor)
    expected = by_equation(
        case, lambda s, t, y: 0.3 * omega(s, t, y, reading, 0.1, predictor) * dkd(s, t, y, 2.0, 5.0, 2.0)
    )
    assert_near(terms_of(method, case)["pssm"], expected)


def test_the_defaults_are_dkd_with_the_papers_weights_on_mnist_m_and_the_mask_of_its_text() -> None:
    case = wrong_and_right()
    expected = by_equation(case, lambda s, t, y: omega(s, t, y, "text", 0.1, "teacher") * dkd(s, t, y, 1.0, 16.0, 1.0))
    assert_near(terms_of(PSSM(), case)["pssm"], expected)


def test_no_gradient_flows_through_the_mask() -> None:
    case = wrong_and_right()
    student = case.student.clone().requires_grad_()
    term = terms_of(PSSM(loss="kd"), case._replace(student=student))["pssm"]
    (gradient,) = torch.autograd.grad(term.sum(), student)
    weights = by_equation(case, lambda s, t, y: torch.tensor(omega(s, t, y, "text", 0.1, "teacher")).double())
    pulled = weights[:, None] * (case.student.softmax(1) - case.teacher.softmax(1))
    labelled = case.target != IGNORED
    assert_near(gradient[labelled], pulled[labelled], 1e-7)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="loss must be one of kd, dkd, got 'ce'"):
        PSSM(loss="ce")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reading must be one of text, printed, drop_wrong, got 'mask'"):
        PSSM(reading="mask")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"threshold must lie in \[0, 1\], got 2"):
        PSSM(threshold=2.0)
    with pytest.raises(ValueError, match="predictor must be one of teacher, student, got 'both'"):
        PSSM(predictor="both")  # type: ignore[arg-type]
