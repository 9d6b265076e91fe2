"""Finds the weights of a network in a file: under which key they lie, and what stands before their names.

The names and shapes of the network decide. A file is read only if there is exactly one way to read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from distill.errors import UserError

NETWORK_PREFIX = "network."
"""Stands before the names of the network's weights in a checkpoint of this library."""

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and activation checkpointing put into names, at any place."""

COUNTER = "num_batches_tracked"
"""A buffer of BatchNorm that older files lack; torch then leaves that of the network as it is."""

DEPTH = 3
"""How many keys lead to the weights at most."""

SHOWN = 6
"""How many entries of a file a message lists."""


class Table(NamedTuple):
    """Tensors by name, as they lie under a key of a file."""

    key: str
    tensors: dict[str, Tensor]
    wrappers: tuple[str, ...] = ()
    """What was left out within the names."""


class Reading(NamedTuple):
    """One way to read the weights of a network."""

    table: Table
    prefix: str = ""
    """What is left off the names of the file; names without it belong to something else."""
    added: str = ""
    """What is put before the names then."""

    def weights(self, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors by the names of the network.

        A tensor that the network has under two names may lie in the file under one of them. A BatchNorm without a
        counter of batches keeps that of the network.
        """
        start = len(self.prefix)
        tensors = self.table.tensors.items()
        found = {self.added + name[start:]: tensor for name, tensor in tensors if name.startswith(self.prefix)}
        layers = {name.removesuffix(COUNTER): tensor for name, tensor in expected.items() if name.endswith(COUNTER)}
        counters = {layer + COUNTER: tensor for layer, tensor in layers.items() if layer + "running_mean" in found}
        held = {identity: found[name] for name, identity in _identities(expected) if name in found}
        tied = {name: held[identity] for name, identity in _identities(expected) if identity in held}
        return counters | tied | found

    @property
    def changes(self) -> str:
        """What was unwrapped, as in ``took 'state_dict', left off the prefix 'module.'``; empty if nothing was."""
        taken = [f"took {self.table.key!r}"] if self.table.key else []
        off = [f"the prefix {self.prefix!r}"] if self.prefix else []
        off += [repr(wrapper) for wrapper in self.table.wrappers]
        put = [f"put {self.added!r} before the names"] if self.added else []
        return ", ".join([*taken, *([f"left off {' and '.join(off)}"] if off else []), *put])

    @property
    def place(self) -> str:
        """Where the weights lie, as in ``'state_dict' with the prefix 'net.'``."""
        prefix = f"the prefix {self.prefix!r}" if self.prefix else ""
        return " with ".join(filter(None, (repr(self.table.key) if self.table.key else "", prefix))) or "the whole file"


def misfit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """How saved weights differ from those of a network; empty if names and shapes are the same.

    Args:
        weights: The saved weights.
        expected: Those of the network; a lazy or an empty one takes its shape from the saved one.
    """
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    if missing or unexpected:
        differences = [_first_of("lacks", missing), _first_of("has the unexpected", unexpected)]
        return f"it {' and '.join(filter(None, differences))}"
    for name, tensor in expected.items():
        if not is_lazy(tensor) and tensor.numel() and tensor.shape != weights[name].shape:
            return f"{name} has shape {tuple(weights[name].shape)} in the file and {tuple(tensor.shape)} in the network"
    return ""


def is_own(content: Any, reading: Reading) -> bool:
    """Whether a reading is that of the network in a checkpoint of this library."""
    return is_lightning(content) and reading.prefix == NETWORK_PREFIX and not reading.added


def is_lightning(content: Any) -> bool:
    """Whether the content of a file is a checkpoint of Lightning."""
    return isinstance(content, dict) and "pytorch-lightning_version" in content


def fitting_readings(
    content: Any, expected: Mapping[str, Tensor], key: str | None, prefix: str | None, *, source: str, network: str
) -> list[Reading]:
    """The ways to read a network's weights from the content of a file, first the one to take.

    All give the same weights, unless the file is a checkpoint of this library: there the network comes first, and
    others beside it, such as an average of a method, are not the one to deploy.

    Args:
        content: Of the file.
        expected: The network's weights.
        key: Under which the weights lie, with dots between keys; an empty one stands for the whole file.
        prefix: Of the names; an empty one stands for none.
        source: Where the content comes from, for the message.
        network: The name of the network, for the message.

    Raises:
        ValueError: Nothing fits the network, or several things do.
    """
    tables = _tables_at(content, key, source, expected)
    if prefix is not None:
        tables = _with_prefix(tables, prefix, source)
    found = list(_readings(tables, expected, prefix))
    found.sort(key=lambda reading: not is_own(content, reading))  # keeps the order of the others
    if found and is_own(content, found[0]):
        return found
    if not found:
        raise UserError(_nothing_fits(content, tables, expected, prefix, source, network))
    if any(not _same(found[0], other, expected) for other in found[1:]):
        keys = len({reading.table.key for reading in found}) > 1
        option = "key" if keys else "prefix"
        example = found[0].table.key if keys else found[0].prefix
        raise UserError(
            f"{source} holds weights of {network} in {len(found)} places, {_listed(r.place for r in found)}: give "
            f"{option} with the path, as in {{path: {source}, {option}: {example}}}"
        )
    return found


