"""Records of accuracy after equal time: runs of seeds, and when one beats another."""

import json
import math
import sys
from pathlib import Path

import pytest

RECORDS = Path(__file__).parents[1] / "benchmarks" / "records"


@pytest.fixture
def record(monkeypatch):
    monkeypatch.syspath_prepend(RECORDS)
    import record

    return record


def results(folder, values):
    folder.mkdir(parents=True)
    lines = [json.dumps({"seed": i, "k20_top1_percent": v}) for i, v in enumerate(values)]
    (folder / "results.jsonl").write_text("\n".join(lines))


def test_a_lead_beyond_the_spread_of_seeds_is_a_record(record, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "HERE", tmp_path)
    results(tmp_path / "cpu-10" / "standing", [50.0, 50.4, 49.6])
    results(tmp_path / "cpu-10" / "better", [60.1, 59.7, 60.4])
    results(tmp_path / "cpu-10" / "level", [50.2, 50.9, 49.8])
    assert record.main(["compare", "cpu-10/better", "cpu-10/standing"]) == 0
    assert "mean 60.07" in capsys.readouterr().out
    assert record.main(["compare", "cpu-10/level", "cpu-10/standing"]) == 1
    assert record.main(["compare", "cpu-10/standing", "cpu-10/better"]) == 1
    assert "no record" in capsys.readouterr().out


def test_the_p_value_is_that_of_welchs_test(record):
    # Two seeds a side of equal spread: t has 2 degrees of freedom, whose distribution is closed.
    new, standing = [52.0, 54.0], [50.0, 52.0]
    t = 2.0 / math.sqrt(2.0 / 2 + 2.0 / 2)
    assert record.p_value(new, standing) == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t**2)))
    with pytest.raises(ValueError, match="two seeds or more, got 1 and 2"):
        record.p_value([52.0], standing)


def test_a_seed_is_trained_timed_and_measured(record, tmp_path, monkeypatch, image_folder):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setattr(record, "HERE", tmp_path)
    monkeypatch.setattr(record, "commit", lambda: "abc1234")
    for split in ("train", "val"):
        image_folder(f"data/{split}", count=12)
    folder = tmp_path / "cpu-10" / "tiny"
    folder.mkdir(parents=True)
    (folder / "flags.txt").write_text(
        "# a comment\n--model.arch vit_micro --model.patch-size 8 --crops.global-crops-size 32\n"
        "--crops.local-crops-number 0 --optim.epochs 1 --optim.batch-size 4 --workers 0"
    )
    data = str(tmp_path / "data")
    assert record.main(["run", "cpu-10/tiny", "--data", data, "--seeds", "3"]) == 0
    line = json.loads((folder / "results.jsonl").read_text())
    assert line["seed"] == 3 and line["images"] == 12 and line["commit"] == "abc1234"
    assert line["cpu_s"] > 0 and 0 <= line["k20_top1_percent"] <= 100
    assert (folder / "seed_3.jsonl").read_text().count("\n") >= 1
    monkeypatch.setitem(record.TRACKS, "cpu-10", record.Track(minutes=1e-4, threads=1))
    assert record.main(["run", "cpu-10/tiny", "--data", data, "--seeds", "4"]) == 1
