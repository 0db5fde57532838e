"""Check that the vectors of an embedder may be compared with those of an index."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from dino_app.errors import ModelMismatchError

MUST_AGREE = ("weights_sha256", "feature")

logger = logging.getLogger(__name__)


def check_model(store_model: Mapping[str, Any], description: Mapping[str, Any]) -> None:
    """Refuse vectors of other weights, of another feature or of images prepared differently.

    A difference in precision changes vectors a little and is only warned of. An exported file
    carries the hash of the weights it was made from, so it passes for them.

    Args:
        store_model: ``StoreInfo.model``; where it is empty nothing can be told, with a warning.
        description: ``Embedder.description()``.

    Raises:
        ModelMismatchError: They do not fit; the message says in what they differ.
    """
    if not store_model:
        logger.warning("the index does not say what made its vectors; they may not be comparable")
        return
    before, now = _plain(store_model), _plain(description)
    differences = [
        f"{name} was {_shown(before.get(name))} and is {_shown(now.get(name))}"
        for name in MUST_AGREE
        if before.get(name) != now.get(name)
    ]
    differences += _preprocessing(before.get("preprocess") or {}, now.get("preprocess") or {})
    if differences:
        made_by = f"; it was made with --weights {before['weights']}" if "weights" in before else ""
        raise ModelMismatchError(
            f"the index was made differently: {', '.join(differences)}{made_by}"
        )
    if before.get("precision") != now.get("precision"):
        logger.warning(
            "the index was made in %s and is searched in %s: scores differ a little",
            before.get("precision"),
            now.get("precision"),
        )


def _plain(model: Mapping[str, Any]) -> dict[str, Any]:
    """Model as JSON would give it back: lists for tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(model)))
    return plain


def _preprocessing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"preprocessing {name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def _shown(value: Any) -> str:
    """A value, of a hash only the beginning."""
    text = repr(value)
    return text if len(text) < 40 else f"{text[:13]}...'"
