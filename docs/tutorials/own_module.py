"""A LightningModule of your own, with this library's divergence alone: the only import of ours is the callback.

A step returns ``prediction`` (the student's logits) and ``teacher_prediction``. DivergenceTracker does the rest.
"""

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import DivergenceTracker


class MyDistillation(LightningModule):
    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        super().__init__()
        self.teacher, self.student = teacher.eval().requires_grad_(False), student

    def training_step(self, batch, batch_idx):
        rich, poor, target = batch
        with torch.no_grad():
            teacher = self.teacher(rich)
        student = self.student(poor)
        divergence = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
        loss = F.cross_entropy(student, target) + divergence
        return {"loss": loss, "prediction": student.detach(), "teacher_prediction": teacher}

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.student.parameters(), lr=1e-2)


seed_everything(0)
target = torch.randint(4, (400,))
rich = F.one_hot(target, 4) + 0.3 * torch.randn(400, 4)
poor = rich[:, :2] + torch.randn(400, 2)
loader = DataLoader(TensorDataset(rich, poor, target), batch_size=100)

trainer = Trainer(max_epochs=3, callbacks=[DivergenceTracker()], enable_progress_bar=False)
trainer.fit(MyDistillation(nn.Linear(4, 4), nn.Linear(2, 4)), loader, loader)
print({name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")})
print("written to", trainer.log_dir)  # divergence.csv and figures/divergence.png
