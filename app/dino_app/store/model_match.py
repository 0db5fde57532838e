"""Check that the vectors of an embedder may be compared with those of an index."""

import logging
from collections.abc import Mapping
from typing import Any

from dino_app.errors import ModelMismatchError
from dino_infer.features.comparable import differences

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
        what: Partner of the comparison: an index, or the head that the vectors are given to.

    Raises:
        ModelMismatchError: They do not fit; the message says in what they differ.
    """
    if not store_model:
        logger.warning(
            "the %s does not say what made its vectors; they may not be comparable", what
        )
        return
    found = [
        f"{name} was {was} and is {now}" for name, was, now in differences(store_model, description)
    ]
    if found:
        weights = store_model.get("weights")
        made_by = f"; it was made with --weights {weights}" if weights else ""
        raise ModelMismatchError(f"the {what} was made differently: {', '.join(found)}{made_by}")
    was, now = store_model.get("precision"), description.get("precision")
    if was != now:
        logger.warning(
            "the %s was made in %s and is used in %s: scores differ a little", what, was, now
        )
