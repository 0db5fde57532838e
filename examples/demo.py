"""The quick start: pretrain on real photographs, embed, export, look. Minutes on two cores.

    make demo        or        python examples/demo.py --out demo

Every step is a command that you can repeat on your own images; each is printed before it runs.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PROTOCOLS = ("knn", "linear", "health")


def main() -> int:
    """Run every step and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"))
    out: Path = parser.parse_args().out
    started_s = time.monotonic()

    import dino_export.cli
    import dino_infer.cli.attention
    import dino_infer.cli.embed
    import dino_infer.cli.eval
    import dino_train.cli
    from dino_infer.samples import write_samples

    photos, run = out / "photos", out / "run"
    if not photos.exists():
        out.mkdir(parents=True, exist_ok=True)
        counts = write_samples(photos)
        print(f"cut {counts} from photographs that ship with scikit-image and scikit-learn")

    command(
        dino_train.cli.main,
        "dino-train",
        ["tiny_cpu", "--data", f"{photos}/train", "--eval-data", str(photos), "--out", str(run)],
    )
    for split in ("train", "val"):
        command(
            dino_infer.cli.embed.main,
            "dino-embed",
            [f"{photos}/{split}", "-o", f"{out}/{split}.npy", "--weights", str(run), "--overwrite"],
        )
    command(dino_export.cli.main, "dino-export", [str(run), "-o", f"{out}/model.onnx"])
    shown = [str(path) for path in example_photos(out / "shown")]
    command(
        dino_infer.cli.attention.main,
        "dino-attention",
        [*shown, "-o", f"{out}/attention", "--weights", str(run), "--size", "256"],
    )
    command(
        dino_infer.cli.eval.main,
        "dino-eval",
        [
            *("all", str(photos), "--only", *PROTOCOLS, "--weights", str(run)),
            *("-o", f"{out}/scorecard", "--cache", f"{out}/features", "--overwrite"),
        ],
    )
    print(f"""
pictures:  {run}/report/curves.png and attention.png, {out}/attention/
features:  {out}/train.npy, {out}/val.npy
weights:   {run}/checkpoint.safetensors
exported:  {out}/model.onnx, compared with PyTorch
scorecard: {out}/scorecard/scorecard.html, figures beside the untrained network and raw pixels
all this took {time.monotonic() - started_s:.0f} s""")
    return 0


def command(run: Callable[[Sequence[str]], int], name: str, arguments: list[str]) -> None:
    """Print a command as one would type it, run it, and stop everything if it fails."""
    print(f"\n$ {name} {shlex.join(arguments)}", flush=True)
    code = run(arguments)
    if code:
        sys.exit(code)


def example_photos(folder: Path) -> list[Path]:
    """Whole photographs to look at."""
    from dino_infer.samples import whole_photos

    return whole_photos(folder, names=("astronaut", "chelsea", "coffee", "rocket"))


if __name__ == "__main__":
    sys.exit(main())
