"""The sample data set: real photographs, no network, no pixel on both sides of the split."""

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dino_infer import samples
from dino_infer.errors import DataError, MissingExtraError
from dino_infer.images.read import load_image
from dino_infer.samples import PHOTOS, SampleCounts, main, whole_photos, write_samples
from dino_infer.sources.image_list import list_images

FEW = {"tile": 16, "train_per_class": 3, "val_per_class": 2}


def digest(folder: Path) -> str:
    """Of all names and contents."""
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        sha.update(str(path.relative_to(folder)).encode())
        sha.update(path.read_bytes() if path.is_file() else b"")
    return sha.hexdigest()


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("samples") / "photos"
    write_samples(out, **FEW)
    return out


def test_there_are_at_least_sixteen_classes_with_the_tiles_asked_for(tmp_path):
    counts = write_samples(tmp_path / "photos", **FEW)
    assert counts == SampleCounts(classes=19, train=57, val=38)
    assert str(counts) == "57 training and 38 validation tiles of 19 classes"
    for split, per_class in (("train", 3), ("val", 2)):
        images = list_images([tmp_path / "photos" / split])
        numbers, classes = images.labels()
        assert len(classes) >= 16
        assert np.bincount(numbers).tolist() == [per_class] * len(classes)


def test_tiles_are_rgb_pictures_of_the_size_asked_for(small):
    contrast = []
    for path in small.rglob("*.png"):
        with Image.open(path) as tile:
            assert (tile.mode, tile.size, tile.format) == ("RGB", (16, 16), "PNG")
            contrast.append(np.asarray(tile).std())
    assert min(contrast) > 1
    assert np.median(contrast) > 25


def test_tiles_of_a_class_differ(small):
    contents = [path.read_bytes() for path in small.rglob("*.png")]
    assert len(set(contents)) == len(contents)


def test_the_halves_share_no_pixel_and_lose_none():
    photo = np.arange(7 * 5 * 3, dtype=np.uint8).reshape(7, 5, 3)
    for stacked, axis in ((True, 0), (False, 1)):
        first, second = samples._halves(photo, stacked=stacked)
        np.testing.assert_array_equal(np.concatenate([first, second], axis=axis), photo)


def test_every_tile_comes_from_its_own_half(tmp_path, monkeypatch):
    """With photographs whose halves are black and white, no tile may hold the other colour."""

    def black_and_white(path):
        photo = np.zeros((60, 80, 3), dtype=np.uint8)
        if PHOTOS[names[path]].stacked:
            photo[30:] = 255
        else:
            photo[:, 40:] = 255
        return photo

    names = {path: name for name, path in samples.photo_paths().items()}
    monkeypatch.setattr(samples, "load_image", black_and_white)
    write_samples(tmp_path / "photos", **FEW)
    for split, level in (("train", 0), ("val", 255)):
        for path in (tmp_path / "photos" / split).rglob("*.png"):
            assert (load_image(path) == level).all()


def test_equal_arguments_give_equal_files(small, tmp_path):
    write_samples(tmp_path / "again", **FEW)
    assert digest(tmp_path / "again") == digest(small)
    write_samples(tmp_path / "other", **FEW, seed=1)
    assert digest(tmp_path / "other") != digest(small)


ALONE = """
import sys

def no_network(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError(event)

sys.addaudithook(no_network)
from dino_infer.samples import write_samples

write_samples(sys.argv[1], tile=8, train_per_class=1, val_per_class=1)
heavy = {"skimage", "sklearn", "torch"} & set(sys.modules)  # each takes seconds to import
assert not heavy, heavy
"""


def test_neither_the_network_nor_a_heavy_import_is_needed(tmp_path):
    command = [sys.executable, "-c", ALONE, str(tmp_path / "photos")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "photos" / "SOURCES.txt").exists()


def test_credits_name_every_class_and_its_licence(small):
    text = (small / "SOURCES.txt").read_text(encoding="utf-8")
    for name in PHOTOS:
        assert f"\n{name}: " in text
    assert text.count("CC BY 2.0") == 2
    assert "changed" in text  # as that licence asks for


@pytest.mark.parametrize("absent", ["skimage", "sklearn"])
def test_a_missing_package_is_one_line_that_names_the_extra(absent, tmp_path, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == absent else find_spec(name)
    )
    with pytest.raises(MissingExtraError, match=r"dino-toolkit\[demo\]"):
        write_samples(tmp_path / "photos", **FEW)
    assert main([str(tmp_path / "photos")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_photograph_that_a_release_lacks_is_left_out(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(PHOTOS, "gone", samples._skimage("gone.png", "nobody", "CC0"))
    counts = write_samples(tmp_path / "photos", **FEW)
    assert counts.classes == len(PHOTOS) - 1
    assert caplog.messages == ["left out, because the installed packages lack them: ['gone']"]
    assert not (tmp_path / "photos/train/gone").exists()


def test_an_earlier_set_is_replaced_whole(tmp_path):
    out = tmp_path / "photos"
    write_samples(out, **FEW, seed=5)
    write_samples(out, **FEW)
    write_samples(tmp_path / "fresh", **FEW)
    assert digest(out) == digest(tmp_path / "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "photos"]


def test_files_of_others_in_an_earlier_set_stay(tmp_path):
    out = tmp_path / "photos"
    write_samples(out, **FEW, seed=5)
    others = [out / "notes.txt", out / "train" / "mine" / "000.png", out / "val" / "x.png"]
    others += [next((out / "train").iterdir()) / "000.txt", out / ".git" / "HEAD"]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    write_samples(out, **FEW)
    assert all(path.read_text() == "mine" for path in others)
    write_samples(tmp_path / "fresh", **FEW)
    for path in (tmp_path / "fresh").rglob("*.*"):
        assert (out / path.relative_to(tmp_path / "fresh")).read_bytes() == path.read_bytes()


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "photos").mkdir()
    assert write_samples(tmp_path / "photos", **FEW).classes == 19


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_belongs_to_others_is_never_replaced(tmp_path, kind, capsys):
    out = tmp_path / "photos"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine.txt").touch()
    before = digest(tmp_path)
    with pytest.raises(DataError, match="expected a new folder, but '.*photos' holds something"):
        write_samples(out, **FEW)
    assert main([str(out)]) == 1
    assert digest(tmp_path) == before


def test_a_failure_half_way_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    write_samples(tmp_path / "photos", **FEW)
    before = digest(tmp_path)
    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(DataError, match="cannot write '.*photos': No space left on device"):
        write_samples(tmp_path / "photos", **FEW)
    assert digest(tmp_path) == before


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    assert main([str(tmp_path / "photos"), "--tile", "8"]) == 0
    out = capsys.readouterr().out
    assert "1140 training and 380 validation tiles of 19 classes" in out
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / "photos"), "--tile", "0"])
    assert caught.value.code == 2


def test_wrong_counts_are_named(tmp_path):
    with pytest.raises(ValueError, match="must be at least 1, got 64, 0, 20"):
        write_samples(tmp_path / "photos", train_per_class=0)
    assert list(tmp_path.iterdir()) == []


def test_whole_photographs_can_be_written_too(tmp_path):
    paths = whole_photos(tmp_path / "shown", names=("coffee", "moon"))
    assert [path.name for path in paths] == ["coffee.png", "moon.png"]
    assert [load_image(path).shape for path in paths] == [(400, 600, 3), (512, 512, 3)]
    with pytest.raises(ValueError, match=r"got \['dog'\]"):
        whole_photos(tmp_path / "shown", names=("dog",))
