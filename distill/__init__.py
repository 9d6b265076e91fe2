"""Cross-modal knowledge distillation: the teacher sees more than the student that is deployed."""

from distill.base import Batch, DistillationModule, NetworkOutput, Supervised
from distill.tasks import Classification, Task

__all__ = ["Batch", "Classification", "DistillationModule", "NetworkOutput", "Supervised", "Task"]
