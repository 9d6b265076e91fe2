"""CRD's memories: the embeddings of other samples, from earlier steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from distill.distributed import SynchronizedBuffers, gather, is_held_out, own_rows
from distill.errors import UserError, UserKeyError
from distill.losses.parts.normalization import unit_vectors
from distill.outputs import Batch

Similarities = tuple[Tensor, Tensor]
"""Cosines between embeddings of the same sample, ``(N,)``, and of different samples, ``(N, K)``."""


class EmbeddingMemory(SynchronizedBuffers, ABC):
    """Embeddings of both networks, of length 1; random at first, equal in all processes, and saved in checkpoints.

    It is empty until a checkpoint is loaded or :meth:`allocate` is called. A step reads it by :meth:`similarities` and
    may call :meth:`hold`; both leave the embeddings as they are. :meth:`update` alone changes them, once for each
    training step, after the backward pass.

    Args:
        dimension: The length of an embedding.
    """

    student: Tensor  # (M, D)
    teacher: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.steps = 0
        self._seed = int(torch.randint(2**31, ()))
        self._held: tuple[Tensor, Tensor, Batch] | None = None
        self.register_buffer("student", torch.empty(0, dimension))
        self.register_buffer("teacher", torch.empty(0, dimension))
        self.register_load_state_dict_pre_hook(_allocate_as_saved)  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.student)

    def allocate(self, size: int) -> None:
        """Draws ``size`` random embeddings for each network, in all processes those of the first one."""
        self._seed = int(gather(torch.tensor([self._seed], device=self.student.device))[0])
        # on the CPU, so that the numbers are the same on every device
        generator = torch.Generator().manual_seed(self._seed)
        for side in ("student", "teacher"):
            rows = torch.randn(size, self.student.shape[1], generator=generator)
            setattr(self, side, unit_vectors(rows).to(getattr(self, side)))

    @abstractmethod
    def similarities(self, student: Tensor, teacher: Tensor, batch: Batch) -> tuple[Similarities, Similarities]:
        """The similarities of a batch's embeddings with the stored embeddings of the other network.

        Args:
            student: The student's embeddings, ``(N, D)``.
            teacher: The teacher's embeddings of the same samples, ``(N, D)``.
            batch: The batch of these samples.

        Returns:
            The similarities with the student's embeddings as anchors, then with the teacher's. Gradients flow to the
            anchors only.
        """

    def hold(self, student: Tensor, teacher: Tensor, batch: Batch) -> None:
        """Holds the embeddings of a training step, ``(N, D)``, for :meth:`update`; they replace those held before."""
        if not is_held_out():
            self._held = student.detach(), teacher.detach(), batch

    @torch.no_grad()
    def update(self) -> None:
        """Stores the held embeddings of all processes; does nothing if none are held."""
        if self._held is None:
            return
        student, teacher, batch = self._held
        self._held = None
        self.store(gather(student), gather(teacher), batch)
        self.steps += 1

    @abstractmethod
    def store(self, student: Tensor, teacher: Tensor, batch: Batch) -> None:
        """Stores embeddings.

        Args:
            student: The student's embeddings from all processes, ``(N, D)``.
            teacher: The teacher's embeddings of the same samples.
            batch: The batch of this process.
        """

    def get_extra_state(self) -> Tensor:
        """What checkpoints hold beside the embeddings: the seed and the number of steps."""
        return torch.tensor([self._seed, self.steps])

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the seed and the number of steps."""
        self._seed, self.steps = (int(number) for number in state)


def _allocate_as_saved(memory: EmbeddingMemory, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    saved = state_dict.get(f"{prefix}student")
    if not len(memory) and saved is not None:
        memory.student, memory.teacher = (kept.new_empty(saved.shape) for kept in (memory.student, memory.teacher))


class MemoryBank(EmbeddingMemory):
    """One embedding for every sample of the data set, found by its index: a moving average over the epochs.

    The positive of a sample is its own embedding by the other network; its negatives are drawn, with replacement, from
    all other samples. Several processes draw the same negatives as one process with all their batches.

    Args:
        dimension: The length of an embedding.
        negatives: The number of negatives for each sample.
        momentum: The share of the old embedding that stays when there is a new one.

    Raises:
        ValueError: From :meth:`allocate`: there are fewer than 2 samples. From :meth:`similarities`: an index lies
            outside the bank.
        KeyError: From :meth:`similarities`: the batch has no ``index``.
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
        # a product with the whole bank takes less memory than K embeddings for each sample, (N, K, D)
        of_student, of_teacher = student @ self.teacher.mT, teacher @ self.student.mT
        if is_held_out():  # the sample is not in the bank: its positive is its embedding in this batch
            positive = (student * teacher).sum(1)
            negatives = self._draw(torch.full((len(student),), len(self) - 1, device=student.device))
            return (positive, of_student.gather(1, negatives)), (positive, of_teacher.gather(1, negatives))
        index = self._index(batch)
        positive, negatives = index.unsqueeze(1), self._draw(index)
        return (
            (of_student.gather(1, positive).squeeze(1), of_student.gather(1, negatives)),
            (of_teacher.gather(1, positive).squeeze(1), of_teacher.gather(1, negatives)),
        )

    def store(self, student: Tensor, teacher: Tensor, batch: Batch) -> None:
        """Moves the embeddings of these samples towards the new ones."""
        index = gather(batch["index"])
        places = torch.arange(len(index), device=index.device)
        # if a sample is there twice, its last embedding counts, on every device
        last = index.new_zeros(len(self)).scatter_reduce_(0, index, places, "amax")[index]
        for bank, new in ((self.student, student), (self.teacher, teacher)):
            bank[index] = unit_vectors(self.momentum * bank[index] + (1 - self.momentum) * new[last].to(bank))

    def _index(self, batch: Batch) -> Tensor:
        if "index" not in batch:
            raise UserKeyError("the batch has no 'index', which CRD's bank needs; memory='queue' needs none")
        index: Tensor = batch["index"]
        # worth a wait for the GPU: an index outside the bank is an error there from which no process recovers
        outside = index[(index < 0) | (index >= len(self))]
        if len(outside):
            raise UserError(
                f"the batch has index {int(outside[0])}, but CRD's bank has the samples 0 to {len(self) - 1}: "
                "num_samples must be the number of training samples"
            )
        return index

    def _draw(self, index: Tensor) -> Tensor:
        """The negatives of each sample, ``(N, K)``, drawn on the device for the global batch."""
        of_all = gather(index)
        generator = torch.Generator(index.device).manual_seed(self._seed + self.steps)
        size = len(of_all), self.negatives
        others = torch.randint(len(self) - 1, size, generator=generator, device=index.device)
        return own_rows(others + (others >= of_all.unsqueeze(1)), index)


class MemoryQueue(EmbeddingMemory):
    """The embeddings of the last samples; all of them are negatives.

    The positive of a sample is its embedding by the other network in the same batch, as a constant.
    """

    def similarities(self, student: Tensor, teacher: Tensor, batch: Batch) -> tuple[Similarities, Similarities]:
        """See :meth:`EmbeddingMemory.similarities`."""
        return (
            ((student * teacher.detach()).sum(1), student @ self.teacher.mT),
            ((teacher * student.detach()).sum(1), teacher @ self.student.mT),
        )

    def store(self, student: Tensor, teacher: Tensor, batch: Batch) -> None:
        """Puts the embeddings at the end and drops the same number at the front."""
        size = len(self)
        self.student = torch.cat([self.student, student.to(self.student)])[-size:].clone()
        self.teacher = torch.cat([self.teacher, teacher.to(self.teacher)])[-size:].clone()
