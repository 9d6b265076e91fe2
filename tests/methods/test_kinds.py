"""Every method on features of every kind: vectors, sequences, maps and volumes, and pairs of different kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import distill.methods
from distill import Classification, DistillationModule, NetworkOutput
from distill.errors import UserError
from distill.methods import CWD, FT, TwoDPASS
from distill.methods.parts.adaptors import Convolution
from tests.losses.cases import Case, assert_near, random_case
from tests.methods.examples import EXAMPLES, VARIANTS
from tests.methods.kinds import METHODS, PAIRS, Kind, Pair
from tests.methods.steps import terms_of
from tests.toys import CLASSES

SIZES: dict[Kind, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "vector": ((), ()),
    "sequence": ((6,), (4,)),
    "map": ((4, 6), (4, 3)),
    "volume": ((3, 4, 6), (2, 4, 3)),
}
"""The positions of the teacher's and of the student's features of each kind; the teacher's are pooled."""

Features = dict[str, Tensor]
SAMPLES = 4
LABELS = random_case(samples=SAMPLES, classes=CLASSES)


def features(kind: Kind, side: int) -> Features:
    """Two layers of the teacher (0) or the student (1)."""
    generator = torch.Generator().manual_seed(side)
    channels = ((6, 5), (4, 3))[side]
    return {
        name: torch.randn(SAMPLES, count, *SIZES[kind][side], generator=generator, dtype=torch.float64)
        for name, count in zip("ab", channels, strict=True)
    }


def pair_of(kinds: Pair) -> tuple[Features, Features]:
    """The features of teacher and student."""
    return features(kinds[0], 0), features(kinds[1], 1)


def method_on(name: str, teacher: Features, student: Features) -> DistillationModule:
    """A method whose adaptors fit the features."""
    arguments = dict(EXAMPLES[name].toys["maps"]())
    layers = ["a", "b"] if name in ("FSP", "DimensionalStructure") else ["a"]
    if "teacher_layers" in arguments or name == "CWD":
        arguments |= {"teacher_layers": layers, "student_layers": layers}
    torch.manual_seed(0)
    method: DistillationModule = getattr(distill.methods, name)(**arguments).double()
    loss_of(method, teacher, student)
    if isinstance(method, FT):
        method.stage_one_epochs = 0  # the student learns in the second stage
    return method


def loss_of(method: DistillationModule, teacher: Features, student: Features) -> Tensor:
    """The loss of a step; no memory changes."""
    batch = {"target": LABELS.target, "index": torch.arange(SAMPLES)}
    torch.manual_seed(0)
    terms = method.distillation_step(
        NetworkOutput(LABELS.teacher, teacher), NetworkOutput(LABELS.student, student), batch
    )
    return torch.stack([term.mean() for term in terms.values()]).sum()


def shuffled(feature: Tensor) -> Tensor:
    """The feature with its positions in another order, the same in all samples and at all times or depths."""
    flat = feature.flatten(-2) if feature.ndim > 3 else feature
    order = torch.randperm(flat.shape[-1], generator=torch.Generator().manual_seed(2))
    return flat[..., order].view_as(feature)


def averaged(feature: Tensor) -> Tensor:
    """The feature with its mean at all positions."""
    return feature.flatten(2).mean(2).view(*feature.shape[:2], *[1] * (feature.ndim - 2)).expand_as(feature)


