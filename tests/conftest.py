"""What many tests share: a fixed seed, and small folders of pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

# Networks this small gain nothing from threads, and spinning threads lose much on a busy machine.
torch.set_num_threads(1)

LONGEST_FIRST = (
    "train/test_pretraining.py", "infer/features/test_kills.py", "train/test_learning.py",
    "train/crops/test_triton_kernels.py", "export/test_int8.py", "export/test_onnx.py",
    "train/test_finished_runs.py", "export/test_cli.py",
)  # fmt: skip
"""Files that take a minute or so: begun last, one would keep a core idle at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep features of one test from the next, and from the user's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def image_folder(tmp_path: Path):
    """A function that fills ``tmp_path/name`` with small colourful PNGs in class folders."""

    def make(name: str = "images", *, count: int = 12, classes: int = 3, size: int = 40) -> Path:
        rng = np.random.default_rng(7)
        folder = tmp_path / name
        for i in range(count):
            label = i % classes
            target = folder / f"class_{label}" / f"{i:03d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            base = np.full((size, size + 8, 3), 40 + 60 * label, dtype=np.uint8)
            base[:: label + 2, :, label % 3] = 220
            noise = rng.integers(0, 40, base.shape, dtype=np.uint8)
            Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8)).save(target)
        return folder

    return make
