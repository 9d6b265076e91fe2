from __future__ import annotations

import pytest
import torch
from segmentation_models_pytorch.losses import LovaszLoss
from torch import Tensor

from distill.losses import lovasz_loss
from tests.losses.cases import IGNORED, Case, assert_near, gradient, random_case, softmax

SPATIAL = [(), (7,), (4, 5)]


def by_definition(logits: Tensor, target: Tensor) -> Tensor:
    """The Lovász extension of one sample, set by set."""
    logits, target = logits.reshape(len(logits), -1), target.flatten()
    places = [place for place in range(len(target)) if target[place] != IGNORED]
    p = {place: softmax(logits[:, place]) for place in places}
    classes = {int(target[place]) for place in places}
    total = logits.new_zeros(())
    for label in classes:
        of_class = {place for place in places if target[place] == label}
        errors = {place: (float(place in of_class) - p[place][label]).abs() for place in places}
        wrong: set[int] = set()
        before = 0.0
        for place in sorted(places, key=lambda place: -float(errors[place].detach())):
            wrong.add(place)
            after = 1 - len(of_class - wrong) / len(of_class | wrong)
            total = total + errors[place] * (after - before)
            before = after
    return total / max(1, len(classes))


def of_samples(case: Case, logits: Tensor) -> Tensor:
    return torch.stack([by_definition(*sample) for sample in zip(logits, case.target, strict=True)])


@pytest.mark.parametrize("spatial", SPATIAL)
def test_it_is_the_extension_of_the_jaccard_loss_set_by_set(spatial: tuple[int, ...]) -> None:
    case = random_case(samples=4, spatial=spatial)
    assert (case.target == IGNORED).any()
    assert_near(lovasz_loss(case.student, case.target, reduction="none"), of_samples(case, case.student))
    assert_near(
        gradient(lambda logits: lovasz_loss(logits, case.target, reduction="none"), case.student),
        gradient(lambda logits: of_samples(case, logits), case.student),
    )


def test_the_mean_is_that_of_another_library_image_by_image() -> None:
    case = random_case(samples=3, classes=5, spatial=(6, 8))
    logits = case.student.float()
    reference = LovaszLoss("multiclass", per_image=True, ignore_index=IGNORED)
    assert_near(lovasz_loss(logits, case.target), reference(logits, case.target), tolerance=1e-6)


def test_of_certain_predictions_it_is_one_minus_the_iou() -> None:
    target = torch.tensor([[0, 0, 0, 1, 1, IGNORED]])
    predicted = torch.tensor([[0, 0, 1, 1, 2, 0]])
    logits = 1e4 * torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).double()
    # IoU 2 / 3 of class 0 and 1 / 3 of class 1; class 2 is not there
    assert lovasz_loss(logits, target).item() == pytest.approx(1 - (2 / 3 + 1 / 3) / 2)


def test_samples_without_a_label_do_not_count() -> None:
    case = random_case(samples=3, spatial=(4,))
    case.target[1] = IGNORED
    losses = lovasz_loss(case.student, case.target, reduction="none")
    assert losses[1] == 0
    assert_near(lovasz_loss(case.student, case.target), losses.sum() / 2)
    assert lovasz_loss(case.student, torch.full_like(case.target, IGNORED)) == 0
    assert lovasz_loss(case.student[:0], case.target[:0]) == 0


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target must have shape \(2, 5\)"):
        lovasz_loss(torch.zeros(2, 3, 5), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="reduction must be one of none, mean, sum, got 'total'"):
        lovasz_loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), reduction="total")  # type: ignore[arg-type]


def test_one_class_is_refused_since_its_probability_is_always_1() -> None:
    with pytest.raises(ValueError, match=r"at least 2 classes on dim 1, got shape \(2, 1, 3\)"):
        lovasz_loss(torch.zeros(2, 1, 3), torch.zeros(2, 3, dtype=torch.int64))
