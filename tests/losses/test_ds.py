from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.losses import cross_correlation, dcm_loss, dcm_terms, ds, rbf_log_mean, sem_loss, sem_terms
from tests.losses.cases import assert_near
from tests.losses.features import features, gradients, rotation


def correlation_equation(student: Tensor, teacher: Tensor, center: bool) -> Tensor:
    """Eq. 6, entry by entry."""
    entries = []
    for x in student.T:
        for y in teacher.T:
            a, b = (x - x.mean(), y - y.mean()) if center else (x, y)
            entries.append((a * b).sum() / ((a**2).sum().sqrt() * (b**2).sum().sqrt()))
    return torch.stack(entries).view(student.shape[1], teacher.shape[1])


def rbf_equation(a: Tensor, b: Tensor, sigma: float) -> Tensor:
    """Eq. 11, pair by pair."""
    kernels = [(-((x - y) ** 2).sum() / sigma**2).exp() for x in a.flatten(1) for y in b.flatten(1)]
    return torch.stack(kernels).mean().log()


@pytest.mark.parametrize("center", [True, False])
def test_the_correlation_and_its_gradients_are_those_of_the_equation(center: bool) -> None:
    student, teacher = features(6, 3) + 1, features(6, 3, seed=1) - 2
    weights = features(3, 3, seed=2)  # entries count differently, so that none can stand in for another

    def actual(s: Tensor, t: Tensor) -> Tensor:
        return cross_correlation(s, t, center=center, teacher_gradient=True) * weights

    def expected(s: Tensor, t: Tensor) -> Tensor:
        return correlation_equation(s, t, center) * weights

    assert_near(actual(student, teacher), expected(student, teacher))
    for one, other in zip(gradients(actual, student, teacher), gradients(expected, student, teacher), strict=True):
        assert_near(one, other)


def test_centred_it_is_pearsons_and_an_offset_does_not_read_as_correlation() -> None:
    student, teacher = features(50, 4), features(50, 4, seed=1)
    assert_near(cross_correlation(student, teacher), torch.corrcoef(torch.cat([student, teacher], 1).T)[:4, 4:])
    assert_near(cross_correlation(2 * student + 100, teacher - 7), cross_correlation(student, teacher), 1e-9)
    assert cross_correlation(student + 100, teacher + 100, center=False).min() > 0.99


@pytest.mark.parametrize("constant", [0.0, 0.1, 100.7])
def test_a_dimension_that_is_the_same_in_all_samples_correlates_with_none(constant: float) -> None:
    student, teacher = features(7, 3).float(), features(7, 3, seed=1).float()
    student[:, 1] = constant
    assert cross_correlation(student, teacher)[1].tolist() == [0.0, 0.0, 0.0]
    (slope,) = gradients(lambda s: sem_loss(s, teacher), student)
    assert slope.isfinite().all()
    assert slope.abs().max() < 100


def test_one_sample_has_no_correlation_and_no_gradient() -> None:
    one = features(1, 4)
    assert_near(sem_loss(one, one), torch.tensor(4.0, dtype=torch.float64))
    assert_near(gradients(lambda s: sem_loss(s, one), one)[0], torch.zeros_like(one))


def test_the_loss_and_its_terms_are_the_sums_of_eq_7() -> None:
    student, teacher = features(6, 3), features(6, 3, seed=1)
    matrix = correlation_equation(student, teacher, True)
    on = sum(((1 - matrix[i, i]) ** 2 for i in range(3)), torch.zeros(()))
    off = sum((matrix[i, j] ** 2 for i in range(3) for j in range(3) if i != j), torch.zeros(()))
    for term, expected in zip(sem_terms(student, teacher), (on, off), strict=True):
        assert_near(term, expected)
    assert_near(sem_loss(student, teacher), on + 0.005 * off)
    assert_near(sem_loss(student, teacher, lambda_=2.0), on + 2 * off)


def test_equal_embeddings_with_uncorrelated_dimensions_have_no_loss() -> None:
    hadamard = torch.tensor([[1.0, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]])
    assert sem_loss(hadamard, 5 * hadamard + 3).item() == pytest.approx(0, abs=1e-12)
    assert sem_loss(hadamard, -hadamard, lambda_=1.0).item() == pytest.approx(12)


@pytest.mark.parametrize(("n", "m", "size"), [(4, 4, (6,)), (5, 3, (2, 2)), (9, 8, (2,))])  # 9 of 2 take several strips
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_the_log_mean_and_its_gradients_are_those_of_the_equation(
    n: int, m: int, size: tuple[int, ...], sigma: float
) -> None:
    a, b = features(n, *size), features(m, *size, seed=1)
    assert_near(rbf_log_mean(a, b, sigma=sigma), rbf_equation(a, b, sigma))
    assert_near(rbf_log_mean(a, a, sigma=sigma), rbf_equation(a, a, sigma))
    actual, expected = (gradients(lambda a, b, f=f: f(a, b, sigma), a, b) for f in (_rbf_log_mean, rbf_equation))
    for one, other in zip(actual, expected, strict=True):
        assert_near(one, other)
    (own,), (expected_own,) = (gradients(lambda a, f=f: f(a, a, sigma), a) for f in (_rbf_log_mean, rbf_equation))
    assert_near(own, expected_own)


