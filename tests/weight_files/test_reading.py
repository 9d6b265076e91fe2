"""Weights in several shards, and in folders of Hugging Face."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from distill.checkpoint import load_network
from distill.weight_files.reading import files_of, read_content
from tests.test_checkpoint import Payload, assert_equal_weights
from tests.toys import Net, make

SHARDS = ("model-00001-of-00002", "model-00002-of-00002")


def sharded(folder: Path, kind: str = ".safetensors", **changes: str) -> tuple[Net, Path]:
    """A network in two shards, and their index; some names may be said to lie elsewhere."""
    net = Net(4)
    first = [name for name in net.state_dict() if name.startswith("first")]
    parts = {SHARDS[0]: first, SHARDS[1]: [name for name in net.state_dict() if name not in first]}
    for shard, names in parts.items():
        content = {name: net.state_dict()[name] for name in names}
        (save_file if kind == ".safetensors" else torch.save)(content, folder / f"{shard}{kind}")
    places = {name: f"{shard}{kind}" for shard, names in parts.items() for name in names} | changes
    index = folder / ("model.safetensors.index.json" if kind == ".safetensors" else "pytorch_model.bin.index.json")
    index.write_text(json.dumps({"metadata": {"total_size": 9}, "weight_map": places}))
    return net, index


@pytest.mark.parametrize("kind", [".safetensors", ".bin"])
@pytest.mark.parametrize("what", ["the index", "the folder"])
def test_shards_are_joined(kind: str, what: str, tmp_path: Path) -> None:
    net, index = sharded(tmp_path, kind)
    module = make("KD", student=Net(4), student_checkpoint=index if what == "the index" else str(tmp_path))
    assert module.student is not None
    assert_equal_weights(module.student, net)
    assert files_of(tmp_path) == [index, *(tmp_path / f"{shard}{kind}" for shard in SHARDS)]


def test_a_folder_gives_safetensors_before_pickles(tmp_path: Path) -> None:
    net, other = Net(4), Net(4)
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    load_network(other, tmp_path)
    assert_equal_weights(other, net)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    load_network(other, tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    _, index = sharded(tmp_path)
    (tmp_path / f"{SHARDS[1]}.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"^the shard {SHARDS[1]}\.safetensors that {index} names does not exist: 1 of 2"
    ):
        load_network(Net(4), tmp_path)
    assert files_of(tmp_path) == []


@pytest.mark.parametrize(
    "place", ["../secret.safetensors", "/secret.safetensors", "a/../../secret.safetensors", "..\\x", "C:x", ""]
)
def test_an_index_cannot_lead_out_of_its_folder(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(Net(4).state_dict(), tmp_path / "secret.safetensors")
    _, index = sharded(folder, **{"head.bias": place})
    with pytest.raises(ValueError, match=rf"names the shard {re.escape(repr(place))}, which does not lie in"):
        load_network(Net(4), index)


@pytest.mark.parametrize(
    "content", ["", "[1]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', '{"weight_map": ["a"]}', "[" * 99999]
)
def test_a_damaged_index_is_one_sentence(content: str, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(ValueError, match=f"^{index} is not an index of shards: its weight_map must name"):
        load_network(Net(4), index)


def test_a_shard_without_its_tensor_is_named(tmp_path: Path) -> None:
    _, index = sharded(tmp_path, **{"head.bias": f"{SHARDS[0]}.safetensors"})
    with pytest.raises(
        ValueError, match=rf"{SHARDS[0]}\.safetensors lacks the tensor 'head\.bias', which {index.name}"
    ):
        load_network(Net(4), index)


def test_code_in_a_shard_or_in_the_file_of_a_folder_does_not_run(tmp_path: Path) -> None:
    sharded(tmp_path, ".bin")
    evil: dict[str, Any] = {"head.bias": torch.ones(4), "args": Payload(tmp_path / "trace")}
    torch.save(evil, tmp_path / f"{SHARDS[1]}.bin")
    with pytest.raises(ValueError, match=r"could run its code \(it names"):
        load_network(Net(4), tmp_path)
    torch.save(evil, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"could run its code \(it names"):
        load_network(Net(4), tmp_path)
    assert not (tmp_path / "trace").exists()


def test_a_folder_without_weights_says_which_files_it_looks_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"^there is no checkpoint {tmp_path}: it is a folder with none of"):
        load_network(Net(4), tmp_path)


@pytest.mark.parametrize("value", [np.float64(0.9), np.int32(-3), np.bool_(True), np.float16(2)], ids=str)
def test_numbers_of_numpy_may_stand_beside_weights(value: Any, tmp_path: Path) -> None:
    net, other = Net(4), Net(4)
    torch.save({"model": net.state_dict(), "best": value}, tmp_path / "x.pth")
    read = read_content(tmp_path / "x.pth")["best"]
    assert (read, read.dtype) == (value, value.dtype)
    load_network(other, tmp_path / "x.pth")
    assert_equal_weights(other, net)


@pytest.mark.parametrize("value", [np.zeros(2), np.array([{}])[0:1], np.str_("a"), np.datetime64("2026")], ids=repr)
def test_other_values_of_numpy_stay_refused(value: Any, tmp_path: Path) -> None:
    torch.save({"model": Net(4).state_dict(), "best": value}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="could run its code"):
        load_network(Net(4), tmp_path / "x.pth")


def test_a_path_may_start_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    net, other = Net(4), Net(4)
    torch.save(net.state_dict(), tmp_path / "teacher.pth")
    load_network(other, "~/teacher.pth")
    assert_equal_weights(other, net)
    assert files_of("~/teacher.pth") == [tmp_path / "teacher.pth"]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("https://example.org/a.pth", "https://example.org/a.pth is an address: download the file first, and give its"),
        (Path("https://example.org/a.pth"), "https:/example.org/a.pth is an address"),
        (
            "timm/resnet18.a1_in1k",
            (
                "there is no checkpoint timm/resnet18.a1_in1k; for the repository of this name on the Hub, write "
                "hf://timm/resnet18.a1_in1k"
            ),
        ),
    ],
)
def test_an_address_or_a_bare_name_of_the_hub_says_what_to_give(path: str | Path, sentence: str) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(sentence)):
        load_network(Net(4), path)


def torch_script(path: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))


def numpy_archive(path: Path) -> None:
    content = io.BytesIO()
    np.savez(content, weight=np.zeros(2))
    path.write_bytes(content.getvalue())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (torch_script, "is an archive of TorchScript, which holds code: load it with torch.jit.load"),
        (numpy_archive, "is an archive of NumPy: load it with numpy.load"),
        (Path.touch, "is not a file of weights: it is empty"),
    ],
)
def test_a_file_of_another_kind_is_named(write: Callable[[Path], None], sentence: str, tmp_path: Path) -> None:
    write(tmp_path / "x.pt")
    with pytest.raises(ValueError, match=re.escape(sentence)):
        load_network(Net(4), tmp_path / "x.pt")
