"""Options of plans, and ``dino-embed --plan``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from dino_infer.cli.exit_codes import UsageError
from dino_infer.cli.options import check_positive
from dino_infer.cli.parsing import parsed
from dino_infer.plan import MACHINES, Prices

FLAG = "--plan"
MachineName = Literal["cpu", "v100", "rtx4090", "h100"]


@dataclass(frozen=True, kw_only=True)
class PriceOptions:
    """Prices, in any currency."""

    price_per_hour: float | None = None
    """Price of a machine for an hour; by default money is left out."""
    price_per_tb_month: float | None = None
    """Price of a terabyte of storage for a month."""

    def __post_init__(self) -> None:
        check_positive("--price-per-hour", self.price_per_hour)
        check_positive("--price-per-tb-month", self.price_per_tb_month)

    @property
    def prices(self) -> Prices:
        """As plans take them."""
        return Prices(per_hour=self.price_per_hour, per_tb_month=self.price_per_tb_month)


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Kind and number of machines, with one GPU each or none."""

    machine: MachineName = "h100"
    """Kind of machine; what its speed is known from stands below the plan."""
    cores: int | None = None
    """Cores that decode beside a GPU, or that compute; by default those of that kind."""
    images_per_s: float | None = None
    """Speed of one machine as you have measured it, instead of what is known of its kind."""
    machines: int | None = None
    """Number of machines; by default one, or as many as --within-hours needs."""
    within_hours: float | None = None
    """Time limit in hours."""
    image_kb: float = 100.0
    """Kilobytes of an image file."""

    def __post_init__(self) -> None:
        for name in ("cores", "images_per_s", "machines", "within_hours", "image_kb"):
            check_positive("--" + name.replace("_", "-"), getattr(self, name))
        if None not in (self.machines, self.within_hours):
            raise UsageError("pass --machines or --within-hours, not both")


def check_count(images: float) -> int:
    """A number of images, which may be written as 1e9."""
    if not (1 <= images < math.inf and images == int(images)):
        raise UsageError(f"--images must be a whole number from 1, got {images:g}")
    return int(images)


def embed(
    *,
    images: float,
    arch: str = "vit_small",
    patch_size: int = 16,
    size: int = 224,
    dim: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    machine: tyro.conf.OmitArgPrefixes[MachineOptions] = MachineOptions(),
    prices: tyro.conf.OmitArgPrefixes[PriceOptions] = PriceOptions(),
) -> int:
    """Print machines, hours, storage and money of a large dino-embed job.

    Every line says what it is computed from. Nothing is read or written.

    Args:
        images: Number of images; 3e9 is one.
        arch: Architecture of the network, such as vit_small or resnet50.
        patch_size: Side of a patch in pixels.
        size: Side of the crop that the network sees, in pixels.
        dim: Width of a vector; by default that of the network's [CLS] token.
        dtype: Data type of the stored numbers.
        machine: Kind and number of machines.
        prices: Prices.
    """
    count = check_count(images)
    for name, value in (("--patch-size", patch_size), ("--size", size), ("--dim", dim)):
        check_positive(name, value)
    from dino_infer.features.plan import embedding_plan

    if machine.images_per_s is None and MACHINES[machine.machine].embed_flops is None:
        raise UsageError(
            f"no speed of embedding on {machine.machine} is known; pass --images-per-s"
        )
    print(
        embedding_plan(
            count,
            arch=arch,
            patch_size=patch_size,
            side=size,
            dim=dim,
            dtype=dtype,
            machine=machine.machine,
            cores=machine.cores,
            images_per_s=machine.images_per_s,
            image_kb=machine.image_kb,
            machines=machine.machines,
            hours=machine.within_hours,
            prices=prices.prices,
        )
    )
    return 0


def plan_of_embedding(args: Sequence[str]) -> int:
    """Run ``dino-embed --plan`` with the rest of its arguments."""
    rest = [each for each in args if each != FLAG]
    return parsed(embed, prog=f"dino-embed {FLAG}", args=rest)  # type: ignore[no-any-return]
