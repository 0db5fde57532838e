"""The video tab: attention over a clip."""

from fractions import Fraction

import pytest

from dino_infer.drawing.videos import VideoFile, video_file
from tests.browser.driving import dismiss, move, upload

RATE = 8


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two seconds of a window that moves over a photograph."""
    from skimage import data

    path = tmp_path_factory.mktemp("clips") / "walk.mp4"
    photo = data.chelsea()
    with video_file(path, rate=Fraction(RATE)) as video:
        for i in range(2 * RATE):
            video.write(photo[40:168, 8 * i : 8 * i + 192])
    return path


def test_a_clip_becomes_a_clip_of_the_same_length(page, clip, tmp_path):
    page.get_by_role("tab", name="Video").click()
    upload(page, "video-clip", clip)
    page.locator("#video-clip video").wait_for()
    move(page, "video-frames", 8)
    page.locator("#video-start").click()
    page.get_by_text("8 frames, 2.0 seconds.").wait_for()
    address = page.locator("#video-result video").first.evaluate("e => e.currentSrc || e.src")
    (tmp_path / "result.mp4").write_bytes(page.request.get(address).body())
    with VideoFile(tmp_path / "result.mp4") as video:
        frames = list(video.frames())
        assert (len(frames), video.rate) == (8, RATE / 2)
    assert frames[0].std() > 20
    page.wait_for_function("document.querySelector('#video-result video').readyState >= 2")


def test_clips_that_cannot_be_used_are_explained(page, clip, tmp_path):
    page.get_by_role("tab", name="Video").click()
    page.locator("#video-start").click()
    dismiss(page, "Choose a clip first.")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[:2000])
    upload(page, "video-clip", cut)
    page.locator("#video-clip video").wait_for()
    page.locator("#video-start").click()
    dismiss(page, "This file is damaged.")
