"""Settings of multi-crop augmentation; imports nothing heavy."""

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class CropSpec:
    """Two global and any number of local crops; the defaults are the published ones."""

    global_crops_size: int = 224
    """Side of the two global crops, in pixels."""
    global_crops_scale: tuple[float, float] = (0.4, 1.0)
    """Share of the picture's area that a global crop covers. (0.14, 1.0) without local crops."""
    local_crops_number: int = 8
    """Local crops of each image; 0 trains on the two global crops alone."""
    local_crops_size: int = 96
    """Side of a local crop, in pixels."""
    local_crops_scale: tuple[float, float] = (0.05, 0.4)
    """Share of the picture's area that a local crop covers."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width / height of the area that is cut out and made square."""
    flip_probability: float = 0.5
    """Share of crops that are mirrored. 0 where left and right matter: digits, letters."""
    jitter_probability: float = 0.8
    """Share of crops whose colours are jittered, the four operations in random order."""
    brightness: float = 0.4
    """Strength of the brightness jitter: factors from 1 minus this to 1 plus this."""
    contrast: float = 0.4
    """Strength of the contrast jitter: factors from 1 minus this to 1 plus this."""
    saturation: float = 0.2
    """Strength of the saturation jitter: factors from 1 minus this to 1 plus this."""
    hue: float = 0.1
    """Largest turn of the hue either way, as a share of the colour circle; at most 0.5."""
    grayscale_probability: float = 0.2
    """Share of crops that lose their colours."""
    blur_probability_global1: float = 1.0
    """Share of first global crops that are blurred."""
    blur_probability_global2: float = 0.1
    """Share of second global crops that are blurred."""
    blur_probability_local: float = 0.5
    """Share of local crops that are blurred."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur in pixels of the crop. Lower it for small crops."""
    solarize_probability: float = 0.2
    """Share of second global crops that are solarised; no other crop is."""
    solarize_threshold: int = 128
    """Level (0 to 255) from which on values are inverted."""

    def __post_init__(self) -> None:
        for name in ("global_crops_size", "local_crops_size"):
            _require(name, getattr(self, name) >= 1, "at least 1 pixel", getattr(self, name))
        number = self.local_crops_number
        _require("local_crops_number", number >= 0, "0 or more", number)
        for name in ("global_crops_scale", "local_crops_scale"):
            _require_range(name, getattr(self, name), high=1.0)
        for name in ("crop_ratio", "blur_sigma"):
            _require_range(name, getattr(self, name), high=math.inf)
        for name in (field.name for field in fields(self) if "probability" in field.name):
            share = getattr(self, name)
            _require(name, 0 <= share <= 1, "a probability from 0 to 1", share)
        for name, high in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            strength = getattr(self, name)
            _require(name, 0 <= strength <= high, f"between 0 and {high:g}", strength)
        level = self.solarize_threshold
        _require("solarize_threshold", 0 <= level <= 256, "a level from 0 to 256", level)

    @property
    def crops_number(self) -> int:
        """Crops of one image: two global ones, then the local ones."""
        return 2 + self.local_crops_number

    def sizes(self) -> list[int]:
        """Side of each crop, in pixels."""
        local = [self.local_crops_size] * self.local_crops_number
        return [self.global_crops_size] * 2 + local


def _require_range(name: str, bounds: tuple[float, float], *, high: float) -> None:
    fits = len(bounds) == 2 and 0 < bounds[0] <= bounds[1] <= high and bounds[1] < math.inf
    above = "above 0" if high == math.inf else f"within (0, {high:g}]"
    _require(name, fits, f"(lowest, highest) {above}", bounds)


def _require(name: str, fits: bool, expected: str, value: object) -> None:
    if not fits:
        raise ValueError(f"{name} must be {expected}, got {value!r}")
