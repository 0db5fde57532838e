import numpy as np
import pytest
import torch
from PIL import Image

from dino_infer.errors import CheckpointError, DataError
from dino_infer.evaluate.contestants import with_twin
from dino_infer.evaluate.data.frames import video_sequences
from dino_infer.evaluate.following import Following
from dino_infer.evaluate.reports.mask_sheets import palette
from dino_infer.evaluate.video import mask_scores, measure_video
from dino_infer.networks.build import build_backbone
from dino_infer.weights.info import CheckpointInfo
from tests.infer.evaluate.clips import davis, plain

SMALL = Following(size=48)
FLOORS = ["untrained", "first mask copied", "previous mask copied"]


def networks(arch="vit_micro", **options):
    torch.manual_seed(0)
    info = CheckpointInfo(arch=arch, patch_size=8, image_size=32)
    backbone = build_backbone(arch, patch_size=8, image_size=32).eval()
    return with_twin(backbone, info, device="cpu", **options)


def test_figures_are_means_over_all_objects_of_all_videos(tmp_path):
    videos = video_sequences(davis(tmp_path, "bear", "dogs"))
    result = measure_video(networks(), videos, following=SMALL)
    assert [one.of for one in result.figures] == ["model", *FLOORS]
    table = result.tables["objects"]
    for figures in result.figures:
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        mine = [row for row in rows if row["of"] == figures.of]
        assert [(row["video"], row["object"]) for row in mine] == [
            ("bear", 1), ("dogs", 1), ("dogs", 2),
        ]  # fmt: skip
        for name, value in figures.values.items():
            if name != "jf_percent":
                assert value == pytest.approx(np.mean([row[name] for row in mine]))
        both = figures.values["j_percent"] + figures.values["f_percent"]
        assert figures.values["jf_percent"] == pytest.approx(both / 2)
    assert result.data["objects"] == 3 and result.data["scored_frames"] == 3 + 4


def test_the_figures_of_written_masks_are_those_of_vos_benchmark(tmp_path):
    from vos_benchmark.evaluator import Evaluator

    videos = video_sequences(plain(tmp_path / "clip"))
    result = measure_video(networks(), videos, following=SMALL, masks=tmp_path / "masks")
    (video,) = videos.videos
    evaluator = Evaluator()
    for path in video.frames[1:-1]:
        found, truth = (
            np.array(Image.open(folder / f"{path.stem}.png"))
            for folder in (tmp_path / "masks" / video.name, tmp_path / "clip" / "masks")
        )
        evaluator.feed_frame(found, truth)
    for measured, name in zip(evaluator.conclude(), ("j_percent", "f_percent"), strict=True):
        mean = np.mean(list(measured.values()))
        assert result.model.values[name] == pytest.approx(mean, abs=1e-9)


def test_copied_masks_score_what_the_movement_leaves(tmp_path):
    videos = video_sequences(plain(tmp_path, labels=(1,)))
    result = measure_video(networks(), videos, following=SMALL)
    values = {one.of: one.values for one in result.figures}
    # Squares of 24 x 18 px move 4 px a frame.
    expected = [100 * (24 - 4 * i) / (24 + 4 * i) for i in range(1, 5)]
    assert values["first mask copied"]["j_percent"] == pytest.approx(np.mean(expected))
    assert values["previous mask copied"]["j_percent"] == pytest.approx(100 * 20 / 28)
    assert values["first mask copied"]["j_decay_percent"] > 0


def test_each_frame_becomes_a_palette_png(tmp_path):
    videos = video_sequences(plain(tmp_path / "clip", labels=(1, 9)))
    measure_video(networks(), videos, following=SMALL, masks=tmp_path / "masks")
    written = sorted((tmp_path / "masks" / "clip").iterdir())
    assert [path.name for path in written] == [f"{i:05d}.png" for i in range(6)]
    first, last = Image.open(written[0]), Image.open(written[-1])
    assert np.array_equal(np.array(first), videos.videos[0].mask(0))
    assert last.mode == "P" and set(np.unique(last)) == {0, 1, 9}
    assert np.array_equal(np.array(last.getpalette()).reshape(-1, 3)[:10], palette()[:10])


def test_without_later_masks_there_are_masks_and_no_figures(tmp_path, caplog):
    caplog.set_level("INFO")
    videos = video_sequences(plain(tmp_path / "clip", truths=1))
    result = measure_video(networks(), videos, following=SMALL, masks=tmp_path / "masks")
    assert [(one.of, dict(one.values)) for one in result.figures] == [("model", {})]
    assert "nothing is scored" in caplog.text
    assert len(list((tmp_path / "masks" / "clip").iterdir())) == 6


def test_a_model_alone_has_no_floors(tmp_path):
    videos = video_sequences(plain(tmp_path))
    result = measure_video(networks(floors=False), videos, following=SMALL)
    assert [one.of for one in result.figures] == ["model"]


def test_the_same_again_gives_the_same(tmp_path):
    videos = video_sequences(plain(tmp_path))
    first, again = (measure_video(networks(seed=3), videos, following=SMALL) for _ in range(2))
    assert first.as_json() == again.as_json()
    assert np.array_equal(first.pictures["masks"], again.pictures["masks"])


def test_a_video_with_a_frame_that_breaks_off_is_left_out_and_counted(tmp_path):
    root = davis(tmp_path, "bear", "dogs")
    broken = root / "JPEGImages" / "480p" / "bear" / "00003.jpg"
    broken.write_bytes(broken.read_bytes()[:-900])
    result = measure_video(networks(), video_sequences(root), following=SMALL)
    assert result.failed == 1 and result.images == 11
    assert "00003.jpg" in "".join(result.excluded)
    assert {row[1] for row in result.tables["objects"].rows} == {"dogs"}


def test_a_single_video_that_breaks_off_is_refused(tmp_path):
    root = plain(tmp_path)
    broken = root / "frames" / "00003.jpg"
    broken.write_bytes(broken.read_bytes()[:-900])
    with pytest.raises(DataError, match="no video that can be followed"):
        measure_video(networks(), video_sequences(root), following=SMALL)


def test_networks_without_patches_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="Vision Transformer"):
        measure_video(networks("resnet18"), video_sequences(plain(tmp_path)), following=SMALL)


def test_objects_are_scored_apart_and_void_is_not_scored():
    truth = np.array([[1, 1, 2, 255]] * 4, np.uint8)
    found = np.array([[1, 1, 2, 2]] * 4, np.uint8)
    np.testing.assert_allclose(mask_scores(truth, found, (1, 2), void=truth == 255), 1)
    assert mask_scores(truth, found, (1, 2))[1, 0] == pytest.approx(0.5)
