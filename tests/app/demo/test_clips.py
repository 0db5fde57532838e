from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from skimage import data

from dino_app.demo import clips
from dino_app.demo.clips import attention_of, first_frame, tracked, write_clip
from dino_app.demo.models import Models
from dino_infer.attention.maps import attention_maps
from dino_infer.attention.patches import patch_tokens
from dino_infer.drawing.overlays import heat_overlay
from dino_infer.drawing.videos import VideoFile, video_file
from dino_infer.errors import ImageError
from dino_infer.objects.propagation import propagate_labels
from tests.app.demo.tiny import noise, weights_file

CODED = 6.0  # levels on average that H.264 may change


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    models = Models([weights_file(tmp_path_factory.mktemp("weights"))], "cpu")
    return models.model(models.names[0])


def film(path, *, frames, rate=8, size=(64, 96)):
    with video_file(path, rate=Fraction(rate)) as video:
        for i in range(frames):
            video.write(data.chelsea()[i : i + size[0], 100 : 100 + size[1]])
    return path


def written(source, model, **limits):
    """The frames of the result, and what was told on the way."""
    target, told = source.with_name("result.mp4"), []
    settings = {"max_frames": 5} | limits
    draw = partial(attention_of, model=model, size=64)
    clip = write_clip(source, target, draw, advance=lambda *state: told.append(state), **settings)
    with VideoFile(target) as video:
        return clip, video.rate, list(video.frames()), told


def test_frames_are_left_out_evenly_and_the_clip_keeps_its_length(tmp_path, model):
    source = film(tmp_path / "walk.mp4", frames=16)
    clip, rate, frames, told = written(source, model)
    assert (clip.frames, clip.seconds, rate, len(frames)) == (4, 2.0, 2, 4)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with VideoFile(source) as video:
        first = next(video.frames())
    maps = attention_maps(first, backbone=model.backbone, preprocess=model.preprocess(64))
    expected = heat_overlay(maps.picture, maps.heads.mean(axis=0))
    assert abs(frames[0].astype(int) - expected).mean() < CODED


def test_a_clip_that_is_too_long_is_refused_before_a_frame(tmp_path, model):
    source = film(tmp_path / "long.mp4", frames=2 * clips.MAX_SECONDS + 4, rate=2, size=(16, 16))
    with pytest.raises(ImageError, match="expected at most 60 seconds, got 62"):
        written(source, model)
    assert not source.with_name("result.mp4").exists()


def test_frames_of_too_many_pixels_are_refused(tmp_path, model):
    with video_file(tmp_path / "large.mp4", rate=Fraction(2)) as video:
        video.write(np.tile(noise(8, 8), (300, 600, 1)))
    with pytest.raises(ImageError, match="expected at most 9000000 pixels a frame, got 4800 x 24"):
        written(tmp_path / "large.mp4", model)


def test_a_damaged_clip_leaves_nothing(tmp_path, model):
    source = film(tmp_path / "cut.mp4", frames=16)
    source.write_bytes(source.read_bytes()[:1500])
    with pytest.raises(ImageError):
        written(source, model)
    assert not source.with_name("result.mp4").exists()


@pytest.mark.parametrize("count", [1, 5])
def test_a_mask_of_the_first_frame_is_followed_as_the_library_does(tmp_path, model, count):
    source = film(tmp_path / "walk.mp4", frames=count)
    with VideoFile(source) as video:
        frames = list(video.frames())
    np.testing.assert_array_equal(first_frame(source), frames[0])
    preprocess = model.preprocess(64)
    tokens = [
        torch.from_numpy(patch_tokens(one, backbone=model.backbone, preprocess=preprocess).tokens)
        for one in frames
    ]
    inside = np.zeros(tokens[0].shape[:2], dtype=bool)
    inside[2:5, 3:7] = True
    first = torch.from_numpy(np.stack([~inside, inside])).float()
    expected = [first[1], *(one[1] for one in propagate_labels(tokens, first))]
    seen = []

    def draw(picture, shares):
        seen.append(shares)
        return picture

    drawn = list(tracked(frames, model=model, size=64, inside=lambda _: inside, draw=draw))
    assert len(drawn) == len(seen) == count
    for shares, wanted in zip(seen, expected, strict=True):
        np.testing.assert_allclose(shares, wanted, atol=1e-5)
