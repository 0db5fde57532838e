import numpy as np
import pytest
from PIL import Image

from dino_infer.errors import DataError
from dino_infer.evaluate.data.mask_files import VOID
from dino_infer.evaluate.data.mask_sets import mask_sets


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def fill(folder, masks, *, images="images", truth="masks", suffix="png"):
    for i, mask in enumerate(masks):
        save(folder / images / f"{i:02d}.{suffix}", np.full((4, 4, 3), 9 * i))
        save(folder / truth / f"{i:02d}.png", mask)
    return folder


def mask(*labels):
    return np.resize(labels, (4, 4))


def names(images):
    return [images.name(i) for i in range(len(images))]


def test_one_folder_is_parted_in_halves_by_the_seed(tmp_path):
    folder = fill(tmp_path, [mask(0, 255)] * 9)
    sets = mask_sets(folder, seed=3)
    memory, queries = names(sets.memory), names(sets.queries)
    assert (len(memory), len(queries)) == (5, 4)
    assert sorted(memory + queries) == [f"{i:02d}.png" for i in range(9)]
    assert queries == sorted(queries)
    assert names(mask_sets(folder, seed=3).memory) == memory
    assert names(mask_sets(folder, seed=4).memory) != memory
    assert (sets.requested, sets.failed, sets.classes.tolist()) == (9, 0, [0, 1])
    assert sets.pixels.tolist() == [40, 40]


def test_a_smaller_share_of_the_memory_is_part_of_a_larger_one(tmp_path):
    sets = mask_sets(fill(tmp_path, [mask(0, 1)] * 20))
    assert [len(sets.subset(share)) for share in (1, 2, 8, 64)] == [10, 5, 2, 1]
    assert names(sets.subset(8)) == names(sets.memory)[:2]


def test_the_lists_of_voc_tell_the_sets(tmp_path):
    fill(tmp_path, [mask(0, 7), mask(0, 7, 255), mask(0, 7, 9)], images="JPEGImages", truth="x")
    (tmp_path / "x").rename(tmp_path / "SegmentationClass")
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("00\n01\n")
    (lists / "val.txt").write_text("02\n")
    sets = mask_sets(tmp_path)
    assert sorted(names(sets.memory)) == ["00.png", "01.png"]
    assert names(sets.queries) == ["02.png"]
    assert sets.requested == 3
    assert sets.classes.tolist() == [0, 7, 9]
    assert sets.pixels[2] == 0
    found = sets.indices(np.array([[VOID, 0, 7, 9]], np.int32))
    np.testing.assert_array_equal(found, [[VOID, 0, 1, 2]])


@pytest.mark.parametrize("flags", [{"split": "val"}, {"train_split": "train"}])
@pytest.mark.parametrize("images", ["images", "JPEGImages"])
def test_a_split_where_there_are_no_lists_is_refused(tmp_path, flags, images):
    truth = "masks" if images == "images" else "SegmentationClass"
    fill(tmp_path, [mask(0, 255)] * 2, images=images, truth=truth)
    with pytest.raises(DataError, match="there is no split .*; leave the split out"):
        mask_sets(tmp_path, **flags)


def test_classes_without_an_example_are_named_and_stay(tmp_path, caplog):
    train = fill(tmp_path / "train", [mask(0, 1), mask(0, 2)])
    val = fill(tmp_path / "val", [mask(1, 5), mask(0, 6)])
    sets = mask_sets(train, val=val)
    assert "2 classes of" in caplog.text
    assert "have no example in the memory and count as wrong (5, 6)" in caplog.text
    assert sets.classes.tolist() == [0, 1, 2, 5, 6]
    assert (sets.pixels == 0).tolist() == [False, False, False, True, True]


def test_sets_of_different_meaning_or_without_a_common_class_are_refused(tmp_path):
    white = fill(tmp_path / "white", [mask(0, 255)] * 2)
    labels = fill(tmp_path / "labels", [mask(3, 4)] * 2)
    with pytest.raises(DataError, match=r"white.* are foreground, those of .*labels.* labels"):
        mask_sets(white, val=labels)
    other = fill(tmp_path / "other", [mask(8, 9)] * 2)
    with pytest.raises(DataError, match="no class but background: they hold 8, 9 and 3, 4"):
        mask_sets(labels, val=other)
    some = fill(tmp_path / "some", [mask(0, 3)] * 2)
    more = fill(tmp_path / "more", [mask(0, 8)] * 2)
    with pytest.raises(DataError, match="no class but background: they hold 0, 8 and 0, 3"):
        mask_sets(some, val=more)


def test_images_of_both_sets_are_named(tmp_path, caplog):
    folder = fill(tmp_path / "train", [mask(0, 1), mask(0, 2)])
    mask_sets(folder, val=folder)
    assert "2 of the 2 images to judge are among those to judge by" in caplog.text


def test_masks_of_background_alone_are_refused(tmp_path):
    with pytest.raises(DataError, match="hold the label 0 alone, which every answer gets right"):
        mask_sets(fill(tmp_path, [mask(0, 0)] * 4))


def test_one_image_cannot_be_parted(tmp_path):
    with pytest.raises(DataError, match="has one image, expected at least 2"):
        mask_sets(fill(tmp_path, [mask(0, 255)]))


def test_what_is_left_out_of_either_set_is_told(tmp_path):
    train = fill(tmp_path / "train", [mask(0, 1), mask(0, 2)])
    val = fill(tmp_path / "val", [mask(0, 2), mask(0, 1)])
    (train / "masks/00.png").unlink()
    (val / "images/01.png").write_bytes(b"no image")
    sets = mask_sets(train, val=val)
    assert sets.excluded == ("00.png: no mask",)
    assert (sets.requested, sets.failed) == (3, 1)
