"""dino-attention beyond the sheet: queries, rollout, boxes, colours, videos."""

import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from dino_infer.attention.grids import whole_image
from dino_infer.attention.maps import attention_maps, rollout_maps
from dino_infer.attention.views import view_of
from dino_infer.cli.attention import main
from dino_infer.drawing.videos import Scale, VideoFile, video_file
from dino_infer.images.preprocess import Preprocess
from dino_infer.objects.find import find_objects
from dino_infer.weights.checkpoints import load_backbone

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def cat():
    from skimage import data

    return data.chelsea()  # 300 x 451


@pytest.fixture
def photos(tmp_path, cat):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(cat).save(folder / "cat.png")
    Image.fromarray(cat[:200, 100:400]).save(folder / "face.png")
    return folder


@pytest.fixture
def clip(tmp_path, cat):
    path = tmp_path / "clips" / "walk.mp4"
    path.parent.mkdir()
    with video_file(path, rate=Fraction(12)) as video:
        for i in range(10):
            video.write(cat[:120, 10 * i : 10 * i + 160])
    return path


def run(capsys, weights, *args):
    """Exit code, stdout lines and stderr of the command at a small size."""
    code = main([str(arg) for arg in (*args, "--weights", weights, "--size", 64)])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_every_kind_of_file_is_written_on_demand(capsys, tmp_path, photos, weights):
    out = tmp_path / "maps"
    kinds = ("overlay", "sheet", "npz", "mask", "heads", "colors")
    code, lines, _ = run(
        capsys, weights, photos / "cat.png", "-o", out, "--write", *kinds, "--boxes", "--pca"
    )
    heads = [f"cat.png.head{i}.png" for i in range(4)]
    others = ["overlay.png", "attention.png", "attention.npz", "mask.png", "colors.png"]
    others += ["boxes.json", "pca.png"]
    assert names_in(out) == sorted([*heads, *(f"cat.png.{end}" for end in others), "failed.jsonl"])
    assert code == 0
    assert sorted(lines) == [str(out / name) for name in names_in(out) if name != "failed.jsonl"]
    for name in (*heads, "cat.png.overlay.png", "cat.png.mask.png", "cat.png.colors.png"):
        with Image.open(out / name) as picture:
            assert picture.size == (96, 64) and np.asarray(picture).std() > 5


def test_only_boxes_may_be_asked_for(capsys, tmp_path, photos, weights):
    out = tmp_path / "maps"
    assert run(capsys, weights, photos, "-o", out, "--write", "--boxes")[0] == 0
    assert names_in(out) == ["cat.png.boxes.json", "face.png.boxes.json", "failed.jsonl"]
    found = json.loads((out / "cat.png.boxes.json").read_text())
    boxes = found.pop("boxes")
    assert found == {"image": "cat.png", "width": 451, "height": 300, "head": "mean"}
    assert boxes == sorted(boxes, key=lambda box: -box["mass"])
    assert sum(box["mass"] for box in boxes) >= 0.6
    for box in boxes:
        assert 0 <= box["x0"] < box["x1"] <= 451 and 0 <= box["y0"] < box["y1"] <= 300
        assert box["head"] == "mean"


def test_all_heads_have_boxes_of_their_own(capsys, tmp_path, photos, weights):
    args = (photos / "cat.png", "-o", tmp_path, "--write", "--boxes", "--head")
    assert run(capsys, weights, *args, "all")[0] == 0
    found = json.loads((tmp_path / "cat.png.boxes.json").read_text())
    assert found["head"] == "all" and {box["head"] for box in found["boxes"]} == {0, 1, 2, 3}
    assert run(capsys, weights, *args, 2, "--min-patches", 3)[0] == 0
    fewer = json.loads((tmp_path / "cat.png.boxes.json").read_text())["boxes"]
    of_two = [box for box in found["boxes"] if box["head"] == 2]
    assert 0 < len(fewer) <= len(of_two) and all(box in of_two for box in fewer)


