"""dino-demo on the command line; what it serves is tested in tests/browser."""

import socket
import subprocess
import sys

import pytest

from dino_app.cli.demo import main


def run(capsys, *args):
    code = main([str(arg) for arg in args])
    return code, capsys.readouterr().err


def test_other_machines_need_a_key(capsys):
    code, stderr = run(capsys, "--host", "0.0.0.0")
    assert code == 2 and "--host 0.0.0.0 is reachable from other machines" in stderr


def test_a_short_key_is_refused(capsys, tmp_path):
    (tmp_path / "keys").write_text("1234\n")
    code, stderr = run(capsys, "--api-key-file", tmp_path / "keys")
    assert code == 2 and "at least 16 letters" in stderr


def test_a_taken_port_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, stderr = run(capsys, "--port", taken.getsockname()[1])
    assert code == 1 and stderr.count("\n") == 1 and "pass another --port" in stderr


def test_missing_weights_are_one_line(capsys, tmp_path):
    code, stderr = run(capsys, "--weights", tmp_path / "gone.safetensors", "--port", 0)
    assert code == 1 and "gone.safetensors" in stderr and "Traceback" not in stderr


@pytest.mark.parametrize("package", ["gradio", "uvicorn"])
def test_a_missing_package_is_named_with_its_extra(package):
    start = (
        f"import sys; sys.modules[{package!r}] = None; from dino_app.cli.demo import main; "
        "sys.exit(main(['--port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"dino-demo needs {package}; install it with: pip install 'dino-toolkit[app]'" in (
        done.stderr
    )


def test_help_is_quick_because_it_loads_no_network():
    start = (
        "import sys\nfrom dino_app.cli.demo import main\nmain(['--help'])\n"
        "print(sorted({'torch', 'gradio', 'timm', 'fastapi'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("[]") and "--weights" in done.stdout