def chosen_table(content: Any, key: str | None, prefix: str | None, source: str) -> dict[str, Tensor]:
    """The tensors under a key of a file whose names have a prefix, without it.

    Args:
        content: Of the file.
        key: As in :func:`fitting_readings`; None if there is one table with names of the prefix.
        prefix: As in :func:`fitting_readings`.
        source: Where the content comes from, for the message.

    Raises:
        ValueError: There are none, or several tables.
    """
    tables = _tables_at(content, key, source, ())
    if prefix:
        tables = _with_prefix(tables, prefix, source)
    if len(tables) > 1:
        raise UserError(
            f"{source} holds weights in {len(tables)} places, {_listed(repr(table.key) for table in tables)}: give key "
            f"with the path, as in {{path: {source}, key: {tables[0].key}}}"
        )
    (table,) = tables
    start = _cleaned(prefix or "", table)
    return {name.removeprefix(start): tensor for name, tensor in table.tensors.items() if name.startswith(start)}


def table_at(content: Any, key: str, source: str) -> dict[str, Tensor]:
    """The tensors under a key of a file.

    Args:
        content: Of the file.
        key: With dots between keys; an empty one stands for the whole file.
        source: Where the content comes from, for the message.

    Raises:
        ValueError: There are none.
    """
    found = content
    for part in filter(None, [key] if isinstance(content, dict) and key in content else key.split(".")):
        entries = _entries(found)
        if part not in entries:
            raise UserError(f"{source} has no {key!r}: it holds {contents(content)}")
        found = entries[part]
    tensors = _tensors_of(found)
    if not tensors:
        raise UserError(f"{source} has no tensors in {key!r}: it holds {contents(content)}")
    return tensors


def contents(content: Any) -> str:
    """What a file holds, for messages: its keys, and those with tensors with a count and the first name."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    tables_first = sorted(content.items(), key=lambda item: not _tensors_of(item[1]))
    return _listed(_entry(key, value) for key, value in tables_first) or "nothing"


def _entry(key: object, value: Any) -> str:
    tensors = _tensors_of(value)
    if not tensors:
        return repr(key)
    return f"{key!r} ({len(tensors)} tensor{'s' if len(tensors) > 1 else ''}, first {next(iter(tensors))!r})"


def _tensors_of(value: Any) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        return {}
    return {name: tensor for name, tensor in value.items() if isinstance(name, str) and isinstance(tensor, Tensor)}


def _tables_at(content: Any, key: str | None, source: str, expected: Iterable[str]) -> list[Table]:
    if key is not None:
        found = [(key, table_at(content, key, source))]
    elif is_lightning(content):
        found = [("state_dict", _tensors_of(content.get("state_dict")))]
    else:
        found = list(_walked(content))
    tables = [_unwrapped(Table(*pair), expected) for pair in found if pair[1]]
    if not tables:
        raise UserError(f"{source} holds neither a state_dict nor a Lightning checkpoint: it holds {contents(content)}")
    return tables


def _walked(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Tensor]]]:
    yield ".".join(keys), _tensors_of(content)
    if len(keys) < DEPTH:
        for key, value in _entries(content).items():
            if isinstance(key, str) and isinstance(value, (Mapping, list, tuple)):
                yield from _walked(value, (*keys, key))


def _entries(content: Any) -> Mapping[Any, Any]:
    """The entries of a dictionary by their keys, and those of a list or a tuple by their numbers."""
    if isinstance(content, (list, tuple)):
        return {str(number): value for number, value in enumerate(content)}
    return content if isinstance(content, Mapping) else {}


def _unwrapped(table: Table, expected: Iterable[str]) -> Table:
    """The table without the names of wrappers that the network does not have."""
    wrappers = [one for one in WRAPPERS if _is_in(one, table.tensors) and not _is_in(one, expected)]
    tensors = {_without(name, wrappers): tensor for name, tensor in table.tensors.items()}
    return Table(table.key, tensors, tuple(wrappers)) if len(tensors) == len(table.tensors) else table


def _is_in(wrapper: str, names: Iterable[str]) -> bool:
    return any(wrapper in name for name in names)


def _without(name: str, wrappers: Iterable[str]) -> str:
    for wrapper in wrappers:
        name = name.replace(wrapper, "")
    return name


def _with_prefix(tables: list[Table], prefix: str, source: str) -> list[Table]:
    """The tables that have names with a prefix.

    Raises:
        ValueError: There are none.
    """
    found = [table for table in tables if any(name.startswith(_cleaned(prefix, table)) for name in table.tensors)]
    if not found:
        names = (name for table in tables for name in table.tensors if "." in name)
        starts = dict.fromkeys(f"{name.partition('.')[0]}." for name in names)
        raise UserError(
            f"{source} has no names of weights that start with the prefix {prefix!r}: they start with "
            f"{_listed(map(repr, starts)) or 'none'}"
        )
    return found


def _cleaned(prefix: str, table: Table) -> str:
    prefix = _without(prefix, table.wrappers)
    return prefix if not prefix or prefix.endswith(".") else f"{prefix}."


def _readings(tables: Iterable[Table], expected: Mapping[str, Tensor], prefix: str | None) -> Iterator[Reading]:
    """All ways to read the network's weights whose names and shapes fit."""
    for table in tables:
        for added in _common_prefixes(expected):
            for found in _prefixes(table.tensors, expected, added):
                wanted = prefix is None or found == _cleaned(prefix, table)
                repeats = added and found.endswith(added)  # which is the same as to leave that part on the names
                reading = Reading(table, found, added)
                if wanted and not repeats and not misfit(reading.weights(expected), expected):
                    yield reading