def test_a_query_and_a_rollout_are_what_the_library_gives(capsys, tmp_path, photos, weights, cat):
    backbone, _ = load_backbone(weights)
    look = {
        "backbone": backbone.eval(),
        "preprocess": whole_image(Preprocess(), size=64, patch_size=8),
    }
    for flags, expected in (
        (("--query", "200,100"), attention_maps(cat, query=(200, 100), **look)),
        (("--rollout",), rollout_maps(cat, **look)),
    ):
        args = (photos / "cat.png", "-o", tmp_path, "--write", "npz", *flags)
        assert run(capsys, weights, *args)[0] == 0
        with np.load(tmp_path / "cat.png.attention.npz") as arrays:
            assert np.allclose(arrays["attention"], expected.heads, atol=TOLERANCE)
            assert np.array_equal(arrays["masks"], expected.masks)


def test_the_same_patch_has_the_same_colour_in_all_images(capsys, tmp_path, weights, cat):
    """Two crops that share a part, cut so that their patches fall on the same pixels."""
    folder = tmp_path / "crops"
    folder.mkdir()
    for name, top in (("a", 0), ("b", 0)):
        Image.fromarray(cat[top : top + 64, :64]).save(folder / f"{name}.png")
    Image.fromarray(cat[100:164, 200:264]).save(folder / "c.png")
    args = ("-o", tmp_path / "out", "--write", "--pca")
    assert run(capsys, weights, folder, *args)[0] == 0
    a, b, c = ((tmp_path / "out" / f"{name}.png.pca.png").read_bytes() for name in "abc")
    assert a == b != c
    assert run(capsys, weights, folder / "a.png", "-o", tmp_path / "alone", "--write", "--pca")
    assert (tmp_path / "alone" / "a.png.pca.png").read_bytes() != a  # its basis was its own


def test_colours_go_on_without_the_images_that_are_damaged(capsys, tmp_path, photos, weights):
    (photos / "bad.png").write_bytes(b"nonsense")
    args = ("-o", tmp_path / "out", "--write", "--pca")
    code, lines, stderr = run(capsys, weights, photos, *args)
    assert code == 3 and len(lines) == 2 and stderr.count("left out 'bad.png'") == 1
    assert run(capsys, weights, photos / "bad.png", *args)[0] == 4


@pytest.mark.parametrize("method", ["tokencut", "lost", "maskcut"])
def test_objects_have_files_of_the_same_kinds(capsys, tmp_path, photos, weights, cat, method):
    kinds = ("sheet", "npz", "overlay", "mask")
    args = ("--method", method, "--write", *kinds, "--boxes", "--pca")
    assert run(capsys, weights, photos / "cat.png", "-o", tmp_path / "maps", *args)[0] == 0
    ends = (f"{method}.png", f"{method}.npz", "overlay.png", "mask.png", "boxes.json", "pca.png")
    assert names_in(tmp_path / "maps") == sorted([*(f"cat.png.{e}" for e in ends), "failed.jsonl"])
    backbone, _ = load_backbone(weights)
    preprocess = whole_image(Preprocess(), size=64, patch_size=8)
    found = find_objects(cat, backbone=backbone.eval(), preprocess=preprocess, method=method)
    assert len(found.objects) >= 1
    with np.load(tmp_path / "maps" / f"cat.png.{method}.npz") as arrays:
        np.testing.assert_array_equal(arrays["masks"], found.masks)
        assert arrays["scores"].shape == found.masks.shape
    about = json.loads((tmp_path / "maps" / "cat.png.boxes.json").read_text())
    boxes = about.pop("boxes")
    assert about == {"image": "cat.png", "width": 451, "height": 300, "method": method}
    view = view_of(300, 451, preprocess=preprocess, patch_size=8)
    expected = [one.box(view) for one in found.objects]
    assert [box["object"] for box in boxes] == list(range(1, len(expected) + 1))
    for box, one in zip(boxes, expected, strict=True):
        assert [box[name] for name in ("x0", "y0", "x1", "y1", "mass")] == pytest.approx(one)


def test_objects_of_a_video_are_refused_before_any_work(capsys, tmp_path, clip, weights):
    args = ("--method", "lost", "-o", tmp_path / "maps")
    code, _, stderr = run(capsys, weights, clip, *args)
    assert code == 2 and "--method lost is for images; leave out videos such as walk.mp4" in stderr
    assert not (tmp_path / "maps").exists()


