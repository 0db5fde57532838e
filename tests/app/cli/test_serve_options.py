"""Flags of dino-serve that are refused before anything starts."""

from dino_app.cli.serve import main


def test_a_size_of_zero_is_refused_and_does_not_mean_that_of_the_index(capsys):
    assert main(["--size", "0"]) == 2
    assert "--size must be at least 1, got 0" in capsys.readouterr().err


def test_a_file_of_keys_without_keys_is_told_by_its_flag(capsys):
    assert main(["--api-key-file", "/dev/null"]) == 2
    assert "--api-key-file '/dev/null' holds no key" in capsys.readouterr().err
