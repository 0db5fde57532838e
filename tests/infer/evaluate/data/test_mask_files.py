import numpy as np
import pytest
from PIL import Image

from dino_infer.errors import DataError, ImageError
from dino_infer.evaluate.data.mask_files import VOID, MaskLevels, MaskScan, read_mask

LABELS = np.array([[0, 1, 1], [2, 255, 0]], np.uint8)


def saved(tmp_path, image, name="mask.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def with_palette(indices, colors):
    image = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    image.putpalette(np.array(colors, np.uint8).tobytes())
    return image


def voc_colors():
    colors = np.zeros((256, 3), np.uint8)
    colors[1], colors[2], colors[7], colors[255] = (128, 0, 0), (0, 128, 0), (128,) * 3, (224,) * 3
    return colors


def test_a_grey_mask_holds_its_labels_with_void_last(tmp_path):
    mask = read_mask(saved(tmp_path, Image.fromarray(LABELS)))
    np.testing.assert_array_equal(mask.labels("labels"), [[0, 1, 1], [2, VOID, 0]])


def test_a_coloured_palette_counts_by_its_indices(tmp_path):
    mask = read_mask(saved(tmp_path, with_palette(LABELS, voc_colors())))
    np.testing.assert_array_equal(mask.levels, LABELS)


def test_grey_colours_of_a_coloured_palette_are_indices_too(tmp_path):
    indices = np.array([[0, 7]], np.uint8)
    mask = read_mask(saved(tmp_path, with_palette(indices, voc_colors())))
    np.testing.assert_array_equal(mask.levels, indices)


def test_a_palette_of_greys_counts_by_its_levels_because_tools_number_them_in_any_order(tmp_path):
    image = with_palette(np.array([[0, 1]], np.uint8), [(255,) * 3, (0,) * 3])
    np.testing.assert_array_equal(read_mask(saved(tmp_path, image)).levels, [[255, 0]])


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA"])
def test_black_and_white_reads_alike_in_every_mode(tmp_path, mode):
    white = np.array([[0, 255, 0]], np.uint8)
    mask = read_mask(saved(tmp_path, Image.fromarray(white).convert(mode)))
    np.testing.assert_array_equal(mask.labels("foreground"), [[0, 1, 0]])


def test_sixteen_bits_hold_more_than_255_labels(tmp_path):
    labels = np.array([[0, 255, 300, 65_535]], np.uint16)
    mask = read_mask(saved(tmp_path, Image.fromarray(labels)))
    np.testing.assert_array_equal(mask.labels("labels"), [[0, 255, 300, VOID]])


def test_soft_edges_are_cut_in_the_middle(tmp_path):
    mask = MaskLevels(np.array([[0, 127, 128, 255]], np.int32), 255)
    np.testing.assert_array_equal(mask.labels("foreground"), [[0, 0, 1, 1]])


def test_a_jpeg_is_no_mask_whatever_its_name(tmp_path):
    path = saved(tmp_path, Image.fromarray(LABELS), "mask.png", format="JPEG")
    with pytest.raises(ImageError, match="is a JPEG, which may change labels; save masks as PNG"):
        read_mask(path)


def test_colours_and_transparency_are_refused(tmp_path):
    colors = np.zeros((2, 2, 4), np.uint8)
    with pytest.raises(ImageError, match="transparent pixels"):
        read_mask(saved(tmp_path, Image.fromarray(colors)))
    colors[..., 0], colors[..., 3] = 128, 255
    with pytest.raises(ImageError, match="holds RGB colours; save the labels as grey"):
        read_mask(saved(tmp_path, Image.fromarray(colors)))


def test_damaged_and_missing_files_are_told_apart(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.tile(LABELS, (40, 40))))
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(ImageError) as error:
        read_mask(path)
    assert error.value.kind == "corrupt"
    with pytest.raises(ImageError) as error:
        read_mask(tmp_path / "none.png")
    assert error.value.kind == "missing"


def scanned(*masks):
    scan = MaskScan()
    for i, levels in enumerate(masks):
        scan.add(MaskLevels(np.asarray(levels, np.int32)[None], 255), f"{i}.png")
    return scan.meaning(DataError)


def test_black_and_white_sets_are_foreground_and_others_labels():
    assert scanned([0, 255], [0, 0], [255, 255]) == "foreground"
    assert scanned([0, 1], [0, 3, 255]) == "labels"
    assert scanned([0, 1], [0, 1], [0, 255]) == "labels"


def test_sets_whose_levels_may_mean_two_things_are_refused():
    with pytest.raises(DataError, match=r"'0.png' holds 0, 255 and more than 32 levels between"):
        scanned(np.arange(256))
    with pytest.raises(DataError, match="2 of 3 masks are black and white"):
        scanned([0, 255], [0, 255], [0, 1])
    with pytest.raises(DataError, match=r"2 of 3 masks, such as '0.png', hold more pixels of 255"):
        scanned([0, 64, 255, 255], [0, 128, 255, 255], [0, 255])
    assert scanned([0, 3, 3, 255], [0, 7, 255, 255]) == "labels"  # void is large in one of two
