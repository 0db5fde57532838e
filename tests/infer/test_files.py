"""Whole files, what is swept, and one writer for an output."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from dino_infer.errors import OutputInUseError
from dino_infer.files import (
    check_zip,
    hold_output,
    remove_leftovers,
    whole_file,
    whole_folder,
)

HOLDER = """
import os, sys, time
from dino_infer.files import hold_output
with hold_output(sys.argv[1]):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_only_leftovers_of_the_named_targets_are_deleted(tmp_path: Path):
    ours = [".a.123.dino-tmp.json", ".b.9.dino-tmp"]
    others = [
        ".a.123.tmp.json", ".env.tmpl", ".a.x.dino-tmp.json", ".c.123.dino-tmp.json",
        ".a.123.dino-tmp.jsonl", "a.123.dino-tmp.json",
    ]  # fmt: skip
    for name in ours + others:
        (tmp_path / name).touch()
    (tmp_path / ".a.7.dino-tmp.json").mkdir()
    (tmp_path / ".b.9.dino-tmp-folder" / "half").mkdir(parents=True)
    (tmp_path / ".b.7.dino-tmp-folder").symlink_to(tmp_path / ".a.7.dino-tmp.json")
    others += [".a.7.dino-tmp.json", ".b.7.dino-tmp-folder"]
    remove_leftovers(tmp_path / "a.json", tmp_path / "b", tmp_path / "missing" / "c.json")
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_every_flipped_bit_of_a_record_is_found(tmp_path: Path):
    path = tmp_path / "w.pth"
    torch.save({"w": torch.arange(50.0)}, path)
    check_zip(path)
    with zipfile.ZipFile(path) as archive:
        values = archive.read("w/data/0")
    whole = path.read_bytes()
    for at in range(whole.index(values), whole.index(values) + len(values), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert torch.load(path)["w"].shape == (50,)  # which is why we look
        with pytest.raises(zipfile.BadZipFile, match="'w/data/0' does not match its checksum"):
            check_zip(path)


def test_no_damage_to_a_zip_is_more_than_a_bad_zip(tmp_path: Path):
    path = tmp_path / "w.pth"
    torch.save({"w": torch.arange(50.0)}, path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with contextlib.suppress(zipfile.BadZipFile):
            check_zip(path)
        if at % 10 == 0:
            path.write_bytes(whole[:at])
            with pytest.raises(zipfile.BadZipFile):
                check_zip(path)


def test_an_archive_that_unpacks_to_more_than_its_size_is_bad(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data/0", bytes(10**6))
    with pytest.raises(zipfile.BadZipFile, match="unpack to more than the file"):
        check_zip(tmp_path / "bomb")


def test_a_file_saved_without_checksums_passes(tmp_path: Path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(50.0)}, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    check_zip(tmp_path / "w.pth")


def test_a_folder_appears_when_it_is_whole_and_replaces_no_other(tmp_path: Path):
    folder = tmp_path / "a" / "b"
    with pytest.raises(RuntimeError), whole_folder(folder):
        raise RuntimeError
    assert os.listdir(tmp_path / "a") == []
    with whole_folder(folder) as temporary:
        (temporary / "x").touch()
        assert not folder.exists()
    assert os.listdir(folder) == ["x"]
    with pytest.raises(OSError), whole_folder(folder):
        pass
    assert os.listdir(tmp_path / "a") == ["b"] and os.listdir(folder) == ["x"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_second_process_is_told_who_holds_an_output(tmp_path: Path, kind: str):
    output = tmp_path / "out"
    if kind == "folder":
        output.mkdir()
    with holder(output) as process:
        with pytest.raises(OutputInUseError, match=f"process {process.pid} writes to it"):
            hold_output(output).__enter__()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        before = time.monotonic()
        with hold_output(output):  # its fork lives on, and holds nothing
            assert time.monotonic() - before < 1
    assert [name for name in os.listdir(tmp_path) if name != "out"] == []


def test_a_process_cannot_hold_an_output_twice(tmp_path: Path):
    output = tmp_path / "out"
    with hold_output(output), pytest.raises(OutputInUseError, match="this process"):
        hold_output(output).__enter__()
    with hold_output(output):
        pass


@pytest.mark.parametrize("beside", [False, True])
def test_lock_files_of_others_stay_as_they_are(tmp_path: Path, beside: bool):
    folder = tmp_path / "out"
    folder.mkdir()
    theirs = [folder / ".lock", tmp_path / ".out.lock", tmp_path / ".f.npy.lock"]
    for file in theirs:
        file.write_text("theirs")
    with hold_output(folder, beside=beside), hold_output(tmp_path / "f.npy"):
        pass
    assert [file.read_text() for file in theirs] == ["theirs"] * 3
    assert sorted(os.listdir(tmp_path)) == [".f.npy.lock", ".out.lock", "out"]
    assert os.listdir(folder) == [".lock"]


class holder:  # noqa: N801
    """A process that holds an output, with a child that it forked meanwhile."""

    def __init__(self, output: Path) -> None:
        self._output = output

    def __enter__(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(self._output)],
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout.readline() == "held\n"
        return self._process

    def __exit__(self, *exception: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
