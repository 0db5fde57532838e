"""The pictures of a run: curves whose labels stay in their cells, attention of every moment."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dino_infer.networks.build import build_backbone
from dino_train.records.report import CELL_INCHES, DPI, Report
from dino_train.records.report_page import CURVES

CELL = tuple(round(inches * DPI) for inches in CELL_INCHES)
PANEL, TITLE, GAP = 288, 24, 4


@pytest.fixture
def report(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 32, 3), dtype=np.uint8)
    return Report(tmp_path, images=torch.zeros(2, 3, 16, 32), pictures=list(pictures), start_step=0)


@pytest.fixture(scope="module")
def backbone():
    return build_backbone("vit_micro", patch_size=8, image_size=32).eval()


@pytest.mark.parametrize(
    ("first", "step"),
    [
        (0.996, 1e-5),  # an offset above the axis
        (0.0123, 2.5e-6),  # the longest labels
        (1e-5, 1e-6),
        (-123456.0, 100.0),
        (99_900.0, 25.0),
    ],
)
def test_labels_are_neither_cut_nor_in_another_cell(report, backbone, tmp_path, first, step):
    rows = (
        {"step": 150_000 + 12_345 * i} | dict.fromkeys(CURVES, first + step * i) for i in range(5)
    )
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report.update(backbone, step=4)
    curves = np.asarray(Image.open(tmp_path / "report" / "curves.png").convert("L"))
    width, height = CELL
    lines = -(-len(CURVES) // 3)
    assert curves.shape == (lines * height, 3 * width)
    cells = curves.reshape(lines, height, 3, width).transpose(0, 2, 1, 3)
    cells = cells.reshape(-1, height, width)[: len(CURVES)]
    assert (cells.min(axis=(1, 2)) < 128).all()
    for edge in (cells[:, 0], cells[:, -1], cells[..., 0], cells[..., -1]):
        assert (edge == 255).all()


def test_a_page_has_curves_when_there_are_two_points(report, backbone, tmp_path):
    drawn = []
    for step in (1, 2):
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "loss_nats": 1.0}) + "\n")
        report.update(backbone, step=step)
        page = (tmp_path / "report" / "index.html").read_text()
        assert (page.count("<figcaption>Cross-entropy of the student") == 1) == (step == 2)
        drawn.append(("curves.png" in page, (tmp_path / "report" / "curves.png").exists()))
    assert drawn == [(False, False), (True, True)]


def test_attention_has_a_row_for_each_picture_and_a_column_for_each_moment(
    report, backbone, tmp_path
):
    (tmp_path / "metrics.jsonl").touch()
    for step in (1_000, 2_000):
        report.update(backbone, step=step)
    sheet = Image.open(tmp_path / "report" / "attention.png")
    assert sheet.size == (3 * PANEL, TITLE + 2 * ((PANEL - GAP) // 2 + GAP))
    titles = np.asarray(sheet.convert("L"))[:TITLE].reshape(TITLE, 3, PANEL)
    assert [bool((titles[:, i] < 128).any()) for i in range(3)] == [False, True, True]


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "shape", "type", "name"])
def test_damaged_attention_is_left_out_and_said(report, backbone, tmp_path, caplog, damage):
    (tmp_path / "metrics.jsonl").write_bytes(b'\xff\nnull\n{"step": 7, "loss_nats": 1.0}\n')
    report.update(backbone, step=1_000)
    path = tmp_path / "report" / "attention" / "step-00001000.npz"
    whole = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(whole[:90] + bytes([whole[90] ^ 1]) + whole[91:])
    elif damage in ("cut", "empty"):
        path.write_bytes(whole[:-9] if damage == "cut" else b"")
    else:
        maps = np.zeros((9, 2, 4), np.float32) if damage == "shape" else np.zeros((2, 2, 4), int)
        np.savez(path, **{"other" if damage == "name" else "mean_over_heads": maps})
    report.update(backbone, step=2_000)
    assert "step-00001000.npz is damaged and left out" in caplog.text
    with Image.open(tmp_path / "report" / "attention.png") as sheet:
        assert sheet.width == 2 * PANEL
    assert "After 2,000 steps" in (tmp_path / "report" / "index.html").read_text()


def test_files_and_folders_of_others_in_the_report_stay(tmp_path):
    folder = tmp_path / "report" / "attention"
    folder.mkdir(parents=True)
    files = ["step-best.npz", "step-9.npz", ".step-x.9.dino-tmp.npz", "../notes.html"]
    for name in files:
        (folder / name).write_text("mine")
    (folder / "step-00000009.npz").mkdir()
    ours = [folder / "step-00000007.npz", folder / ".step-00000008.99.dino-tmp.npz"]
    ours += [tmp_path / "report" / ".index.99.dino-tmp.html"]
    for path in ours:
        path.touch()
    pictures = np.zeros((1, 16, 32, 3), np.uint8)
    Report(tmp_path, images=torch.zeros(1, 3, 16, 32), pictures=list(pictures), start_step=5)
    assert not any(path.exists() for path in ours)
    assert all((folder / name).read_text() == "mine" for name in files)
    assert (folder / "step-00000009.npz").is_dir()