def _identities(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """What tells whether two names stand for one tensor."""
    for name, tensor in tensors.items():
        if not is_lazy(tensor) and tensor.numel() and tensor.device.type != "meta":
            yield name, (tensor.data_ptr(), tensor.shape, tensor.stride())


def _common_prefixes(names: Iterable[str]) -> list[str]:
    """What all names have before a dot in common, from nothing to the longest."""
    split = [name.split(".")[:-1] for name in names]
    common = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(f"{parts[0]}.")
    return ["", *accumulate(common)]


def _prefixes(names: Iterable[str], expected: Iterable[str], added: str) -> Counter[str]:
    """How many names of the network, without what is added to them, follow each prefix of the names of a file."""
    wanted = {name[len(added) :] for name in expected if not name.endswith(COUNTER)}
    found: Counter[str] = Counter()
    for name in names:
        starts = [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")]
        found.update(name[:start] for start in starts if name[start:] in wanted)
    return found


def _same(one: Reading, other: Reading, expected: Mapping[str, Tensor]) -> bool:
    """Whether two readings give the same values, as where a module holds a network under two names."""
    first, second = one.weights(expected), other.weights(expected)
    plain = all(tensor.layout == torch.strided and not tensor.is_meta for tensor in (*first.values(), *second.values()))
    return plain and all(torch.equal(first[name], second[name]) for name in expected)


def _nothing_fits(
    content: Any, tables: list[Table], expected: Mapping[str, Tensor], prefix: str | None, source: str, network: str
) -> str:
    """The sentence about the reading that comes closest to the network."""
    closest, most = Reading(tables[0], "" if prefix is None else _cleaned(prefix, tables[0])), 0
    for table in tables:
        for found, count in _prefixes(table.tensors, expected, "").items():
            if count > most and (prefix is None or found == _cleaned(prefix, table)):
                closest, most = Reading(table, found), count
    plain = not (closest.table.key or closest.prefix)
    where = "" if plain else f" ({closest.place})"
    holds = "" if len(tables) == 1 and plain else f"; the file holds {contents(content)}"
    return f"{source}{where} does not fit {network}: {misfit(closest.weights(expected), expected)}{holds}"


def _first_of(verb: str, names: list[str]) -> str:
    if not names:
        return ""
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{verb} {names[0]!r}{rest}"


def _listed(texts: Iterable[str]) -> str:
    every = list(texts)
    rest = [f"{len(every) - SHOWN} more"] if len(every) > SHOWN else []
    every = [*every[:SHOWN], *rest]
    return " and ".join(filter(None, (", ".join(every[:-1]), every[-1]))) if every else ""
