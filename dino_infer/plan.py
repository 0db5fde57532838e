"""Plans of large jobs in numbers, each with the measurement that it is computed from.

A coefficient is a ``Figure``, which says who measured it on what and where that is written down,
or that nobody did. ``Plan`` prints a table and, below it, the sources of what stands in it.
"""

import math
import textwrap
from dataclasses import dataclass, field
from typing import NamedTuple

from dino_infer.errors import DataError

REPORTS = "benchmarks/reports/"
HOURS_A_MONTH = 730.0
WIDTH = 100


@dataclass(frozen=True)
class Figure:
    """A coefficient, and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A kind of machine: one device, and cores beside it."""

    title: str
    gpu: bool
    cores: int
    embed_flops: Figure | None = None
    """FLOP/s of the forward pass, all of the machine; None where nobody has measured it."""
    train_flops: Figure | None = None
    """FLOP/s of pretraining steps, crops and loss included."""


_PEAK = Figure(
    0.35 * 989e12,
    "NOT MEASURED: 35 % of the vendor's 989 TFLOP/s (bf16), a goal that no run of ours has shown",
)
MACHINES = {
    "cpu": Machine(
        title="2 cores of an AMD EPYC (Zen 4, bf16)",
        gpu=False,
        cores=2,
        embed_flops=Figure(
            25.7 * 8.617e9,
            "25.7 images/s of ViT-S/16 on 2 cores of an AMD EPYC in bf16, measured by us: "
            f"{REPORTS}embed_speed_2026-11.md",
        ),
        train_flops=Figure(
            8 / 1.256 * 29.57e9,
            "1.256 s a step of 8 images, vit_tiny, 2x224 + 8x96, 2 cores of an AMD EPYC in bf16, "
            f"measured by us: {REPORTS}train_step_2026-11.md",
        ),
    ),
    "v100": Machine(
        title="NVIDIA V100",
        gpu=True,
        cores=8,
        train_flops=Figure(
            106 * 106.85e9,
            "106 images/s of ViT-S/16, 2x224 + 8x96, with the authors' code (1.75 days for 100 "
            "epochs on 8): github.com/facebookresearch/dino",
        ),
    ),
    "rtx4090": Machine(
        title="NVIDIA RTX 4090",
        gpu=True,
        cores=16,
        embed_flops=Figure(
            8215 * 8.617e9,
            "8,215 images/s of ViT-S/16, network alone, published by timm: "
            "results/benchmark-infer-*.csv of github.com/huggingface/pytorch-image-models",
        ),
        train_flops=Figure(
            305 * 106.85e9,
            "305 images/s of ViT-S/16 a GPU, 2 of them, evaluation included, published by lightly: "
            "docs of github.com/lightly-ai/lightly",
        ),
    ),
    "h100": Machine(title="NVIDIA H100", gpu=True, cores=16, embed_flops=_PEAK, train_flops=_PEAK),
}
"""Machines that plans know; other ones by ``images_per_s``, measured by who has them.

Each is images/s times the FLOP of an image as ``counted`` counts it for our network, so that
the plan of what was measured or published says what was measured or published.
"""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices, in any currency; None leaves money out."""

    per_hour: float | None = None
    """Price of an hour of a machine."""
    per_tb_month: float | None = None
    """Price of a terabyte stored for a month."""


@dataclass
class Plan:
    """Lines of figures, and the sources that they cite."""

    title: str
    lines: list[tuple[str, str, str]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def add(self, what: str, figure: str, why: str = "", *cited: Figure) -> None:
        """Add a line; ``why`` says how the figure comes about."""
        marks = "".join(f" [{self._number(each.source)}]" for each in cited)
        self.lines.append((what, figure, why + marks))

    def add_money(self, prices: Prices, *, machine_hours: float, stored_bytes: float) -> None:
        """Add what machines and a month of storage cost, where prices are given."""
        if prices.per_hour is not None:
            money = prices.per_hour * machine_hours
            self.add("money, machines", amount(money), f"{prices.per_hour:g} an hour")
        if prices.per_tb_month is not None:
            money = prices.per_tb_month * stored_bytes / 1e12
            self.add("money, storage", amount(money), f"a month, {prices.per_tb_month:g} a TB")

    def __str__(self) -> str:
        """The table and the sources."""
        widths = [max(len(line[column]) for line in self.lines) for column in (0, 1)]
        rows = [
            f"  {what:{widths[0]}}  {figure:>{widths[1]}}  {why}".rstrip()
            for what, figure, why in self.lines
        ]
        cited = [
            textwrap.fill(
                f"[{number}] {source}", WIDTH, initial_indent="  ", subsequent_indent=" " * 6,
                break_long_words=False, break_on_hyphens=False,
            )
            for number, source in enumerate(self.sources, 1)
        ]  # fmt: skip
        return "\n".join([self.title, "", *rows, *([""] if cited else []), *cited])

    def _number(self, source: str) -> int:
        if source not in self.sources:
            self.sources.append(source)
        return self.sources.index(source) + 1


class Counted(NamedTuple):
    """Counts of a backbone."""

    flop: float
    """FLOP of one image; a product and a sum count as two."""
    width: int
    """Length of a feature."""
    parameters: int


def counted(arch: str, *, patch_size: int, side: int, image_size: int | None = None) -> Counted:
    """Counts of a backbone that sees ``side`` pixels, from its operators.

    Nothing is computed: the network has shapes alone.

    Raises:
        DataError: There is no such network, or it does not take such images.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from dino_infer.networks.build import build_backbone

    counter = FlopCounterMode(display=False)
    try:
        with torch.device("meta"), torch.no_grad():
            backbone = build_backbone(arch, patch_size=patch_size, image_size=image_size or side)
            with counter:
                backbone.eval()(torch.empty(1, 3, side, side))
    except (ValueError, RuntimeError) as error:
        raise DataError(f"no plan for {arch} at {side} pixels: {error}") from error
    parameters = sum(each.numel() for each in backbone.parameters())
    return Counted(float(counter.get_total_flops()), backbone.embed_dim, parameters)


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if count >= factor:
            return f"{_digits(count / factor)} {unit}"
    return f"{_digits(count / 1e6)} MB"


def duration(hours: float) -> str:
    """Hours, as minutes below one and as days from two days on."""
    if hours < 1:
        return f"{_digits(60 * hours)} min"
    return f"{_digits(hours)} h" if hours < 48 else f"{_digits(hours / 24)} days"


def amount(value: float) -> str:
    """A number with as many digits as it deserves."""
    return _digits(value)


def machines_within(machine_hours: float, hours: float | None) -> int:
    """Number of machines that finish within so many hours; one where there is no limit."""
    return 1 if hours is None else max(1, math.ceil(machine_hours / hours))


def _digits(value: float) -> str:
    if value >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"
