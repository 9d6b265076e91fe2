from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill.feature_mask.salience import Salience, count_features, feature_divergence
from tests.losses.cases import IGNORED, kl, nontarget, softmax

N, CLASSES = 7, 4
Pair = tuple[dict[str, Tensor], Tensor, Tensor, nn.Linear]


def ncjsd(student: Tensor, teacher: Tensor, target: Tensor) -> float:
    """The mean of NTDH eq. 6 over the samples with a label, one after the other in float64."""
    values = []
    for s, t, label in zip(student.double(), teacher.double(), target.tolist(), strict=True):
        if label != IGNORED:
            p, q = softmax(nontarget(t, label)), softmax(nontarget(s, label))
            m = (p + q) / 2
            values.append(float(kl(p, m) + kl(q, m)) / 2)
    return sum(values) / len(values)


@pytest.fixture
def case() -> Pair:
    """A vector of 3 and an image of 2 channels and 2 x 2 pixels, the student's logits, labels, and a teacher."""
    torch.manual_seed(0)
    modalities = {"vector": torch.randn(N, 3), "image": torch.randn(N, 2, 2, 2)}
    target = torch.tensor([0, 1, IGNORED, 2, 3, 0, 1])
    return modalities, 2 * torch.randn(N, CLASSES), target, nn.Linear(3 + 8, CLASSES).requires_grad_(False)


def logits(teacher: nn.Module, modalities: dict[str, Tensor]) -> Tensor:
    said: Tensor = teacher(torch.cat([values.flatten(1) for values in modalities.values()], 1))
    return said


def changed_by_hand(modalities: dict[str, Tensor], feature: int, salience: Salience, repeat: int) -> dict[str, Tensor]:
    """Features 0 to 2 are the vector's, 3 to 6 the pixels in reading order."""
    copies = {name: values.clone() for name, values in modalities.items()}
    everything = slice(None)
    where: tuple[Any, ...] = (everything, feature)
    name = "vector"
    if feature >= 3:
        name, where = "image", (everything, everything, *divmod(feature - 3, 2))
    own = copies[name][where].clone()
    if salience == "solo":
        copies = {name: torch.full_like(values, 0.5) for name, values in copies.items()}
    order = np.random.default_rng([3, feature, repeat]).permutation(N)
    new = {"permute": own[torch.from_numpy(order)], "zero": torch.full_like(own, 0.5), "solo": own}[salience]
    copies[name][where] = new
    return copies


@pytest.mark.parametrize("salience", ["permute", "zero", "solo"])
def test_each_feature_is_changed_alone_as_by_hand(salience: Salience, case: Pair) -> None:
    modalities, student, target, teacher = case
    found = feature_divergence(
        lambda inputs: logits(teacher, inputs),
        modalities,
        student,
        target,
        range(7),
        salience=salience,
        repeats=2,
        fill=0.5,
        seed=3,
    )
    repeats = range(2 if salience == "permute" else 1)
    expected = [
        np.mean([ncjsd(student, logits(teacher, changed_by_hand(modalities, n, salience, m)), target) for m in repeats])
        for n in range(7)
    ]
    assert count_features(modalities) == 7
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("salience", ["permute", "zero", "solo"])
def test_the_number_of_rows_per_forward_pass_does_not_change_the_result(salience: Salience, case: Pair) -> None:
    modalities, student, target, teacher = case
    passes: list[int] = []

    def predict(inputs: dict[str, Tensor]) -> Tensor:
        passes.append(len(inputs["vector"]))
        return logits(teacher, inputs)

    few, many = (
        feature_divergence(predict, modalities, student, target, range(7), salience=salience, rows=rows)
        for rows in (5, 1000)
    )
    assert passes[-1] == 7 * N
    assert max(passes[:10]) <= 5
    torch.testing.assert_close(few, many)
    parts = [
        feature_divergence(predict, modalities, student, target, part, salience=salience) for part in ([0, 4], [6])
    ]
    torch.testing.assert_close(torch.cat(parts), many[[0, 4, 6]])


def test_an_unused_feature_changes_nothing_and_alone_gives_no_information(case: Pair) -> None:
    modalities, student, target, teacher = case
    teacher.weight[:, 1] = 0
    plain = ncjsd(student, logits(teacher, modalities), target)
    blind = ncjsd(student, logits(teacher, {name: torch.zeros_like(x) for name, x in modalities.items()}), target)
    for salience, expected in (("permute", plain), ("zero", plain), ("solo", blind)):
        found = feature_divergence(
            lambda inputs: logits(teacher, inputs),
            modalities,
            student,
            target,
            [1],
            salience=salience,  # type: ignore[arg-type]
        )
        assert found.item() == pytest.approx(expected, abs=1e-6)


def test_maps_are_averaged_over_their_pixels() -> None:
    torch.manual_seed(0)
    image, student, target = torch.randn(2, 1, 2, 2), torch.randn(2, 3, 2, 2), torch.randint(3, (2, 2, 2))
    network = nn.Conv2d(1, 3, 1).requires_grad_(False)
    (found,) = feature_divergence(
        lambda inputs: network(inputs["image"]), {"image": image}, student, target, [3], salience="zero"
    )
    image[:, :, 1, 1] = 0
    flat = [values.movedim(1, -1).reshape(-1, 3) for values in (student, network(image))]
    assert found.item() == pytest.approx(ncjsd(flat[0], flat[1], target.flatten()), abs=1e-6)


def test_an_unknown_salience_is_refused(case: Pair) -> None:
    with pytest.raises(ValueError, match="salience must be one of permute, zero, solo, got 'shuffle'"):
        feature_divergence(lambda _: case[1], case[0], case[1], case[2], [0], salience="shuffle")  # type: ignore[arg-type]
