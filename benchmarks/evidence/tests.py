"""The part ``tests``: tests that need a browser, a server or minutes."""

from __future__ import annotations

import subprocess
import sys


def prove() -> bool:
    """True when every test marked ``slow`` passes."""
    return subprocess.run([sys.executable, "-m", "pytest", "-m", "slow", "-p", "no:xdist"], check=False).returncode == 0
