"""The training script of the original, timed from outside on the data of our own runs.

    git clone https://github.com/facebookresearch/dino    # what --baseline names

Nothing of its arithmetic is touched. On a GPU it runs as it is, with its own default of float16.
It refuses to start without one; there, stand-ins for its calls of CUDA let it compute on the CPU,
in float32.
"""

import argparse
import itertools
import re
import sys
import tempfile
from pathlib import Path

from timed_program import NotMeasuredError, Speed, run_to_end

SIZES = (224, 96)  # of its crops; it has no flags for them
OFFLINE = "import torch; torch.hub.list = lambda *a, **k: []\n"
STAND_INS = """\
import torch.distributed as dist
torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *a, **k: self
torch.cuda.set_device = lambda *a, **k: None
torch.cuda.synchronize = lambda *a, **k: None  # one function under two names confuses PyTorch
make, tensor, parallel = dist.init_process_group, torch.tensor, torch.nn.parallel
dist.init_process_group = lambda backend, **k: make("gloo", **k)
torch.tensor = lambda *a, device=None, **k: tensor(*a, **k)
wrapped = parallel.DistributedDataParallel
parallel.DistributedDataParallel = lambda net, device_ids=None: wrapped(net)
"""
START = """\
import runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, ".")
runpy.run_path("main_dino.py", run_name="__main__")
"""
PROGRESS = re.compile(
    r"\[ *(?P<step>\d+)/\d+\] +eta.*time: (?P<time_s>[\d.]+) +data: (?P<data_s>[\d.]+)"
    r"(?: +max mem: (?P<mib>\d+))?"
)


def original_speed(
    options: argparse.Namespace, data: Path, arch: str, batch: int, *, limit_s: float
) -> Speed:
    """Speed of one epoch over ``data``, class folders, on one device.

    Raises:
        NotMeasuredError: The script is missing, cannot run or shows no speed.
    """
    script = Path(options.baseline) / "main_dino.py"
    if not script.exists():
        raise NotMeasuredError(f"there is no {str(script)!r}; give a checkout of the original")
    if (options.global_size, options.local_size) != SIZES:
        raise NotMeasuredError("its crops have 224 and 96 pixels, and no flag changes that")
    code = OFFLINE + (STAND_INS if options.device == "cpu" else "") + START
    with tempfile.TemporaryDirectory() as out:
        flags = f"--arch {arch} --batch_size_per_gpu {batch} --epochs 1 --warmup_epochs 0"
        flags += f" --freeze_last_layer 0 --out_dim {options.out_dim}"
        flags += f" --num_workers {options.workers} --local_crops_number {options.local_crops}"
        flags += f" --data_path {data} --output_dir {out} --dist_url file://{out}/meeting"
        flags += f" --use_fp16 {str(options.device == 'cuda').lower()}"
        ended = run_to_end(
            [sys.executable, "-u", "-c", code, "main_dino.py", *flags.split()],
            log=Path(out) / "errors.log",
            limit_s=limit_s,
            environment={"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
            folder=options.baseline,
        )
    if ended.complaint:
        raise NotMeasuredError(ended.complaint)
    return _speed(ended.lines, batch, ahead=2 * options.workers, resident_gib=ended.resident_gib)


def _speed(lines: list[tuple[float, str]], batch: int, *, ahead: int, resident_gib: float) -> Speed:
    """From the times at which the script reported steps, after what workers had made ahead.

    Where no two reports come so late, all count, and the speed says more than the script can hold.
    """
    found = [(when, PROGRESS.search(line)) for when, line in lines]
    reports = [(when, report) for when, report in found if report]
    late = [(when, report) for when, report in reports if int(report["step"]) >= ahead]
    times = [(when, int(report["step"])) for when, report in (late if late[1:] else reports)]
    if len(times) < 2:
        raise NotMeasuredError("it reported fewer than two steps; give more --steps or --minutes")
    pairs = itertools.pairwise(times)
    rates = [batch * (step - before) / (when - then) for (then, before), (when, step) in pairs]
    whole = batch * (times[-1][1] - times[0][1]) / (times[-1][0] - times[0][0])
    last = reports[-1][1]
    return Speed(
        images_per_s=whole,
        lowest=min(rates),
        highest=max(rates),
        wait_share=float(last["data_s"]) / float(last["time_s"]),
        peak_gib=float(last["mib"]) / 1024 if last["mib"] else resident_gib,
    )
