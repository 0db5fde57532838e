"""Check that the vectors of an embedder may be compared with those of an index."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from dino_app.errors import ModelMismatchError
from dino_infer.features.files import MUST_AGREE

logger = logging.getLogger(__name__)


def check_model(
    store_model: Mapping[str, Any], description: Mapping[str, Any], *, what: str = "index"
) -> None:
    """Refuse vectors of other weights, of another feature or of images prepared differently.

    A difference in precision changes vectors a little and is only warned of. An exported file
    carries the hash of the weights it was made from, so it passes for them.

    Args:
        store_model: ``StoreInfo.model``; where it is empty nothing can be told, with a warning.
        description: ``Embedder.description()``.
        what: What the vectors are compared with: an index, or the head that they are given to.

    Raises:
        ModelMismatchError: They do not fit; the message says in what they differ.
    """
    if not store_model:
        logger.warning(
            "the %s does not say what made its vectors; they may not be comparable", what
        )
        return
    before, now = _plain(store_model), _plain(description)
    differences = [
        line for name in MUST_AGREE for line in _differences(name, before.get(name), now.get(name))
    ]
    if differences:
        made_by = f"; it was made with --weights {before['weights']}" if "weights" in before else ""
        raise ModelMismatchError(
            f"the {what} was made differently: {', '.join(differences)}{made_by}"
        )
    if before.get("precision") != now.get("precision"):
        logger.warning(
            "the %s was made in %s and is used in %s: scores differ a little",
            what,
            before.get("precision"),
            now.get("precision"),
        )


def _plain(model: Mapping[str, Any]) -> dict[str, Any]:
    """Model as JSON would give it back: lists for tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(model)))
    return plain


def _differences(name: str, before: Any, now: Any) -> list[str]:
    if name == "preprocess":
        before, now = before or {}, now or {}
        return [
            line
            for part in {**before, **now}
            for line in _differences(f"preprocessing {part}", before.get(part), now.get(part))
        ]
    return [] if before == now else [f"{name} was {_shown(before)} and is {_shown(now)}"]


def _shown(value: Any) -> str:
    """A value, of a hash only the beginning."""
    text = repr(value)
    return text if len(text) < 40 else f"{text[:13]}...'"
