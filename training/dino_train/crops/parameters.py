"""Parameters of multi-crop augmentation, drawn for every crop of an image.

Drawing is apart from doing: ``draw_batch`` needs only the size of the picture, so the same crops
come out whatever the worker, the rank, the device or the executor that makes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int32, Int64, Integer

from dino_train.crops.boxes import BOX_DRAWS, random_resized_boxes
from dino_train.crops.spec import CropSpec

_CROPS_STREAM = 1  # data order draws from stream 0 of the same seed
_DRAWS = BOX_DRAWS + 14
_PerCrop = float | tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class CropParams:
    """Parameters of crops, one row a crop, global crops first; the leading axes are free.

    Order of the operations: cut and resize, flip, jitter, grayscale, blur, solarise.
    """

    top: Int32[np.ndarray, "*crops"]
    left: Int32[np.ndarray, "*crops"]
    height: Int32[np.ndarray, "*crops"]
    width: Int32[np.ndarray, "*crops"]
    flip: Bool[np.ndarray, "*crops"]
    jitter: Bool[np.ndarray, "*crops"]
    """True if the four colour operations are applied."""
    jitter_order: Int8[np.ndarray, "*crops 4"]
    """Order of the operations: 0 brightness, 1 contrast, 2 saturation, 3 hue."""
    jitter_factors: Float32[np.ndarray, "*crops 4"]
    """Factors of brightness, contrast and saturation; turn of the hue, 1 being the full circle."""
    grayscale: Bool[np.ndarray, "*crops"]
    blur_sigma: Float32[np.ndarray, "*crops"]
    """Standard deviation of the blur, in pixels of the finished crop; 0 disables it."""
    solarize: Bool[np.ndarray, "*crops"]

    def __getitem__(
        self, index: int | slice | tuple[int | slice, ...] | Int64[np.ndarray, " chosen"]
    ) -> "CropParams":
        """Return some of the crops, or one of them; the index works on the leading axes."""
        rows = {field.name: getattr(self, field.name) for field in fields(self)}
        return CropParams(**{name: np.asarray(value[index]) for name, value in rows.items()})

    def crop_major(self) -> "CropParams":
        """Parameters of (batch, crops) as one row of crops x batch: all first crops come first."""
        rows = {field.name: getattr(self, field.name) for field in fields(self)}
        return CropParams(
            **{
                name: np.ascontiguousarray(value.swapaxes(0, 1)).reshape(-1, *value.shape[2:])
                for name, value in rows.items()
            }
        )

    def replace_row(self, row: int, params: "CropParams") -> None:
        """Put other parameters in the place of a row."""
        for field in fields(self):
            getattr(self, field.name)[row] = getattr(params, field.name)

    def scaled(self, *, from_size: tuple[int, int], to_size: tuple[int, int]) -> "CropParams":
        """The same crops on a copy of the picture that has another (height, width)."""
        if from_size == to_size:
            return self
        top, height = _scaled_span(self.top, self.height, from_size[0], to_size[0])
        left, width = _scaled_span(self.left, self.width, from_size[1], to_size[1])
        return replace(self, top=top, left=left, height=height, width=width)


def draw_batch(
    spec: CropSpec,
    *,
    seed: int,
    keys: Sequence[tuple[int, int]],
    sizes: Integer[np.ndarray, "batch 2"],
) -> CropParams:
    """Draw the parameters of every crop of several images, as (batch, crops).

    Those of an image depend on the seed, its key and its size alone. Every crop takes the same
    number of random numbers whatever comes out, so the crops of an image do not change when more
    local crops are asked for.

    Args:
        spec: Settings of the crops.
        seed: Seed of the run, 0 or more.
        keys: Pass over the images, from 0, and number in the listing, of each image.
        sizes: Height and width of each picture in pixels.

    Source: https://arxiv.org/abs/2104.14294, appendix C; the distribution is that of the authors'
        release, with the crop boxes of torchvision's RandomResizedCrop.
    """
    if sizes.min() < 1:
        height, width = sizes[sizes.min(axis=1).argmin()]
        raise ValueError(f"a picture has at least 1x1 pixels, got height {height}, width {width}")
    uniform = _uniform(spec, seed, keys)
    boxes, order, factors, switches = np.split(uniform, [_DRAWS - 14, _DRAWS - 10, _DRAWS - 6], 2)
    top, left, box_height, box_width = random_resized_boxes(
        boxes,
        height=sizes[:, :1],
        width=sizes[:, 1:],
        scale=_per_crop(spec, [spec.global_crops_scale] * 2, spec.local_crops_scale),
        ratio=spec.crop_ratio,
    )
    blur_probability = _per_crop(
        spec,
        [spec.blur_probability_global1, spec.blur_probability_global2],
        spec.blur_probability_local,
    )
    solarize_probability = _per_crop(spec, [0.0, spec.solarize_probability], 0.0)
    lowest_sigma, highest_sigma = spec.blur_sigma
    flip, jitter, grayscale, blur, sigma, solarize = np.moveaxis(switches, 2, 0)
    spread = np.array([spec.brightness, spec.contrast, spec.saturation, spec.hue])
    return CropParams(
        top=top,
        left=left,
        height=box_height,
        width=box_width,
        flip=flip < spec.flip_probability,
        jitter=jitter < spec.jitter_probability,
        jitter_order=order.argsort(axis=2).astype(np.int8),
        jitter_factors=((1, 1, 1, 0) + spread * (2 * factors - 1)).astype(np.float32),
        grayscale=grayscale < spec.grayscale_probability,
        blur_sigma=np.where(
            blur < blur_probability, lowest_sigma + sigma * (highest_sigma - lowest_sigma), 0
        ).astype(np.float32),
        solarize=solarize < solarize_probability,
    )


def _uniform(
    spec: CropSpec, seed: int, keys: Sequence[tuple[int, int]]
) -> Float64[np.ndarray, "batch crops 36"]:
    """Random numbers from a counter, whose upper half is the key of the image."""
    source = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(_CROPS_STREAM,)))
    generator, state = np.random.Generator(source), source.state
    uniform = np.empty((len(keys), spec.crops_number, _DRAWS))
    for row, (epoch, index) in enumerate(keys):
        state["state"]["counter"][:] = 0, 0, epoch, index
        source.state = state
        generator.random(out=uniform[row])
    return uniform


def _scaled_span(
    start: Int32[np.ndarray, "*crops"], length: Int32[np.ndarray, "*crops"], old: int, new: int
) -> tuple[Int32[np.ndarray, "*crops"], Int32[np.ndarray, "*crops"]]:
    low = np.minimum(np.rint(start * (new / old)), new - 1)
    high = np.clip(np.rint((start + length) * (new / old)), low + 1, new)
    return low.astype(np.int32), (high - low).astype(np.int32)


def _per_crop(
    spec: CropSpec, of_globals: Sequence[_PerCrop], of_locals: _PerCrop
) -> Float64[np.ndarray, "crops ..."]:
    return np.array([*of_globals, *[of_locals] * spec.local_crops_number], dtype=np.float64)
