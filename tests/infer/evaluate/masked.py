"""Small networks and folders of images with masks, for the tests of protocols on masks."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dino_infer.evaluate.contestants import Network, with_twin
from dino_infer.networks.build import build_backbone
from dino_infer.weights.info import CheckpointInfo


def networks(arch: str = "vit_micro", *, floors: bool = True) -> tuple[Network, ...]:
    """A network with patches of 8 pixels and random weights, and with floors its twin."""
    torch.manual_seed(3)
    backbone = build_backbone(arch, patch_size=8, image_size=32).eval()
    info = CheckpointInfo(arch=arch, patch_size=backbone.patch_size, image_size=32)
    return with_twin(backbone, info, floors=floors, device="cpu")


def striped(folder: Path, *, count: int = 6, classes: int = 3, void: int = 2) -> Path:
    """Images of vertical stripes, whose colours are those of their classes, and noise."""
    rng = np.random.default_rng(0)
    colors = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40)])
    for i in range(count):
        columns = (np.arange(48) // 12 + i) % classes
        labels = np.tile(columns, (36, 1))
        image = colors[labels] + rng.integers(-40, 40, (36, 48, 3))
        labels[:, :void] = 255
        for name, pixels in (("images", image), ("masks", labels)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder
