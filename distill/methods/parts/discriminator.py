"""The discriminator of ALKD and AFKD, and the losses of both players."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call

from distill.losses import deception_loss, discriminator_loss
from distill.losses.adversarial import Form
from distill.training.optimization import ParameterSettings


class Discriminator(nn.Module):
    """An MLP of three layers that scores each position; the teacher's should get high scores.

    LayerNorm prevents it from diverging at a student's learning rate: without it, ALKD and AFKD were NaN within 200
    steps of SGD at 0.1 with momentum 0.9. BatchNorm would make the score of a sample depend on the others of its batch.

    Args:
        hidden: The number of units in each of the two hidden layers.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LazyLinear(hidden),
            nn.LayerNorm(hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1),
        )

    def forward(self, feature: Tensor) -> Tensor:
        """The scores ``(N, L)``, logits, at the L positions of ``(N, C, *)``; a vector ``(N, C)`` has one position."""
        scores: Tensor = self.layers(feature.unsqueeze(-1).flatten(2).mT)
        return scores.squeeze(2)


def opposed_losses(discriminator: nn.Module, student: Tensor, teacher: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """The losses of a discriminator and of the student that should deceive it; neither has a gradient to the other.

    Both train in one backward pass: simultaneous gradient descent.

    Args:
        discriminator: A :class:`Discriminator`; only the first loss has a gradient to it.
        student: The student's output, ``(N, C, *)``; only the second loss has a gradient to it.
        teacher: The teacher's output, of the same shape.
        form: As in :func:`~distill.losses.discriminator_loss`.

    Returns:
        ``(discriminator, adversarial)``, one value for each position, ``(N, L)``.
    """
    student_scores, teacher_scores = discriminator(student.detach()), discriminator(teacher)
    learning = discriminator_loss(student_scores.flatten(), teacher_scores.flatten(), form=form, reduction="none")
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    scores: Tensor = functional_call(discriminator, frozen, (student,))
    deceiving = deception_loss(scores.flatten(), form=form, reduction="none")
    return learning.view_as(scores), deceiving.view_as(scores)


def discriminator_settings(discriminator: nn.Module, lr: float | None) -> list[ParameterSettings]:
    """The optimiser's settings for a discriminator: no weight decay, and its own learning rate if one is given.

    Weight decay is a prior for the student. It would pull the discriminator's weights to 0, and so all scores to one
    value.
    """
    settings = {"weight_decay": 0.0} | ({} if lr is None else {"lr": lr})
    return [(parameter, settings) for parameter in discriminator.parameters()]