def _rbf_log_mean(a: Tensor, b: Tensor, sigma: float) -> Tensor:
    return rbf_log_mean(a, b, sigma=sigma)


def test_the_log_mean_by_hand_and_where_every_kernel_underflows() -> None:
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0]])
    assert rbf_log_mean(a, b, sigma=2.0).item() == pytest.approx(math.log((math.exp(-0.25) + 1) / 2))
    assert rbf_log_mean(a, b + 1000, sigma=1.0).item() == pytest.approx(-(1000.0**2) - math.log(2))
    for slope in gradients(lambda a, b: rbf_log_mean(a, b, sigma=1.0), a, b + 1000):
        assert slope.isfinite().all()
    assert rbf_log_mean(b, b, sigma=1.0).item() == 0


def test_dcm_is_both_terms_on_features_of_length_1() -> None:
    student, teacher = features(4, 2, 3), features(4, 2, 3, seed=1)
    s, t = (torch.stack([x.flatten() / (x**2).sum().sqrt() for x in y]) for y in (student, teacher))
    own, cross = rbf_equation(s, s, 0.7), rbf_equation(s, t, 0.7)
    for term, expected in zip(dcm_terms(student, teacher, sigma=0.7), (own, cross), strict=True):
        assert_near(term, expected)
    assert_near(dcm_loss(student, teacher, sigma=0.7), own + cross)
    aligned = torch.stack([((x - y) ** 2).sum() for x, y in zip(s, t, strict=True)]).mean()
    assert_near(dcm_loss(student, teacher, sigma=0.7, cross="align"), own + aligned)
    expected = rbf_equation(student, student, 3.0) + rbf_equation(student, teacher, 3.0)
    assert_near(dcm_loss(student, teacher, sigma=3.0, normalize=False), expected)


def test_scale_and_a_common_rotation_do_not_matter_to_dcm() -> None:
    student, teacher = features(5, 4), features(5, 4, seed=1)
    changed = dcm_loss(3 * student @ rotation(4), 0.1 * teacher @ rotation(4), sigma=1.0)
    assert_near(changed, dcm_loss(student, teacher, sigma=1.0))


def test_the_printed_cross_term_pushes_apart_and_the_aligned_one_pulls_together() -> None:
    student, teacher = torch.tensor([[1.0, 0.1]]), torch.tensor([[1.0, 0.0]])
    (printed,) = gradients(lambda s: dcm_terms(s, teacher, sigma=1.0)[1], student)
    (aligned,) = gradients(lambda s: dcm_terms(s, teacher, sigma=1.0, cross="align")[1], student)
    assert printed[0, 1] < 0  # descent takes the second coordinate away from the teacher's 0
    assert aligned[0, 1] > 0


def test_without_normalisation_growing_features_lower_the_loss_without_bound() -> None:
    student, teacher = features(4, 3), features(4, 3, seed=1)
    values = [dcm_loss(k * student, teacher, sigma=1.0, normalize=False).item() for k in (1, 10, 100)]
    assert values[0] > values[1] > values[2]
    assert dcm_terms(100 * student, teacher, sigma=1.0, normalize=False)[1].item() < -1000


def test_one_sample_is_as_its_own_kernel_says() -> None:
    one = features(1, 4)
    assert_near(dcm_loss(one, one, sigma=1.0), torch.zeros((), dtype=torch.float64))
    assert_near(gradients(lambda s: dcm_loss(s, one, sigma=1.0), one)[0], torch.zeros_like(one))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="sigma must be positive, got 0"):
        rbf_log_mean(torch.zeros(2, 3), torch.zeros(2, 3), sigma=0)
    with pytest.raises(ValueError, match="same number of dimensions a sample, got 3 and 4"):
        dcm_loss(torch.zeros(2, 3), torch.zeros(2, 4), sigma=1.0)
    with pytest.raises(ValueError, match="cross must be one of printed, align, got 'x'"):
        dcm_terms(torch.zeros(2, 3), torch.zeros(2, 3), sigma=1.0, cross="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"same number of dimensions, got \(2, 3\) and \(2, 4\)"):
        sem_loss(torch.zeros(2, 3), torch.zeros(2, 4))


def test_the_printed_reading_is_the_default() -> None:
    student, teacher = features(4, 3), features(4, 3, seed=1)
    printed = ds.dcm_loss(student, teacher, sigma=1.0, normalize=True, cross="printed")
    assert torch.equal(dcm_loss(student, teacher, sigma=1.0), printed)
