"""The Triton kernels, which need a GPU: interpreted on the CPU, and compiled for several GPUs."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dino_train.crops import on_device

pytest.importorskip("triton")


def test_interpreted_kernels_make_the_crops_of_plain_maths():
    file = Path(__file__).with_name("interpreted_crop_kernels.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_triton_a_gpu_makes_plain_crops_and_says_so(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "dino_train.crops.triton_kernels", None)
    assert on_device._kernels.__wrapped__(torch.device("cpu"), 4) is None
    assert "many times slower than by Triton" in caplog.text


BLUR = {"chosen": "*i64", "bands": "*fp32", "reach": "i32"}
POINTERS = {
    "_resample": {"source": "*u8", "target": "*u8", "table": "*i64"},
    "_colour": {
        "crops": "*u8",
        "chosen": "*i64",
        "orders": "*i32",
        "factors": "*fp32",
        "grays": "*i32",
    },
    "_blur across": {"source": "*u8", "target": "*fp32"} | BLUR,
    "_blur down": {"source": "*fp32", "target": "*u8"} | BLUR,
}


@pytest.mark.parametrize("capability", [75, 90])
@pytest.mark.parametrize("name", POINTERS)
def test_kernels_compile_for_nvidia_gpus(name, capability):
    constants = {
        "_resample": {"across": True, "size": 224, "lines_at_once": 8, "outputs_at_once": 32},
        "_colour": {"count": 224 * 224, "block": 1024},
        "_blur": {"across": name.endswith("across"), "size": 224, "block": 1024},
    }[name.split()[0]]
    triton = importlib.import_module("triton")
    source = triton.compiler.ASTSource(
        fn=getattr(importlib.import_module("dino_train.crops.triton_kernels"), name.split()[0]),
        signature=POINTERS[name] | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
    )
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    options = {"enable_fp_fusion": name != "_colour"}
    assert "cubin" in triton.compile(source, target=target, options=options).asm
