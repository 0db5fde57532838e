"""Real video files, whole, turned and damaged, frame by frame."""

import sys
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest

from dino_infer.drawing.videos import VideoFile, VideoPath, imported_av, split_videos, video_file
from dino_infer.errors import ImageError, MissingExtraError

RATE = Fraction(30000, 1001)
LOSSY = 12  # levels of 255 that an encoder may change a flat area by
UPRIGHT_BY_90 = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # a phone held upright


def numbered(i, height=64, width=96):
    """A dark frame whose left half is as bright as its number says, brighter on top."""
    frame = np.full((height, width, 3), 20, dtype=np.uint8)
    frame[:, : width // 2] = 30 + 4 * i
    frame[: height // 4, : width // 2] += 20
    return frame


def brightness(frame):
    return int(frame[frame.shape[0] // 2 :, : frame.shape[1] // 4].mean().round())


def written(path, frames, rate=RATE):
    with video_file(path, rate=rate) as video:
        for frame in frames:
            video.write(frame)
    return path


def encoded(path, codec, frames):
    """A video of a container and codec that we do not write ourselves."""
    options = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    frames = [numbered(i) for i in range(40)]
    return written(tmp_path_factory.mktemp("clip") / "clip.mp4", frames)


def test_a_written_video_comes_back_with_its_rate_and_order(clip):
    with VideoFile(clip) as video:
        assert (video.rate, video.frame_count) == (RATE, 40)
        frames = list(video.frames())
    assert len(frames) == 40 and frames[0].shape == (64, 96, 3) and frames[0].dtype == np.uint8
    for i in (0, 7, 39):
        assert np.abs(frames[i].astype(int) - numbered(i)).mean() < LOSSY
    assert [path.name for path in clip.parent.iterdir()] == ["clip.mp4"]


def test_a_written_video_is_what_browsers_play(clip):
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    data = clip.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before all of it has arrived


def test_an_odd_last_row_and_column_is_cut_off(tmp_path):
    path = written(tmp_path / "odd.mp4", [numbered(i, height=35, width=49) for i in range(3)])
    with VideoFile(path) as video:
        assert next(video.frames()).shape == (34, 48, 3)


@pytest.mark.parametrize(
    ("step", "max_frames", "taken"),
    [(1, 5, [0, 1, 2, 3, 4]), (10, None, [0, 10, 20, 30]), (7, 3, [0, 7, 14]), (100, None, [0])],
)
def test_frames_are_stepped_over_and_limited(clip, step, max_frames, taken):
    with VideoFile(clip) as video:
        got = [brightness(frame) for frame in video.frames(step=step, max_frames=max_frames)]
    assert got == pytest.approx([30 + 4 * i for i in taken], abs=3)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mkv", "libx264"), ("a.webm", "libvpx"), ("a.avi", "mpeg4"), ("a.MOV", "mpeg4")],
)
def test_every_container_is_read_and_its_length_is_known(tmp_path, name, codec):
    path = encoded(tmp_path / name, codec, [numbered(i) for i in range(20)])
    with VideoFile(path) as video:
        assert video.frame_count == 20 and video.rate == RATE
        assert len(list(video.frames())) == 20


def test_a_video_of_a_phone_held_upright_is_turned(clip, tmp_path):
    data = bytearray(clip.read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in UPRIGHT_BY_90)
    (tmp_path / "phone.mp4").write_bytes(data)
    with VideoFile(tmp_path / "phone.mp4") as turned, VideoFile(clip) as plain:
        frame, flat = next(turned.frames()), next(plain.frames())
    assert np.array_equal(frame, np.rot90(flat, -1))  # clockwise, as the matrix says


def test_frames_are_not_kept(tmp_path):
    frame_bytes = 240 * 320 * 3
    path = written(tmp_path / "long.mp4", (numbered(i % 50, 240, 320) for i in range(90)))
    with VideoFile(path) as video:
        tracemalloc.start()
        assert sum(1 for _ in video.frames()) == 90
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * frame_bytes


def cut(data):
    return data[: len(data) // 2]


def zeroed(data):
    start = len(data) // 2
    return data[:start] + bytes(len(data) // 4) + data[start + len(data) // 4 :]


@pytest.mark.parametrize(
    ("damaged", "kind", "reason"),
    [
        (zeroed, "corrupt", "damaged, or no video"),
        (lambda data: b"nonsense" * 100, "corrupt", "damaged, or no video"),
        (lambda data: b"", "corrupt", "damaged, or no video"),
    ],
)
def test_a_damaged_video_is_a_typed_error(tmp_path, damaged, kind, reason):
    rng = np.random.default_rng(0)  # noise, so that the bytes are evenly spread over the frames
    frames = [rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(40)]
    path = written(tmp_path / "bad.mp4", frames)
    path.write_bytes(damaged(path.read_bytes()))
    with pytest.raises(ImageError) as caught, VideoFile(path, name="bad") as video:
        list(video.frames())
    assert (caught.value.path, caught.value.kind) == ("bad", kind)
    assert reason in caught.value.reason


# Not as we write it: where H.264 is cut, and so what its decoder says, depends on the cores.
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_copy_that_was_cut_off_does_not_pass_for_whole(tmp_path, suffix):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(40)]
    path = encoded(tmp_path / f"cut{suffix}", "mpeg4", frames)
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(ImageError, match="it ends after"), VideoFile(path) as video:
        list(video.frames())


def test_a_missing_file_and_one_without_pictures_are_typed_errors(tmp_path):
    with pytest.raises(ImageError, match="no such file") as caught:
        VideoFile(tmp_path / "none.mp4")
    assert caught.value.kind == "missing"
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ImageError, match="holds no video") as caught:
        VideoFile(sound)
    assert caught.value.kind == "unsupported"


def test_an_error_while_writing_leaves_the_older_video(clip, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes())
    with pytest.raises(KeyError), video_file(path, rate=RATE) as video:
        video.write(numbered(0))
        raise KeyError
    assert path.read_bytes() == clip.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_videos_are_told_from_images_by_name_and_found_in_folders(tmp_path):
    for name in ("mixed/b.MP4", "mixed/a.png", "only/deep/c.mkv", "only/notes.txt", "none/a.jpg",
                 "only/.hidden/d.mp4", "only/.e.mp4", "single.mov"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sources = [str(tmp_path / name) for name in ("mixed", "only", "none", "single.mov", "gone")]
    videos, others = split_videos(sources)
    assert videos == [
        VideoPath(str(tmp_path / "mixed/b.MP4"), "b.MP4"),
        VideoPath(str(tmp_path / "only/deep/c.mkv"), "deep/c.mkv"),
        VideoPath(str(tmp_path / "single.mov"), "single.mov"),
    ]
    assert others == [sources[0], sources[2], sources[4]]


def test_a_missing_pyav_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dino-toolkit\[video\]'"):
        imported_av()
