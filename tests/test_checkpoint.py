from __future__ import annotations

import os
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import save_file
from torch import Tensor, nn

from distill import Classification, Supervised
from distill.checkpoint import load_network, load_weights, looks_untrained, save_network
from tests.toys import Net, ToyData, make, pair_arguments, quiet_trainer


def assert_equal_weights(first: nn.Module, second: nn.Module) -> None:
    state, other = first.state_dict(), second.state_dict()
    assert state.keys() == other.keys()
    for name, value in state.items():
        assert torch.equal(value, other[name]), name


def fitted(module: LightningModule, path: Path) -> LightningModule:
    trainer = quiet_trainer(path.parent, max_epochs=1)
    trainer.fit(module, ToyData())
    trainer.save_checkpoint(path)
    return module


def teacher_from(path: Path, teacher: nn.Module | None = None) -> nn.Module:
    """The teacher of a method that was given this file as ``teacher_checkpoint``."""
    method = make("KD", teacher=Net(4) if teacher is None else teacher, teacher_checkpoint=path)
    assert method.teacher is not None
    return method.teacher


def test_a_teacher_comes_from_a_checkpoint_of_its_supervised_training(tmp_path: Path) -> None:
    arguments = pair_arguments()
    module = Supervised(Net(4), arguments["task"], ["x_b"], arguments["optimizer"])
    fitted(module, tmp_path / "teacher.ckpt")
    assert module.network is not None
    assert_equal_weights(teacher_from(tmp_path / "teacher.ckpt"), module.network)


@pytest.mark.parametrize("method", ["KD", "hint and relations", "Combined"])
def test_a_teacher_comes_from_a_checkpoint_of_a_method_as_its_student(method: str, tmp_path: Path) -> None:
    module = fitted(make(method), tmp_path / "student.ckpt")
    assert isinstance(module.network, nn.Module)
    assert_equal_weights(teacher_from(tmp_path / "student.ckpt"), module.network)


def test_a_teacher_comes_from_a_plain_state_dict(tmp_path: Path) -> None:
    net = Net(4)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    assert_equal_weights(teacher_from(tmp_path / "weights.pt"), net)


def test_a_teacher_comes_from_safetensors(tmp_path: Path) -> None:
    net = Net(4)
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    assert_equal_weights(teacher_from(tmp_path / "weights.safetensors"), net)


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    net = Net(4)
    save_network(net, str(tmp_path / "weights.safetensors"))
    assert load_weights(str(tmp_path / "weights.safetensors")).keys() == net.state_dict().keys()


def saved(folder: Path, weights: dict[str, Any]) -> Path:
    torch.save(weights, folder / "weights.pt")
    return folder / "weights.pt"


def test_missing_and_unexpected_weights_are_named_and_counted(tmp_path: Path) -> None:
    path = saved(tmp_path, {f"stem.{name}": value for name, value in nn.Linear(2, 2).state_dict().items()})
    net = Net(4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(
        ValueError,
        match=rf"{path} does not fit Net: it lacks 'first.weight' and 8 more and has the unexpected 'stem.weight' "
        r"and 1 more$",
    ):
        load_network(net, path)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_only_what_differs_is_told(tmp_path: Path) -> None:
    weights = dict(Net(4).state_dict())
    with pytest.raises(ValueError, match=r"it has the unexpected 'extra'$"):
        load_network(Net(4), saved(tmp_path, weights | {"extra": torch.zeros(1)}))
    del weights["head.bias"]
    with pytest.raises(ValueError, match=r"it lacks 'head\.bias'$"):
        load_network(Net(4), saved(tmp_path, weights))


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, Net(5).state_dict())
    with pytest.raises(
        ValueError, match=r"does not fit Net: first\.weight has shape \(6, 5\) in the file and \(6, 4\) in the network"
    ):
        load_network(Net(4), path)


@pytest.mark.parametrize("name", ["teacher.ckpt", "teacher.safetensors", ""])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no checkpoint {tmp_path / name}"):
        load_weights(tmp_path / name)


def weight_files(folder: Path) -> dict[str, Path]:
    weights = {name: value.contiguous() for name, value in Net(4).state_dict().items()}
    paths = {kind: folder / f"whole{kind}" for kind in (".pt", ".ckpt", ".safetensors", ".legacy.pt")}
    torch.save(weights, paths[".pt"])
    torch.save(weights, paths[".legacy.pt"], _use_new_zipfile_serialization=False)
    save_file(weights, paths[".safetensors"])
    lightning = {f"network.{name}": value for name, value in weights.items()}
    torch.save({"pytorch-lightning_version": "2.6", "state_dict": lightning}, paths[".ckpt"])
    return paths


