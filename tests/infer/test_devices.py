"""Devices, precisions and threads are those asked for, and numbers arrive as they left."""

import numpy as np
import pytest
import torch

from dino_infer.devices import (
    LateNumbers,
    cpu_threads,
    one_thread_each,
    resolved_device,
    resolved_precision,
)
from dino_infer.errors import DinoError


def test_a_device_that_is_not_there_is_one_clear_line():
    assert resolved_device("cpu") == torch.device("cpu")
    for device in ("cuda:77", "quantum"):
        with pytest.raises(DinoError, match=rf"'{device}' cannot be used .* pass `device='cpu'`"):
            resolved_device(device)


def test_a_precision_that_is_asked_for_is_taken_and_auto_is_one_of_them():
    cpu = torch.device("cpu")
    assert [resolved_precision(name, cpu) for name in ("fp32", "fp16")] == ["fp32", "fp16"]
    assert resolved_precision("auto", cpu) in ("fp32", "bf16")


def test_threads_compute_on_one_core_each_and_the_setting_comes_back():
    before = torch.get_num_threads()
    with one_thread_each(2) as pool:
        assert list(pool.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
    assert torch.get_num_threads() == before
    assert (cpu_threads(3), cpu_threads(0)) == (3, 1)


def test_numbers_that_arrive_late_are_those_that_left():
    leaving = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    late = LateNumbers(leaving)
    leaving.zero_()
    np.testing.assert_array_equal(late.array(), [[1, 2], [3, 4]])
    assert LateNumbers(torch.tensor([0.5, 1.5])).values() == [0.5, 1.5]
