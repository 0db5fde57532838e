import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from dino_infer.attention.maps import attention_maps
from dino_infer.errors import CheckpointError, DataError
from dino_infer.evaluate.data.masks import masked_images
from dino_infer.evaluate.segmentation import BEST, CHOSEN, MEAN, measure_segmentation
from tests.infer.evaluate.masked import networks


@pytest.fixture
def squares(tmp_path):
    """Four noisy images with two bright squares each, the one twice as wide as the other."""
    rng = np.random.default_rng(0)
    for i in range(4):
        image = rng.integers(0, 90, (32, 48, 3))
        labels = np.zeros((32, 48))
        labels[4:12, 4 + i : 12 + i], labels[16:30, 24:38] = 1, 2
        labels[:, -2:] = 255
        image[labels > 0] += 150
        for folder, pixels in (("images", image), ("masks", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / f"{i}.png")
    return tmp_path


def test_figures_equal_those_of_scikit_learn_on_pixels(squares):
    (model,) = networks(floors=False)
    data = masked_images(squares)
    result = measure_segmentation([model], data, size=32)
    preprocess = model.preprocess(size=32, crop="none")
    best, mean, per_head = [], [], []
    for i in range(len(data)):
        labels = data.object_labels(i)
        valid = labels >= 0
        maps = attention_maps(data.picture(i), backbone=model.backbone, preprocess=preprocess)
        heads = [*maps.heads, maps.heads.mean(axis=0)]
        table = []
        for head in heads:
            weakest = np.sort(head.ravel())
            dropped = np.cumsum(weakest / weakest.sum()) <= 0.4
            mask = head >= weakest[dropped.sum()]
            pixels = np.kron(mask, np.ones((8, 8))) > 0
            table.append([jaccard_score(labels[valid] == k, pixels[valid]) for k in (1, 2)])
        best.append(np.max(table[:-1], axis=0).mean())
        mean.append(np.mean(table[-1]))
        per_head.append(np.mean(table[:-1], axis=1))
    iou = np.array(per_head)
    chosen = [iou[i][np.delete(iou, i, axis=0).mean(axis=0).argmax()] for i in range(4)]
    expected = {CHOSEN: 100 * np.mean(chosen), MEAN: 100 * np.mean(mean), BEST: 100 * np.mean(best)}
    assert dict(result.model.values) == pytest.approx(expected, rel=1e-9)
    error = 100 * np.std(mean, ddof=1) / 2
    assert result.model.spreads[MEAN] == pytest.approx(error, rel=1e-9)


def test_floors_stand_beside_the_model_and_need_no_network(squares):
    result = measure_segmentation(networks(), masked_images(squares), size=32)
    names = [one.of for one in result.figures]
    assert names == ["model", "untrained", "centred ellipse", "whole frame"]
    frame = result.figures[-1].values
    data = masked_images(squares)
    expected = np.mean([one.masks.mean(axis=(1, 2)) for one in map(data.objects, range(4))])
    assert frame[CHOSEN] == pytest.approx(100 * expected * 48 / 46)
    assert frame[CHOSEN] == frame[MEAN] == frame[BEST]
    assert result.headline in frame


def test_the_report_has_a_row_for_each_image_head_and_threshold(squares):
    result = measure_segmentation(networks(floors=False), masked_images(squares), size=32)
    assert [row[0] for row in result.tables["images"].rows] == [f"{i}.png" for i in range(4)]
    assert [row[0] for row in result.tables["heads"].rows] == ["0", "1", "2", "3", "mean"]
    assert sum(row[2] for row in result.tables["heads"].rows) == 4
    assert len(result.tables["thresholds"].rows) == 2 * 20
    assert set(result.pictures) == {"precision_recall", "sheet"}


def test_a_single_image_is_told_for_its_mean_head(squares):
    data = masked_images(squares).select([2])
    result = measure_segmentation(networks(floors=False), data, size=32)
    assert result.model.values[CHOSEN] == result.model.values[MEAN]
    assert result.model.spreads == {}
    assert result.tables["images"].rows[0][1] == "mean"


def test_images_that_cannot_be_decoded_are_counted_and_do_not_end_the_run(squares):
    path = squares / "images/1.png"
    path.write_bytes(path.read_bytes()[:-900])
    (squares / "images/2.png").write_bytes(b"no image")
    (squares / "masks/3.png").unlink()
    result = measure_segmentation(networks(), masked_images(squares), size=32)
    assert (result.images, result.failed, len(result.excluded)) == (3, 2, 1)
    with pytest.raises(DataError, match="no image of .* could be read"):
        measure_segmentation(networks(), masked_images(squares).select([1]), size=32)


def test_a_mass_and_size_out_of_range_and_a_convnet_are_refused(squares):
    data = masked_images(squares)
    with pytest.raises(ValueError, match="`size` must be at least one patch of 8 px, got 7"):
        measure_segmentation(networks(), data, size=7)
    with pytest.raises(ValueError, match=r"mass must lie in \(0, 1\], got 0"):
        measure_segmentation(networks(), data, mass=0)
    with pytest.raises(CheckpointError, match="attention needs a Vision Transformer"):
        measure_segmentation(networks("resnet_micro", floors=False), data)
