import numpy as np
import pytest
from PIL import Image

from dino_infer.errors import DataError, ImageError
from dino_infer.evaluate.data.mask_files import VOID
from dino_infer.evaluate.data.masks import masked_images

HEIGHT, WIDTH = 6, 8


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def image(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3))


def square(*labels):
    """A mask with a column for each label."""
    mask = np.zeros((HEIGHT, WIDTH))
    for i, label in enumerate(labels):
        mask[1:-1, 1 + i] = label
    return mask


@pytest.fixture
def plain(tmp_path):
    for i, name in enumerate("abc"):
        save(tmp_path / f"images/{name}.png", image(i))
        save(tmp_path / f"masks/{name}.png", square(255))
    return tmp_path


@pytest.fixture
def voc(tmp_path):
    for i, name in enumerate(("2007_1", "2007_2", "2007_3")):
        save(tmp_path / f"JPEGImages/{name}.jpg", image(i))
        save(tmp_path / f"SegmentationObject/{name}.png", square(1, 2, 255))
        save(tmp_path / f"SegmentationClass/{name}.png", square(15, 15, 255))
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_2\n2007_1\n2007_2\n\n")
    (lists / "train.txt").write_text("2007_3\n")
    return tmp_path


def test_a_folder_of_images_and_masks_pairs_them_by_stem(plain):
    found = masked_images(plain)
    assert [found.name(i) for i in range(len(found))] == ["a.png", "b.png", "c.png"]
    assert (found.levels, found.requested, found.failed, found.excluded) == ("foreground", 3, 0, ())
    np.testing.assert_array_equal(found.picture(1), image(1))
    objects = found.objects(1)
    np.testing.assert_array_equal(objects.masks, [square(1)])
    assert objects.valid.all()


def test_folders_of_images_and_masks_may_lie_anywhere_and_hold_folders(plain, tmp_path):
    (plain / "images").rename(plain / "photos")
    (plain / "masks").rename(plain / "truth")
    for kind in ("photos", "truth"):
        (plain / kind / "deep").mkdir()
        (plain / kind / "a.png").rename(plain / kind / "deep/a.png")
    found = masked_images(plain / "photos", masks=plain / "truth")
    assert [found.name(i) for i in range(len(found))] == ["b.png", "c.png", "deep/a.png"]


def test_each_label_is_an_object_and_255_is_void(plain):
    for name in "abc":
        save(plain / f"masks/{name}.png", square(4, 2, 255))
    found = masked_images(plain)
    objects = found.objects(0)
    np.testing.assert_array_equal(objects.masks, [square(0, 1), square(1)])
    np.testing.assert_array_equal(objects.valid, square(0, 0, 1) == 0)
    assert found.class_labels(0).min() == VOID


def test_voc_numbers_objects_and_classes_in_files_of_their_own(voc):
    found = masked_images(voc)
    assert [found.name(i) for i in range(len(found))] == ["2007_2.jpg", "2007_1.jpg"]
    assert (len(found.objects(0).masks), found.levels) == (2, "labels")
    np.testing.assert_array_equal(found.class_labels(0), square(15, 15, VOID))
    assert len(masked_images(voc, split="train")) == 1


def test_an_unknown_split_lists_those_that_there_are(voc):
    with pytest.raises(DataError, match=r"split 'test'.*there are the splits train, val"):
        masked_images(voc, split="test")


def test_a_list_of_a_split_is_utf_8_with_or_without_a_mark(voc):
    path = voc / "ImageSets/Segmentation/val.txt"
    path.write_bytes(b"\xef\xbb\xbf2007_1\n")
    assert masked_images(voc).excluded == ()
    path.write_bytes(b"f\xfc\n")
    with pytest.raises(DataError, match="val.txt', is no UTF-8 text"):
        masked_images(voc)


def test_names_of_a_split_without_image_or_mask_are_named(voc):
    (voc / "JPEGImages/2007_1.jpg").unlink()
    (voc / "SegmentationObject/2007_2.png").unlink()
    (voc / "ImageSets/Segmentation/val.txt").write_text("2007_1\n2007_2\n2007_3\n")
    found = masked_images(voc)
    assert found.excluded == (
        "2007_1: no image in JPEGImages",
        "2007_2: no mask in SegmentationObject",
    )


def test_what_cannot_be_used_is_left_out_with_a_line_each(plain):
    for name in "defgh":
        save(plain / f"images/{name}.png", image())
    save(plain / "masks/d.jpg", square(255))
    save(plain / "masks/e.png", np.zeros((3, 4)))
    save(plain / "masks/f.png", square())
    save(plain / "masks/h.png", np.dstack([square(255), square(), square()]))
    save(plain / "masks/z.png", square(255))
    save(plain / "images/a.jpg", image())
    found = masked_images(plain)
    assert sorted(found.excluded) == [
        "a.png: has the mask of a.jpg",
        "d.png: mask is a JPEG, which may change labels; save masks as PNG",
        "e.png: mask has 4 x 3 pixels, but the image 8 x 6",
        "f.png: mask is empty",
        "g.png: no mask",
        "h.png: mask holds RGB colours; save the labels as grey levels or with a palette",
        "z.png: mask without an image",
    ]
    assert [found.name(i) for i in range(len(found))] == ["a.jpg", "b.png", "c.png"]


def test_masks_without_objects_stay_where_background_is_a_class(plain):
    save(plain / "masks/a.png", square())
    assert len(masked_images(plain)) == 2
    assert len(masked_images(plain, objects=False)) == 3


def test_a_png_beside_its_jpeg_is_the_mask(plain):
    save(plain / "masks/a.jpg", square(255))
    assert len(masked_images(plain)) == 3


def test_an_image_that_cannot_be_read_counts_as_failed(plain):
    (plain / "images/b.png").write_bytes(b"no image")
    found = masked_images(plain)
    assert (len(found), found.failed, found.excluded) == (2, 1, ())


def test_pixels_that_are_damaged_show_when_the_picture_is_read(plain):
    path = plain / "images/b.png"
    path.write_bytes(path.read_bytes()[:-40])
    found = masked_images(plain)
    with pytest.raises(ImageError, match=r"b\.png"):
        found.picture(1)


def test_nothing_to_use_is_refused_with_the_first_reasons(plain):
    for name in "abc":
        save(plain / f"masks/{name}.png", square())
    with pytest.raises(DataError, match=r"3 were left out \(a.png: mask is empty, b.png"):
        masked_images(plain)


def test_folders_that_are_missing_are_named(tmp_path):
    with pytest.raises(DataError, match="expected the folders 'images' and 'masks'"):
        masked_images(tmp_path)
    with pytest.raises(DataError, match="expected a folder of masks"):
        masked_images(tmp_path, masks=tmp_path / "none")
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(DataError, match="expected 'SegmentationObject' or 'SegmentationClass'"):
        masked_images(tmp_path)


def test_the_meaning_of_levels_can_be_told_in_the_layout_of_voc_too(voc):
    for folder in ("SegmentationObject", "SegmentationClass"):
        save(voc / folder / "2007_1.png", square(255))
    told = masked_images(voc)
    assert told.excluded == ("2007_1.jpg: mask is empty",)
    assert masked_images(voc, levels="foreground").excluded == ()


def test_the_meaning_of_levels_can_be_told(plain):
    save(plain / "masks/a.png", square(1, 255))
    with pytest.raises(DataError, match="2 of 3 masks are black and white"):
        masked_images(plain)
    assert len(masked_images(plain, levels="foreground")) == 3
    labelled = masked_images(plain, levels="labels")
    assert labelled.excluded == ("b.png: mask is empty", "c.png: mask is empty")
