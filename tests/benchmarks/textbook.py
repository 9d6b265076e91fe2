"""The losses as their papers or the code published with them write them, with no thought for time and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

T = 4.0
GAMMA = 0.4


def kd(student: Tensor, teacher: Tensor) -> Tensor:
    divergence = F.kl_div(F.log_softmax(student / T, 1), F.softmax(teacher / T, 1), reduction="none")
    return T**2 * divergence.sum(1).mean()


def dkd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """As in the authors' code: masks, and a large constant taken from the target's logit."""
    return _decoupled(student, teacher, target, torch.full_like(student, 8.0))


def dwld(student: Tensor, teacher: Tensor, target: Tensor, beta: Tensor) -> Tensor:
    return _decoupled(student, teacher, target, beta)


def _decoupled(student: Tensor, teacher: Tensor, target: Tensor, beta: Tensor) -> Tensor:
    mask = torch.zeros_like(student).scatter_(1, target.unsqueeze(1), 1)
    q, p = _binary(F.softmax(student / T, 1), mask), _binary(F.softmax(teacher / T, 1), mask)
    of_target = F.kl_div(q.log(), p, reduction="none").sum(1)
    log_q, others = F.log_softmax(student / T - 1000 * mask, 1), F.softmax(teacher / T - 1000 * mask, 1)
    of_others = (beta * F.kl_div(log_q, others, reduction="none")).sum(1)
    return T**2 * (of_target + of_others).mean()


def _binary(probabilities: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([(probabilities * part).sum(1, keepdim=True) for part in (mask, 1 - mask)], 1)


def cwd(student: Tensor, teacher: Tensor) -> Tensor:
    q, p = F.log_softmax(student.flatten(2) / T, 2), F.softmax(teacher.flatten(2) / T, 2)
    return T**2 * F.kl_div(q, p, reduction="sum") / (student.shape[0] * student.shape[1])


def discriminator(student: Tensor, teacher: Tensor) -> Tensor:
    real, fake = torch.ones_like(teacher), torch.zeros_like(student)
    return F.binary_cross_entropy_with_logits(student, fake) + F.binary_cross_entropy_with_logits(teacher, real)


def deception(student: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(student, torch.ones_like(student))


def nce(positive: Tensor, negatives: Tensor, n_data: int) -> Tensor:
    noise = negatives.shape[1] / n_data
    right = positive.exp() / (positive.exp() + noise)
    wrong = noise / (negatives.exp() + noise)
    return -(right.log() + wrong.log().sum(1)).mean()


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    return F.mse_loss(student, teacher)


def at(student: Tensor, teacher: Tensor) -> Tensor:
    of_student, of_teacher = (F.normalize(x.pow(2).mean(1).flatten(1)) for x in (student, teacher))
    return (of_student - of_teacher).pow(2).mean()


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    of_student, of_teacher = (F.normalize(x.flatten(2), dim=2) for x in (student, teacher))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.mT).pow(2).mean((1, 2))

    return (kernel(of_student, of_student) + kernel(of_teacher, of_teacher) - 2 * kernel(of_student, of_teacher)).mean()


def factor(student: Tensor, teacher: Tensor) -> Tensor:
    return F.l1_loss(F.normalize(student.flatten(1)), F.normalize(teacher.flatten(1)))


def vid(mean: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    variance = variance.view(-1, *[1] * (teacher.ndim - 2))
    return (((mean - teacher) ** 2 / variance + variance.log()) / 2).mean()


def fsp(student: Tensor, teacher: Tensor) -> Tensor:
    def matrix(x: Tensor) -> Tensor:
        first, second = x.flatten(2).chunk(2, 1)
        return first @ second.mT / first.shape[2]

    return (matrix(student) - matrix(teacher)).pow(2).mean()


def semckd(student: Sequence[Sequence[Tensor]], teacher: Sequence[Tensor], attention: Tensor) -> Tensor:
    total = torch.zeros(())
    for a, row in enumerate(student):
        for b, (of_student, of_teacher) in enumerate(zip(row, teacher, strict=True)):
            error = F.mse_loss(of_student, of_teacher, reduction="none").flatten(1).mean(1)
            total = total + (attention[:, a, b] * error).mean() / len(student)
    return total


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    apart = 1 - torch.eye(len(student), device=student.device)
    of_student, of_teacher = (torch.cdist(x.flatten(1), x.flatten(1)) * apart for x in (student, teacher))
    return F.smooth_l1_loss(
        of_student / of_student[of_student > 0].mean(), of_teacher / of_teacher[of_teacher > 0].mean()
    )


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    def cosines(x: Tensor) -> Tensor:
        rows = x.flatten(1)
        directions = F.normalize(rows.unsqueeze(0) - rows.unsqueeze(1), dim=2)
        return directions @ directions.mT

    return F.smooth_l1_loss(cosines(student), cosines(teacher))


def sp(student: Tensor, teacher: Tensor) -> Tensor:
    of_student, of_teacher = (F.normalize(x.flatten(1) @ x.flatten(1).T) for x in (student, teacher))
    return (of_student - of_teacher).pow(2).mean()


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    def neighbours(x: Tensor) -> Tensor:
        directions = F.normalize(x.flatten(1))
        similarities = (directions @ directions.T + 1) / 2
        return similarities / similarities.sum(1, keepdim=True)

    q, p = neighbours(student), neighbours(teacher)
    return (p * ((p + 1e-7) / (q + 1e-7)).log()).mean()


def cc(student: Tensor, teacher: Tensor) -> Tensor:
    def kernel(x: Tensor) -> Tensor:
        directions = F.normalize(x.flatten(1))
        cosines = directions @ directions.T
        series = sum((2 * GAMMA) ** p / math.factorial(p) * cosines**p for p in range(3))
        return torch.as_tensor(math.exp(-2 * GAMMA) * series)

    return (kernel(student) - kernel(teacher)).pow(2).mean()


def sem(student: Tensor, teacher: Tensor) -> Tensor:
    of_student, of_teacher = (F.normalize(x - x.mean(0), dim=0) for x in (student, teacher))
    correlation = of_student.T @ of_teacher
    identity = torch.eye(len(correlation), dtype=torch.bool, device=student.device)
    return ((1 - correlation[identity]) ** 2).sum() + 0.005 * (correlation[~identity] ** 2).sum()


def dcm(student: Tensor, teacher: Tensor) -> Tensor:
    of_student, of_teacher = (F.normalize(x.flatten(1)) for x in (student, teacher))
    return sum(
        (torch.exp(-(torch.cdist(of_student, x) ** 2)).mean().log() for x in (of_student, of_teacher)), torch.zeros(())
    )


def recalibrate(features: Tensor) -> Tensor:
    dims = tuple(range(1, features.ndim))
    deviation = (features - features.mean(dims, keepdim=True)) ** 2
    return torch.exp(-deviation / deviation.mean(dims, keepdim=True))


def cka(student: Tensor, teacher: Tensor) -> Tensor:
    channels = student.shape[1]
    centering = torch.eye(channels, device=student.device) - 1 / channels
    first, second = (x.flatten(2) @ x.flatten(2).mT for x in (student, teacher))

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        return (a @ centering @ b @ centering).diagonal(dim1=1, dim2=2).sum(1)

    return (1 - hsic(first, second) / (hsic(first, first) * hsic(second, second)).sqrt()).mean()


def silog(student: Tensor, target: Tensor) -> Tensor:
    errors = student.log() - target.log()
    squares, means = errors.pow(2).flatten(1).mean(1), errors.flatten(1).mean(1)
    return (squares - 0.85 * means**2).sqrt().mean()


def ssim(student: Tensor, teacher: Tensor) -> Tensor:
    """As in widespread code: five convolutions with a square window."""
    line = torch.exp(-((torch.arange(11, device=student.device) - 5) ** 2) / (2 * 1.5**2))
    window = (line.outer(line) / line.sum() ** 2).view(1, 1, 11, 11)

    def blurred(x: Tensor) -> Tensor:
        return F.conv2d(x, window, padding=5)

    mu_s, mu_t = blurred(student), blurred(teacher)
    var_s, var_t = blurred(student**2) - mu_s**2, blurred(teacher**2) - mu_t**2
    covariance = blurred(student * teacher) - mu_s * mu_t
    c1, c2 = (0.01 * 80) ** 2, (0.03 * 80) ** 2
    similarity = (2 * mu_s * mu_t + c1) * (2 * covariance + c2)
    return 1 - (similarity / ((mu_s**2 + mu_t**2 + c1) * (var_s + var_t + c2))).mean()


def lovasz(student: Tensor, target: Tensor) -> Tensor:
    """As in the authors' code: class by class, for the classes that a sample has."""
    return torch.stack([_lovasz_of_sample(*sample) for sample in zip(student, target, strict=True)]).mean()


def _lovasz_of_sample(logits: Tensor, target: Tensor) -> Tensor:
    losses = []
    for label in target.unique():
        truth = (target == label).flatten().float()
        errors, order = (truth - logits.softmax(0)[label].flatten()).abs().sort(descending=True)
        truth = truth[order]
        jaccard = 1 - (truth.sum() - truth.cumsum(0)) / (truth.sum() + (1 - truth).cumsum(0))
        losses.append(errors @ torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]]))
    return torch.stack(losses).mean()
