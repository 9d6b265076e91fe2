"""A ViT of timm teaches a Swin of timm: tokens of one against maps of the other, unchanged networks.

The teacher sees colour, the student grey. With ``pretrained=True`` and real images, this is a run in earnest.
"""

from functools import partial

import timm
import torch
from lightning import Trainer, seed_everything
from torch.utils.data import DataLoader

from distill import Classification, Supervised
from distill.methods import FitNet

seed_everything(0)
colours = torch.eye(3).repeat(16, 1)  # each class is a colour, and a bit of brightness
noise = 0.3 * torch.randn(48, 3, 64, 64)
samples = [
    {"colour": colour[:, None, None] + x, "grey": (0.2 * label + x).mean(0, keepdim=True), "target": label}
    for label, colour, x in zip(torch.arange(3).repeat(16), colours, noise, strict=True)
]
loader = DataLoader(samples, batch_size=12, shuffle=True)
common = {"task": Classification(3), "optimizer": partial(torch.optim.AdamW, lr=1e-3)}

size = {"img_size": 64, "num_classes": 3, "pretrained": False}
vit = timm.create_model("vit_tiny_patch16_224", depth=3, **size)
swin = timm.create_model("swin_tiny_patch4_window7_224", in_chans=1, window_size=2, depths=(1, 1, 1, 1), **size)


def fit(module: Supervised) -> None:
    Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False).fit(module, loader)


fit(Supervised(vit, inputs=["colour"], **common))
method = FitNet(
    vit.eval(),
    swin,
    teacher_inputs=["colour"],
    student_inputs=["grey"],
    teacher_layers=["blocks.1"],  # tokens (N, 1 + 16, 192): the class token is left out, 4 x 4 positions
    student_layers=["layers.1"],  # a map (N, 8, 8, 192) with its channels last, pooled to 4 x 4
    joint=True,
    weight=1.0,
    **common,
)
fit(method)
torch.save(method.student.state_dict(), "swin.pt")
