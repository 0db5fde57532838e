"""Pack photographs for on_gpu.py into one file that travels to a machine without data.

    python benchmarks/gpu_bundle.py imagenette/train imagenette/val -o bundle.zip

Both arguments are folders of class folders. Of what is too much for ``--mb``, the same share of
every class is left out, evenly over its files; training images get four fifths of the room. The
same folders give the same bytes.
"""

import argparse
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

VAL_SHARE = 0.2
ENTRY_BYTES = 256  # of one file in the archive beside its content, at most


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the bundle and print what it holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", type=Path, help="class folders to train on")
    parser.add_argument("val", type=Path, help="class folders to classify")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--mb", type=float, default=40, help="size of it, in 10^6 bytes")
    options = parser.parse_args(arguments)
    with zipfile.ZipFile(options.out, "w", zipfile.ZIP_STORED) as bundle:
        for name, share in (("train", 1 - VAL_SHARE), ("val", VAL_SHARE)):
            classes = class_files(getattr(options, name))
            chosen = thinned(classes, share * options.mb * 1e6)
            for path in chosen:
                entry = zipfile.ZipInfo(f"{name}/{path.parent.name}/{path.name}")
                bundle.writestr(entry, path.read_bytes())
            print(f"{name}: {len(chosen)} of {sum(map(len, classes))} images", flush=True)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


def class_files(folder: Path) -> list[list[Path]]:
    """Files of each class folder, in the order of their names."""
    found = [
        sorted(path for path in group.iterdir() if path.is_file())
        for group in sorted(folder.iterdir())
        if group.is_dir()
    ]
    if not any(found):
        sys.exit(f"gpu_bundle.py: error: {str(folder)!r} has no class folders with files")
    return found


def thinned(classes: list[list[Path]], room_bytes: float) -> list[Path]:
    """The largest even share of every class that fits the room."""
    for percent in range(100, 0, -1):
        chosen = [
            group[number * 100 // percent]
            for group in classes
            for number in range(len(group) * percent // 100)
        ]
        if sum(path.stat().st_size + ENTRY_BYTES for path in chosen) <= room_bytes:
            break
    return chosen


if __name__ == "__main__":
    sys.exit(main())
