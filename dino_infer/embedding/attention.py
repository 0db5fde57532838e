"""Attention in one picture, and what can be drawn and found there: see ``Embedder.attention``."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from dino_infer.attention.boxes import Box, mask_boxes
from dino_infer.attention.maps import MASS, AttentionMaps, Head, chosen_maps, grid_masks
from dino_infer.attention.views import View, view_of
from dino_infer.choices import ObjectMethod
from dino_infer.drawing.overlays import COLORMAP, OPACITY, heat_overlay, mosaic
from dino_infer.drawing.sheets import attention_picture, marked_picture
from dino_infer.images.pictures import png_bytes
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.backbone import Backbone
from dino_infer.objects.find import ObjectMasks, find_objects


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention:
    """Attention of a network in one picture.

    A notebook draws the overlay.
    """

    look: AttentionMaps
    """Maps and masks, with the picture as the network saw it."""
    image: UInt8[np.ndarray, "height width 3"]
    """The upright picture in its own size."""
    backbone: Backbone
    preprocess: Preprocess
    mass: float = MASS
    """Share of the attention that the masks keep."""
    path: str = "picture"
    """Name of the picture in errors."""

    def __repr__(self) -> str:
        heads, rows, columns = self.maps.shape
        asks = "[CLS]" if self.look.query is None else f"patch {self.look.query}"
        return f"Attention({self.path!r}, {heads} heads of {asks} over {rows} x {columns} patches)"

    def _repr_png_(self) -> bytes:
        """The overlay as a notebook shows it."""
        return png_bytes(self.overlay())

    @property
    def maps(self) -> Float32[np.ndarray, "heads rows columns"]:
        """Attention to each patch by each head."""
        return self.look.heads

    @property
    def masks(self) -> Bool[np.ndarray, "heads rows columns"]:
        """The patches that hold ``mass`` of each head's attention."""
        return self.look.masks

    @property
    def view(self) -> View:
        """Place of the patches in ``image``."""
        height, width = self.image.shape[:2]
        patch_size = self.backbone.patch_size
        return view_of(height, width, preprocess=self.preprocess, patch_size=patch_size)

    def overlay(
        self, head: Head = "mean", *, opacity: float = OPACITY, colormap: str = COLORMAP
    ) -> Image.Image:
        """A heat map over the picture; with "all", one for each head side by side.

        Args:
            head: The map to draw: a head by its number, "mean", "max" or "all".
            opacity: Opacity of the heat map, from 0 to 1.
            colormap: Name of a colour map of matplotlib.

        Raises:
            ValueError: There is no such head or colour map, or the opacity is out of range.
        """
        picture = marked_picture(self.look)
        panels = [
            heat_overlay(picture, values, opacity=opacity, colormap=colormap)
            for values in chosen_maps(self.maps, head).values()
        ]
        return Image.fromarray(mosaic(panels))

    def sheet(self, *, colormap: str = COLORMAP) -> Image.Image:
        """The picture, the mean over heads and every head, with their masks below."""
        return attention_picture([self.look], mass=self.mass, colormap=colormap)

    def boxes(self, head: Head = "mean", *, min_patches: int = 1) -> list[Box]:
        """Boxes around the connected parts of masks, in pixels of ``image``.

        Args:
            head: The map whose mask counts: a head by its number, "mean", "max" or "all".
            min_patches: Fewest patches of a part that gets a box.

        Raises:
            ValueError: There is no such head.
        """
        return [
            box
            for values in chosen_maps(self.maps, head).values()
            for box in mask_boxes(
                values, grid_masks(values, self.mass), self.view, min_patches=min_patches
            )
        ]

    def objects(self, method: ObjectMethod = "tokencut") -> ObjectMasks:
        """The objects in the picture by the keys of the last block, from a forward pass of its own.

        Args:
            method: "tokencut" and "lost" find one object, "maskcut" up to three.

        Raises:
            CheckpointError: The keys hold NaN or infinity.
            ValueError: There is no such method.
        """
        return find_objects(
            self.image,
            backbone=self.backbone,
            preprocess=self.preprocess,
            method=method,
            path=self.path,
        )
