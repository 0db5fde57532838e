"""Draws and held-out parts take the same share of each class, by the seed alone."""

import numpy as np
from hypothesis import given, strategies as st

from dino_infer.evaluate.data.draws import drawn, held_out


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 5))
def test_a_share_of_each_class_is_held_out_and_never_all_of_it(counts, seed):
    labels = np.random.default_rng(9).permutation(np.repeat(np.arange(len(counts)), counts))
    held = held_out(labels, share=0.1, rng=np.random.default_rng(seed))
    again = held_out(labels, share=0.1, rng=np.random.default_rng(seed))
    assert (held == again).all()
    for label, count in enumerate(counts):
        wanted = 0 if count == 1 else max(1, round(0.1 * count))
        assert held[labels == label].sum() == wanted < count or count == 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 9))
def test_a_draw_takes_as_many_of_each_class_as_there_are(counts, n_per_class):
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = drawn(labels, n_per_class, rng=np.random.default_rng(0))
    assert (np.diff(rows) > 0).all()
    assert np.bincount(labels[rows]).tolist() == [min(count, n_per_class) for count in counts]
