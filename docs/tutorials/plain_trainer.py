"""Distillation from a notebook: a plain Trainer, tuple batches, and nothing in YAML. Run it cell by cell.

The teacher sees a digit, the student the lower half of it.
"""

# %%
from functools import partial

import torch
from lightning import Trainer, seed_everything
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

from distill import Classification, Supervised
from distill.methods import DKD
from distill.models import MLP

seed_everything(0)
digits = load_digits()
images = torch.from_numpy(digits.images).float() / 16
pairs = TensorDataset(images.flatten(1), images[:, 4:].flatten(1), torch.from_numpy(digits.target))
train, val = random_split(pairs, [1297, 500])
loaders = DataLoader(train, batch_size=64, shuffle=True), DataLoader(val, batch_size=500)
common = {
    "task": Classification(10),
    "optimizer": partial(torch.optim.AdamW, lr=3e-3),
    "batch_names": ["digit", "lower", "target"],  # what the items of a batch are
}


def fit(module: Supervised) -> float:
    trainer = Trainer(max_epochs=5, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(module, *loaders)
    return float(trainer.callback_metrics["val/accuracy"])


# %%
teacher = Supervised(MLP(64, 10, hidden=[64]), inputs=["digit"], **common)
print("teacher", fit(teacher))
student = Supervised(MLP(32, 10, hidden=[16]), inputs=["lower"], **common)
print("student", fit(student))

# %%
inputs = {"teacher_inputs": ["digit"], "student_inputs": ["lower"]}
taught = DKD(teacher.network.eval(), MLP(32, 10, hidden=[16]), beta=2.0, **inputs, **common)
print("DKD", fit(taught))
