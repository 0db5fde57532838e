import numpy as np
import pytest
from PIL import Image

from dino_infer.errors import DataError
from dino_infer.evaluate.data.frames import video_sequences
from dino_infer.evaluate.reports.mask_sheets import write_palette_mask
from tests.infer.evaluate.clips import HEIGHT, WIDTH, davis, plain


def refusal(root, **options):
    with pytest.raises(DataError) as caught:
        video_sequences(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_videos_of_davis_are_read_with_or_without_the_folder_of_their_resolution(tmp_path):
    for resolution in ("480p", ""):
        videos = video_sequences(
            davis(tmp_path / (resolution or "flat"), "bear", "dogs", resolution=resolution)
        )
        assert [video.name for video in videos.videos] == ["bear", "dogs"]
        assert [video.objects for video in videos.videos] == [(1,), (1, 2)]
        assert [len(video.frames) for video in videos.videos] == [5, 6]
        assert videos.requested == 11 and videos.excluded == ()


def test_the_list_of_davis_2017_counts_unless_another_is_given(tmp_path):
    root = davis(tmp_path, "bear", "camel", "dogs")
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("camel\n\n")
    (tmp_path / "mine.txt").write_text("dogs\nbear\ndogs\n")
    assert [v.name for v in video_sequences(root).videos] == ["camel"]
    chosen = video_sequences(root, list_file=tmp_path / "mine.txt")
    assert [video.name for video in chosen.videos] == ["dogs", "bear"]


def test_names_of_a_list_without_a_folder_are_told(tmp_path):
    root = davis(tmp_path, "bear")
    (tmp_path / "mine.txt").write_text("bear\nlion\n")
    (line,) = video_sequences(root, list_file=tmp_path / "mine.txt").excluded
    assert "'lion'" in line and "no folder" in line


def test_frames_are_ordered_by_number_with_or_without_leading_zeros(tmp_path):
    root = plain(tmp_path, count=12)
    for i in range(12):
        (root / "frames" / f"{i:05d}.jpg").rename(root / "frames" / f"shot_{i}.jpg")
        (root / "masks" / f"{i:05d}.png").rename(root / "masks" / f"shot_{i}.png")
    (video,) = video_sequences(root).videos
    assert [path.stem for path in video.frames] == [f"shot_{i}" for i in range(12)]


def test_every_fifth_frame_is_a_video_too(tmp_path):
    root = plain(tmp_path, count=6)
    for i in range(6):
        (root / "frames" / f"{i:05d}.jpg").rename(root / "frames" / f"x{5 * i:02d}.jpg")
        (root / "masks" / f"{i:05d}.png").rename(root / "masks" / f"x{5 * i:02d}.png")
    assert len(video_sequences(root).videos[0].frames) == 6


def test_a_missing_frame_is_named_by_its_neighbours(tmp_path):
    root = plain(tmp_path)
    (root / "frames" / "00003.jpg").unlink()
    assert "missing between '00002.jpg' and '00004.jpg'" in refusal(root)


def test_frames_without_an_order_are_refused(tmp_path):
    root = plain(tmp_path)
    (root / "frames" / "00003.jpg").rename(root / "frames" / "b3.jpg")
    assert "differ in more than their number" in refusal(root)
    (root / "frames" / "b3.jpg").rename(root / "frames" / "last.jpg")
    assert "'last.jpg' has no number" in refusal(root)


def test_two_frames_of_one_number_are_refused(tmp_path):
    root = plain(tmp_path)
    (root / "frames" / "3.jpg").write_bytes((root / "frames" / "00003.jpg").read_bytes())
    assert "'00003.jpg' and '3.jpg' have the same number" in refusal(root)


def test_a_single_frame_is_no_video(tmp_path):
    assert "at least 2 frames, got 1" in refusal(plain(tmp_path, count=1))


def test_the_first_frame_must_have_a_mask(tmp_path):
    root = plain(tmp_path)
    (root / "masks" / "00000.png").unlink()
    assert "'00000.jpg' has no mask; put it at" in refusal(root)
    assert f"{str(root / 'masks' / '00000.png')!r}" in refusal(root)


def test_an_empty_first_mask_is_refused(tmp_path):
    root = plain(tmp_path)
    write_palette_mask(root / "masks" / "00000.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    assert "00000.png' is empty" in refusal(root)


def test_a_mask_of_another_size_is_refused(tmp_path):
    root = plain(tmp_path)
    write_palette_mask(root / "masks" / "00004.png", np.ones((WIDTH, HEIGHT), np.uint8))
    assert "00004.png' has 48 x 80 pixels, its frame has 80 x 48" in refusal(root)


def test_a_frame_of_another_size_is_refused(tmp_path):
    root = plain(tmp_path)
    Image.new("RGB", (80, 50)).save(root / "frames" / "00002.jpg")
    assert "00002.jpg' has 80 x 50 pixels, the first frame has 80 x 48" in refusal(root)


@pytest.mark.parametrize("name", ["00000.jpg", "00000.png"])
def test_masks_that_are_jpegs_are_refused_by_their_content(tmp_path, name):
    root = plain(tmp_path)
    (root / "masks" / "00000.png").unlink()
    Image.new("L", (WIDTH, HEIGHT), 255).save(root / "masks" / name, format="JPEG")
    assert "JPEG" in refusal(root)


def test_labels_beyond_a_palette_are_refused(tmp_path):
    root = plain(tmp_path)
    wide = np.zeros((HEIGHT, WIDTH), np.uint16)
    wide[3, 3] = 300
    Image.fromarray(wide).save(root / "masks" / "00000.png")
    assert "holds label 300" in refusal(root)


def test_two_masks_for_one_frame_are_refused(tmp_path):
    root = plain(tmp_path)
    (root / "masks" / "00000.bmp").write_bytes(b"")
    assert "are for the same frame" in refusal(root)


def test_one_bad_video_of_several_is_left_out_with_its_reason(tmp_path):
    root = davis(tmp_path, "bear", "camel", "dogs")
    (root / "JPEGImages" / "480p" / "camel" / "00003.jpg").unlink()
    videos = video_sequences(root)
    assert [video.name for video in videos.videos] == ["bear", "dogs"]
    (line,) = videos.excluded
    assert line.startswith("video 'camel': a frame is missing between")
    assert videos.requested == 5 + 5 + 7


def test_where_all_videos_are_bad_the_first_reason_is_told(tmp_path):
    root = davis(tmp_path, "bear", "camel")
    for name in ("bear", "camel"):
        (root / "Annotations" / "480p" / name / "00000.png").unlink()
    assert "'bear': the first frame" in refusal(root) and "2 videos have faults" in refusal(root)


def test_what_has_no_counterpart_is_told(tmp_path):
    root = plain(tmp_path, labels=(1,))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:9, 4:9], mask[20:30, 20:30] = 1, 7
    write_palette_mask(root / "masks" / "00003.png", mask)
    write_palette_mask(root / "masks" / "00009.png", mask)
    (root / "masks" / "00005.png").unlink()
    excluded = "\n".join(video_sequences(root).excluded)
    assert "mask '00009.png' has no frame" in excluded
    assert "labels 7 are not in the first mask" in excluded
    assert "1 frames have no mask" in excluded


def test_white_is_the_object_alone_and_void_beside_other_labels(tmp_path):
    (alone,) = video_sequences(plain(tmp_path / "a", labels=(255,))).videos
    assert alone.objects == (255,) and not alone.void(alone.mask(0)).any()
    (beside,) = video_sequences(plain(tmp_path / "b", labels=(1, 255))).videos
    assert beside.objects == (1,)
    assert np.array_equal(beside.void(beside.mask(0)), beside.mask(0) == 255)


def test_masks_with_soft_edges_are_refused(tmp_path):
    root = plain(tmp_path, labels=(255,))
    for path in (root / "masks").iterdir():
        with Image.open(path) as mask:
            soft = mask.convert("L").point(lambda level: 255 * (level > 0))
        soft.resize((40, 24), Image.Resampling.BOX).resize((WIDTH, HEIGHT)).save(path)
    assert "hold more pixels of 255 than" in refusal(root) or "levels between" in refusal(root)
    assert "without soft edges" in refusal(root)


def test_a_video_that_is_not_scored_beside_others_is_named(tmp_path):
    root = davis(tmp_path, "bear", "dogs")
    for path in (root / "Annotations" / "480p" / "dogs").iterdir():
        if path.stem != "00000":
            path.unlink()
    assert video_sequences(root).excluded == (
        "video 'dogs': only its first frame has a mask, so it is not scored",
    )


def test_the_first_and_the_last_frame_are_not_scored(tmp_path):
    (video,) = video_sequences(plain(tmp_path)).videos
    assert video.scored == (1, 2, 3, 4)


def test_the_last_frame_is_scored_where_no_other_is_left(tmp_path):
    (video,) = video_sequences(plain(tmp_path, count=2)).videos
    assert video.scored == (1,)


def test_nothing_is_scored_without_masks_of_later_frames(tmp_path):
    videos = video_sequences(plain(tmp_path, truths=1))
    assert videos.videos[0].scored == () and videos.excluded == ()


def test_a_folder_of_another_layout_tells_what_was_expected(tmp_path):
    assert "JPEGImages/ and Annotations/, or frames/ and masks/" in refusal(tmp_path)
    assert "there is no such folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "JPEGImages").mkdir()
    assert "names no video" in refusal(tmp_path)


def test_a_damaged_frame_or_mask_is_named(tmp_path):
    root = plain(tmp_path)
    (root / "masks" / "00002.png").write_bytes(b"no image")
    assert "00002.png" in refusal(root)


def test_a_list_for_a_single_video_is_refused(tmp_path):
    assert "leave out `list_file`" in refusal(plain(tmp_path), list_file="x")
