"""Views of patch tokens: colours by principal components, patches similar to a chosen one."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8

from dino_infer.attention.grids import network_input, seen
from dino_infer.images.pictures import one_or_many
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.backbone import Backbone


class PatchTokens(NamedTuple):
    """The patch tokens of one image, on their grid."""

    picture: UInt8[np.ndarray, "height width 3"]
    """The part of the image that the network saw, resized as it saw it."""
    tokens: Float32[np.ndarray, "rows columns dim"]


@one_or_many
@torch.inference_mode()
def patch_tokens(
    image: UInt8[np.ndarray, "height width 3"],
    *,
    backbone: Backbone,
    preprocess: Preprocess,
    path: str = "image",
) -> PatchTokens:
    """The normed tokens of the last block that stand for the patches of one image.

    Args:
        image: One picture in any form that ``Embedder`` takes, or a list, which gives a list.
        backbone: A Vision Transformer in evaluation mode, on any device.
        preprocess: Size and normalisation; ``crop="none"`` shows all of the image.
        path: Name of the image in errors; by default a path itself.

    Raises:
        ImageError: The image cannot be read, or is too elongated to be resized whole.
        CheckpointError: The backbone has no patch tokens.
    """
    pixels = network_input(image, backbone=backbone, preprocess=preprocess, path=path)
    tokens = backbone.tokens(pixels)
    patches: np.ndarray = tokens.patches[0].float().cpu().reshape(*tokens.grid, -1).numpy()
    return PatchTokens(seen(pixels, backbone, preprocess), patches)


class PatchPCA(NamedTuple):
    """A basis of principal components that patches of any image can be measured in."""

    mean: Float32[np.ndarray, " dim"]
    components: Float32[np.ndarray, "components dim"]
    """Unit vectors by decreasing variance; the largest entry of each is positive."""
    variances: Float32[np.ndarray, " components"]
    """Variance along each component of the patches that the basis was made from."""
    explained: Float32[np.ndarray, " components"]
    """The variances as shares of the whole variance."""

    def scores(
        self, tokens: Float32[np.ndarray, "*leading dim"]
    ) -> Float32[np.ndarray, "*leading components"]:
        """Coordinates of patches in the basis; 0 is the mean patch."""
        scores: np.ndarray = (tokens - self.mean) @ self.components.T
        return scores


def patch_pca(tokens: Iterable[Float32[np.ndarray, "*_ dim"]], *, components: int = 3) -> PatchPCA:
    """The principal components of the patches of several images together.

    Only sums are kept, so any number of images may be streamed through. A component is fixed up
    to its sign: its entry of largest magnitude (of equals the first) is made positive, so that
    the same patches have the same colours each time.

    Args:
        tokens: Patch tokens, an array for each image.
        components: Number of components to keep.

    Raises:
        ValueError: There are fewer patches, or fewer numbers in each, than components.
    """
    count, total, products = 0, np.zeros(1), np.zeros((1, 1))
    for array in tokens:
        rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
        count += len(rows)
        total = total + rows.sum(axis=0)
        products = products + rows.T @ rows
    if not 1 <= components <= min(count, len(total)):
        raise ValueError(
            f"components must lie in [1, {min(count, len(total))}] for {count} patches of "
            f"{len(total)} numbers, got {components}"
        )
    mean = total / count
    variances, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    variances, vectors = variances[::-1].clip(min=0), vectors.T[::-1][:components]
    signs = np.sign(np.take_along_axis(vectors, abs(vectors).argmax(axis=1)[:, None], axis=1))
    return PatchPCA(
        mean=mean.astype(np.float32),
        components=(vectors * signs).astype(np.float32),
        variances=variances[:components].astype(np.float32),
        explained=(variances[:components] / (variances.sum() or 1)).astype(np.float32),
    )


class Foreground(NamedTuple):
    """Threshold that separates the subject; applies to other images in the same basis."""

    threshold: float
    above: bool
    """True if the subject is above the threshold, False if it is below."""

    def mask(self, values: Float[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
        """Return a mask that is True for patches of the subject."""
        mask: np.ndarray = (values > self.threshold) == self.above
        return mask


def foreground(
    maps: Sequence[Float[np.ndarray, "_ _"]], *, threshold: float | None = None
) -> Foreground:
    """Splits images into subject and background by one number a patch: the first component.

    The subject is the side with the smaller share of the patches along the pictures' frames.

    Args:
        maps: First component of each image's patches.
        threshold: Value to split at; 0 splits by sign, None by ``otsu_threshold``.

    Raises:
        ValueError: There is no map.
    """
    if not maps:
        raise ValueError("expected the map of at least one image, got none")
    if threshold is None:
        threshold = otsu_threshold(np.concatenate([values.ravel() for values in maps]))
    frames = np.concatenate([_frame(values) for values in maps])
    return Foreground(threshold, above=bool((frames > threshold).mean() <= 0.5))


def otsu_threshold(values: Float[np.ndarray, " n"]) -> float:
    """The value that splits numbers into two groups with the least spread inside the groups.

    It is the largest number of the lower group, or the number itself where all are equal.

    Source: Otsu 1979, https://doi.org/10.1109/TSMC.1979.4310076, on the numbers themselves.
    """
    ordered = np.sort(values.astype(np.float64))
    low_count = np.arange(1, len(ordered))
    low_sum = ordered.cumsum()[:-1]
    high_count, high_sum = len(ordered) - low_count, ordered.sum() - low_sum
    between = low_count * high_count * (low_sum / low_count - high_sum / high_count) ** 2
    return float(ordered[between.argmax()] if len(between) else ordered[0])


def patch_similarity(
    query: Float[np.ndarray, " dim"], tokens: Float[np.ndarray, "*leading dim"]
) -> Float[np.ndarray, "*leading"]:
    """Cosine similarity of one patch to others, of its own image or of another.

    Args:
        query: Token of the patch, such as ``tokens[view.patch_at(x, y)]``.
        tokens: Tokens to compare.
    """
    lengths = np.linalg.norm(tokens, axis=-1) * np.linalg.norm(query)
    similarity: np.ndarray = (tokens @ query) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return similarity


def _frame(values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " patches"]:
    """The patches along the picture's edge."""
    edge = np.ones(values.shape, dtype=np.bool_)
    edge[1:-1, 1:-1] = False
    return values[edge]
