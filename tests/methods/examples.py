"""The smallest example of every method: the layers and arguments that it needs. A new method has its entry here.

The guarantees (through ``tests/toys.py``), the combinations and the benchmarks read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from distill import Batch, DistillationModule, NetworkOutput
from distill.distributed import gather
from distill.methods import (
    ARFD,
    CRD,
    CWD,
    DKD,
    FT,
    KD,
    NTDH,
    PSSM,
    TIEKD,
    DimensionalStructure,
    FitNet,
    ResKD,
    TwoDPASS,
)
from distill.weighting import NontargetSampleMask, PerceptualSolutionSpaceMask

Kind = Literal["vectors", "maps", "depth"]
"""Logits ``(N, C)``, logits ``(N, C, H, W)``, or depth ``(N, 1, H, W)``."""

Arguments = Callable[[], dict[str, Any]]


class Example(NamedTuple):
    """What a method needs beside networks, task and optimiser.

    Args:
        toys: The arguments on the networks of ``tests/toys.py``, whose layers are ``first``, ``norm`` and ``head``, for
            each kind of data that the method takes.
        cifar: The arguments on two networks of ``distill.models.cifar``, as plain data where they can be; None for
            methods that do not run there. Of a method with two stages they measure the first one, of FitNet both.
    """

    toys: Mapping[Kind, Arguments]
    cifar: Arguments | None


class Variant(NamedTuple):
    """A method with other arguments, which has to keep the guarantees as well."""

    make: Callable[..., DistillationModule]
    kind: Kind = "vectors"


class HintAndRelations(DistillationModule):
    """Features through a lazy adaptor, and relations between all samples of the global batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adaptor = nn.LazyLinear(8)
        self.teacher_adaptor = nn.LazyLinear(8)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        (of_teacher,), (of_student,) = teacher.features.values(), student.features.values()
        hint = (self.adaptor(of_student) - self.teacher_adaptor(of_teacher)).pow(2).mean(dim=1)
        directions = (F.normalize(gather(feature), dim=1) for feature in (of_student, of_teacher))
        gram, other = (x @ x.T for x in directions)
        return {"hint": hint, "relations": (gram - other).pow(2).mean()}


class SecondStage(FT):
    """FT after its first stage, which here lasts until all modules have found their channels."""

    @property
    def in_stage_one(self) -> bool:
        return any(isinstance(parameter, UninitializedParameter) for parameter in self.decoders.parameters())


TWO_PAIRS: dict[str, Any] = {"teacher_layers": ["norm", "head"], "student_layers": ["first", "norm"]}
ONE_PAIR: dict[str, Any] = {"teacher_layers": ["norm"], "student_layers": ["first"]}


def on_toys(*kinds: Kind, **arguments: Any) -> Mapping[Kind, Arguments]:
    """The same arguments on every kind of data; on vectors and maps where none is named."""
    return dict.fromkeys(kinds or ("vectors", "maps"), lambda: arguments)


def on_cifar(*layers: str, **arguments: Any) -> Arguments:
    """These layers of both networks, and other arguments."""
    pairs = {f"{side}_layers": list(layers) for side in ("teacher", "student")} if layers else {}
    return lambda: {**pairs, **arguments}


STAGES = ("stage1", "stage2", "stage3")
ON_LOGITS = Example(on_toys(), on_cifar())
ON_STAGES = Example(on_toys(**TWO_PAIRS), on_cifar(*STAGES))
ON_EMBEDDINGS = Example(on_toys(**TWO_PAIRS), on_cifar("pool"))

