"""The networks that a weights file holds, found by their tensors, and the one that is asked for.

Training states of other projects keep several under prefixes of their own: ``teacher.backbone.``,
``momentum_backbone.``, ``state_dict_ema`` beside ``state_dict``. A network is named by its place,
``state_dict.momentum_backbone``, without the prefixes that wrappers such as DDP add.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dino_infer.errors import CheckpointError

logger = logging.getLogger(__name__)

State = dict[str, Tensor]

TEACHER, STUDENT = "teacher", "student"
# Of DDP, torch.compile, FSDP, activation checkpointing and Lightning Fabric, anywhere in a name.
WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|"
    r"_forward_module)\."
)
# Tensors that every network of a family has once, after its prefix.
ANCHORS = re.compile(
    r"(?:(?<=\.)|^)(patch_embed\.proj\.(0\.0\.)?weight|patch_embed\.projection\.weight|"
    r"embeddings\.patch_embeddings\.(projection\.)?weight|layer1\.0\.conv1\.weight|"
    r"downsample_layers\.0\.0\.weight|stem\.0\.weight|conv_stem\.weight)$"
)
# Parts of a prefix that lead to a backbone beside its head, ``teacher.backbone.``.
BACKBONE = re.compile(
    r"(?:(?<=\.)|^)(?:backbone|network|vit|dinov2|dinov2_with_registers|dinov3_vit)\.$"
)
ROLES = {
    **dict.fromkeys(("teacher", "ema", "momentum", "target", "average", "averaged"), TEACHER),
    **dict.fromkeys(("student", "online", "current", "query"), STUDENT),
}
MAX_DEPTH, MAX_DICTS = 6, 10_000  # a file may hold dicts that hold themselves
NAMES_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network of a file, and what lies beside it."""

    name: str
    """Place of the network in the file, with dots; empty where the file is a plain state dict."""
    role: str | None
    """"teacher" for averages of others, "student" for what was trained, None for neither."""
    backbone: State
    """Tensors of the backbone, without the prefix."""
    beside: State
    """Tensors of heads and whatever else has the same owner."""


def chosen_network(content: Mapping[Any, Any], checkpoint_key: str) -> Network:
    """The network that is asked for.

    Args:
        content: All that a file holds.
        checkpoint_key: "teacher" takes the only average of others, else the only network;
            "student" the one that was trained; all else is the place of a network or its end.

    Raises:
        CheckpointError: There is no such network, or there are several.
    """
    networks = found_networks(content)
    if checkpoint_key == TEACHER:
        fitting = _averages(networks) or [n for n in networks if n.role is None]
    elif checkpoint_key == STUDENT:
        fitting = [network for network in networks if network.role == STUDENT]
        if not fitting and _averages(networks):
            fitting = [network for network in networks if network.role is None]
    else:
        fitting = _placed(networks, checkpoint_key.strip("."))
    if len(fitting) == 1:
        if len(networks) > 1:
            names = ", ".join(network.name for network in networks)
            logger.info("taking the network %s of %s", fitting[0].name, names)
        return fitting[0]
    if fitting:
        raise CheckpointError(
            f"holds several networks that {checkpoint_key!r} may mean; {_advice(fitting)}"
        )
    if networks:
        raise CheckpointError(f"holds no {checkpoint_key!r} weights; {_advice(networks)}")
    held = ", ".join(repr(key) for key in list(content)[:NAMES_SHOWN]) or "nothing"
    more = " ..." if len(content) > NAMES_SHOWN else ""
    if any("flat_param" in name for _, tensors in _containers(content) for name in tensors):
        raise CheckpointError(
            "holds flattened shards of FSDP; gather the full state_dict() with the project that "
            "wrote it, which DINOv2 keeps in eval/*/teacher_checkpoint.pth"
        )
    raise CheckpointError(
        f"holds no network, it holds {held}{more}; pass a file with the state_dict of one"
    )


