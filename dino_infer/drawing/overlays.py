"""Maps, masks, boxes and patches drawn over the picture they belong to.

Everything here goes from arrays to an array: another threshold, opacity, colour map or resolution
needs no other forward pass.
"""

import difflib
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from dino_infer.attention.boxes import Box
from dino_infer.attention.maps import MASS, grid_masks, upsampled

COLORMAP = "inferno"
OPACITY = 0.6
TINT = (255, 96, 16)  # orange is rare in photos and stands out from inferno's neighbours
OUTLINE = (255, 255, 255)
QUERY = (64, 255, 96)  # frames the patch that asks; neither inferno nor viridis has it
DARKENED = 0.25  # of its brightness is left to a photo that colours are laid on
SHADE = 0.4  # of its brightness is left to a colour where the photo is black
MOSAIC_GAP = 4  # pixels
COLOR_SPREAD = 2.0  # standard deviations of a component from grey to full colour


def heatmap(
    values: Float[np.ndarray, "rows columns"],
    *,
    colormap: str = COLORMAP,
    scale: tuple[float, float] | None = None,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Values as colours, from the darkest for the lowest to the brightest for the highest.

    Args:
        values: One number a patch or pixel.
        colormap: Name of a colour map of matplotlib.
        scale: The values drawn darkest and brightest; by default the lowest and the highest.

    Raises:
        ValueError: There is no such colour map.
    """
    from matplotlib import colormaps

    check_colormap(colormap)
    low, high = scale or (float(values.min()), float(values.max()))
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    colors: np.ndarray = colormaps[colormap](scaled, bytes=True)[..., :3]
    return np.ascontiguousarray(colors)


def check_colormap(name: str) -> None:
    """Refuse a colour map that matplotlib does not have.

    Raises:
        ValueError: The nearest names are given.
    """
    from matplotlib import colormaps

    if name not in colormaps:
        near = difflib.get_close_matches(name, list(colormaps), n=3, cutoff=0.3)
        raise ValueError(f"no colour map named {name!r}; nearest: {', '.join(near) or COLORMAP}")


def heat_overlay(
    picture: UInt8[np.ndarray, "height width 3"],
    values: Float[np.ndarray, "rows columns"],
    *,
    opacity: float = OPACITY,
    colormap: str = COLORMAP,
    scale: tuple[float, float] | None = None,
    smooth: bool = True,
) -> UInt8[np.ndarray, "height width 3"]:
    """A heat map laid over the picture it belongs to.

    Args:
        picture: Picture that the network saw, at any resolution: the overlay has the same.
        values: One value a patch.
        opacity: Opacity of the heat map, from 0 to 1.
        colormap: Colours as in ``heatmap``.
        scale: Scale as in ``heatmap``.
        smooth: Interpolate between patches (bicubic), or show each as a rectangle.
    """
    height, width = picture.shape[:2]
    scale = scale or (float(values.min()), float(values.max()))
    stretched = smoothed(values, height, width) if smooth else upsampled(values, height, width)
    colors = heatmap(stretched, colormap=colormap, scale=scale)
    return _blend(picture, colors, opacity)


def mask_overlay(
    picture: UInt8[np.ndarray, "height width 3"],
    mask: Bool[np.ndarray, "rows columns"],
    *,
    opacity: float = 0.45,
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture with the patches of a mask tinted and outlined, and the rest in grey.

    Args:
        picture: Picture that the network saw, at any resolution.
        mask: True for patches to show.
        opacity: Opacity of the tint, from 0 to 1.
    """
    inside = upsampled(mask, *picture.shape[:2])
    grey = np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))
    tinted = picture * (1 - opacity) + np.array(TINT) * opacity
    mixed = np.where(inside[..., None], tinted, 0.5 * grey + 64).round().astype(np.uint8)
    mixed[_border(inside, thickness=max(1, picture.shape[1] // 240))] = OUTLINE
    return mixed


def head_colors(
    picture: UInt8[np.ndarray, "height width 3"],
    heads: Float[np.ndarray, "heads rows columns"],
    *,
    mass: float = MASS,
    opacity: float = 0.85,
    smooth: bool = True,
) -> UInt8[np.ndarray, "height width 3"]:
    """All heads in one picture, each in a colour of its own over the darkened photo.

    A head colours the patches that hold ``mass`` of its attention, the brighter the more it
    attends to them; where heads overlap, the stronger one shows most.

    Args:
        picture: Picture that the network saw, at any resolution.
        heads: Attention of each head.
        mass: Share of each head's attention that is shown, in (0, 1].
        opacity: Opacity of the colours, from 0 to 1.
        smooth: Interpolate between patches, or show each as a rectangle.

    Source: after https://arxiv.org/abs/2104.14294, figure 3.
    """
    size = picture.shape[:2]
    peaks = heads.max(axis=(1, 2), keepdims=True)
    strengths = np.where(grid_masks(heads, mass), np.sqrt(heads / np.maximum(peaks, 1e-30)), 0)
    stretch = smoothed if smooth else upsampled
    weights = np.stack([stretch(one.astype(np.float32), *size) for one in strengths]).clip(0, 1)
    shares = weights**2 / np.maximum((weights**2).sum(axis=0), 1e-12)
    colors = np.tensordot(shares, head_palette(len(heads)), axes=(0, 0))
    cover = opacity * weights.max(axis=0)[..., None]
    light = picture.mean(axis=-1, keepdims=True) / 255
    lit = colors * (SHADE + (1 - SHADE) * light)  # the photo shows through its colours
    mixed = picture * DARKENED * (1 - cover) + lit * cover
    levels: np.ndarray = mixed.round().clip(0, 255).astype(np.uint8)
    return levels


def head_palette(count: int) -> UInt8[np.ndarray, "count 3"]:
    """Colours that are easy to tell apart, evenly spread around the colour circle."""
    hues = [round(256 * i / count) % 256 for i in range(count)]
    circle = Image.fromarray(np.array([[(hue, 225, 255) for hue in hues]], np.uint8), mode="HSV")
    palette: np.ndarray = np.asarray(circle.convert("RGB"))[0]
    return palette


def box_overlay(
    picture: UInt8[np.ndarray, "height width 3"], boxes: Sequence[Box]
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture with the outline of each box; the boxes are in pixels of this picture."""
    drawn = Image.fromarray(picture)
    pen = ImageDraw.Draw(drawn)
    thickness = max(2, round(picture.shape[1] / 160))
    for box in reversed(boxes):  # those with most attention on top
        pen.rectangle((box.x0, box.y0, box.x1 - 1, box.y1 - 1), outline=TINT, width=thickness)
    return np.asarray(drawn)


def outlined(
    picture: UInt8[np.ndarray, "height width 3"],
    cell: tuple[int, int],
    *,
    grid: tuple[int, int],
    color: tuple[int, int, int] = QUERY,
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture with one patch of its grid framed.

    Args:
        picture: Picture that the network saw, at any resolution.
        cell: Row and column of the patch.
        grid: Rows and columns of patches.
        color: Colour of the frame; a dark line around it keeps it visible on any ground.
    """
    (height, width), (row, column), (rows, columns) = picture.shape[:2], cell, grid
    x0, x1 = (column * width // columns, (column + 1) * width // columns - 1)
    y0, y1 = (row * height // rows, (row + 1) * height // rows - 1)
    drawn = Image.fromarray(picture)
    pen = ImageDraw.Draw(drawn)
    thickness = max(2, round(max(width, height) / 240))
    for grown, ink in ((2 * thickness, (0, 0, 0)), (2 * thickness - 1, color)):
        frame = (x0 - grown, y0 - grown, x1 + grown, y1 + grown)
        pen.rectangle(frame, outline=ink, width=thickness + (ink != color))
    return np.asarray(drawn)


def mosaic(
    pictures: Sequence[UInt8[np.ndarray, "height width 3"]],
) -> UInt8[np.ndarray, "_height _width 3"]:
    """Pictures of one size side by side in about as many rows as columns; the rest is black."""
    columns = math.ceil(math.sqrt(len(pictures)))
    height, width = (side + MOSAIC_GAP for side in pictures[0].shape[:2])
    rows = -(-len(pictures) // columns)
    sheet = np.zeros((rows * height - MOSAIC_GAP, columns * width - MOSAIC_GAP, 3), dtype=np.uint8)
    for i, picture in enumerate(pictures):
        top, left = height * (i // columns), width * (i % columns)
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def smoothed(
    values: Float[np.ndarray, "rows columns"], height: int, width: int
) -> Float[np.ndarray, "{height} {width}"]:
    """Values between those of the patches, by bicubic interpolation."""
    plane = Image.fromarray(values.astype(np.float32))
    return np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC))


def pca_colors(
    scores: Float[np.ndarray, "rows columns 3"],
    variances: Float[np.ndarray, " 3"],
    *,
    height: int,
    width: int,
    foreground: Bool[np.ndarray, "rows columns"] | None = None,
    smooth: bool = True,
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Three principal components as red, green and blue; the mean patch is grey.

    The colours mean the same in every image that is measured in the same basis.

    Args:
        scores: Coordinates of each patch.
        variances: Variance of the basis along each component.
        height: Height of the result in pixels.
        width: Likewise.
        foreground: Patches to show; the others become black.
        smooth: Interpolate between patches, or show each as a rectangle.
    """
    reach = COLOR_SPREAD * np.sqrt(np.maximum(variances, 1e-30))
    levels = (127.5 * (1 + scores / reach)).clip(0, 255)
    if foreground is not None:
        levels = levels * foreground[..., None]
    stretch = smoothed if smooth else upsampled
    planes = [stretch(levels[..., i], height, width) for i in range(3)]
    return np.stack(planes, axis=-1).round().clip(0, 255).astype(np.uint8)


def similarity_overlay(
    picture: UInt8[np.ndarray, "height width 3"],
    similarity: Float[np.ndarray, "rows columns"],
    *,
    query: tuple[int, int] | None = None,
    matches: Sequence[tuple[int, int]] = (),
    opacity: float = OPACITY,
    colormap: str = COLORMAP,
    scale: tuple[float, float] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Similarity to a patch as a heat map, with that patch and the best matches framed.

    Args:
        picture: Picture that the network saw, at any resolution.
        similarity: Similarity of each patch.
        query: Row and column of the patch that was chosen, where it is in this picture: green.
        matches: Patches to frame in white.
        opacity: Opacity of the heat map, from 0 to 1.
        colormap: Colours as in ``heatmap``.
        scale: Scale as in ``heatmap``; give two pictures the same to compare them.
    """
    drawn = heat_overlay(picture, similarity, opacity=opacity, colormap=colormap, scale=scale)
    rows, columns = similarity.shape
    for match in reversed(matches):
        drawn = outlined(drawn, match, grid=(rows, columns), color=OUTLINE)
    return drawn if query is None else outlined(drawn, query, grid=(rows, columns), color=QUERY)


def _blend(
    picture: UInt8[np.ndarray, "height width 3"],
    colors: UInt8[np.ndarray, "height width 3"],
    opacity: float,
) -> UInt8[np.ndarray, "height width 3"]:
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in [0, 1], got {opacity}")
    return np.asarray(Image.blend(Image.fromarray(picture), Image.fromarray(colors), opacity))


def _border(
    inside: Bool[np.ndarray, "height width"], *, thickness: int
) -> Bool[np.ndarray, "height width"]:
    """Pixels of the mask near its outside; the frame of the picture does not count."""
    core = inside
    for _ in range(thickness):
        wide = np.pad(core, 1, mode="edge")
        core = core & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    border: np.ndarray = inside & ~core
    return border
