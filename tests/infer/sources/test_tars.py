"""Tar shards are indexed as Python's tarfile reads them, and damage is refused by name."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from dino_infer.errors import DataError, ImageError
from dino_infer.sources.image_list import list_images
from dino_infer.sources.tars import OPEN_SHARDS, read_member, scan_shard

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "folder/" * 30 + "image.jpg"
MEMBERS = {
    "a.jpg": b"x" * 511,
    "b/ü.png": b"y" * 512,
    "empty.jpg": b"",
    "c.jpg": b"z" * 513,
}


def tar_bytes(members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return file.getvalue()


def written(folder: Path, data: bytes) -> bytes:
    (folder / "s.tar").write_bytes(data)
    return os.fsencode(folder / "s.tar")


def contents(path: bytes) -> dict[str, bytes]:
    """All members as the module under test reads them."""
    shard, found = scan_shard(path)
    return {
        os.fsdecode(m.name): read_member(shard, offset=m.offset, size=m.size, name="m")
        if m.size
        else b""
        for m in found.members
    }


def contents_by_tarfile(path: bytes) -> dict[str, bytes]:
    with tarfile.open(os.fsdecode(path), "r:") as tar:
        return {
            member.name.removeprefix("./"): tar.extractfile(member).read()
            for member in tar
            if member.isfile()
        }


@pytest.mark.parametrize("format", FORMATS)
def test_members_are_those_of_tarfile(tmp_path, format):
    members = dict(MEMBERS)
    if format != "ustar":
        members |= {LONG * 2: b"long name", "after.jpg": b"short again"}
    else:
        members |= {LONG[-150:]: b"name in two fields"}
    path = written(tmp_path, tar_bytes(members, FORMATS[format]))
    assert contents(path) == contents_by_tarfile(path) == members


def test_only_regular_files_count(tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind in [
            ("folder", tarfile.DIRTYPE),
            ("link.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("pipe.jpg", tarfile.FIFOTYPE),
        ]:
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "target/" * 30  # longer than a header holds
            tar.addfile(header)
        header = tarfile.TarInfo("./real.jpg")
        header.size = 4
        tar.addfile(header, io.BytesIO(b"data"))
    assert contents(written(tmp_path, file.getvalue())) == {"real.jpg": b"data"}


def test_a_shard_packed_by_the_tar_command_is_read(tmp_path):
    photos = tmp_path / "photos"
    (photos / "ü").mkdir(parents=True)
    (photos / "ü" / ("n" * 120 + ".jpg")).write_bytes(b"one")
    (photos / "2.jpg").write_bytes(b"two")
    assert os.system(f"tar -C '{photos}' -cf '{tmp_path}/s.tar' .") == 0
    path = os.fsencode(tmp_path / "s.tar")
    assert contents(path) == contents_by_tarfile(path)
    assert len(contents(path)) == 2


def test_a_size_in_the_header_of_a_link_is_no_data(tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname, link.size = tarfile.LNKTYPE, "a.jpg", 600
        tar.addfile(link)
        header = tarfile.TarInfo("a.jpg")
        header.size = 3
        tar.addfile(header, io.BytesIO(b"abc"))
    assert contents(written(tmp_path, file.getvalue())) == {"a.jpg": b"abc"}


def test_times_in_a_gnu_header_are_no_part_of_the_name(tmp_path):
    data = bytearray(tar_bytes({"a.jpg": b"abc"}, tarfile.GNU_FORMAT))
    data[345:357] = b"14537124607\0"  # where ustar keeps the front of a long name
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    assert contents(written(tmp_path, bytes(data))) == {"a.jpg": b"abc"}


def test_an_extended_header_that_never_ends_is_refused(tmp_path):
    data = bytearray(tar_bytes({LONG * 2: b"abc"}, tarfile.PAX_FORMAT))
    start = data.index(b" path=")
    first_digit = data.rindex(b"\0", 0, start) + 1
    data[first_digit:start] = b"0" * (start - first_digit)
    with pytest.raises(DataError, match="unreadable extended header"):
        scan_shard(written(tmp_path, bytes(data)))


def test_sizes_in_binary_and_checksums_of_signed_bytes_are_understood(tmp_path):
    data = bytearray(tar_bytes({"\u00e9.jpg": b"abc"}, tarfile.GNU_FORMAT))
    data[124:136] = b"\x80" + (3).to_bytes(11, "big")
    data[148:156] = b" " * 8
    signed = sum(byte - 256 if byte > 127 else byte for byte in data[:512])
    data[148:156] = b"%06o\0 " % signed
    assert contents(written(tmp_path, bytes(data))) == {"\u00e9.jpg": b"abc"}


def test_missing_end_blocks_are_tolerated(tmp_path):
    data = tar_bytes({"a.jpg": b"x" * 512})
    assert contents(written(tmp_path, data[:1024])) == {"a.jpg": b"x" * 512}
    assert contents(written(tmp_path, b"")) == {}


@pytest.mark.parametrize("cut", [100, 600, 1023, 1024 + 300, 1024 + 512 + 5])
def test_a_shard_that_is_cut_short_is_refused(tmp_path, cut):
    data = tar_bytes({"a.jpg": b"x" * 512, "b.jpg": b"y" * 100}, tarfile.USTAR_FORMAT)
    with pytest.raises(DataError, match=r"damaged tar '.*s\.tar': cut short"):
        scan_shard(written(tmp_path, data[:cut]))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_tar_is_refused_with_what_to_do(tmp_path, compress):
    with pytest.raises(DataError, match="expected an uncompressed tar, got a compressed"):
        scan_shard(written(tmp_path, compress(tar_bytes(MEMBERS))))


def test_other_files_are_no_tar(tmp_path):
    with pytest.raises(DataError, match="at byte 0"):
        scan_shard(written(tmp_path, b"<html>not found</html>" * 50))
    with pytest.raises(DataError, match="cannot read"):
        scan_shard(os.fsencode(tmp_path / "absent.tar"))


def test_sparse_members_are_refused(tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        header = tarfile.TarInfo("a.jpg")
        header.pax_headers = {"GNU.sparse.major": "1"}
        tar.addfile(header)
    with pytest.raises(DataError, match="sparse members: write it without tar -S"):
        scan_shard(written(tmp_path, file.getvalue()))


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 4000), junk=st.binary(min_size=1, max_size=12))
def test_random_damage_is_refused_or_harmless(tmp_path_factory, place, junk):
    data = bytearray(tar_bytes({LONG * 2: b"x" * 700, "b.jpg": b"y"}))
    place %= len(data)
    data[place : place + len(junk)] = junk[: len(data) - place]
    path = written(tmp_path_factory.getbasetemp(), bytes(data))
    try:
        shard, found = scan_shard(path)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert all(member.offset + member.size <= shard.size for member in found.members)


def test_a_shard_that_changed_or_went_away_is_not_read_wrongly(tmp_path):
    path = written(tmp_path, tar_bytes(MEMBERS))
    shard, (members, *_) = scan_shard(path)
    written(tmp_path, tar_bytes({"new.jpg": b"n" * 5000} | MEMBERS))
    with pytest.raises(ImageError, match="changed since it was listed") as caught:
        read_member(shard, offset=members[0].offset, size=members[0].size, name="s.tar/a.jpg")
    assert (caught.value.path, caught.value.kind) == ("s.tar/a.jpg", "unreadable")
    os.remove(path)
    with pytest.raises(ImageError) as caught:
        read_member(shard, offset=members[0].offset, size=members[0].size, name="s.tar/a.jpg")
    assert caught.value.kind == "missing"


def test_an_empty_member_is_typed(tmp_path):
    shard, (members, *_) = scan_shard(written(tmp_path, tar_bytes({"a.jpg": b""})))
    with pytest.raises(ImageError) as caught:
        read_member(shard, offset=members[0].offset, size=0, name="s.tar/a.jpg")
    assert caught.value.kind == "empty"


@pytest.fixture
def fetched(monkeypatch) -> list[tuple[int, int]]:
    """Offset and size of every stretch that the system is asked to fetch."""
    stretches = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *args: stretches.append(args[:2]))
    return stretches


def test_neighbours_of_a_shard_are_expected_in_one_go(tmp_path, fetched):
    members = {f"{i}.jpg": bytes([i]) * size for i, size in enumerate((700, 100, 200_000, 50))}
    path = written(tmp_path, tar_bytes(members))
    _, (found, *_) = scan_shard(path)
    images = list_images(os.fsdecode(path))
    images.expect([1, 0])
    images.expect([3, 0])
    images.expect([])
    together = (found[0].offset, found[1].offset + 100 - found[0].offset)
    apart = [(found[0].offset, 700), (found[3].offset, 50)]
    assert fetched == [together, *apart]


def test_nothing_is_expected_of_files_and_of_shards_that_are_gone(tmp_path, fetched, image_folder):
    images = list_images(image_folder(count=3))
    images.expect([0, 2])
    path = written(tmp_path, tar_bytes({"a.jpg": b"a"}))
    images = list_images(os.fsdecode(path))
    os.unlink(path)
    images.expect([0])
    assert not fetched
    with pytest.raises(ImageError, match="no such file"):
        images.read(0)


def test_many_shards_are_read_by_threads_with_few_open_files(tmp_path):
    shards = []
    for i in range(3 * OPEN_SHARDS):
        path = tmp_path / f"{i}.tar"
        path.write_bytes(tar_bytes({"a.jpg": b"%d" % i}))
        shards.append(scan_shard(os.fsencode(path)))
    before = len(os.listdir("/proc/self/fd"))
    wrong = []

    def work(step):
        for i in range(0, 5 * len(shards), step):
            shard, ([member], *_) = shards[i % len(shards)]
            data = read_member(shard, offset=member.offset, size=member.size, name="x")
            if data != b"%d" % (i % len(shards)):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(step,)) for step in (1, 5, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(os.listdir("/proc/self/fd")) <= before + OPEN_SHARDS
