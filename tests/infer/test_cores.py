"""Worker counts follow the cores that a process may use."""

import os

import pytest
import torch
from torch.utils.data import Dataset

from dino_infer.cores import container_cores, cores, default_workers
from dino_infer.devices import cpu_threads
from dino_infer.embedding.decoding import Loader


@pytest.fixture
def on_one_core():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def control_groups(folder, lines, files):
    (folder / "cgroup").write_text(lines)
    for name, text in files.items():
        path = folder / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return container_cores(folder / "cgroup", folder / "mount")


V1 = "cpu,cpuacct"


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "100000 100000"}, 1),
        ("0::/on/the/host\n", {"cpu.max": "400000 100000"}, 4),
        (
            f"3:memory:/x\n2:{V1}:/x\n",
            {f"{V1}/x/cpu.cfs_quota_us": "250000", f"{V1}/x/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("1:cpu:/x\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("1:cpuset:/\n0::/\n", {}, None),
    ],
)
def test_a_container_limits_the_cores(tmp_path, lines, files, expected):
    assert control_groups(tmp_path, lines, files) == expected


def test_a_system_without_control_groups_has_no_such_limit(tmp_path):
    assert container_cores(tmp_path / "none", tmp_path) is None


def test_counts_follow_the_cores_that_the_process_is_bound_to(on_one_core):
    assert cores() == 1 and cpu_threads(None) == 1 and default_workers() == 1
    assert cpu_threads(3) == 3


class Numbers(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index


def test_more_workers_than_cores_are_used_without_a_warning(on_one_core):
    loader = Loader(Numbers(), batch_size=None, num_workers=2, generator=torch.Generator())
    assert list(loader) == [0, 1, 2, 3]
