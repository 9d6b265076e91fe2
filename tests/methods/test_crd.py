from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.special import hyp0f1
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset

from distill import Batch, NetworkOutput
from distill.methods import CRD, Combined
from distill.methods.parts.embedding_memory import MemoryBank, MemoryQueue
from tests.losses.cases import assert_near
from tests.losses.features import features
from tests.processes import run_in_processes
from tests.toys import Samples, ToyData, make_batch, pair_arguments, prepared, quiet_trainer

LAYERS: dict[str, Any] = {"teacher_layers": ["norm"], "student_layers": ["first"]}
INDEX = [3, 0, 7, 2]


def unused(**options: Any) -> CRD:
    torch.manual_seed(0)
    return CRD(**LAYERS | {"num_samples": 9, "negatives": 40, "dimension": 5, "temperature": 0.5} | options).double()


def made(**options: Any) -> CRD:
    """With its memory, which the first step makes."""
    method = unused(**options)
    step(method)
    return method


def outputs(samples: slice = slice(None), seed: int = 0) -> tuple[NetworkOutput, NetworkOutput]:
    of_teacher, of_student = features(4, 6, 2, 2, seed=seed + 1), features(4, 3, seed=seed + 2)
    prediction = torch.zeros(4, 2)
    return (
        NetworkOutput(prediction[samples], {"norm": of_teacher[samples]}),
        NetworkOutput(prediction[samples], {"first": of_student[samples]}),
    )


def batch_of(samples: slice = slice(None), index: list[int] = INDEX) -> Batch:
    return {"index": torch.tensor(index)[samples]}


def step(method: CRD, seed: int = 0, **batch: Any) -> Tensor:
    return method.distillation_step(*outputs(seed=seed), batch_of(**batch))["crd"]


def embedded(method: CRD, seed: int = 0) -> tuple[Tensor, Tensor]:
    teacher, student = outputs(seed=seed)
    weights = method.state_dict()
    sides = []
    for side, x in (("student", student.features["first"]), ("teacher", teacher.features["norm"].mean((2, 3)))):
        z = x @ weights[f"{side}_embedding.weight"].T + weights[f"{side}_embedding.bias"]
        sides.append(z / z.norm(dim=1, keepdim=True))
    return sides[0], sides[1]


def by_equation(z: list[Tensor], places: list[list[int]], samples: int) -> Tensor:
    """Equations 18 and 19 in one direction; the first place is the positive's."""
    # with this constant, the mean of a pair of random embeddings is 1 / M
    constant = samples * hyp0f1(5 / 2, 1 / (4 * 0.5**2))
    values = []
    for row, (own, *others) in zip(z, places, strict=True):
        noise = len(others) / samples
        h = [row[place].exp() / constant / (row[place].exp() / constant + noise) for place in (own, *others)]
        values.append(-h[0].log() - torch.stack([(1 - x).log() for x in h[1:]]).sum())
    return torch.stack(values)


def test_the_term_is_equation_18_in_both_directions_against_the_bank() -> None:
    method = made(weight=1.5)
    bank = method.memory
    assert isinstance(bank, MemoryBank)
    term = step(method)
    of_student, of_teacher = embedded(method)
    places = torch.cat([torch.tensor(INDEX).unsqueeze(1), bank._draw(torch.tensor(INDEX))], 1).tolist()
    expected = torch.zeros(4).double()
    for anchor, kept in ((of_student, bank.teacher), (of_teacher, bank.student)):
        z = anchor @ kept.T / 0.5
        expected += by_equation(list(z), places, 9)
    assert_near(term, 1.5 * expected)
    assert CRD(**LAYERS, memory="queue").weight == 0.8


def test_negatives_are_all_others_and_never_the_sample_itself() -> None:
    bank = made(negatives=500).memory
    assert isinstance(bank, MemoryBank)
    for own, others in zip(INDEX, bank._draw(torch.tensor(INDEX)).tolist(), strict=True):
        assert set(others) == set(range(9)) - {own}


