import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from dino_infer.objects.propagation import patch_labels, pixel_labels, propagate_labels


def dense(frames, first, *, last_frames, neighborhood, top_k, temperature):
    """The same by comparing every patch with every other, in float64."""
    frames = [frame / np.linalg.norm(frame, axis=-1, keepdims=True) for frame in frames]
    rows, columns, _ = frames[0].shape
    row, column = np.divmod(np.arange(rows * columns), columns)
    near = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column)) <= neighborhood
    results = [first.reshape(len(first), -1)]
    for number in range(1, len(frames)):
        context = [0, *range(max(1, number - last_frames), number)]
        queries = frames[number].reshape(rows * columns, -1)
        weights = np.concatenate(
            [
                np.where(
                    near,
                    np.exp(queries @ frames[i].reshape(rows * columns, -1).T / temperature),
                    0,
                )
                for i in context
            ],
            axis=1,
        )
        least = np.sort(weights, axis=1)[:, -min(top_k, weights.shape[1])]
        weights = np.where(weights >= least[:, None], weights, 0)
        weights /= weights.sum(axis=1, keepdims=True)
        results.append(np.concatenate([results[i] for i in context], axis=1) @ weights.T)
    return [result.reshape(first.shape) for result in results[1:]]


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 19),
    columns=st.integers(1, 19),
    count=st.integers(1, 5),
    neighborhood=st.integers(0, 10),
    last_frames=st.integers(0, 3),
    top_k=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_it_is_what_comparing_all_patches_with_all_gives(
    rows, columns, count, neighborhood, last_frames, top_k, seed
):
    rng = np.random.default_rng(seed)
    frames = [rng.normal(size=(rows, columns, 6)) for _ in range(count)]
    first = rng.random((3, rows, columns))
    options = {
        "last_frames": last_frames,
        "neighborhood": neighborhood,
        "top_k": top_k,
        "temperature": 0.1,
    }
    found = list(
        propagate_labels((torch.from_numpy(f) for f in frames), torch.from_numpy(first), **options)
    )
    expected = dense(frames, first, **options)
    assert len(found) == count - 1
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)  # float32 cosines over a temperature


def test_labels_follow_what_moves():
    tokens = torch.eye(36).reshape(6, 6, 36)
    moved = torch.roll(tokens, (1, 2), dims=(0, 1))
    first = torch.zeros(2, 6, 6)
    first[1, 2, 2], first[0] = 1, 1 - first[1]
    (carried,) = propagate_labels([tokens, moved], first, top_k=1)
    assert carried[1, 3, 4] == 1 and carried[1].sum() == 1


def test_labels_never_come_from_beyond_the_neighbourhood():
    tokens = torch.eye(36).reshape(6, 6, 36)
    moved = torch.roll(tokens, 3, dims=1)
    first = torch.zeros(2, 6, 6)
    first[1, 2, 2], first[0] = 1, 1 - first[1]
    near, far = (
        next(iter(propagate_labels([tokens, moved], first, neighborhood=reach)))[1, 2, 5]
        for reach in (2, 3)
    )
    assert near == 0 and far > 0.9


def test_frames_are_taken_one_at_a_time():
    taken = []

    def frames():
        for number in range(10):
            taken.append(number)
            yield torch.ones(2, 3, 4)

    stream = propagate_labels(frames(), torch.ones(1, 2, 3), last_frames=2)
    next(stream)
    assert taken == [0, 1]


def test_only_the_first_frame_and_the_last_few_are_held():
    import weakref

    held = []

    def frames():
        for _ in range(9):
            frame = torch.rand(2, 3, 4)
            held.append(weakref.ref(frame))
            yield frame

    for _ in propagate_labels(frames(), torch.ones(1, 2, 3), last_frames=2):
        assert sum(frame() is not None for frame in held) <= 4


def test_shares_of_labels_sum_to_one():
    first = torch.softmax(torch.randn(4, 9, 9), dim=0)
    for shares in propagate_labels([torch.randn(9, 9, 5) for _ in range(4)], first):
        torch.testing.assert_close(shares.sum(dim=0), torch.ones(9, 9))


@pytest.mark.parametrize(
    "wrong", [{"last_frames": -1}, {"neighborhood": -1}, {"top_k": 0}, {"temperature": 0.0}]
)
def test_numbers_out_of_range_are_refused_before_the_first_frame(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        propagate_labels([], torch.ones(1, 2, 2), **wrong)


def test_a_frame_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\), got \(3, 2\)"):
        list(propagate_labels(iter([torch.ones(3, 2, 4)]), torch.ones(1, 2, 3)))


def test_patches_take_the_label_at_their_centre():
    mask = np.zeros((16, 24), np.uint8)
    mask[:8, :8], mask[8:, 16:] = 3, 255
    found = patch_labels(mask, [0, 3, 255], (2, 3))
    assert found.argmax(dim=0).tolist() == [[1, 0, 0], [0, 0, 2]]
    assert torch.equal(found.sum(dim=0), torch.ones(2, 3))


def test_an_object_smaller_than_a_patch_takes_the_patch_that_it_covers_most():
    mask = np.zeros((16, 16), np.uint8)
    mask[9, 7:11] = 5
    found = patch_labels(mask, [0, 5], (2, 2))
    assert found[1].tolist() == [[0, 0], [0, 1]] and found[0, 1, 1] == 0


def test_labels_that_are_not_followed_count_for_none():
    mask = np.full((8, 8), 9, np.uint8)
    assert patch_labels(mask, [0, 3], (2, 2)).sum() == 0


def test_pixels_take_the_strongest_label_after_each_is_stretched():
    shares = torch.tensor([[[0.9, 0.7]], [[0.1, 0.3]]])
    found = pixel_labels(shares, [0, 7], (5, 12), patch_size=4)
    assert found.shape == (5, 12) and found.dtype == np.uint8
    assert found[0].tolist() == [0] * 6 + [7] * 6


def test_a_label_that_is_everywhere_wins_over_one_that_is_nowhere():
    shares = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
    assert (pixel_labels(shares, [0, 4], (8, 8), patch_size=4) == 4).all()


def test_masks_of_the_first_frame_survive_the_grid_and_back():
    mask = np.kron(np.arange(6).reshape(2, 3), np.ones((8, 8))).astype(np.uint8)
    back = pixel_labels(patch_labels(mask, range(6), (4, 6)), range(6), mask.shape, patch_size=4)
    assert F.mse_loss(torch.from_numpy(back != mask).float(), torch.zeros(16, 24)) < 0.2
