"""What CRD tells a sample from: embeddings of other samples that earlier steps have left behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from distill.distributed import SynchronizedBuffers, gather, own_rows
from distill.errors import UserError, UserKeyError
from distill.losses.parts.unit import unit_vectors
from distill.outputs import Batch

Similarities = tuple[Tensor, Tensor]
"""Cosines of embeddings of the same sample, ``(N,)``, and of different ones, ``(N, K)``."""


class EmbeddingMemory(SynchronizedBuffers, ABC):
    """Embeddings of both networks, of length 1, at first random; the same in all processes, and in checkpoints.

    There are none until a checkpoint or :meth:`allocate` says how many.

    Args:
        dimension: The length of an embedding.
    """

    student: Tensor  # (M, D)
    teacher: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.steps = 0
        self._seed = int(torch.randint(2**31, ()))
        self.register_buffer("student", torch.empty(0, dimension))
        self.register_buffer("teacher", torch.empty(0, dimension))
        self.register_load_state_dict_pre_hook(_allocate_as_saved)  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.student)

    def allocate(self, size: int) -> None:
        """Makes room for ``size`` embeddings of either network: in all processes together, as the first one would."""
        self._seed = int(gather(torch.tensor([self._seed], device=self.student.device))[0])
        # on the CPU, so that the numbers are the same on every device
        generator = torch.Generator().manual_seed(self._seed)
        for side in ("student", "teacher"):
            rows = torch.randn(size, self.student.shape[1], generator=generator)
            setattr(self, side, unit_vectors(rows).to(getattr(self, side)))

    @abstractmethod
    def similarities(self, student: Tensor, teacher: Tensor, batch: Batch) -> tuple[Similarities, Similarities]:
        """How the embeddings of a batch compare with those kept of the other network.

        Args:
            student: The student's embeddings, ``(N, D)``.
            teacher: The teacher's of the same samples, ``(N, D)``.
            batch: What the samples are.

        Returns:
            With the student's embeddings as anchors, and with the teacher's; gradients flow to the anchors alone.
        """

    @torch.no_grad()
    def update(self, student: Tensor, teacher: Tensor, batch: Batch) -> None:
        """Keeps the embeddings of the batches of all processes, ``(N, D)`` here."""
        self.keep(gather(student), gather(teacher), batch)
        self.steps += 1

    @abstractmethod
    def keep(self, student: Tensor, teacher: Tensor, batch: Batch) -> None:
        """Keeps the embeddings of all processes, of which this one has this batch."""

    def get_extra_state(self) -> Tensor:
        """What checkpoints keep beside the embeddings: the seed, and how many batches there were."""
        return torch.tensor([self._seed, self.steps])

    def set_extra_state(self, state: Tensor) -> None:
        """Goes on where the memory of the checkpoint stopped."""
        self._seed, self.steps = (int(number) for number in state)


def _allocate_as_saved(memory: EmbeddingMemory, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    saved = state_dict.get(f"{prefix}student")
    if not len(memory) and saved is not None:
        memory.student, memory.teacher = (kept.new_empty(saved.shape) for kept in (memory.student, memory.teacher))


class MemoryBank(EmbeddingMemory):
    """One embedding for every sample of the data set, by its index: a moving average over the epochs.

    A sample's own embedding of the other network is the positive; its negatives are drawn, with replacement, from all
    other samples. Several processes draw what one process would that holds their batches one after the other.

    Args:
        dimension: The length of an embedding.
        negatives: How many negatives each sample has.
        momentum: What remains of the old embedding where there is a new one.

    Raises:
        ValueError: From :meth:`allocate`: there are fewer than 2 samples; from :meth:`similarities`: an index lies
            outside the bank.
        KeyError: From there: the batch has no ``index``.
    """

    def __init__(self, dimension: int, *, negatives: int, momentum: float) -> None:
        super().__init__(dimension)
        self.negatives = negatives
        self.momentum = momentum

    def allocate(self, size: int) -> None:
        """See :meth:`EmbeddingMemory.allocate`."""
        if size < 2:
            raise UserError(f"CRD tells a sample from others: its bank needs 2 samples or more, got {size}")
        super().allocate(size)

    def similarities(self, student: Tensor, teacher: Tensor, batch: Batch) -> tuple[Similarities, Similarities]:
        """See :meth:`EmbeddingMemory.similarities`."""
        index = self._index(batch)
        positive, negatives = index.unsqueeze(1), self._draw(index)
        # one product with the whole bank is less than a copy of K embeddings a sample, (N, K, D)
        of_student, of_teacher = student @ self.teacher.mT, teacher @ self.student.mT
        return (
            (of_student.gather(1, positive).squeeze(1), of_student.gather(1, negatives)),
            (of_teacher.gather(1, positive).squeeze(1), of_teacher.gather(1, negatives)),
        )

    def keep(self, student: Tensor, teacher: Tensor, batch: Batch) -> None:
        """Moves the embeddings of these samples towards the new ones."""
        index = gather(batch["index"])
        places = torch.arange(len(index), device=index.device)
        # of a sample that is there twice the last counts, on every device
        last = index.new_zeros(len(self)).scatter_reduce_(0, index, places, "amax")[index]
        for kept, new in ((self.student, student), (self.teacher, teacher)):
            kept[index] = unit_vectors(self.momentum * kept[index] + (1 - self.momentum) * new[last].to(kept))

    def _index(self, batch: Batch) -> Tensor:
        if "index" not in batch:
            raise UserKeyError("the batch has no 'index', which CRD's bank needs; memory='queue' does without")
        index = batch["index"]
        # worth waiting for the GPU: reading beside the bank would be an error there that no process recovers from
        outside = index[(index < 0) | (index >= len(self))]
        if len(outside):
            raise UserError(
                f"the batch has index {int(outside[0])}, but CRD's bank has the samples 0 to {len(self) - 1}: "
                "num_samples must be the number of training samples"
            )
        return index

    def _draw(self, index: Tensor) -> Tensor:
        """The negatives of each sample, ``(N, K)``, drawn on the device for the global batch."""
        everywhere = gather(index)
        generator = torch.Generator(index.device).manual_seed(self._seed + self.steps)
        size = len(everywhere), self.negatives
        others = torch.randint(len(self) - 1, size, generator=generator, device=index.device)
        return own_rows(others + (others >= everywhere.unsqueeze(1)), index)


class MemoryQueue(EmbeddingMemory):
    """The embeddings of the last samples, whichever they were; all of them are negatives.

    The positive is the other network's embedding of the sample in the same batch, taken as a constant.
    """

    def similarities(self, student: Tensor, teacher: Tensor, batch: Batch) -> tuple[Similarities, Similarities]:
        """See :meth:`EmbeddingMemory.similarities`."""
        return (
            ((student * teacher.detach()).sum(1), student @ self.teacher.mT),
            ((teacher * student.detach()).sum(1), teacher @ self.student.mT),
        )

    def keep(self, student: Tensor, teacher: Tensor, batch: Batch) -> None:
        """Puts the embeddings at the end; as many at the front are dropped."""
        size = len(self)
        self.student = torch.cat([self.student, student.to(self.student)])[-size:].clone()
        self.teacher = torch.cat([self.teacher, teacher.to(self.teacher)])[-size:].clone()
