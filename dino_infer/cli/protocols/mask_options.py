"""Flags of protocols on images with ground-truth masks."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """Reading of ground-truth masks."""

    masks: str | None = None
    """Folder of the masks, named as the images but for the suffix; by default masks beside images
    in the folder of the data, or those of PASCAL VOC."""
    split: str | None = None
    """List of images in ImageSets/Segmentation of the layout of PASCAL VOC; by default val."""
    levels: Literal["foreground", "labels"] | None = None
    """Meaning of the masks' levels: white is the object, or each level is a label and 255 void; by
    default foreground where all masks are black and white, else labels."""

    def keywords(self) -> dict[str, Any]:
        """The arguments of ``masked_images`` beside the source."""
        return dict(vars(self))