@pytest.mark.parametrize("kind", [".pt", ".ckpt", ".safetensors", ".legacy.pt"])
def test_a_file_that_is_cut_short_anywhere_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    whole = weight_files(tmp_path)[kind]
    assert load_weights(whole).keys() == Net(4).state_dict().keys()
    content, cut = whole.read_bytes(), tmp_path / f"cut{whole.suffix}"
    for length in range(0, len(content), max(1, len(content) // 100)):
        cut.write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"{cut} is not a ") as refusal:
            load_weights(cut)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "content", [b"hello world\n", b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html>", b"(", bytes(64)]
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_something_else_is_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is not a "):
        load_weights(path)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_refused_and_does_not_run(legacy: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    content = {"pytorch-lightning_version": "2.6", "state_dict": {}, "hyper_parameters": Payload(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"not a file of plain weights, and loading anything else could run its code"):
        load_weights(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # it would have run


def test_a_bare_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Payload(tmp_path / "trace"), protocol=2))
    with pytest.raises(ValueError, match=r"evil\.pt is not a "):
        load_weights(tmp_path / "evil.pt")
    assert not (tmp_path / "trace").exists()


def test_a_pickled_network_is_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    torch.save(Net(4), tmp_path / "whole_network.pt")
    with pytest.raises(ValueError, match=r"save its state_dict with torch\.save or as \.safetensors"):
        load_weights(tmp_path / "whole_network.pt")


class Foreign(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2)


def test_checkpoints_of_other_lightning_modules_are_refused(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path)
    trainer.strategy.connect(Foreign())
    trainer.save_checkpoint(tmp_path / "foreign.ckpt", weights_only=True)
    with pytest.raises(ValueError, match=r"foreign\.ckpt is a Lightning checkpoint, but not of a Supervised or a dist"):
        load_weights(tmp_path / "foreign.ckpt")


@pytest.mark.parametrize(
    "content", [{}, {"model": {"weight": torch.zeros(1)}}, [torch.zeros(1)], torch.zeros(1), {"epoch": 3}]
)
def test_what_is_no_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="holds neither a state_dict nor a Lightning checkpoint"):
        load_weights(tmp_path / "weights.pt")


class Tied(nn.Module):
    """One weight under two names, another that is a view of a larger tensor, and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 4, bias=False)
        self.out = nn.Linear(4, 4, bias=False)
        self.out.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(4)
        self.view = nn.Parameter(torch.randn(8, 4).T[:, ::2])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.norm(self.embed(x))) @ self.view
        return out


def test_an_exported_network_comes_back_with_tied_weights_and_batch_statistics(tmp_path: Path) -> None:
    net, x = Tied(), torch.randn(6, 4)
    net(x)  # moves the statistics of BatchNorm
    save_network(net.eval(), tmp_path / "student.safetensors")
    other = Tied().eval()
    load_network(other, tmp_path / "student.safetensors")
    assert_equal_weights(net, other)
    assert torch.equal(net(x), other(x))
    assert other.out.weight is other.embed.weight
    assert other.norm.num_batches_tracked == 1


def test_a_tied_weight_may_lie_in_a_file_under_one_of_its_names(tmp_path: Path) -> None:
    net, other = Tied(), Tied()
    weights = {f"model.{name}": value for name, value in net.state_dict().items() if name != "embed.weight"}
    load_network(other, saved(tmp_path, weights))
    assert_equal_weights(net, other)
    del weights["model.out.weight"]
    with pytest.raises(ValueError, match=r"does not fit Tied: it lacks 'embed\.weight' and 1 more; the file holds"):
        load_network(other, saved(tmp_path, weights))


def test_an_export_has_the_mode_of_any_new_file_and_replaces_an_old_one_whole(tmp_path: Path) -> None:
    path, net = tmp_path / "run" / "student.safetensors", Net(4)
    save_network(Net(4), path)
    save_network(net, path)
    (tmp_path / "new").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "new").stat().st_mode)
    assert [entry.name for entry in path.parent.iterdir()] == ["student.safetensors"]
    assert torch.equal(load_weights(path)["head.weight"], net.head.weight)


def test_an_export_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, net = tmp_path / "student.safetensors", Net(4)
    save_network(net, path)

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        save_network(Net(4), path)
    assert torch.equal(load_weights(path)["head.weight"], net.head.weight)
    assert [entry.name for entry in tmp_path.iterdir()] == ["student.safetensors"]


def test_only_a_fresh_network_looks_untrained() -> None:
    assert looks_untrained(Net(4))
    assert looks_untrained(nn.Linear(2, 2))


def test_eval_mode_batch_statistics_or_nothing_to_train_hint_at_loaded_weights() -> None:
    assert not looks_untrained(Net(4).eval())
    assert not looks_untrained(nn.Flatten())
    pretrained = Net(4)
    pretrained.norm.running_mean.fill_(0.1)  # type: ignore[union-attr]
    assert not looks_untrained(pretrained)


def test_batch_norm_without_statistics_says_nothing() -> None:
    assert looks_untrained(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)))


def test_of_a_checkpoint_the_network_alone_is_read(tmp_path: Path) -> None:
    module = Supervised(Net(4), Classification(4), ["x_b"], pair_arguments()["optimizer"])
    fitted(module, tmp_path / "teacher.ckpt")
    assert load_weights(tmp_path / "teacher.ckpt").keys() == Net(4).state_dict().keys()
