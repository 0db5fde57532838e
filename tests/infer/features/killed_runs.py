"""Kills embedding at random moments and at every step; run by ``test_kill_embed``.

One process imports everything, which takes seconds, and forks a victim for each run.

    python -m tests.infer.features.killed_runs IMAGES WEIGHTS OUT
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow.parquet
import timm  # noqa: F401
import torch

from dino_infer.features import journal as feature_journal, writer

writer.COMMIT_EVERY_S = 0.0  # every batch, so that each kill leaves something to go on with

from dino_infer.cli import embed  # noqa: E402
from dino_infer.features.job import embed_to_file, embed_to_folder  # noqa: E402
from dino_infer.features.output import Output  # noqa: E402
from dino_infer.features.shards import Share, merge_shares  # noqa: E402
from dino_infer.sources.image_list import ImageList, list_images  # noqa: E402
from tests.infer.pixel_engine import pixel_embedder  # noqa: E402
from tests.killing import exit_code, forked, kill_before_step  # noqa: E402

KILLS, BEGUN = 12, 3  # at random moments, and of those after the first commit
LATEST = 0.6  # of the time of a whole job, so that a job is killed several times
STEPS = ("replace", "unlink", "rmdir", "mkdir", "truncate", "fsync")
"""Functions of ``os`` that change what is on the disk."""

RARELY = 1000.0  # seconds between commits: none but the last
SETS = {  # name of the matrix, what is asked for, and again after a kill
    "new": ("feats.npy", Output(), Output(resume=True)),
    "table": ("feats.parquet", Output(), Output(resume=True)),
    "update": ("feats.npy", Output(update=True), Output(update=True, resume=True)),
    "overwrite": ("feats.npy", Output(overwrite=True), Output(overwrite=True)),
    "merge": ("feats.npy", Output(), Output(overwrite=True)),
    "partitions": ("set", Output(), Output(resume=True)),
}


def random_kills(images: str, weights: str, out: Path) -> dict[str, object]:
    """Whole jobs of dino-embed, killed again and again until they are finished."""

    def job(folder: Path) -> Callable[[], int]:
        folder.mkdir(parents=True, exist_ok=True)
        args = [images, "-o", str(folder / "feats.npy"), "--weights", weights, "--resume"]
        return lambda: embed.main([*args, "--batch-size", "8", "--workers", "2"])

    start_s = time.monotonic()
    codes = [exit_code(forked(job(out / "whole")))]
    whole_s = time.monotonic() - start_s
    rng, found = random.Random(0), []
    while len(found) < KILLS or found.count("begun") < BEGUN:
        folder, code, kills = out / f"round-{len(codes)}", None, 0
        while code is None:
            process = forked(job(folder))
            # A little later each time, so that a machine that has become slow gets there too.
            time.sleep(rng.uniform(0, (LATEST + kills / 10) * whole_s))
            os.kill(process, signal.SIGKILL)
            code = exit_code(process)
            kills += 1
            if code is None:
                found.append(left_in(folder))
        codes.append(code)
    return {"codes": codes, "found": found, "whole_s": whole_s}


def left_in(folder: Path) -> str:
    """How far a killed job got."""
    if (folder / "feats.json").exists():
        return "finished"
    journal = folder / "feats.npy.partial" / feature_journal.JOURNAL
    return "begun" if journal.exists() and journal.stat().st_size else "nothing"


def make(name: str, listed: ImageList, out: Path, output: Output) -> None:
    """Make one of ``SETS``."""
    if name == "merge":
        merge_shares(out, overwrite=output.overwrite)
    elif name == "partitions":
        size = len(listed) // 2 + 1
        embed_to_folder(pixel_embedder(), listed, out, partition_size=size, output=output)
    else:
        embed_to_file(pixel_embedder(), listed, out, output=output)


def kills_at_every_step(images: str, out: Path) -> dict[str, list[int | None]]:
    """Sets that are killed before each of their steps on disk and then made again, by name."""
    everything = list_images(images)
    listed = everything.select(range(0, len(everything), len(everything) // 10))
    codes: dict[str, list[int | None]] = {}
    for name, (file, first, again) in SETS.items():

        def work(
            folder: Path, output: Output, fuse: int | None, name: str = name, file: str = file
        ) -> int:
            if fuse is not None:
                kill_before_step(fuse, steps=STEPS)
            output = replace(output, commit_every_s=RARELY)
            make(name, listed, folder / file, output)
            return 0

        start = out / f"{name}-start"
        start.mkdir(parents=True)
        if name in ("update", "overwrite"):
            embed_to_file(pixel_embedder(), listed.select(range(0, len(listed), 2)), start / file)
        if name == "merge":
            for index in range(2):
                embed_to_file(pixel_embedder(), listed, start / file, share=Share(index, 2))
        whole = Path(shutil.copytree(start, out / name / "whole"))
        codes[name] = [exit_code(forked(partial(work, whole, first, None)))]
        folders = []
        while codes[name][-1] is None or not folders:
            folders.append(Path(shutil.copytree(start, out / name / f"step-{len(folders):02}")))
            process = forked(partial(work, folders[-1], first, len(folders) - 1))
            codes[name].append(exit_code(process))
        # The last one outlived its steps.
        made_again = partial(map, partial(work, output=again, fuse=None), folders[:-1])
        codes[name].append(exit_code(forked(lambda made=made_again: sum(made()))))
    return codes


if __name__ == "__main__":
    torch.set_num_threads(1)  # a pool of threads would not survive a fork
    images, weights, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    # What is loaded on first use is loaded now, so that victims start at once: pyarrow also looks
    # for pandas, which takes a second to import.
    pixel_embedder().embed(list_images(images).select([0]))
    pyarrow.array(["text"])
    report = {
        "random": random_kills(images, weights, out / "random"),
        "steps": kills_at_every_step(images, out / "steps"),
    }
    (out / "report.json").write_text(json.dumps(report))