def found_networks(content: Mapping[Any, Any]) -> list[Network]:
    """All networks of a file, in its order."""
    containers = [(place, _unwrapped(tensors)) for place, tensors in _containers(content)]
    found = [
        (place, prefix, tensors) for place, tensors in containers for prefix in _prefixes(tensors)
    ]
    if not found:  # of no family that we know: a dict of weights, and its usual prefix
        found = [
            (place, prefix, tensors)
            for place, tensors in containers
            if any(name.endswith("weight") for name in tensors)
            for prefix in _backbone_prefixes(tensors)
        ]
    shared = _shared_place([place for place, _, _ in found])
    swapped = "message_hub" in content  # of MMEngine, whose hook swaps the average with the rest
    networks = []
    for place, prefix, tensors in found:
        others = [other for at, other, _ in found if at == place and other != prefix]
        networks.append(_network(place, prefix, tensors, others, shared, swapped=swapped))
    return networks


def _network(
    place: str, prefix: str, tensors: State, others: list[str], shared: str, *, swapped: bool
) -> Network:
    owner = prefix
    while BACKBONE.search(owner):
        owner = BACKBONE.sub("", owner)
    nested = tuple(other for other in others if other.startswith(prefix))
    beside = {
        name.removeprefix(owner): tensor
        for name, tensor in tensors.items()
        if name.startswith(owner)
        and (not name.startswith(prefix) or name.startswith(nested))
        and not name.startswith(tuple(o for o in others if not prefix.startswith(o)))
    }
    backbone = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and not (nested and name.startswith(nested))
    }
    name = f"{place}{prefix}".rstrip(".")
    role = STUDENT if swapped and place == "ema_state_dict." else _role(name)
    return Network(name=name.removeprefix(shared), role=role, backbone=backbone, beside=beside)


def _role(name: str) -> str | None:
    words = re.split(r"[._]", name.lower())
    return next((ROLES[word] for word in reversed(words) if word in ROLES), None)


def _averages(networks: list[Network]) -> list[Network]:
    """The averages; where there are several, the one that is called teacher."""
    averages = [network for network in networks if network.role == TEACHER]
    teachers = [network for network in averages if TEACHER in network.name.split(".")]
    return teachers if len(teachers) == 1 else averages


def _placed(networks: list[Network], key: str) -> list[Network]:
    """The network at a place; or the networks below it, or whose place ends so."""
    exact = [network for network in networks if network.name == key]
    return exact or [network for network in networks if f".{key}." in f".{network.name}." and key]


def _advice(networks: list[Network]) -> str:
    names = [network.name for network in networks]
    if names == [""]:
        return "it holds one network without a name: leave out `checkpoint_key`"
    shown = ", ".join(map(repr, names[:NAMES_SHOWN])) + " ..." * (len(names) > NAMES_SHOWN)
    return f"pass `checkpoint_key` as one of {shown}"


def _containers(content: Mapping[Any, Any]) -> Iterator[tuple[str, State]]:
    """The dicts that hold tensors, and where they are: ``state_dict.``."""
    visited = 0
    waiting: list[tuple[str, Mapping[Any, Any], int]] = [("", content, 1)]
    while waiting and visited < MAX_DICTS:
        place, mapping, depth = waiting.pop(0)
        visited += 1
        named = {key: value for key, value in mapping.items() if isinstance(key, str)}
        if tensors := {k: v for k, v in named.items() if isinstance(v, Tensor)}:
            yield place, tensors
        if depth < MAX_DEPTH:
            waiting += [
                (f"{place}{key}.", value, depth + 1)
                for key, value in named.items()
                if isinstance(value, Mapping) and value is not content
            ]


def _unwrapped(tensors: State) -> State:
    result: State = {}
    for name, tensor in tensors.items():
        plain = WRAPPERS.sub("", name)
        if plain in result:
            raise CheckpointError(f"holds two tensors for {plain!r}; one is {name!r}")
        result[plain] = tensor
    return result


def _prefixes(tensors: State) -> list[str]:
    """Prefixes of the tensors that mark a network."""
    marks = (ANCHORS.search(name) for name in tensors)
    return list(dict.fromkeys(mark.string[: mark.start()] for mark in marks if mark))


def _backbone_prefixes(tensors: State) -> list[str]:
    """Prefixes that end in ``backbone.``, else the empty one."""
    marks = (re.match(r"(\w+\.)*?\w*backbone\.(network\.)?", name) for name in tensors)
    return list(dict.fromkeys(mark[0] for mark in marks if mark)) or [""]


def _shared_place(places: list[str]) -> str:
    """Place of all networks, if they are in one dict: it need not be said."""
    return places[0] if len(set(places)) == 1 else ""
