"""Weights on the Hugging Face Hub, as its client keeps them in its cache; nothing is downloaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from distill.checkpoint import Weights, load_network, weights_exist
from tests.test_checkpoint import Payload, assert_equal_weights
from tests.toys import Net, make
from tests.weight_files.hub_cache import REVISION, Write, cached, empty_cache
from tests.weight_files.test_reading import SHARDS, sharded


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_cache(tmp_path, monkeypatch)


def written(net: nn.Module) -> Write:
    return lambda path: save_file(net.state_dict(), path)


@pytest.mark.parametrize("name", ["", "@main", f"@{REVISION}", "/model.safetensors", "@main/model.safetensors"])
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_name_of_the_hub_is_read_from_the_cache(role: str, name: str, hub: Path) -> None:
    net = Net(4)
    cached(hub, {"config.json": Path.touch, "model.safetensors": written(net)})
    module = make("KD", **{role: Net(4), f"{role}_checkpoint": f"hf://org/name{name}"})
    assert_equal_weights(getattr(module, role), net)


def test_shards_of_the_hub_are_joined(hub: Path, tmp_path: Path) -> None:
    net, index = sharded(tmp_path)
    shards = {f"{shard}.safetensors": (tmp_path / f"{shard}.safetensors").rename for shard in SHARDS}
    cached(hub, {index.name: index.rename, **shards})
    other = Net(4)
    load_network(other, "hf://org/name")
    assert_equal_weights(other, net)


def test_pickles_are_read_only_where_there_are_no_safetensors_and_run_no_code(hub: Path, tmp_path: Path) -> None:
    net, other = Net(4), Net(4)
    snapshot = cached(hub, {"pytorch_model.bin": lambda path: torch.save(net.state_dict(), path)})
    load_network(other, "hf://org/name")
    assert_equal_weights(other, net)
    torch.save({"model": net.state_dict(), "x": Payload(tmp_path / "trace")}, snapshot / "pytorch_model.bin")
    with pytest.raises(ValueError, match="could run its code"):
        load_network(other, "hf://org/name")
    assert not (tmp_path / "trace").exists()
    save_file(net.state_dict(), snapshot / "model.safetensors")
    load_network(other, "hf://org/name")


def test_key_and_prefix_hold_for_the_hub_too(hub: Path) -> None:
    net, other = Net(4), Net(4)
    both = {f"a.{name}": value for name, value in net.state_dict().items()}
    both |= {f"b.{name}": value for name, value in other.state_dict().items()}
    cached(hub, {"model.safetensors": lambda path: save_file(both, path)})
    load_network(other, Weights("hf://org/name", prefix="a."))
    assert_equal_weights(other, net)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hf://org/other", r"^hf://org/other is not in the cache \S+/hub, and HF_HUB_OFFLINE forbids to download it$"),
        ("hf://org/name@v2", r"^hf://org/name@v2 is not in the cache"),
        ("hf://org/name/x.pt", r"^hf://org/name/x\.pt has no x\.pt: give"),
        (
            "hf://org/name",
            r"^hf://org/name has no model\.safetensors or pytorch_model\.bin: give hf://owner/name/file$",
        ),
    ],
)
def test_what_the_cache_lacks_offline_is_one_sentence(name: str, sentence: str, hub: Path) -> None:
    cached(hub, {"config.json": Path.touch})
    with pytest.raises(FileNotFoundError, match=sentence):
        make("KD", teacher=Net(4), teacher_checkpoint=name)


@pytest.mark.parametrize(
    "name",
    [
        "hf://org",
        "hf://",
        "hf://org/name/../../x",
        "hf://org/na me",
        "hf://org/name@",
        "hf://org/name//etc/passwd",
        "hf://org/name/*",
        "hf://org/name/a[b]?.pt",
        "hf://org/name/a\\..\\b",
    ],
)
def test_what_is_no_name_of_the_hub_is_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"^the teacher_checkpoint {re.escape(name)} is no name of the Hub: give hf://owner/name"
    ):
        make("KD", teacher=Net(4), teacher_checkpoint=name)


def test_what_the_cache_lacks_is_downloaded_without_the_other_files(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    net, other = Net(4), Net(4)

    def download(repository: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((repository, revision, "model.safetensors" in allow_patterns, local_files_only))
        if local_files_only:
            raise FileNotFoundError
        return str(cached(hub, {"model.safetensors": written(net)}))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    load_network(other, "hf://org/name@v1")
    assert_equal_weights(other, net)
    assert asked[-1] == ("org/name", "v1", True, False)
    assert [local for *_, local in asked[:-1]] == [True, True]


def test_a_download_that_was_stopped_between_two_shards_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, _ = sharded(tmp_path)
    shard, kept = tmp_path / f"{SHARDS[1]}.safetensors", tmp_path / "kept"
    shard.rename(kept)

    def download(*_: Any, local_files_only: bool, **__: Any) -> str:
        if not local_files_only:
            kept.rename(shard)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    other = Net(4)
    load_network(other, "hf://org/name")
    assert_equal_weights(other, net)


def test_an_error_of_the_client_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, local_files_only: bool, **__: Any) -> str:
        raise FileNotFoundError if local_files_only else ConnectionError("no route to host. Try again.\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(
        FileNotFoundError, match=r"and cannot be downloaded: ConnectionError: no route to host$"
    ) as refusal:
        load_network(Net(4), "hf://org/name")
    assert "\n" not in str(refusal.value)


def test_weights_of_the_hub_count_as_there_without_a_question_to_it() -> None:
    assert weights_exist("hf://org/name")
    assert weights_exist({"path": "hf://org/name", "key": None, "prefix": None})
    assert not weights_exist(Weights("nowhere.pt"))


def test_a_network_of_timm_takes_its_weights_from_the_same_cache(hub: Path) -> None:
    net = timm.create_model("test_resnet.r160_in1k")
    cached(hub, {"model.safetensors": written(net)}, "timm", "test_resnet.r160_in1k")
    module = make("KD", teacher=timm.create_model("test_resnet.r160_in1k", pretrained=True))
    assert module.teacher is not None
    assert_equal_weights(module.teacher, net)
