"""One file is one picture, whatever links, spellings and sources lead to it."""

import logging
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dino_infer.sources.aliases import one_of_each_file
from dino_infer.sources.image_list import list_images
from tests.infer.sources.trees import grow, names, shard


def kept(*sources: Path) -> list[str]:
    images = list_images(sources)
    return names(images.select(one_of_each_file(images)))


def test_the_file_is_kept_and_not_the_link_to_it(tmp_path, caplog):
    grow(tmp_path, "cars.jpg", "daisy.jpg", "copy.jpg")
    (tmp_path / "copy.jpg").write_bytes((tmp_path / "cars.jpg").read_bytes())
    (tmp_path / "alias.jpg").symlink_to("cars.jpg")
    (tmp_path / "chain.jpg").symlink_to("alias.jpg")
    (tmp_path / "hard.jpg").hardlink_to(tmp_path / "daisy.jpg")
    with caplog.at_level(logging.INFO):
        assert kept(tmp_path) == ["cars.jpg", "copy.jpg", "daisy.jpg"]
    assert "3 of 6 names are links" in caplog.text and "alias.jpg" in caplog.text


def test_names_in_linked_folders_give_way_to_real_ones(tmp_path):
    grow(tmp_path / "z", "1.jpg")
    grow(tmp_path / "b", "2.jpg")
    (tmp_path / "a").symlink_to(tmp_path / "z")
    (tmp_path / "b" / "one.jpg").symlink_to(tmp_path / "z" / "1.jpg")
    assert kept(tmp_path) == ["a/1.jpg", "b/2.jpg"]  # a real folder is searched once
    assert kept(tmp_path / "b", tmp_path / "z") == ["2.jpg", "1.jpg"]
    assert kept(tmp_path / "a", tmp_path / "z") == ["1.jpg"]


def test_links_alone_are_kept_once(tmp_path):
    grow(tmp_path / "blobs", "x")
    for name in ("b.jpg", "a.jpg"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / name).symlink_to(tmp_path / "blobs" / "x")
    assert kept(tmp_path / "photos") == ["a.jpg"]


def test_overlapping_sources_and_patterns_count_a_file_once(tmp_path):
    grow(tmp_path, "sub/1.jpg", "2.jpg")
    assert kept(tmp_path, tmp_path / "sub", tmp_path / "2.jpg") == ["2.jpg", "sub/1.jpg"]
    assert kept(tmp_path / "*.jpg", tmp_path / "**" / "*.jpg") == ["2.jpg", "sub/1.jpg"]


def test_a_list_that_names_a_file_in_several_spellings_counts_it_once(tmp_path):
    grow(tmp_path, "a/x.jpg", "b/y.jpg")
    lines = ["a/x.jpg", "a/../a/x.jpg", "a/x.jpg", str(tmp_path / "a/x.jpg"), "b/y.jpg"]
    lines += ["gone.jpg", "a/../gone.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    counted = kept(tmp_path / "list.txt")
    assert counted == [str(tmp_path / "a/x.jpg"), "b/y.jpg", "gone.jpg"]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_tar_or_table_under_two_names_counts_once(tmp_path, link):
    first = shard(tmp_path / "b.tar", {"1.jpg": b"1", "2.jpg": b"2"})
    table = tmp_path / "b.parquet"
    pq.write_table(pa.table({"image": [b"1", b"2"]}), table)
    link(first, tmp_path / "a.tar")
    link(table, tmp_path / "a.parquet")
    real = "a" if link is os.link else "b"
    counted = kept(tmp_path / "a.tar", first, tmp_path / "a.parquet", table)
    assert counted == [
        f"{real}.tar/1.jpg",
        f"{real}.tar/2.jpg",
        f"{real}.parquet/0",
        f"{real}.parquet/1",
    ]


def test_a_listing_without_links_stays_as_it_is(tmp_path, caplog):
    grow(tmp_path, "a.jpg", "b.jpg")
    with caplog.at_level(logging.INFO):
        assert kept(tmp_path) == ["a.jpg", "b.jpg"]
    assert not caplog.records
