"""Tiny networks and pictures in files for the tests of the demo."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo

SIZE = 32  # of the pictures that the tiny networks could have learned on
PATCH = 8


def weights_file(folder: Path, arch: str = "vit_micro", *, seed: int = 0) -> str:
    torch.manual_seed(seed)
    path = folder / f"{arch}_{seed}.safetensors"
    backbone = build_backbone(arch, patch_size=PATCH, image_size=SIZE)
    info = CheckpointInfo(arch=arch, patch_size=backbone.patch_size, image_size=SIZE)
    save_checkpoint(path, backbone, info)
    return str(path)


def photo_file(path: Path, photo: np.ndarray, **options: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(path, **options)
    return str(path)


def noise(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def broken_file(path: Path) -> str:
    path.write_bytes(b"not a picture at all")
    return str(path)
