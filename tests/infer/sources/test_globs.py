"""Patterns that no shell has expanded stand for what a shell would have given."""

import logging
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dino_infer.errors import DataError
from dino_infer.sources import globs
from dino_infer.sources.globs import is_pattern, matches
from dino_infer.sources.image_list import list_images
from tests.infer.sources.trees import grow, names, shard


@pytest.mark.parametrize(
    "pattern",
    [
        "{a,b}",
        "{a,b}{1,2}",
        "{a,{b,c}d}e",
        "{1..4}",
        "{4..1}",
        "{08..11}",
        "{0000..0003}.tar",
        "{1..10..3}",
        "{-2..2}",
        "{c..f}",
        "{f..c}",
        "{,x}y",
        "{a}",
        "{}",
        "a{b",
        "a}b{c,d}",
        "{a,b}/{1..2}",
        "{{1..2},x}",
        "x{y{a,b}",
    ],
)
def test_braces_stand_for_what_bash_makes_of_them(tmp_path, pattern):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash to compare with")
    command = ["bash", "-c", f"printf '%s\\n' {pattern}"]
    expected = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    for name in expected:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    if is_pattern(os.fsencode(tmp_path / pattern)):  # not where bash gives the pattern itself
        root, found = matches(os.fsencode(tmp_path / pattern))
        got = [os.path.relpath(os.path.join(root, name), os.fsencode(tmp_path)) for name in found]
        assert got == sorted(set(map(os.fsencode, expected)))
    else:
        assert expected == [pattern]


def test_matched_images_are_one_source_below_the_plain_folder(tmp_path):
    grow(tmp_path / "photos", "cat/1.jpg", "dog/2.jpg", "dog/deep/3.jpg", "4.jpg", "dog/n.txt")
    images = list_images([str(tmp_path / "photos/**/*.jpg")])
    assert names(images) == ["4.jpg", "cat/1.jpg", "dog/2.jpg", "dog/deep/3.jpg"]
    assert images.read(3) == b"pixels of dog/deep/3.jpg"
    numbers, classes = list_images(tmp_path / "photos/{dog,cat}/*.jpg").labels()
    assert (numbers.tolist(), classes) == ([0, 1], ("cat", "dog"))


def test_a_recursive_pattern_lists_what_the_folder_lists(tmp_path):
    grow(tmp_path, "a/1.jpg", "a/b/2.png", "3.webp", ".hidden/4.jpg", "a/.5.jpg", "notes.txt")
    expected = names(list_images(tmp_path))
    for pattern in ("**", "**/*", "**/**/*"):
        assert names(list_images(tmp_path / pattern)) == expected


def test_hidden_names_match_only_a_written_dot(tmp_path):
    grow(tmp_path, ".a/1.jpg", ".2.jpg", "3.jpg")
    assert names(list_images(tmp_path / "*.jpg")) == ["3.jpg"]
    assert names(list_images(tmp_path / ".*.jpg")) == [".2.jpg"]
    assert names(list_images(tmp_path / ".a/*.jpg")) == ["1.jpg"]


def test_link_loops_end_and_each_real_folder_counts_once(tmp_path):
    grow(tmp_path, "a/1.jpg", "b/2.jpg")
    for number in range(6):  # followed blindly, these would be 6 ** 40 paths
        (tmp_path / "a" / f"up{number}").symlink_to(tmp_path)
    (tmp_path / "a" / "self.jpg").symlink_to("self.jpg")
    assert names(list_images(tmp_path / "**/*.jpg")) == ["a/1.jpg", "a/self.jpg", "b/2.jpg"]


def test_names_of_any_bytes_match(tmp_path):
    odd = [b"caf\xe9 1.jpg", "ü1.jpg".encode(), b"new\nline 1.jpg", b"[1].jpg"]
    grow(tmp_path, *odd)
    images = list_images(tmp_path / "*1*.jpg")
    assert [os.fsencode(name) for name in names(images)] == sorted(odd)
    assert names(list_images(tmp_path / "?1.jpg")) == ["ü1.jpg"]
    assert len(list_images(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9*"))) == 1


def test_pipes_do_not_match(tmp_path):
    grow(tmp_path, "1.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert names(list_images(tmp_path / "*.jpg")) == ["1.jpg"]


def test_shards_and_folders_that_match_are_sources_of_their_own(tmp_path):
    for number in range(3):
        shard(tmp_path / f"s-{number:04}.tar", {"x.jpg": b"%d" % number})
    grow(tmp_path, "folder/f.jpg", "z.jpg", "README")
    tars = ["s-0000.tar/x.jpg", "s-0001.tar/x.jpg", "s-0002.tar/x.jpg"]
    assert names(list_images(tmp_path / "s-{0000..0002}.tar")) == tars
    assert names(list_images(tmp_path / "s-*.tar")) == tars
    images = list_images(tmp_path / "*")
    assert names(images) == ["z.jpg", "f.jpg", *tars]
    assert images.read(4) == b"2"


def test_lists_count_only_where_the_pattern_writes_their_suffix(tmp_path, caplog):
    grow(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "list.txt").write_text("2.jpg\n")
    assert names(list_images(tmp_path / "*.txt")) == ["2.jpg"]
    with caplog.at_level(logging.INFO):
        assert names(list_images(tmp_path / "*")) == ["1.jpg", "2.jpg"]
    assert "skipped 1 files of other kinds" in caplog.text


def test_what_exists_is_taken_literally(tmp_path):
    grow(tmp_path, "[a]/1.jpg", "a/2.jpg", "{x,y}.jpg", "x.jpg")
    assert names(list_images(tmp_path / "[a]")) == ["1.jpg"]
    assert names(list_images(tmp_path / "{x,y}.jpg")) == ["{x,y}.jpg"]
    assert names(list_images(tmp_path / "[a]*")) == ["2.jpg"]


def test_a_relative_pattern_works_after_the_working_folder_changed(tmp_path, monkeypatch):
    grow(tmp_path, "1.jpg", "a/2.jpg")
    monkeypatch.chdir(tmp_path)
    images, inner = list_images("*.jpg"), list_images("a/*")
    monkeypatch.chdir("/")
    assert (images.read(0), inner.read(0)) == (b"pixels of 1.jpg", b"pixels of a/2.jpg")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*.jpg", r"no image, folder, .tar or .parquet matches '.*\*\.jpg'$"),
        ("gone/**/*.jpg", "no image, folder"),
        ("t*", "it matches 1 files of other kinds"),
        ("s-{0..3}.tar", r"cannot read the data source '.*s-1\.tar': it does not exist"),
    ],
)
def test_a_pattern_that_finds_nothing_says_so(tmp_path: Path, pattern, message):
    shard(tmp_path / "s-0.tar", {"x.jpg": b"x"})
    grow(tmp_path, "t.txt")
    with pytest.raises(DataError, match=message) as caught:
        list_images(tmp_path / pattern)
    assert "\n" not in str(caught.value)


def test_braces_that_stand_for_too_many_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(globs, "_TOO_MANY", 1000)
    grow(tmp_path, *[f"{number:03}.jpg" for number in range(999)])
    assert len(list_images(tmp_path / "{000..998}.jpg")) == 999
    for pattern in ("{000..999}.jpg", "{1..999999999999}{1..999999999999}"):
        with pytest.raises(DataError, match="the braces of .* stand for too many names"):
            list_images(tmp_path / pattern)
