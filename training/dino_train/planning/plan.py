"""The plan of a pretraining run: machines, hours, storage, money."""

from dino_infer.plan import (
    MACHINES,
    REPORTS,
    Counted,
    Figure,
    Plan,
    Prices,
    amount,
    counted,
    duration,
    machines_within,
    size,
)
from dino_train.config import TrainConfig

DECODE_S = Figure(
    0.0019,
    "1.9 ms of CPU an image of 500 x 375 where the device makes the crops, measured by us: "
    f"{REPORTS}train_input_2026-11.md",
)
SCALING = Figure(
    0.97,
    "97 % of the speed is kept from 8 to 128 H100s, published for language models with FSDP2 by "
    "torchtitan; NOT MEASURED here: github.com/pytorch/torchtitan",
)
LISTING_BYTES = Figure(
    79.0,
    f"79 bytes an image of a listing in each process, measured by us: {REPORTS}listing_2026-11.md",
)
STATE_BYTES = 16
"""Bytes of a parameter in a snapshot: student, teacher and two moments of AdamW, float32."""
OWN_SPEED = Figure(0, "the speed that was given")


def training_plan(
    images: int,
    config: TrainConfig,
    *,
    machine: str = "h100",
    cores: int | None = None,
    images_per_s: float | None = None,
    image_kb: float = 100.0,
    machines: int | None = None,
    hours: float | None = None,
    prices: Prices = Prices(),  # noqa: B008
) -> Plan:
    """Plan a run of these settings.

    Args:
        images: Number of images.
        config: Settings of the run.
        machine: One of ``dino_infer.plan.MACHINES``; a machine has one GPU here.
        cores: Cores beside each GPU; None for those of the machine.
        images_per_s: Speed of one machine, instead of what is known of it.
        image_kb: Kilobytes of an image file.
        machines: Number of machines.
        hours: Time limit, instead of ``machines``.
        prices: Prices.
    """
    kind = MACHINES[machine]
    cores = kind.cores if cores is None else cores
    epochs, batch = config.optim.epochs, config.optim.batch_size
    title = f"{config.recipe} ({config.model.arch}) on {images:,} images, {epochs} epochs"
    plan = Plan(f"Pretraining {title}, on {kind.title}")
    flop = image_flop(config)
    plan.add("compute", f"{amount(flop / 1e9)} GFLOP", "an image and epoch, counted on the network")
    seen = images * epochs
    plan.add("steps", f"{images // batch * epochs:,}", f"of {batch:,} images")
    if images_per_s is not None:
        speed = images_per_s
        plan.add("speed of a machine", f"{amount(speed)} images/s", "", OWN_SPEED)
    elif kind.train_flops is None:
        raise ValueError(f"no speed of pretraining on {machine!r} is known; pass `images_per_s`")
    else:
        speed = kind.train_flops.value / flop * (1 if kind.gpu else cores / kind.cores)
        plan.add("  the step", f"{amount(speed)} images/s", "", kind.train_flops)
        if kind.gpu:
            decoded = cores / DECODE_S.value
            plan.add("  decoding", f"{amount(decoded)} images/s", f"{cores} cores", DECODE_S)
            speed = min(speed, decoded)
        plan.add("speed of a machine", f"{amount(speed)} images/s")
    alone_h = seen / speed / 3600
    count = machines or machines_within(alone_h / SCALING.value, hours)
    kept = SCALING.value if count > 1 else 1.0
    machine_hours = alone_h / kept
    cited = [SCALING] if count > 1 else []
    plan.add("machines", f"{count:,}", "one GPU each" if kind.gpu else "", *cited)
    plan.add("time", duration(machine_hours / count), f"{amount(machine_hours)} machine-hours")
    stored = 1e3 * image_kb * images
    plan.add("images", size(stored), f"{image_kb:g} kB each")
    plan.add(
        "  read",
        f"{amount(speed * kept * image_kb / 1e3)} MB/s",
        "by each machine, unless a cache holds its share",
    )
    plan.add(
        "listing", size(images * LISTING_BYTES.value), "of memory, each process", LISTING_BYTES
    )
    parameters = parameter_count(config)
    state = STATE_BYTES * parameters
    snapshots = config.run.keep_snapshots
    if config.run.keep_every_epochs:
        snapshots += epochs // config.run.keep_every_epochs
    plan.add("parameters", f"{amount(parameters / 1e6)} M", "backbone and head of the student")
    plan.add("  on each GPU", size(state), "weights and moments, without activations")
    plan.add("snapshots", size(state * snapshots), f"{snapshots} kept")
    stored += state * snapshots
    plan.add_money(prices, machine_hours=machine_hours, stored_bytes=stored)
    return plan


def image_flop(config: TrainConfig) -> float:
    """FLOP of one image in one step: all crops forward and backward, global ones twice forward.

    A backward pass counts as two forward passes. With a coding rate whose targets are the
    student's there is no teacher's pass.
    """
    crops = config.crops
    of_global = 2 * _crop(config, crops.global_crops_size)
    of_local = crops.local_crops_number and _crop(config, crops.local_crops_size)
    teacher = 0 if config.loss.targets == "student" else of_global
    return 3 * (of_global + crops.local_crops_number * of_local) + teacher


def parameter_count(config: TrainConfig) -> float:
    """Parameters of the student; biases of the head are left out."""
    backbone = _counted(config, config.crops.global_crops_size)
    return backbone.parameters + _head_products(config, backbone.width)


def _crop(config: TrainConfig, side: int) -> float:
    backbone = _counted(config, side)
    return backbone.flop + 2 * _head_products(config, backbone.width)


def _counted(config: TrainConfig, side: int) -> Counted:
    model = config.model
    image_size = model.image_size or config.crops.global_crops_size
    return counted(model.arch, patch_size=model.patch_size, side=side, image_size=image_size)


def _head_products(config: TrainConfig, width: int) -> int:
    head = config.head
    prototypes = head.out_dim if config.loss.kind == "dino" else 0
    of_mlp = head.hidden_dim * (width + head.hidden_dim + head.bottleneck_dim)
    return of_mlp + head.bottleneck_dim * prototypes