def test_a_step_is_pure_and_the_next_draws_other_negatives() -> None:
    method = made()
    first = step(method)
    torch.rand(3)
    assert torch.equal(step(method), first)
    method.after_backward()
    draws = method.memory._draw(torch.tensor(INDEX))  # type: ignore[operator]
    step(method, seed=5)
    method.after_backward()
    assert not torch.equal(method.memory._draw(torch.tensor(INDEX)), draws)  # type: ignore[operator]


def test_only_the_last_step_before_the_backward_pass_is_stored() -> None:
    twice, once = made(), made()
    step(twice, seed=5)
    for method in (twice, once):
        step(method)
        method.after_backward()
    for name, value in once.state_dict().items():
        assert torch.equal(twice.state_dict()[name], value), name


def test_remembering_moves_the_samples_of_the_batch_half_way_and_no_others() -> None:
    method = made(momentum=0.75)
    before = {side: getattr(method.memory, side).clone() for side in ("student", "teacher")}
    step(method)
    for side, kept in before.items():
        assert torch.equal(getattr(method.memory, side), kept)
    method.after_backward()
    for (side, kept), new in zip(before.items(), embedded(method), strict=True):
        moved = 0.75 * kept[INDEX] + 0.25 * new
        kept[INDEX] = moved / moved.norm(dim=1, keepdim=True)
        assert_near(getattr(method.memory, side), kept)
    after = method.memory.student.clone()
    method.after_backward()  # nothing is held any more
    assert torch.equal(method.memory.student, after)
    assert method.memory.steps == 1


def test_of_a_sample_that_is_in_the_batch_twice_the_last_is_remembered() -> None:
    method = made(momentum=0.0)
    step(method, index=[3, 0, 3, 2])
    method.after_backward()
    of_student, _ = embedded(method)
    assert_near(method.memory.student[[3, 0, 2]], of_student[[2, 1, 3]])


def test_a_queue_needs_no_index_and_keeps_the_last_embeddings() -> None:
    method = made(memory="queue", num_samples=None, negatives=6)
    assert isinstance(method.memory, MemoryQueue)
    at_first = method.memory.teacher.clone()
    term = method.distillation_step(*outputs(), {})["crd"]
    of_student, of_teacher = embedded(method)
    expected = torch.zeros(4).double()
    for anchor, other, kept in (
        (of_student, of_teacher, method.memory.teacher),
        (of_teacher, of_student, method.memory.student),
    ):
        z = torch.cat([(anchor * other).sum(1, keepdim=True), anchor @ kept.T], 1) / 0.5
        expected += by_equation(list(z), [list(range(7))] * 4, 6)
    assert_near(term, 0.8 * expected)
    method.after_backward()
    assert_near(method.memory.teacher, torch.cat([at_first[4:], of_teacher]))
    method.distillation_step(*outputs(seed=9), {})
    method.after_backward()
    assert_near(method.memory.teacher, torch.cat([of_teacher[2:], embedded(method, seed=9)[1]]))


@pytest.mark.parametrize("memory", ["bank", "queue"])
def test_both_embeddings_learn_and_the_memory_does_not(memory: str) -> None:
    method = made(memory=memory)
    step(method).sum().backward()
    for parameter in method.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    assert not any(buffer.requires_grad for buffer in method.buffers())


def in_fit(**options: Any) -> CRD:
    return CRD(**pair_arguments(**LAYERS), negatives=5, **options)


def test_the_bank_has_the_size_of_the_training_data_and_is_loaded_from_a_checkpoint(tmp_path: Path) -> None:
    module = in_fit()
    trainer = quiet_trainer(tmp_path)
    trainer.fit(module, ToyData())
    assert module.memory.student.shape == (10, 128)
    assert module.memory.steps == 6
    trainer.save_checkpoint(tmp_path / "x.ckpt")

    other = in_fit()  # validated without training data, from which it could know the size
    loader = DataLoader(Samples(make_batch(3)), 3)
    quiet_trainer(tmp_path).validate(other, loader, ckpt_path=tmp_path / "x.ckpt", verbose=False)
    for name, value in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    with pytest.raises(ValueError, match=r"CRD: memory\.student has shape \(10, 128\) in the file and \(12, 128\)"):
        quiet_trainer(tmp_path).fit(in_fit(), ToyData(make_batch(12)), ckpt_path=tmp_path / "x.ckpt")


