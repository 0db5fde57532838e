"""The picture book of a run: curves, [CLS] attention over training, one page to read them.

``report/attention/step-N.npz`` keeps the maps of every snapshot, so the grid of an interrupted run
goes on where it stood.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from dino_infer.attention.grids import on_grid
from dino_infer.drawing.sheets import heat_panel, panel_row
from dino_infer.errors import ImageError
from dino_infer.files import remove_leftovers, whole_file, write_bytes
from dino_infer.images.preprocess import Preprocess, denormalized
from dino_infer.images.read import read_image
from dino_infer.networks.backbone import Backbone
from dino_infer.sources.image_list import ImageList
from dino_train.records.metrics import METRICS, read_rows
from dino_train.records.report_page import CURVES, page_of

logger = logging.getLogger(__name__)

IMAGES = 4
MAX_COLUMNS = 8
CELL_INCHES = (3.2, 2.4)
LEFT, RIGHT, BOTTOM, TOP = 0.65, 0.2, 0.42, 0.42  # inches of a cell around its curve, for labels
TITLE_PAD = 11  # points: above the offset of an axis, as "1e-5+0.0123"
STEP_LABEL_Y = -0.14  # of the height of the axis
TICKS = 5  # steps between them, at most
DPI = 130


class Report:
    """Writes ``RUN/report/``.

    Args:
        run: The run folder.
        images: The pictures whose attention is followed, normalised and equally large.
        pictures: The same pictures as uint8 RGB, to show beside the maps.
        start_step: Attention of later steps is deleted: training is about to repeat them.
    """

    def __init__(
        self,
        run: Path,
        *,
        images: Float[Tensor, "images 3 height width"],
        pictures: Sequence[UInt8[np.ndarray, "_height _width 3"]],
        start_step: int,
    ) -> None:
        self._run = run
        self._folder = run / "report"
        self._images = images
        self._pictures = pictures
        (self._folder / "attention").mkdir(parents=True, exist_ok=True)
        for step, path in self._attention_files().items():
            if step > start_step:
                path.unlink()
        remove_leftovers(
            *(self._folder / name for name in ("index.html", "curves.png", "attention.png")),
            *(self._attention_file(step) for step in self._unfinished_steps()),
        )

    @classmethod
    def of_data(
        cls, run: Path, images: ImageList, *, size: int, start_step: int
    ) -> "Report | None":
        """A report that follows a few images of the data, or None if none can be read."""
        followed = _followed_images(images, size)
        if followed is None:
            return None
        return cls(run, images=followed[0], pictures=followed[1], start_step=start_step)

    def update(self, backbone: Backbone, *, step: int) -> None:
        """Add the attention after ``step`` updates and redraw everything."""
        if backbone.has_attention:
            maps = self._keep_attention(backbone, step)
            self._draw_attention(maps.shape)
        curves = self._draw_curves()
        self._write_page(curves, step=step, has_attention=backbone.has_attention)

    @torch.no_grad()
    def _keep_attention(
        self, backbone: Backbone, step: int
    ) -> Float[np.ndarray, "images rows columns"]:
        device = next(backbone.parameters()).device
        was_training = backbone.training
        backbone.eval()
        attention = backbone.cls_attention(self._images.to(device)).float().cpu()
        backbone.train(was_training)
        maps = on_grid(attention.mean(dim=1), backbone.grid_of(*self._images.shape[-2:]))
        with whole_file(self._attention_file(step)) as temporary:
            np.savez_compressed(temporary, mean_over_heads=maps)
        return maps

    def _attention_file(self, step: int) -> Path:
        return self._folder / "attention" / f"step-{step:08d}.npz"

    def _attention_files(self) -> dict[int, Path]:
        """Attention by step, in order; files of others and folders are left out."""
        steps = _steps(self._folder / "attention", r"step-(\d+)\.npz")
        files = {step: self._attention_file(step) for step in sorted(steps)}
        return {step: path for step, path in files.items() if path.is_file()}

    def _unfinished_steps(self) -> set[int]:
        return _steps(self._folder / "attention", r"\.step-(\d+)\.\d+\.dino-tmp\.npz")

    def _draw_attention(self, shape: tuple[int, ...]) -> None:
        """Draw one row a picture, one column a moment: evenly chosen, first and last included."""
        files = list(self._attention_files().items())
        chosen = np.unique(np.linspace(0, len(files) - 1, MAX_COLUMNS).round().astype(int))
        read = [(step, _maps(path, shape)) for step, path in (files[i] for i in chosen)]
        columns = [(step, maps) for step, maps in read if maps is not None]
        rows = []
        for i, picture in enumerate(self._pictures):
            height, width = picture.shape[:2]
            maps = [heat_panel(maps[i], height=height, width=width) for _, maps in columns]
            titles = ["", *(f"step {step:,}" for step, _ in columns)] if i == 0 else []
            rows.append(panel_row([picture, *maps], titles=titles))
        with whole_file(self._folder / "attention.png") as temporary:
            Image.fromarray(np.concatenate(rows)).save(temporary)

    def _draw_curves(self) -> dict[str, np.ndarray]:
        """Draw all curves in one picture; return its cells by name."""
        rows = read_rows(self._run / METRICS)
        names = [name for name in CURVES if sum(name in row for row in rows) > 1]
        if not names:  # a run has just begun, and one point is no curve
            return {}
        columns = 3
        figure, axes = _figure(-(-len(names) // columns), columns)
        for axis, name in zip(axes.flat, names, strict=False):
            points = [(row["step"], row[name]) for row in rows if name in row]
            steps, values = (np.array(part) for part in zip(*points, strict=True))
            sparse = len(points) < 30
            axis.plot(
                steps,
                values,
                color="#8fb3d9" if not sparse else "#1f4e8c",
                linewidth=1,
                marker="o" if sparse else None,
                markersize=3,
            )
            if not sparse:
                axis.plot(steps, _smooth(values), color="#1f4e8c", linewidth=1.6)
            # Fixed places, and few ticks: matplotlib takes longer to look for room than to draw.
            axis.set_title(CURVES[name][0], fontsize=9, y=1, pad=TITLE_PAD)
            axis.locator_params(nbins=TICKS)
            axis.tick_params(labelsize=7)
            for side in (axis.xaxis, axis.yaxis):
                side.get_offset_text().set_fontsize(7)
            axis.grid(alpha=0.25)
            axis.set_xlabel("step", fontsize=7)
            axis.xaxis.set_label_coords(0.5, STEP_LABEL_Y)
        for axis in axes.flat[len(names) :]:
            axis.set_axis_off()
        figure.set_dpi(DPI)
        figure.canvas.draw()
        picture = np.asarray(figure.canvas.buffer_rgba())[..., :3]
        with whole_file(self._folder / "curves.png") as temporary:
            Image.fromarray(picture).save(temporary)
        rows_of_cells = np.split(picture, len(axes))
        cells = [cell for row in rows_of_cells for cell in np.split(row, columns, axis=1)]
        return dict(zip(names, cells, strict=False))

    def _write_page(self, curves: dict[str, np.ndarray], *, step: int, has_attention: bool) -> None:
        latest: dict[str, float] = {}
        for row in read_rows(self._run / METRICS):
            latest |= row
        page = page_of(
            self._run.resolve().name,
            curves=curves,
            latest=latest,
            step=step,
            has_attention=has_attention,
        )
        write_bytes(self._folder / "index.html", page.encode())


def _followed_images(
    images: ImageList, size: int
) -> (
    tuple[Float[Tensor, "images 3 height width"], list[UInt8[np.ndarray, "_height _width 3"]]]
    | None
):
    """A few readable images spread evenly over the data, and their pictures; None without any."""
    preprocess = Preprocess(size=size)
    shown = []
    for index in np.linspace(0, len(images) - 1, 4 * IMAGES).astype(int):
        name = images.name(int(index))
        try:
            shown.append(preprocess(read_image(images.read(int(index)), path=name)))
        except ImageError:
            continue  # training lists it; the spare pictures are enough
    if not shown:
        return None
    batch = torch.stack(shown[:: max(1, len(shown) // IMAGES)][:IMAGES])
    levels = denormalized(batch, mean=preprocess.mean, std=preprocess.std)
    return batch, list(levels.permute(0, 2, 3, 1).numpy())


def _steps(folder: Path, pattern: str) -> set[int]:
    names = (re.fullmatch(pattern, path.name) for path in folder.iterdir())
    return {int(name[1]) for name in names if name}


def _maps(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Maps of a moment, or None, with a warning, if the file does not hold maps of this shape."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            maps: np.ndarray = arrays["mean_over_heads"]
        if maps.dtype != np.float32 or maps.shape != shape:
            raise ValueError(f"expected float32 {shape}, got {maps.dtype} {maps.shape}")
    except Exception as error:  # damaged bytes can make the reader raise nearly anything
        logger.warning("%s is damaged and left out of the report (%s)", path, error)
        return None
    return maps


def _smooth(values: np.ndarray, decay: float = 0.95) -> np.ndarray:
    """Exponential moving average, unbiased at the start."""
    smoothed = np.empty(len(values))
    total = weight = 0.0
    for i, value in enumerate(values):
        total = decay * total + value
        weight = decay * weight + 1
        smoothed[i] = total / weight
    return smoothed


def _figure(rows: int, columns: int) -> Any:
    """A figure of equal cells with fixed margins: a layout engine takes as long as the drawing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cell_width, cell_height = CELL_INCHES
    width, height = columns * cell_width, rows * cell_height
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=LEFT / width,
        right=1 - RIGHT / width,
        bottom=BOTTOM / height,
        top=1 - TOP / height,
        wspace=(LEFT + RIGHT) / (cell_width - LEFT - RIGHT),
        hspace=(BOTTOM + TOP) / (cell_height - BOTTOM - TOP),
    )
    return figure, figure.subplots(rows, columns, squeeze=False)
