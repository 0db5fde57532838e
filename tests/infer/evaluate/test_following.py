import dataclasses

import numpy as np
import pytest
import torch

from dino_infer.errors import ImageError
from dino_infer.evaluate.contestants import with_twin
from dino_infer.evaluate.data.frames import video_sequences
from dino_infer.evaluate.following import Following, follow_objects, input_sides
from dino_infer.networks.build import build_backbone
from dino_infer.weights.info import CheckpointInfo
from tests.infer.evaluate.clips import plain


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32).eval()
    info = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32)
    return with_twin(backbone, info, floors=False, device="cpu")[0]


@pytest.mark.parametrize(
    ("shape", "size", "patch", "sides"),
    [
        ((480, 854), 480, 16, (480, 832)),  # DAVIS, as the original has it
        ((854, 480), 480, 8, (832, 480)),
        ((480, 854), 480, 14, (476, 854)),
        ((100, 100), 480, 16, (480, 480)),
        ((1, 30), 16, 8, (16, 480)),
        ((48, 80), 48, 8, (48, 80)),
        ((100, 101), 70, 8, (64, 64)),
    ],
)
def test_frames_are_resized_as_in_the_original(shape, size, patch, sides):
    assert input_sides(shape, size=size, patch_size=patch) == sides


def test_a_size_below_one_patch_is_refused():
    with pytest.raises(ValueError, match="`size` must be at least one patch of 16 px, got 15"):
        input_sides((48, 80), size=15, patch_size=16)


def test_masks_hold_the_labels_of_the_first_mask_in_the_size_of_the_frames(network, tmp_path):
    (video,) = video_sequences(plain(tmp_path, labels=(3, 200))).videos
    masks = list(follow_objects(network, video, following=Following(size=48)))
    assert len(masks) == len(video.frames) - 1
    assert {mask.shape for mask in masks} == {(48, 80)}
    assert set(np.unique(masks)) == {0, 3, 200}


def test_objects_that_stand_still_keep_their_place(network, tmp_path):
    root = plain(tmp_path)
    for path in (root / "frames").glob("*.jpg"):
        path.write_bytes((root / "frames" / "00000.jpg").read_bytes())
    (video,) = video_sequences(root).videos
    *_, last = follow_objects(network, video, following=Following(size=96))
    assert (last == video.mask(0)).mean() > 0.9


def test_batches_change_nothing(network, tmp_path):
    (video,) = video_sequences(plain(tmp_path)).videos
    large = dataclasses.replace(network, options=network.options | {"batch_size": 4, "workers": 0})
    runs = [
        np.stack(list(follow_objects(one, video, following=Following(size=48))))
        for one in (network, large)
    ]
    assert (runs[0] != runs[1]).mean() < 0.01  # rounding may tip a pixel between two labels


def test_a_frame_that_cannot_be_decoded_ends_the_video(network, tmp_path):
    root = plain(tmp_path)
    (video,) = video_sequences(root).videos
    data = (root / "frames" / "00003.jpg").read_bytes()
    (root / "frames" / "00003.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="00003.jpg"):
        list(follow_objects(network, video, following=Following(size=48)))


def test_settings_out_of_range_are_refused(network, tmp_path):
    (video,) = video_sequences(plain(tmp_path)).videos
    with pytest.raises(ValueError, match="`top_k` from 1"):
        list(follow_objects(network, video, following=Following(size=48, top_k=0)))