EXAMPLES: dict[str, Example] = {
    "AFKD": ON_EMBEDDINGS,
    "ALKD": ON_LOGITS,
    "ARFD": ON_STAGES,
    "AT": Example(on_toys("maps", **TWO_PAIRS), on_cifar(*STAGES)),
    "CC": ON_EMBEDDINGS,
    "CRD": Example(on_toys(**ONE_PAIR, num_samples=10, negatives=20), on_cifar("pool", num_samples=50000)),
    "CWD": Example(on_toys("maps"), on_cifar("stage3")),
    "DKD": ON_LOGITS,
    "DWLD": ON_LOGITS,
    "FSP": Example(
        on_toys("maps", **TWO_PAIRS, stage_one_epochs=1),
        on_cifar("stage1", "stage2", "stage2", "stage3", stage_one_epochs=1),
    ),
    "FT": Example(on_toys(**TWO_PAIRS, stage_one_epochs=1), on_cifar("stage3", stage_one_epochs=1)),
    "KD": ON_LOGITS,
    "LIX": ON_STAGES,
    "NST": Example(on_toys("maps", **TWO_PAIRS), on_cifar(*STAGES)),
    "NTDH": ON_LOGITS,
    "PKT": ON_EMBEDDINGS,
    "PSSM": ON_LOGITS,
    "RKD": ON_EMBEDDINGS,
    "SP": ON_EMBEDDINGS,
    "TIEKD": Example(on_toys("depth", student_layers=["head"]), None),
    "VID": ON_STAGES,
    "Combined": Example(
        {
            "vectors": lambda: {
                "methods": {
                    "kd": KD(),
                    "hint": HintAndRelations(teacher_layers=["norm"], student_layers=["first"]),
                    "again": HintAndRelations(teacher_layers=["norm"], student_layers=["head"]),
                },
                "weights": {"hint": 0.5},
            },
            "maps": lambda: {"methods": {"dkd": DKD(), "cwd": CWD(**TWO_PAIRS), "arfd": ARFD(**TWO_PAIRS)}},
            "depth": lambda: {"methods": {"tiekd": TIEKD(student_layers=["head"]), "reskd": ResKD(losses=["mse"])}},
        },
        lambda: {"methods": {"kd": KD(), "ds": DimensionalStructure(**on_cifar(*STAGES, "pool")())}},
    ),
    "DimensionalStructure": Example(on_toys(**TWO_PAIRS, dimension=16), on_cifar(*STAGES, "pool")),
    "FitNet": Example(on_toys(**TWO_PAIRS, stage_one_epochs=1), on_cifar("stage2", joint=True)),
    "ResKD": Example(on_toys("depth"), None),
    "SemCKD": ON_STAGES,
    "TwoDPASS": ON_STAGES,
}

VARIANTS: dict[str, Variant] = {
    "KD under PSSM": Variant(partial(KD, weighting=PerceptualSolutionSpaceMask())),
    "DKD with sample mask": Variant(partial(DKD, weighting=NontargetSampleMask(0.5), warmup_epochs=0)),
    "PSSM of KD": Variant(partial(PSSM, loss="kd", reading="printed")),
    "PSSM dropping": Variant(partial(PSSM, reading="drop_wrong")),
    "NTDH with sample mask": Variant(partial(NTDH, sample_mask=NontargetSampleMask(0.25))),
    "TIEKD by integrals": Variant(
        partial(TIEKD, student_layers=["head"], bin_value="integral", normalization="sum", direction="student_teacher"),
        "depth",
    ),
    "ResKD of all": Variant(partial(ResKD, losses=["ssim", "mse", "si"]), "depth"),
    "TwoDPASS with sample mask": Variant(partial(TwoDPASS, weighting=NontargetSampleMask(0.5), **TWO_PAIRS)),
    "CWD of features": Variant(partial(CWD, **TWO_PAIRS), "maps"),
    "FitNet jointly": Variant(partial(FitNet, joint=True, **TWO_PAIRS)),
    "FT in its second stage": Variant(partial(SecondStage, stage_one_epochs=1, **TWO_PAIRS)),
    "CRD with queue": Variant(partial(CRD, memory="queue", negatives=9, **ONE_PAIR)),
    "hint and relations": Variant(partial(HintAndRelations, teacher_layers=["first"], student_layers=["first"])),
}
