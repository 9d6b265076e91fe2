"""Weights in several shards, and in folders of Hugging Face."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from distill.checkpoint import load_network
from distill.weight_files.reading import files_of
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
