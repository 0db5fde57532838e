"""The flags of dino-attention, by what they are about."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from dino_infer.choices import ObjectMethod
from dino_infer.cli.exit_codes import UsageError
from dino_infer.cli.options import check_positive

ATTENTION: Literal["attention"] = "attention"

Kind = Literal["sheet", "npz", "overlay", "mask", "heads", "colors"]
OF_HEADS: tuple[Kind, ...] = ("heads", "colors")


@dataclass(frozen=True, kw_only=True)
class LookOptions:
    """Attention or objects to draw."""

    method: Literal["attention"] | ObjectMethod = ATTENTION
    """Attention of heads, or the objects that the keys of patches tell from their surroundings:
    tokencut and lost find one in each image, maskcut up to three."""
    size: int = 480
    """Shorter side in pixels at which the network sees an image; more shows finer detail."""
    layer: int | None = None
    """Block to look at, from 0, or from the last one if negative; by default the last."""
    query: Annotated[str | None, tyro.conf.arg(metavar="X,Y")] = None
    """Pixel of each image whose patch takes the place of [CLS] as the query."""
    rollout: tyro.conf.FlagCreatePairsOff[bool] = False
    """Follow the attention through all blocks (Abnar and Zuidema 2020); several times slower."""
    mass: float | None = None
    """Share of a head's attention that its mask keeps; by default 0.6."""

    def __post_init__(self) -> None:
        check_positive("--size", self.size)
        if self.mass is not None and not 0 < self.mass <= 1:
            raise UsageError(f"--mass must lie in (0, 1], got {self.mass}")
        _ = self.pixel  # refuses what is no pixel
        if self.rollout and (self.layer is not None or self.query is not None):
            raise UsageError("--rollout goes through all blocks to [CLS]: no --layer or --query")
        of_attention = self.mass is not None or self.query is not None or self.rollout
        if self.method != ATTENTION and of_attention:
            raise UsageError(f"--method {self.method} takes no --mass, --query or --rollout")

    @property
    def pixel(self) -> tuple[float, float] | None:
        """``query`` as x and y."""
        if self.query is None:
            return None
        try:
            x, y = (float(part) for part in self.query.split(","))
        except ValueError as error:
            raise UsageError(f"--query must be X,Y such as 120,80, got {self.query!r}") from error
        return x, y


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """Files to write."""

    write: tuple[Kind, ...] = ("sheet", "npz")
    """Files for each image: sheet of all heads or objects, arrays, overlay or mask of the map that
    --head chooses or of all objects, a heat map for each head, or all heads as colours."""
    boxes: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write NAME.boxes.json: boxes around the connected parts of the mask, in pixels of the
    image."""
    pca: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write NAME.pca.png: three principal components of the patches as colours that mean the same
    in all the images given."""
    head: int | Literal["mean", "max", "all"] | None = None
    """Map in overlays, masks, boxes and videos: mean (the default) or maximum of the heads, all
    heads side by side, or one head by its number."""
    min_patches: int | None = None
    """Fewest patches of a connected part that gets a box; by default 1."""
    opacity: float = 0.6
    """Opacity of the heat map in overlays and videos, from 0 to 1."""
    colormap: str = "inferno"
    """Name of a colour map of matplotlib."""

    def __post_init__(self) -> None:
        if not (self.write or self.boxes or self.pca):
            raise UsageError("nothing to write; name files after --write, or pass --boxes or --pca")
        check_positive("--min-patches", self.min_patches)
        if self.min_patches is not None and not self.boxes:
            raise UsageError("--min-patches is for boxes; pass --boxes too")
        if not 0 <= self.opacity <= 1:
            raise UsageError(f"--opacity must lie in [0, 1], got {self.opacity}")


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """Frames of videos to use."""

    frame_step: int = 1
    """Use every Nth frame; the video keeps its duration."""
    max_frames: int | None = None
    """Most frames to use of a video; by default all of them."""

    def __post_init__(self) -> None:
        check_positive("--frame-step", self.frame_step)
        check_positive("--max-frames", self.max_frames)


def check_objects(method: ObjectMethod, files: WriteOptions) -> None:
    """Refuse files of heads where objects are drawn.

    Raises:
        UsageError: The flag is named.
    """
    if files.head is not None:
        raise UsageError(f"--head is for attention; leave it out with --method {method}")
    if wrong := [kind for kind in files.write if kind in OF_HEADS]:
        raise UsageError(
            f"--write {wrong[0]} is for attention; leave it out with --method {method}"
        )
