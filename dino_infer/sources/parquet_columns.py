"""Choose the columns of a Parquet table that hold its images, their names and their classes."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dino_infer.errors import DataError

IMAGE_COLUMNS = ("image", "img", "images", "imgs", "jpg", "jpeg", "png", "webp", "image_bytes")
"""The first of these that a table has, with values of a fitting type, holds its images."""

PATH_COLUMNS = ("path", "image_path", "file_path", "file_name", "filename")
"""The first of these that a table has names its images, or says which files they are."""

LABEL_COLUMNS = ("label", "labels", "cls", "class", "class_name", "fine_label", "coarse_label")
"""The first of these that a table has, with strings or whole numbers, is the class."""

logger = logging.getLogger(__name__)


class Columns(NamedTuple):
    """Columns of a table that are read; "" for those that it does not have."""

    image: str
    """The column of encoded images; "" where the table names files instead."""
    is_list: bool
    """Each row holds a list of images."""
    has_struct: bool
    """The images are ``{bytes, path}``."""
    named: str
    """The column of names, or of paths; ``COLUMN.path`` is inside the images."""
    label: str
    classes: tuple[str, ...]
    """Names that whole numbers of the label stand for."""


def choose_columns(schema: Any, path: bytes, image_column: str | None) -> Columns:
    """The columns to read.

    Args:
        schema: Schema of Arrow, with the metadata of Hugging Face's ``datasets`` if there is any.
        path: The table, for messages.
        image_column: The column that the caller names; None to look for the usual ones.

    Raises:
        DataError: No column is known to hold images, the one asked for is not there, or the column
            of images or of labels holds something else.
    """
    features = _features(schema.metadata or {})
    image = _image_column(schema, path, image_column, features)
    label, classes = _label_column(schema, path, features)
    named = next((name for name in PATH_COLUMNS if name in schema.names), "")
    if not image:
        return Columns("", False, False, named, label, classes)
    kind = schema.field(image).type
    lists, one = is_list(kind), _one(kind)
    if is_text(one):
        return Columns("", lists, False, image, label, classes)
    has_struct = _is_struct(one)
    if has_struct and one.get_field_index("path") >= 0 and (lists or not named):
        named = f"{image}.path"
    elif lists:
        named = ""  # it names rows, not the images in them
    return Columns(image, lists, has_struct, named, label, classes)


def is_text(kind: Any) -> bool:
    """True if a type is of strings, also where equal ones are stored once."""
    import pyarrow.types as of

    kind = kind.value_type if of.is_dictionary(kind) else kind
    return bool(of.is_string(kind) or of.is_large_string(kind) or of.is_string_view(kind))


def is_list(kind: Any) -> bool:
    """True if a type is of lists."""
    import pyarrow.types as of

    return bool(of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind))


def _image_column(schema: Any, path: bytes, asked: str | None, features: dict[str, Any]) -> str:
    """The column of images, encoded or as paths; "" where only a usual column of paths is left."""
    if asked is not None and asked not in schema.names:
        raise DataError(
            f"no column {asked!r} in {os.fsdecode(path)!r}, which has {schema.names}; "
            "pass `image_column=NAME`"
        )
    known = [name for name in IMAGE_COLUMNS if name in schema.names]
    typed = [name for name in _of_type(features, "Image") if name in schema.names]
    if len(typed) == 1:
        known += [name for name in typed if name not in known]
    candidates = known if asked is None else [asked]
    fitting = [name for name in candidates if _holds_images(schema.field(name).type)]
    if fitting:
        _say_choice(path, "images", fitting)
        return fitting[0]
    has_paths = any(name in schema.names for name in PATH_COLUMNS)
    if candidates and (asked is not None or candidates[0] == IMAGE_COLUMNS[0] or not has_paths):
        raise DataError(
            f"expected bytes, {{bytes, path}} or paths in the column {candidates[0]!r} of "
            f"{os.fsdecode(path)!r}, got {schema.field(candidates[0]).type}; pass "
            f"`image_column=NAME` with one of {schema.names}"
        )
    if not has_paths:
        others = ", ".join((*PATH_COLUMNS, *IMAGE_COLUMNS[1:]))
        raise DataError(
            f"expected a column {IMAGE_COLUMNS[0]!r} or one of {others} in "
            f"{os.fsdecode(path)!r}, got {schema.names}; pass `image_column=NAME`"
        )
    return ""


def _label_column(
    schema: Any, path: bytes, features: dict[str, Any]
) -> tuple[str, tuple[str, ...]]:
    """The column of classes and the names of the classes; "" and none without one."""
    known = [name for name in LABEL_COLUMNS if name in schema.names]
    typed = [name for name in _of_type(features, "ClassLabel") if name in schema.names]
    if not known and len(typed) == 1:
        known = typed
    fitting = [name for name in known if is_label(schema.field(name).type)]
    if known and known[0] == LABEL_COLUMNS[0] and known[0] not in fitting:
        check_label(schema.field(known[0]).type, known[0], path)
    if not fitting:
        if len(typed) > 1:
            logger.warning("%r: %s could all be the class, so none is", os.fsdecode(path), typed)
        return "", ()
    _say_choice(path, "classes", fitting)
    names = features.get(fitting[0], {}).get("names")
    names = names if isinstance(names, list) else []
    return fitting[0], tuple(str(name) for name in names)


def is_label(kind: Any) -> bool:
    """True if a type can tell classes: strings, whole numbers, or true and false."""
    import pyarrow.types as of

    kind = kind.value_type if of.is_dictionary(kind) else kind
    return bool(is_text(kind) or of.is_integer(kind) or of.is_boolean(kind))


def check_label(kind: Any, name: str, path: bytes) -> None:
    """Refuse a column of other values than strings and whole numbers.

    Raises:
        DataError: It is one.
    """
    if not is_label(kind):
        got = f"{kind} in {os.fsdecode(path)!r}"
        raise DataError(f"expected strings or whole numbers in the column {name!r}, got {got}")


def _say_choice(path: bytes, what: str, fitting: list[str]) -> None:
    if len(fitting) > 1:
        logger.info(
            "%r: took the %s from the column %r, not from %s",
            os.fsdecode(path),
            what,
            fitting[0],
            ", ".join(map(repr, fitting[1:])),
        )


def _holds_images(kind: Any) -> bool:
    one = _one(kind)
    return is_text(one) or _is_bytes(one.field("bytes").type if _is_struct(one) else one)


def _one(kind: Any) -> Any:
    """The type of one image, also where rows hold lists of them."""
    return kind.value_type if is_list(kind) else kind


def _is_struct(kind: Any) -> bool:
    import pyarrow.types as of

    return bool(of.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as of

    kind = kind.value_type if of.is_dictionary(kind) else kind
    tests: Sequence[Callable[[Any], bool]] = (of.is_binary, of.is_large_binary, of.is_binary_view)
    return any(test(kind) for test in tests)


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """Description of each column by Hugging Face's ``datasets``, where it wrote the table."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _of_type(features: dict[str, Any], kind: str) -> list[str]:
    return [name for name, feature in features.items() if feature.get("_type") == kind]
