"""What the tests of the app share: weights of a tiny network, photographs, and running commands."""

import shutil
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo


def save_weights(path, *, seed: int) -> str:
    torch.manual_seed(seed)
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    save_checkpoint(path, backbone, CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32))
    return str(path)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> str:
    return save_weights(tmp_path_factory.mktemp("weights") / "micro.safetensors", seed=0)


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory) -> str:
    return save_weights(tmp_path_factory.mktemp("weights") / "other.safetensors", seed=1)


def save_photos(root) -> None:
    """Eight tiles each of two photos, one class folder a photo."""
    from skimage import data

    for name, photo in (("cat", data.chelsea()), ("coffee", data.coffee())):
        (root / name).mkdir(parents=True)
        for i in range(8):
            crop = photo[20 * i : 20 * i + 100, 30 * i : 30 * i + 140]
            Image.fromarray(crop).save(root / name / f"{i}.png")


@pytest.fixture
def photos(tmp_path):
    save_photos(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def dino_index(capsys) -> Callable[..., SimpleNamespace]:
    """Runs dino-index: exit code, stdout, and stderr but for the line about the weights."""
    from dino_app.cli.index import main

    def run(*args: object) -> SimpleNamespace:
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines(True) if "tensors matched" not in line]
        return SimpleNamespace(code=code, out=captured.out, err="".join(lines))

    return run


@pytest.fixture(scope="module")
def built(tmp_path_factory, weights):
    """Photos and an index of them, made once; not to be changed."""
    from dino_app.cli.index import main

    root = tmp_path_factory.mktemp("built")
    save_photos(root / "photos")
    args = ["build", str(root / "photos"), "-o", str(root / "photos.index"), "--weights", weights]
    assert main([*args, "--precision", "fp32"]) == 0
    return SimpleNamespace(photos=root / "photos", index=root / "photos.index")


@pytest.fixture
def index(built, tmp_path):
    """A copy of that index."""
    return shutil.copytree(built.index, tmp_path / "copy.index")
