"""Outputs of embedding: what may be touched, and what came of parts together."""

import numpy as np
import pytest

from dino_infer.embedding.decoding import ImageFile
from dino_infer.errors import DataError
from dino_infer.features.files import feature_paths
from dino_infer.features.output import Outcome, Output, enter, outcome_in
from dino_infer.features.table import TableRow
from dino_infer.features.writer import FeatureWriter

IMAGE = ImageFile(1, 1, "ab", 1, 1)


def test_outcomes_of_parts_add_up():
    parts = Outcome(images=3, rows=2, failed=1, dim=8) + Outcome(images=4, rows=0, failed=4)
    assert parts == Outcome(images=7, rows=2, failed=5, dim=8)


def test_the_outcome_of_a_finished_set_is_that_of_its_manifest():
    manifest = {"images": 3, "rows": 2, "failed": 1, "dim": 8, "arch": "vit_small"}
    assert outcome_in(manifest) == Outcome(images=3, rows=2, failed=1, dim=8)


@pytest.mark.parametrize("suffix", ["npy", "json"])
def test_any_file_of_an_older_set_is_touched_only_when_told(tmp_path, suffix):
    paths = feature_paths(tmp_path / "feats.npy")
    older = tmp_path / f"feats.{suffix}"
    older.write_text("older")
    with pytest.raises(DataError, match=f"feats.{suffix}' exists; pass `overwrite=True`"):
        enter(paths, Output(resume=True))
    enter(paths, Output(overwrite=True))
    enter(paths, Output(update=True))
    assert older.read_text() == "older"  # until the new set is whole


def test_an_unfinished_set_is_gone_on_with_or_discarded(tmp_path):
    paths = feature_paths(tmp_path / "feats.npy")
    writer = FeatureWriter(paths, job={"images": 1}, labelled=False)
    writer.append(np.ones((1, 4), np.float32), [TableRow("a.png", IMAGE)], [], images=1)
    writer.close()
    with pytest.raises(DataError, match="holds an unfinished set; pass `resume=True`"):
        enter(paths, Output())
    enter(paths, Output(resume=True))
    assert paths.partial.is_dir()
    enter(paths, Output(overwrite=True))
    assert not paths.partial.exists()