def keep_central_taps(method: nn.Module) -> None:
    """Makes all convolutions pointwise, with weights as large, so that they do not tell positions apart."""
    for module in method.modules():
        if isinstance(module, Convolution):
            weight = module.weight.data
            taps = torch.zeros_like(weight).flatten(2)
            taps[..., taps.shape[2] // 2] = taps.shape[2] * weight.flatten(2)[..., taps.shape[2] // 2]
            module.weight.data = taps.view_as(weight)


@pytest.mark.parametrize(("column", "pairs"), PAIRS.items(), ids=PAIRS)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_compares_what_the_table_says_or_refuses_the_pair(name: str, column: str, pairs: list[Pair]) -> None:
    declared = METHODS[name][list(PAIRS).index(column)]
    for kinds in pairs:
        teacher, student = pair_of(kinds)
        if declared == "refused":
            sentence = (
                rf"{name} compares positions, which .* do not allow: .* got \(4, .*: (a vector has|only maps with)"
            )
            with pytest.raises(UserError, match=sentence):
                method_on(name, teacher, student)
            continue
        method = method_on(name, teacher, student)
        keep_central_taps(method)
        leaves = {layer: feature.requires_grad_() for layer, feature in student.items()}
        loss = loss_of(method, teacher, leaves)
        assert loss.isfinite()
        for layer in method.student_layers:
            (gradient,) = torch.autograd.grad(loss, leaves[layer], retain_graph=True, allow_unused=True)
            assert gradient is not None
            assert gradient.isfinite().all()
            assert gradient.any()
        if kinds[1] == "vector":
            continue
        in_order, in_another = (
            loss.item(),
            loss_of(method, teacher, {k: shuffled(x) for k, x in student.items()}).item(),
        )
        if declared == "positions":
            assert in_another != pytest.approx(in_order, rel=1e-6)
            continue
        assert in_another == pytest.approx(in_order, rel=1e-9)
        if name in ("FitNet", "FT"):
            continue  # the mean is that of what their adaptors make of each position
        of_means = loss_of(method, teacher, {layer: averaged(feature) for layer, feature in student.items()}).item()
        assert (of_means == pytest.approx(in_order, rel=1e-9)) == (declared == "means")


def test_every_method_on_features_is_in_the_table() -> None:
    on_features = [
        name
        for name, example in EXAMPLES.items()
        if name == "CWD" or any({"teacher_layers", "student_layers"} <= make().keys() for make in example.toys.values())
    ]
    assert list(METHODS) == on_features


def with_dim(named: Mapping[str, Tensor], dim: int, size: int = 1) -> Features:
    """The features with a further dim, along which they are constant."""
    return {name: feature.unsqueeze(dim).repeat_interleave(size, dim) for name, feature in named.items()}


def share_weights(source: nn.Module, target: nn.Module, dim: int) -> None:
    """Gives a method the weights of another, whose kernels lack a dim: there they are 0 but in the middle."""
    weights = source.state_dict()
    for name, value in target.state_dict().items():
        if weights[name].ndim < value.ndim:
            weights[name] = torch.zeros_like(value).index_copy_(dim, torch.tensor([1]), weights[name].unsqueeze(dim))
    target.load_state_dict(weights)


@pytest.mark.parametrize(("kind", "dim"), [("sequence", 3), ("map", 2)])
@pytest.mark.parametrize("name", METHODS)
def test_a_dim_of_one_position_changes_nothing(name: str, kind: Kind, dim: int) -> None:
    teacher, student = pair_of((kind, kind))
    raised = with_dim(teacher, dim), with_dim(student, dim)
    method, same = method_on(name, teacher, student), method_on(name, *raised)
    share_weights(method, same, dim)
    assert_near(loss_of(same, *raised), loss_of(method, teacher, student), tolerance=1e-9)


@pytest.mark.parametrize("side", ["teacher", "student"])
@pytest.mark.parametrize("name", METHODS)
def test_a_still_video_is_compared_as_its_image_is(name: str, side: str) -> None:
    teacher, student = pair_of(("map", "map"))
    still = (with_dim(teacher, 2, 3), student) if side == "teacher" else (teacher, with_dim(student, 2, 3))
    method, same = method_on(name, teacher, student), method_on(name, *still)
    share_weights(method, same, 2)
    assert_near(loss_of(same, *still), loss_of(method, teacher, student), tolerance=1e-9)


class Recurrent(nn.Module):
    """A transformer on a sequence ``(N, L, C)``, whose layers return such sequences."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(3, width)
        self.first, self.second = (nn.TransformerEncoderLayer(width, 2, 8, batch_first=True) for _ in range(2))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(self.embed(x))).mean(1))
        return logits


def test_a_transformer_on_sequences_teaches_another_of_other_length_by_every_method() -> None:
    torch.manual_seed(0)
    teacher, student = Recurrent(6).eval(), Recurrent(4)
    batch = {"long": torch.randn(SAMPLES, 8, 3), "short": torch.randn(SAMPLES, 5, 3), "target": LABELS.target}
    batch["index"] = torch.arange(SAMPLES)
    for name in METHODS:
        arguments: dict[str, Any] = dict(EXAMPLES[name].toys["maps"]())
        layers = ["first", "second"] if name in ("FSP", "DimensionalStructure") else ["second"]
        arguments |= {"teacher_layers": layers, "student_layers": layers, "task": Classification(CLASSES)}
        arguments |= {"teacher_inputs": ["long"], "student_inputs": ["short"]}
        method: DistillationModule = getattr(distill.methods, name)(teacher, student, **arguments)
        method.check_batch(batch)
        if isinstance(method, FT):
            method.stage_one_epochs = 0
        of_teacher, of_student = method.forward_both(batch)
        assert of_teacher.features["second"].shape == (SAMPLES, 6, 8)
        assert of_student.features["second"].shape == (SAMPLES, 4, 5)
        terms = method.distillation_terms(of_teacher, of_student, batch)
        loss = torch.stack(list(terms.values())).sum()
        (gradient,) = torch.autograd.grad(loss, of_student.features["second"])
        assert gradient.isfinite().all()
        assert gradient.any(), name


ON_LOGITS = ["ALKD", "DKD", "DWLD", "KD", "NTDH", "PSSM", "DKD with sample mask", "NTDH with sample mask"]


@pytest.mark.parametrize("spatial", [(2, 3, 4), (4, 6)])
def test_logits_at_points_pixels_and_voxels_are_distilled_as_rows(spatial: tuple[int, ...]) -> None:
    case = random_case(samples=2, spatial=spatial, classes=CLASSES)
    points = Case(case.student.flatten(2), case.teacher.flatten(2), case.target.flatten(1))
    for name in ON_LOGITS:
        torch.manual_seed(0)
        make = VARIANTS[name].make if name in VARIANTS else getattr(distill.methods, name)
        method = make().double()
        dense, flat = terms_of(method, case), terms_of(method, points)
        assert dense.keys() == flat.keys()
        for term, value in dense.items():
            assert value.shape == case.target.shape, name
            assert_near(value.flatten(1), flat[term], tolerance=1e-12)
    of_channels = terms_of(CWD(), case)["cwd"], terms_of(CWD(), points)["cwd"]
    assert_near(*of_channels)


def test_the_classifiers_of_2dpass_predict_at_points_and_voxels() -> None:
    teacher, student = {"a": features("map", 0)["a"]}, {"a": features("map", 1)["a"]}
    case = random_case(samples=SAMPLES, spatial=(8, 9), classes=CLASSES)
    method = TwoDPASS(teacher_layers=["a"], student_layers=["a"]).double()
    of_image = terms_of(method, case, teacher, student)
    still = Case(*(value.unsqueeze(-3).repeat_interleave(5, -3) for value in case))
    still = still._replace(target=case.target.unsqueeze(1).repeat_interleave(5, 1))
    of_volume = terms_of(method, still, with_dim(teacher, 2, 2), with_dim(student, 2, 3))
    of_pair = terms_of(method, case, with_dim(teacher, 2, 2), with_dim(student, 2, 3))
    for term, value in of_image.items():
        assert_near(of_pair[term], value)
        assert_near(of_volume[term], value if value.ndim == 1 else value.unsqueeze(1).expand_as(of_volume[term]))
    points = random_case(samples=SAMPLES, spatial=(7,), classes=CLASSES)
    of_points = terms_of(
        TwoDPASS(teacher_layers=["a"], student_layers=["a"]).double(), points, *pair_of(("sequence", "sequence"))
    )
    assert of_points["kl"].shape == (SAMPLES, 7)
    for kinds in (("vector", "vector"), ("map", "map"), ("vector", "sequence")):
        fresh = TwoDPASS(teacher_layers=["a"], student_layers=["a"]).double()
        with pytest.raises(UserError, match=r"TwoDPASS predicts classes at the positions of \(4, 4, 7\), but its pair"):
            terms_of(fresh, points, *pair_of(kinds))
