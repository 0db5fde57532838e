"""The plan of a large embedding job: machines, hours, storage, money."""

import math

from dino_infer.plan import (
    MACHINES,
    REPORTS,
    Figure,
    Plan,
    Prices,
    amount,
    counted,
    duration,
    machines_within,
    size,
)

DECODE_S = Figure(
    0.0019,
    "1.9 ms of CPU an image of 500 x 375 (50 kB), read, hashed, decoded and cropped, on one core "
    f"of an Intel Xeon, measured by us: {REPORTS}planning_2026-12.md",
)
TABLE_BYTES = Figure(
    99, f"99 bytes a row of the table, measured by us: {REPORTS}planning_2026-12.md"
)
OWN_SPEED = Figure(0, "the speed that was given")
PART_ROWS = 1_000_000
BYTES = {"float32": 4, "float16": 2}


def embedding_plan(
    images: int,
    *,
    arch: str = "vit_small",
    patch_size: int = 16,
    side: int = 224,
    dim: int | None = None,
    dtype: str = "float32",
    machine: str = "h100",
    cores: int | None = None,
    images_per_s: float | None = None,
    image_kb: float = 100.0,
    machines: int | None = None,
    hours: float | None = None,
    prices: Prices = Prices(),  # noqa: B008
) -> Plan:
    """Plan the embedding of many images.

    Args:
        images: Number of images.
        arch: Network, as for ``build_backbone``.
        patch_size: Side of a patch in pixels.
        side: Side of the crop that the network sees, in pixels.
        dim: Width of a vector; None for that of the network.
        dtype: Data type of the stored vectors.
        machine: One of ``MACHINES``.
        cores: Cores beside the device, or of the CPU; None for those of the machine.
        images_per_s: Speed of one machine, instead of what is known of it.
        image_kb: Kilobytes of an image file.
        machines: Number of machines.
        hours: Time limit, instead of ``machines``.
        prices: Prices.
    """
    kind = MACHINES[machine]
    cores = kind.cores if cores is None else cores
    name = f"{arch}/{patch_size}" if arch.startswith("vit_") else arch
    plan = Plan(f"Embedding {images:,} images with {name} at {side} px on {kind.title}")
    counts = counted(arch, patch_size=patch_size, side=side)
    flop, dim = counts.flop, counts.width if dim is None else dim
    plan.add("compute", f"{flop / 1e9:.3g} GFLOP", "an image, counted on the network")
    decoded = cores / DECODE_S.value
    if images_per_s is not None:
        speed = images_per_s
        plan.add("speed of a machine", f"{amount(speed)} images/s", "", OWN_SPEED)
    elif kind.embed_flops is None:
        raise ValueError(f"no speed of embedding on {machine!r} is known; pass `images_per_s`")
    else:
        network = kind.embed_flops.value / flop * (1 if kind.gpu else cores / kind.cores)
        plan.add("  the network", f"{amount(network)} images/s", "", kind.embed_flops)
        plan.add("  decoding", f"{amount(decoded)} images/s", f"{cores} cores", DECODE_S)
        # A GPU computes while cores decode; a CPU does one after the other.
        speed = min(network, decoded) if kind.gpu else 1 / (1 / network + 1 / decoded)
        slower = "decoding" if decoded < network else "the network"
        why = f"held up by {slower}" if kind.gpu else "both on the same cores"
        plan.add("speed of a machine", f"{amount(speed)} images/s", why)
    machine_hours = images / speed / 3600
    count = machines or machines_within(machine_hours, hours)
    plan.add("machines", f"{count:,}", "a shard each, no word between them")
    plan.add("time", duration(machine_hours / count), f"{amount(machine_hours)} machine-hours")
    plan.add("read", size(1e3 * image_kb * images), f"{image_kb:g} kB an image")
    plan.add(
        "  a machine",
        f"{amount(speed * image_kb / 1e3)} MB/s",
        "of its disk or network, all the time",
    )
    row_bytes = dim * BYTES[dtype]
    vectors, table = images * row_bytes, images * TABLE_BYTES.value
    plan.add("vectors", size(vectors), f"{dim} x {dtype}: {row_bytes} bytes a row")
    plan.add("table", size(table), "", TABLE_BYTES)
    plan.add("parts", f"{math.ceil(images / PART_ROWS):,}", f"-o FOLDER/, {PART_ROWS:,} rows each")
    plan.add_money(prices, machine_hours=machine_hours, stored_bytes=vectors + table)
    return plan
