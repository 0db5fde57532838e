"""What the tests of commands share: weights of a tiny network, and a few real photographs."""

import pytest
import torch
from PIL import Image

from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "micro.safetensors"
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    save_checkpoint(path, backbone, CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32))
    return str(path)


@pytest.fixture
def photos(tmp_path):
    """Eight tiles each of two photos, one class folder a photo."""
    from skimage import data

    root = tmp_path / "photos"
    for name, photo in (("cat", data.chelsea()), ("coffee", data.coffee())):
        (root / name).mkdir(parents=True)
        for i in range(8):
            crop = photo[20 * i : 20 * i + 100, 30 * i : 30 * i + 140]
            Image.fromarray(crop).save(root / name / f"{i}.png")
    return root
