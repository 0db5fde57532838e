"""Copy weights into a backbone, all of which must fit; say what does not and what would."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dino_infer.errors import CheckpointError
from dino_infer.networks.backbone import Backbone
from dino_infer.networks.build import ARCHS
from dino_infer.weights.architectures import inferred_info

logger = logging.getLogger(__name__)

NAMES_SHOWN = 3  # tensor names in a mismatch message
ROTARY_PERIODS = "rope.periods"


def load_weights(
    backbone: Backbone, state: Mapping[str, Tensor], *, source: str, left_out: Sequence[str] = ()
) -> None:
    """Copy weights into a backbone; all of them must fit.

    Args:
        backbone: Changed in place.
        state: Tensors under timm's names.
        source: Name of their source for the message.
        left_out: Names of tensors in the source that are not wanted, for the log.

    Raises:
        CheckpointError: Tensors are missing, unexpected or of another shape; the message counts
            them, names the first, and says what the weights are for.
    """
    check_fit(backbone, state, source=source)
    backbone.network.load_state_dict(dict(state))
    dropped = f", {counted('left out', left_out)}" if left_out else ""
    logger.info("%s: %d tensors matched%s", source, len(state), dropped)


def check_fit(backbone: Backbone, state: Mapping[str, Tensor], *, source: str) -> None:
    """Refuse tensors that are not those of the backbone, which takes rotary periods from them.

    Raises:
        CheckpointError: Tensors are missing, unexpected or of another shape.
    """
    if ROTARY_PERIODS in state and hasattr(backbone.network, "rope"):
        # timm computes them; files of DINOv3 keep the rounded ones that the network learned with.
        rope: Any = backbone.network.rope
        rope.register_buffer("periods", rope.periods, persistent=True)
    if mismatch := _mismatch(tensors_of(backbone), state):
        raise CheckpointError(
            f"{source!r} does not fit {backbone.arch!r} with patch size {backbone.patch_size}:\n  "
            + ",\n  ".join(mismatch)
            + f";\n{_remedy(state, backbone)}"
        )


def tensors_of(backbone: Backbone) -> dict[str, Tensor]:
    """The tensors of a backbone as they are stored."""
    network: nn.Module = backbone.network
    return dict(network.state_dict())


def _mismatch(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """List what fits and what does not, a line each; empty if everything fits."""
    both = [name for name in wanted if name in state]
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in both
        if state[name].shape != wanted[name].shape
    ]
    if not (missing or unexpected or wrong):
        return []
    return [
        f"{len(both) - len(wrong)} tensors matched",
        counted("missing", missing),
        counted("unexpected", unexpected),
        counted("of another shape", wrong),
    ]


def counted(what: str, names: Sequence[str]) -> str:
    """Number of tensors and the first names, for a message."""
    shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")


def _remedy(state: Mapping[str, Tensor], backbone: Backbone) -> str:
    likely = inferred_info(state)
    if likely is None:
        return "pass the `arch` that the weights were made for"
    if likely.shape is not None and likely.arch != backbone.arch:
        return "the weights tell what they are for: pass neither `arch` nor `patch_size`"
    vit, size = "pos_embed" in state, f" at {likely.image_size} px"
    if (likely.arch, likely.patch_size) == (backbone.arch, backbone.patch_size):
        if vit and likely.image_size != backbone.image_size:
            return f"the weights have positions{size}, the network at {backbone.image_size} px"
        return (
            "the arch is right but for these tensors: pass the timm name of a variant that has "
            "them as `arch`, or get another copy of the weights"
        )
    settings = f"`arch={likely.arch!r}`" + (
        f" and `patch_size={likely.patch_size}`" if likely.arch in ARCHS else ""
    )
    looks = f"{likely.arch}/{likely.patch_size}{size if vit else ''}"
    return f"the weights look like {looks}: pass {settings}"
