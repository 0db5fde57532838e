"""Memory and time of the [CLS] attention of one block: its one row, against all rows.

    python benchmarks/attention_memory.py --side 1024

Both start from what goes into the block (ViT-S/8 by default, random weights) and end with the
attention of [CLS] to all patches. "one row" is what ``Backbone.cls_attention`` does; "all rows" is
softmax(q k^T) of every head and every query, as the original computes it, of which one row is
then taken. Each runs in a process of its own; memory is the growth of the peak resident set, or
on a GPU of the peak that PyTorch allocated.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

WAYS = ("one row", "all rows")


def main(arguments: list[str] | None = None) -> None:
    """Measure both ways and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=1024, help="pixels of the square image")
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs after one to warm up")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.way:
        print(json.dumps(measured(options)))
        return
    rows = {way: in_own_process(way, arguments or sys.argv[1:]) for way in WAYS}
    about = rows["one row"]["about"]
    print(about)
    print(f"{'way':10}{'peak MiB':>12}{'median s':>12}{'fastest s':>12}")
    for way, row in rows.items():
        print(f"{way:10}{row['peak_mib']:12.1f}{row['median_s']:12.4f}{row['fastest_s']:12.4f}")
    ratio = {key: rows["all rows"][key] / rows["one row"][key] for key in ("peak_mib", "median_s")}
    print(f"{'ratio':10}{ratio['peak_mib']:11.1f}x{ratio['median_s']:11.1f}x")


def in_own_process(way: str, arguments: list[str]) -> dict[str, Any]:
    """One way, measured where nothing else has used memory before."""
    command = [sys.executable, __file__, *arguments, "--way", way]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory and seconds of one way."""
    import torch

    step = steps(options.side, options.patch_size, options.device)[options.way]
    on_gpu = options.device != "cpu"
    before_mib = torch.cuda.memory_allocated() / 2**20 if on_gpu else peak_resident_mib()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + options.repeats):
            start = time.perf_counter()
            step()
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    after_mib = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_resident_mib()
    place = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    tokens = (options.side // options.patch_size) ** 2 + 1
    return {
        "about": f"ViT-S/{options.patch_size}, {options.side} x {options.side} px, {tokens} "
        f"tokens, float32, torch {torch.__version__}, {place}, {options.repeats} repeats",
        "peak_mib": after_mib - before_mib,
        "median_s": statistics.median(seconds[1:] or seconds),
        "fastest_s": min(seconds),
    }


def steps(side: int, patch_size: int, device: str) -> dict[str, Callable[[], Any]]:
    """The two ways, each from the same input of the same block."""
    import torch

    from dino_infer.networks.build import vision_transformer
    from dino_infer.networks.vit import Embedded

    torch.manual_seed(0)
    backbone = vision_transformer(
        embed_dim=384, depth=1, num_heads=6, patch_size=patch_size, image_size=224
    )
    backbone.to(device).eval()
    grid = backbone.grid_of(side, side)
    x = torch.randn(1, 1 + grid[0] * grid[1], 384, device=device)
    block: Any = backbone.network.blocks[0]  # type: ignore[index]

    def one_row() -> torch.Tensor:
        return backbone._attention(block, Embedded(x, grid), slice(0, 1))[:, :, 0, 1:]

    def all_rows() -> torch.Tensor:
        qkv = block.attn.qkv(block.norm1(x)).reshape(1, x.shape[1], 3, 6, 64)
        q, k, _ = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1)) * 64**-0.5
        return weights.softmax(dim=-1)[:, :, 0, 1:]

    return {"one row": one_row, "all rows": all_rows}


def peak_resident_mib() -> float:
    """The largest resident set of this process so far, in MiB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
