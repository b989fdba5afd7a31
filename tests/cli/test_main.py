"""Exit codes, messages, and a start that loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kdflow.errors import InvariantError, UsageError

HEAVY = ("torch", "torchvision", "transformers", "timm", "mlflow", "optuna", "lightning_fabric", "numpy", "networkx")


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom kdflow.cli.main import main\ncode = main(['--help'])\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert code == 0, code\nassert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "explain" in done.stdout


def test_importing_kdflow_loads_nothing_heavy():
    code = (
        f"import sys, kdflow\nassert not [name for name in {HEAVY!r} if name in sys.modules]\nassert kdflow.__version__"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_listing_ops_loads_no_library_of_detectors():
    heavy = ("torchvision", "transformers", "timm", "mlflow", "optuna", "lightning_fabric")
    code = (
        "import sys\nfrom kdflow.cli.main import main\ncode = main(['ops'])\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\n"
        "assert code == 0, code\nassert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "loss.squared_error" in done.stdout


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "kdflow", "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.startswith("kdflow ")) == (0, True), done.stderr


def test_version(call):
    assert call("--version").out.startswith("kdflow 0.")


@pytest.mark.parametrize(
    "words", [["nonsense"], ["run"], ["run", "defeat", "--nonsense"], ["run", "defeat", "--steps", "0"], ["data"]]
)
def test_wrong_usage_is_a_mistake_told_on_stderr(call, words):
    done = call(*words)
    assert done.code == 2
    assert done.err
    assert "Traceback" not in done.err


def test_a_mistake_is_one_message_without_traceback(call):
    done = call("explain", "no-such-method")
    assert done.code == 2
    assert done.out == ""
    assert 'no method "no-such-method"' in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("error", "code"), [(UsageError("wrong"), 2), (InvariantError("kd/neck", "is always 0"), 1)])
def test_errors_of_kdflow_have_their_exit_code(call, monkeypatch, error, code):
    monkeypatch.setattr("kdflow.experiment.reading.read_method", _raising(error))
    done = call("explain", "defeat")
    assert (done.code, done.err.strip()) == (code, str(error))


def test_an_unexpected_error_is_one_line_that_says_how_to_see_more(call, monkeypatch):
    monkeypatch.setattr("kdflow.experiment.reading.read_method", _raising(ZeroDivisionError("division by zero")))
    done = call("explain", "defeat")
    assert done.code == 1
    assert done.err.strip() == "kdflow failed: ZeroDivisionError: division by zero (KDFLOW_TRACEBACK=1 shows where)"


def test_traceback_on_request(call, monkeypatch):
    monkeypatch.setenv("KDFLOW_TRACEBACK", "1")
    monkeypatch.setattr("kdflow.experiment.reading.read_method", _raising(ZeroDivisionError("division by zero")))
    done = call("explain", "defeat")
    assert done.code == 1
    assert "Traceback (most recent call last)" in done.err


def _raising(error: Exception):
    def fail(*_arguments, **_options):
        raise error

    return fail
