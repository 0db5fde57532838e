"""The recipe of the container: what a linter and the compose file can tell without Docker."""

import subprocess
import sys
from pathlib import Path

import yaml

from dino_app.cli.serve_options import with_environment

APP = Path(__file__).resolve().parents[3] / "app"


def test_the_linter_finds_nothing_in_the_dockerfile():
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, APP / "Dockerfile"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_what_the_dockerfile_copies_exists_and_is_not_ignored():
    copied = [
        name
        for line in (APP / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY") and "--from" not in line
        for name in line.split()[1:-1]
    ]
    kept = [
        line[1:] for line in (APP / "Dockerfile.dockerignore").read_text().split() if line[0] == "!"
    ]
    assert sorted(copied) == sorted(kept)
    assert all((APP.parent / name).exists() for name in copied)


def test_the_composed_server_is_locked_down_and_its_variables_are_flags():
    composed = yaml.safe_load((APP / "compose.yaml").read_text())
    server = composed["services"]["dino"]
    assert server["read_only"] and server["cap_drop"] == ["ALL"] and "privileged" not in server
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    assert (APP / server["build"]["context"] / server["build"]["dockerfile"]).exists()
    variables = dict(server["environment"])
    assert variables.pop("DINO_INDEX")
    assert len(with_environment([], variables)) == 2 * len(variables)
    stop_s, notice_s = int(server["stop_grace_period"][:-1]), int(variables["DINO_DRAIN_NOTICE_S"])
    assert stop_s > notice_s + 30, "Docker would kill the server while it drains"
