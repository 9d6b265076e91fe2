"""What ALKD and AFKD train against: a network that tells the student's side from the teacher's."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call

from distill.losses import deception_loss, discriminator_loss
from distill.losses.adversarial import Form
from distill.training.optimization import ParameterSettings


class Discriminator(nn.Module):
    """An MLP of three layers that scores every position by itself, high for the teacher's.

    LayerNorm keeps it from diverging at a student's learning rate: without it, ALKD and AFKD were NaN within 200 steps
    of SGD at 0.1 with momentum 0.9. BatchNorm would make the score of a sample depend on the others of its batch.

    Args:
        hidden: The units of each of its two hidden layers.
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
        """The scores ``(N, L)``, logits, at the L positions of ``(N, C, *)``; a vector ``(N, C)`` has one."""
        scores: Tensor = self.layers(feature.reshape(*feature.shape[:2], -1).mT)
        return scores.squeeze(2)


def opposed_losses(discriminator: nn.Module, student: Tensor, teacher: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """The losses of a discriminator and of the student that is to deceive it, each without gradient to the other.

    Both train in one backward pass: simultaneous gradient descent.

    Args:
        discriminator: A :class:`Discriminator`; gets the gradients of the first loss only.
        student: What the student puts out, ``(N, C, *)``; gets the gradients of the second only.
        teacher: The same of the teacher, of the same shape.
        form: As in :func:`~distill.losses.discriminator_loss`.

    Returns:
        ``(discriminator, adversarial)``, one value a position each, ``(N, L)``.
    """
    on_student, on_teacher = discriminator(student.detach()), discriminator(teacher)
    learning = discriminator_loss(on_student.flatten(), on_teacher.flatten(), form=form, reduction="none")
    as_constant = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    scores: Tensor = functional_call(discriminator, as_constant, (student,))
    deceiving = deception_loss(scores.flatten(), form=form, reduction="none")
    return learning.view_as(scores), deceiving.view_as(scores)


def discriminator_settings(discriminator: nn.Module, lr: float | None) -> list[ParameterSettings]:
    """What the optimiser does otherwise for a discriminator: no weight decay, and, if given, another learning rate.

    Weight decay is a prior of the student's; a discriminator that is pulled to 0 calls everything alike.
    """
    settings = {"weight_decay": 0.0} | ({} if lr is None else {"lr": lr})
    return [(parameter, settings) for parameter in discriminator.parameters()]
