"""Classes of the images in a tar shard, from the ``.cls`` and ``.json`` members beside them."""

import json

from dino_infer.sources.tars import Member, Shard, read_member

LABEL_KEYS = ("label", "class", "cls", "class_name")
"""The first of these that the JSON of a sample holds is its class."""

NO_LABEL = b"-1"
"""A class of this number stands for none, as in unlabelled test sets."""

_LARGEST_CLS, _LARGEST_JSON = 1024, 65_536
_JSONS_TRIED = 64


def shard_labels(shard: Shard, images: list[Member], others: list[Member]) -> list[bytes | None]:
    """The class of each image, None where the shard tells none.

    A sample's files share the path up to the first dot of the name, as in WebDataset. Names with
    dots of their own, ``22.05.png`` beside ``22.05.cls``, share it up to the last dot; those are
    looked for first.

    Args:
        shard: Tar that holds the members.
        images: The images that want a class.
        others: All other members.
    """
    by_cls = _by_stem(others, b".cls")
    by_json = _by_stem(others, b".json")
    told: dict[bytes, bytes | None] = {}
    labels = []
    for image in images:
        member = _beside(image, by_cls)
        if member is not None and member.name not in told:
            told[member.name] = _class_in_text(shard, member)
        labels.append(None if member is None else told[member.name])
    if None in labels and _tell_classes(shard, list(by_json.values())):
        for place, image in enumerate(images):
            member = _beside(image, by_json)
            if labels[place] is None and member is not None:
                if member.name not in told:
                    told[member.name] = _class_in_json(shard, member)
                labels[place] = told[member.name]
    return labels


def _by_stem(members: list[Member], suffix: bytes) -> dict[bytes, Member]:
    return {m.name[: -len(suffix)]: m for m in members if m.name.lower().endswith(suffix)}


def _beside(image: Member, by_stem: dict[bytes, Member]) -> Member | None:
    """The member of the image's own stem, or of the key of its sample."""
    folder, slash, name = image.name.rpartition(b"/")
    stem, key = name.rpartition(b".")[0], name.partition(b".")[0]
    return by_stem.get(folder + slash + stem) or by_stem.get(folder + slash + key)


def _tell_classes(shard: Shard, members: list[Member]) -> bool:
    """Sees a few members spread over the shard: captions and sizes alone need no reading of all."""
    some = members[:: max(1, len(members) // _JSONS_TRIED)]
    return any(_class_in_json(shard, member) is not None for member in some)


def _class_in_text(shard: Shard, member: Member) -> bytes | None:
    if not 0 < member.size <= _LARGEST_CLS:
        return None
    return _named(_data(shard, member))


def _class_in_json(shard: Shard, member: Member) -> bytes | None:
    if not 0 < member.size <= _LARGEST_JSON:
        return None
    try:
        value = json.loads(_data(shard, member))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    label = next((value[key] for key in LABEL_KEYS if key in value), None)
    if isinstance(label, bool) or not isinstance(label, int | str):
        return None
    return _named(str(label).encode("utf-8", "surrogatepass"))


def _named(text: bytes) -> bytes | None:
    label = text.strip()
    return None if label in (b"", NO_LABEL) else label


def _data(shard: Shard, member: Member) -> bytes:
    return read_member(shard, offset=member.offset, size=member.size, name="")
