import numpy as np
from hypothesis import given, settings, strategies as st

from dino_infer.objects.coco import coco_annotations


def decoded(annotation):
    """The mask of an annotation, as the format's description reads it: column by column."""
    (height, width), counts = (annotation["segmentation"][name] for name in ("size", "counts"))
    values = [i % 2 == 1 for i, count in enumerate(counts) for _ in range(count)]
    return np.array(values).reshape(width, height).T


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 6), width=st.integers(1, 6), seed=st.integers(0, 500))
def test_a_mask_comes_back_from_its_annotation(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    found = coco_annotations([mask], image_id=4)
    assert len(found) == int(mask.any())
    for one in found:
        np.testing.assert_array_equal(decoded(one), mask)
        x, y, w, h = one["bbox"]
        assert one["area"] == mask.sum() == mask[y : y + h, x : x + w].sum()
        assert mask[y].any() and mask[y + h - 1].any() and mask[:, x].any()


def test_ids_go_on_and_an_empty_mask_has_none():
    masks = [np.eye(3, dtype=bool), np.zeros((3, 3), bool), np.ones((3, 3), bool)]
    found = coco_annotations(masks, image_id=7, category_id=2, first_id=5)
    assert [one["id"] for one in found] == [5, 6]
    assert {(one["image_id"], one["category_id"]) for one in found} == {(7, 2)}
    assert found[1]["segmentation"]["counts"] == [0, 9]
