"""CRD: the student's embedding of a sample is near the teacher's of that sample and far from those of others."""

from __future__ import annotations

from typing import Any, Literal, get_args

from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_at_least, check_option, check_positive, check_weights
from distill.errors import UserError
from distill.internals.lightning import attached, loader_of
from distill.losses import nce_log_normalizer, nce_loss
from distill.losses.parts.normalization import unit_vectors
from distill.losses.parts.pooling import as_vector
from distill.methods.parts.embedding_memory import EmbeddingMemory, MemoryBank, MemoryQueue
from distill.methods.parts.pairs import feature_pairs, require_pairs

Memory = Literal["bank", "queue"]


class CRD(DistillationModule):
    """Contrastive representation distillation (Tian et al., ICLR 2020, eqs. 18 and 19).

    Needs: one pair of layers; ``index`` for the bank, nothing more for the queue.

    Trains: two embeddings; a memory is kept, not trained.

    ``hard_weight * CE + weight * (NCE with the student's embedding as the anchor + NCE with the teacher's)``. A linear
    layer embeds the feature of each network, a map by its mean over positions, and the embedding is divided by its
    length. This loss trains both layers. The embeddings of other samples come from a memory of M samples:

    - ``bank``, as in the paper: one embedding of each network for every training sample, found by the ``index`` in the
      batch; M is the number of training samples.
    - ``queue``, which needs no index: the embeddings of the last ``negatives`` samples; M is ``negatives``.

    The memory takes the embeddings of a batch after the backward pass. The constant Z is the one that the authors' code
    estimates from its first batch, see :func:`~distill.losses.nce_log_normalizer`. That code draws the negatives from
    all samples, also the sample itself; here they are drawn from the others. This matters if there are fewer samples
    than negatives.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` have one
            layer each, in the paper the last before the classifier.
        memory: ``bank`` or ``queue``.
        num_samples: The number of training samples that the bank holds; by default that of the training data.
        negatives: K, the number of other samples that each sample is compared with; 16384 in the paper.
        temperature: Divides the products of embeddings; 0.07 in the authors' code.
        momentum: The share of the old embedding that stays in the bank; 0.5 in the authors' code. A queue has none.
        dimension: The length of an embedding; 128 in the authors' code.
        weight: The weight of the term; 0.8 in the authors' code.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is not exactly one pair of layers, or an argument is out of its range. From the step: the
            number of samples is unknown or below 2, or an index lies outside the bank.
        KeyError: From the step: the batch has no ``index`` for the bank.
    """

    memory: EmbeddingMemory

    def __init__(
        self,
        *args: Any,
        memory: Memory = "bank",
        num_samples: int | None = None,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        dimension: int = 128,
        weight: float = 0.8,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        require_pairs(self)
        if len(self.student_layers) > 1:
            raise UserError(f"CRD compares one pair of layers, got {len(self.student_layers)}")
        check_option("memory", memory, get_args(Memory))
        check_weights(self.hard_weight, weight=weight)
        check_at_least(1, num_samples=num_samples, negatives=negatives, dimension=dimension)
        check_positive(temperature=temperature)
        if not 0 <= momentum < 1:
            raise UserError(f"momentum must lie in [0, 1), got {momentum}")
        self.num_samples = num_samples
        self.negatives = negatives
        self.temperature = temperature
        self.dimension = dimension
        self.weight = weight
        self.student_embedding = nn.LazyLinear(dimension)
        self.teacher_embedding = nn.LazyLinear(dimension)
        if memory == "bank":
            self.memory = MemoryBank(dimension, negatives=negatives, momentum=momentum)
        else:
            self.memory = MemoryQueue(dimension)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Equation 18 in both directions, for each sample.

        The memory gets its size in the first call, like a lazy layer. It holds the embeddings of this call for
        :meth:`after_backward` and compares nothing with them before.
        """
        ((of_student, of_teacher),) = feature_pairs(self, student, teacher)
        student_z = unit_vectors(self.student_embedding(as_vector(of_student)))
        teacher_z = unit_vectors(self.teacher_embedding(as_vector(of_teacher)))
        if not len(self.memory) and not self._allocate():
            return {"crd": 0 * (student_z + teacher_z).sum(1)}
        samples = len(self.memory)
        log_normalizer = nce_log_normalizer(n_data=samples, dimension=self.dimension, temperature=self.temperature)
        losses = [
            nce_loss(
                positive / self.temperature,
                negatives / self.temperature,
                n_data=samples,
                log_normalizer=log_normalizer,
                reduction="none",
            )
            for positive, negatives in self.memory.similarities(student_z, teacher_z, batch)
        ]
        self.memory.hold(student_z, teacher_z, batch)
        return {"crd": self.weight * (losses[0] + losses[1])}

    def after_backward(self) -> None:
        """Puts the embeddings of the last step, from all processes, into the memory."""
        self.memory.update()

    def _allocate(self) -> bool:
        """Makes the memory; returns False if its size is unknown, as in a validation without a fit."""
        if isinstance(self.memory, MemoryQueue):
            self.memory.allocate(self.negatives)
        elif self.num_samples is not None:
            self.memory.allocate(self.num_samples)
        elif attached(self) is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return False
        else:
            self.memory.allocate(self._training_samples())
        return True

    def _training_samples(self) -> int:
        loader = loader_of(self.trainer, "fit") if attached(self) is not None else None
        try:
            return len(getattr(loader, "dataset", None))  # type: ignore[arg-type]
        except TypeError:
            raise UserError(
                "CRD does not know how many training samples there are: give num_samples, or memory='queue'"
            ) from None