def test_a_video_becomes_a_video_of_the_same_length(capsys, tmp_path, clip, weights):
    out = tmp_path / "maps"
    code, lines, _ = run(capsys, weights, clip, "-o", out)
    assert (code, lines) == (0, [str(out / "walk.mp4.attention.mp4")])
    with VideoFile(lines[0]) as video, VideoFile(clip) as before:
        assert (video.rate, video.frame_count) == (before.rate, before.frame_count) == (12, 10)
        frames = list(video.frames())
    assert len(frames) == 10 and frames[0].shape == (64, 80, 3)
    assert names_in(out) == ["failed.jsonl", "walk.mp4.attention.mp4"]


def test_frames_can_be_stepped_over_and_heads_shown_side_by_side(capsys, tmp_path, clip, weights):
    args = (clip, "-o", tmp_path, "--frame-step", 3, "--max-frames", 2, "--head", "all")
    code, lines, _ = run(capsys, weights, *args)
    assert code == 0
    with VideoFile(lines[0]) as video:
        assert (video.rate, video.frame_count) == (4, 2)  # so it plays as fast as the original
        assert next(video.frames()).shape == (2 * 64 + 4, 2 * 80 + 4, 3)


def test_folders_may_hold_images_and_videos(capsys, tmp_path, photos, clip, weights):
    clip.rename(photos / "walk.mp4")
    out = tmp_path / "maps"
    code, lines, _ = run(capsys, weights, photos, "-o", out, "--write", "npz", "--max-frames", 2)
    assert code == 0 and [line.rpartition("/")[2] for line in lines] == [
        "cat.png.attention.npz",
        "face.png.attention.npz",
        "walk.mp4.attention.mp4",
    ]


def test_of_a_damaged_video_nothing_stays(capsys, tmp_path, photos, clip, weights):
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    out = tmp_path / "maps"
    code, lines, stderr = run(capsys, weights, clip, photos / "cat.png", "-o", out)
    assert code == 3 and len(lines) == 2 and "left out 'walk.mp4': " in stderr
    assert names_in(out) == ["cat.png.attention.npz", "cat.png.attention.png", "failed.jsonl"]
    failure = json.loads((out / "failed.jsonl").read_text())
    assert (failure["path"], failure["kind"]) == ("walk.mp4", "corrupt")
    assert run(capsys, weights, clip, "-o", tmp_path / "alone")[0] == 4


def test_the_colours_of_a_video_follow_the_scene_slowly():
    dark, bright = np.array([[0.0, 0.5]]), np.array([[0.2, 1.0]])
    scale = Scale.after(None, dark)
    assert scale == (0.0, 0.5)
    assert Scale.after(scale, bright) == pytest.approx((0.02, 0.55))
    for _ in range(100):
        scale = Scale.after(scale, bright)
    assert scale == pytest.approx((0.2, 1.0), abs=1e-4)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--query", "5"], "--query must be X,Y such as 120,80, got '5'"),
        (["--query", "900,5"], "'cat.png': the pixel must lie in what the network saw"),
        (["--rollout", "--layer", "3"], "--rollout goes through all blocks to [CLS]"),
        (["--rollout", "--layer", "-1"], "--rollout goes through all blocks to [CLS]"),
        (["--head", "4"], "head must be mean, max, all or a number from 0 to 3, got 4"),
        (["--colormap", "infernal"], "no colour map named 'infernal'; nearest: inferno"),
        (["--method", "lost", "--layer", "99"], "layer must lie in"),
        (["--method", "lost", "--head", "1"], "--head is for attention; leave it out"),
        (["--opacity", "2"], "--opacity must lie in [0, 1], got 2.0"),
        (["--min-patches", "0"], "--min-patches must be at least 1, got 0"),
        (["--frame-step", "0"], "--frame-step must be at least 1, got 0"),
        (["--min-patches", "2"], "--min-patches is for boxes; pass --boxes too"),
        (["--max-frames", "2"], "--frame-step and --max-frames are for videos"),
        (["--write"], "nothing to write; name files after --write"),
    ],
)
def test_wrong_usage_is_named_and_nothing_is_written(
    capsys, tmp_path, photos, weights, args, message
):
    code, lines, stderr = run(capsys, weights, photos, "-o", tmp_path / "maps", *args)
    assert (code, lines) == (2, []) and message in stderr
    assert not (tmp_path / "maps").exists()
