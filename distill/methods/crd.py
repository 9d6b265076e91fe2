"""CRD: a sample's embeddings by student and teacher are told from those of other samples."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.errors import UserError
from distill.internals.lightning import attached, loader_of
from distill.losses import nce_log_normalizer, nce_loss
from distill.losses.parts.unit import unit_vectors
from distill.methods.parts.embedding_memory import EmbeddingMemory, MemoryBank, MemoryQueue
from distill.methods.parts.pairs import as_vector, feature_pairs, require_pairs

Memory = Literal["bank", "queue"]


class CRD(DistillationModule):
    """Contrastive representation distillation (Tian et al., ICLR 2020, eqs. 18 and 19).

    ``hard_weight * CE + weight * (NCE with the student's embedding as the anchor + NCE with the teacher's)``. A linear
    layer embeds each side's feature, of a map its mean over the positions, and the embedding is divided by its length;
    both layers are trained by this loss. The other embeddings come from a memory:

    - ``bank``, as in the paper: one embedding of either network for every training sample, by the ``index`` in the
      batch; M is their number.
    - ``queue``, which needs no index: those of the last ``negatives`` samples; M is their number.

    The memory takes the embeddings of a batch after the step. The constant Z is what the authors' code estimates from
    its first batch, see :func:`~distill.losses.nce_log_normalizer`. There the negatives are drawn from all samples, the
    sample itself included; here from the others, which matters where the data set is not larger than the number of
    negatives.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` have one
            layer each, in the paper the last before the classifier.
        memory: ``bank`` or ``queue``.
        num_samples: How many training samples the bank has a place for; as many as the training data unless said
            otherwise.
        negatives: K, how many other samples each is told from; 16384 in the paper.
        temperature: By which the products of embeddings are divided; 0.07 in the authors' code.
        momentum: What remains in the bank of an old embedding; 0.5 in the authors' code. A queue has none.
        dimension: The length of an embedding; 128 in the authors' code.
        weight: The weight of the term; 0.8 in the authors' code.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is not one pair of layers, or an argument is out of its range. From the step: it is not known
            how many samples there are, there are fewer than 2, or an index lies outside the bank.
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
        if memory not in ("bank", "queue"):
            raise UserError(f"memory must be bank or queue, got {memory!r}")
        if negatives < 1:
            raise UserError(f"negatives must be 1 or more, got {negatives}")
        if not temperature > 0:
            raise UserError(f"temperature must be positive, got {temperature}")
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
        self._latest: tuple[Tensor, Tensor, Batch] | None = None

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Equation 18 in both directions, for each sample."""
        ((feature, their_feature),) = feature_pairs(self, student, teacher)
        ours = unit_vectors(self.student_embedding(as_vector(feature)))
        theirs = unit_vectors(self.teacher_embedding(as_vector(their_feature)))
        if not len(self.memory) and not self._allocate():
            return {"crd": 0 * (ours + theirs).sum(1)}
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
            for positive, negatives in self.memory.similarities(ours, theirs, batch)
        ]
        self._latest = ours.detach(), theirs.detach(), batch
        return {"crd": self.weight * (losses[0] + losses[1])}

    def after_backward(self) -> None:
        """Puts the embeddings of the last step, from all processes, into the memory."""
        if self._latest is not None:
            self.memory.update(*self._latest)
            self._latest = None

    def _allocate(self) -> bool:
        """Makes the memory; False where nothing says its size, as in a validation alone."""
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
