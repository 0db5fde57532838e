"""What plans of large jobs need beside the other reports: CPU of an image, bytes of a row.

    OMP_NUM_THREADS=1 python benchmarks/plan_figures.py

An image is 500 x 375, a JPEG made of a photograph of scikit-image; reading, hashing, decoding and
the crop of 224 px are timed together, as dino-embed does them.
"""

import hashlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from skimage import data

from dino_app.indexing.thumbnails import LONGEST_SIDE, thumbnail
from dino_app.store.faiss_store.disk.item_table import NewItem, write_items
from dino_app.store.item_checks import metadata_text
from dino_infer.embedding.decoding import Decoding, ImageFile
from dino_infer.features.table import TableRow, write_table
from dino_infer.images.preprocess import Preprocess
from dino_infer.sources.image_list import list_images

COPIES = 12
ROUNDS = 5
TABLE_ROWS = 100_000


def main() -> int:
    """Measure and print."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "photos")
        folder.mkdir()
        for number in range(COPIES):
            for name in ("astronaut", "chelsea", "coffee", "rocket"):
                photo = Image.fromarray(getattr(data, name)()).resize((500, 375))
                photo.save(folder / f"{name}{number}.jpg", quality=92)
        sizes = [path.stat().st_size for path in folder.iterdir()]
        images = list_images(str(folder))
        decoding = Decoding(preprocess=Preprocess(size=224))
        times_ms = []
        for _ in range(ROUNDS + 1):
            start_s = time.process_time()
            decoding.batch(images, range(len(images)))
            times_ms.append(1e3 * (time.process_time() - start_s) / len(images))
        print(f"{len(images)} JPEGs of {statistics.mean(sizes) / 1e3:.0f} kB")
        print(f"CPU ms an image: {[round(each, 2) for each in times_ms[1:]]}")
        print(f"bytes of a row of FEATS.parquet: {table_bytes(Path(place)):.0f}")
        print(f"bytes of an item of an index: {item_bytes(Path(place)):.0f}")
        side, encoded = LONGEST_SIDE, statistics.mean(map(len, thumbnails(folder)))
        print(f"bytes of a thumbnail of {side} pixels: {encoded:.0f}")
    return 0


def table_bytes(folder: Path) -> float:
    """Bytes of a row of the table, with names and hashes like those of real files."""
    rows = [
        TableRow(
            f"class-{row % 1000:03d}/{hashlib.md5(b'%d' % row).hexdigest()[:12]}.jpg",
            ImageFile(
                375, 500, hashlib.sha256(b"%d" % row).hexdigest(), 40_000 + row % 9973, 10**18 + row
            ),
        )
        for row in range(TABLE_ROWS)
    ]
    write_table(folder / "t.parquet", rows, labelled=False, odd_names=False)
    return (folder / "t.parquet").stat().st_size / TABLE_ROWS


def item_bytes(folder: Path) -> float:
    """Bytes of a row of items.sqlite, with the metadata that dino-index keeps."""

    def items() -> Iterator[NewItem]:
        for row in range(TABLE_ROWS):
            name = f"class-{row % 1000:03d}/{hashlib.md5(b'%d' % row).hexdigest()[:12]}.jpg"
            metadata = {
                "path": name, "width": 500, "height": 375, "bytes": 40_000 + row % 9973,
                "sha256": hashlib.sha256(b"%d" % row).hexdigest(), "modified_ns": 10**18 + row,
                "source": "0123456789abcdef", "label": name.split("/")[0],
            }  # fmt: skip
            yield NewItem(-1 - row, name, metadata_text(metadata), f"1:{9000 * row}:9000")

    write_items(folder / "items.sqlite", old=None, dead=[], new=items())
    return (folder / "items.sqlite").stat().st_size / TABLE_ROWS


def thumbnails(folder: Path) -> Iterator[bytes]:
    """Thumbnails as an index keeps them."""
    for path in sorted(folder.iterdir())[: 2 * COPIES]:
        yield thumbnail(path.read_bytes(), name=path.name)


if __name__ == "__main__":
    raise SystemExit(main())
