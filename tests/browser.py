"""A real browser for tests that look at a page: Chromium, without a window."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Browser:
    """Chromium in its headless mode; raises with the command that installs it where there is none.

    Args:
        profile: Folder of its own, so that no other session of the user is touched.
    """

    def __init__(self, profile: Path) -> None:
        found = next((place for name in NAMES if (place := shutil.which(name))), None)
        if found is None:
            raise RuntimeError(f"this check needs a browser ({', '.join(NAMES)}): apt-get install chromium")
        self.command = [
            found, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync",
            "--disable-background-networking", f"--user-data-dir={profile}", "--force-device-scale-factor=1",
        ]

    def dom(self, address: str, *options: str) -> str:
        """The document as the browser holds it, after its scripts have run."""
        return self._run(["--dump-dom", *options, address]).stdout

    def log(self, address: str) -> list[str]:
        """What the page wrote to the console: faults, refused loads."""
        lines = self._run(["--dump-dom", "--enable-logging=stderr", "--v=0", address]).stderr.splitlines()
        return [line for line in lines if "CONSOLE" in line]

    def picture(self, address: str, file: Path, width: int = 1200, height: int = 1600, *options: str) -> Path:
        """A PNG of the window."""
        self._run([f"--window-size={width},{height}", f"--screenshot={file}", *options, address])
        return file

    def pdf(self, address: str, file: Path) -> Path:
        """The page as it is printed."""
        self._run([f"--print-to-pdf={file}", "--no-pdf-header-footer", address])
        return file

    def _run(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*self.command, *words], capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"the browser ended with {done.returncode}: {done.stderr[-2000:]}")
        return done