def test_a_part_of_a_combination_has_its_bank_too(tmp_path: Path) -> None:
    module = Combined(**pair_arguments(), methods={"crd": CRD(**LAYERS, negatives=5)})
    quiet_trainer(tmp_path).fit(module, ToyData())
    part = module.methods["crd"]
    assert isinstance(part, CRD)
    assert (len(part.memory), part.memory.steps) == (10, 6)


class Endless(IterableDataset[Batch]):
    def __iter__(self) -> Any:
        return iter([{name: values[0] for name, values in make_batch(1).items()}])


def test_data_without_a_length_need_the_number_of_samples(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CRD does not know how many training samples there are: give num_samples"):
        quiet_trainer(tmp_path).fit(in_fit(), DataLoader(Endless(), batch_size=1))
    with pytest.raises(ValueError, match="CRD does not know how many training samples there are: give num_samples"):
        made(num_samples=None)


def test_what_the_bank_cannot_look_up_is_named() -> None:
    with pytest.raises(ValueError, match="the batch has index 9, but CRD's bank has the samples 0 to 8: num_samples"):
        step(made(), index=[3, 9, 0, 1])
    with pytest.raises(KeyError, match="the batch has no 'index', which CRD's bank needs; memory='queue' needs none"):
        made().distillation_step(*outputs(), {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "list"}, "memory must be one of bank, queue, got 'list'"),
        ({"num_samples": 1}, "its bank needs 2 samples or more, got 1"),
        ({"negatives": 0}, "negatives must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"teacher_layers": ["a", "b"], "student_layers": ["a", "b"]}, "CRD compares one pair of layers, got 2"),
        ({"teacher_layers": [], "student_layers": []}, "CRD has no layers to compare"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**options)


def steps_of(method: CRD, samples: slice = slice(None)) -> dict[str, Tensor]:
    terms = []
    for seed, index in ((0, INDEX), (4, [7, 8, 1, 3])):
        teacher, student = outputs(samples, seed)
        terms.append(method.distillation_step(teacher, student, batch_of(samples, index))["crd"].detach())
        method.after_backward()
    return {"terms": torch.stack(terms), **{name: copy.deepcopy(x) for name, x in method.memory.state_dict().items()}}


def steps_of_share(rank: int, world_size: int) -> dict[str, dict[str, Tensor]]:
    shares = {}
    for memory in ("bank", "queue"):
        method = unused(memory=memory)
        method.memory._seed += rank  # of processes that were seeded otherwise, the first one's memory counts
        shares[memory] = steps_of(method, slice(0, 3) if rank == 0 else slice(3, 4))
    return shares


@pytest.mark.ddp
def test_two_processes_remember_and_draw_as_one() -> None:
    first, second = run_in_processes(steps_of_share, 2)
    for memory in ("bank", "queue"):
        expected = steps_of(unused(memory=memory))
        assert_near(torch.cat([first[memory]["terms"], second[memory]["terms"]], 1), expected["terms"])
        for found in (first[memory], second[memory]):
            for name in ("student", "teacher"):
                assert_near(found[name], expected[name])


def buffers_that_ddp_sends(rank: int, world_size: int) -> list[list[str]]:
    alone = CRD(**pair_arguments(**LAYERS), num_samples=6, negatives=5)
    inner = Combined(methods={"crd": CRD(**LAYERS, memory="queue", negatives=5)})
    sent = []
    for module in (alone, Combined(**pair_arguments(), methods={"inner": inner})):
        name_of = {id(buffer): name for name, buffer in prepared(module).named_buffers()}
        sent.append([name_of[id(buffer)] for buffer in DistributedDataParallel(module).modules_buffers])
    return sent


@pytest.mark.ddp
def test_ddp_does_not_send_what_is_equal_in_all_processes() -> None:
    (both,) = run_in_processes(buffers_that_ddp_sends, 1)
    of_student = [f"network.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]
    assert both == [of_student, of_student]
