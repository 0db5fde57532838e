"""Flags of dino-attention that are checked before any work."""

import pytest

from dino_infer.cli.attention_options import (
    LookOptions,
    VideoOptions,
    WriteOptions,
    check_objects,
)
from dino_infer.cli.exit_codes import UsageError


def test_a_query_is_a_pixel():
    assert LookOptions(query="120,80.5").pixel == (120.0, 80.5)
    assert LookOptions().pixel is None


@pytest.mark.parametrize("query", ["", "5", "a,b", "1,2,3"])
def test_what_is_no_pixel_is_refused(query):
    with pytest.raises(UsageError, match="--query must be X,Y"):
        LookOptions(query=query)


@pytest.mark.parametrize("mass", [0, -0.1, 1.1])
def test_a_mask_keeps_a_share_of_the_mass(mass):
    with pytest.raises(UsageError, match=r"--mass must lie in \(0, 1\]"):
        LookOptions(mass=mass)


def test_a_rollout_has_no_layer_even_if_it_is_the_last():
    for more in ({"layer": -1}, {"query": "1,1"}):
        with pytest.raises(UsageError, match="no --layer or --query"):
            LookOptions(rollout=True, **more)


def test_there_must_be_something_to_write():
    with pytest.raises(UsageError, match="nothing to write"):
        WriteOptions(write=())
    assert WriteOptions(write=(), boxes=True).boxes


def test_the_least_size_of_boxes_needs_boxes():
    with pytest.raises(UsageError, match="pass --boxes too"):
        WriteOptions(min_patches=1)
    assert WriteOptions(min_patches=1, boxes=True).min_patches == 1


def test_frames_are_counted_from_one():
    for more in ({"frame_step": 0}, {"max_frames": 0}):
        with pytest.raises(UsageError, match="must be at least 1, got 0"):
            VideoOptions(**more)


@pytest.mark.parametrize("given", [{"mass": 0.6}, {"query": "1,1"}, {"rollout": True}])
def test_what_is_about_attention_is_not_for_objects(given):
    with pytest.raises(UsageError, match="--method lost takes no --mass, --query or --rollout"):
        LookOptions(method="lost", **given)
    assert LookOptions(method="lost", layer=0).layer == 0


def test_heads_are_not_for_objects():
    with pytest.raises(UsageError, match="--head is for attention"):
        check_objects("lost", WriteOptions(head="mean"))
    for kind in ("heads", "colors"):
        with pytest.raises(UsageError, match=f"--write {kind} is for attention"):
            check_objects("lost", WriteOptions(write=("mask", kind)))
