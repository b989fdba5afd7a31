"""Makes the picture of MLflow's run list in the documentation, from real runs, in a real browser.

    kdflow run baseline fitnet defeat pkd dkd mgd --bench shapes-faster-rcnn --steps 100
    python docs/screenshots.py --runs kdflow-runs

It starts ``mlflow server`` on the store of these runs, opens the list of one bench filtered by a taxonomy tag in Chromium, and
writes ``docs/mlflow-runs.png``. Needs chromium (apt-get install chromium).
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from kdflow.folders import runs_folder
from kdflow.tracking.store import open_client

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LARGEST = 300_000


@contextmanager
def mlflow_server(runs: Path) -> Iterator[str]:
    """The web page of the store in a folder of runs, on this machine only."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = f"sqlite:///{(runs / 'mlflow.db').absolute()}"
    words = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri", store]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words, env=environment, start_new_session=True, **silent)
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def picture(address: str, file: Path, size: tuple[int, int], wait: int) -> None:
    """A picture of a page once it has settled, small enough for the documentation."""
    browser = next((place for name in BROWSERS if (place := shutil.which(name))), None)
    if browser is None:
        raise SystemExit("no browser: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        words = [
            browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}", f"--virtual-time-budget={wait}", f"--screenshot={file}", address,
        ]
        subprocess.run(words, check=True, capture_output=True, timeout=600)
    Image.open(file).convert("RGB").quantize(128).save(file, optimize=True)
    if file.stat().st_size > LARGEST:
        raise SystemExit(f"{file} has {file.stat().st_size} bytes, more than {LARGEST}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=runs_folder())
    parser.add_argument("--bench", default="shapes-faster-rcnn")
    parser.add_argument("--tag", default="node.cnn/neck", help="taxonomy tag that the list is filtered by")
    parser.add_argument("--file", type=Path, default=HERE / "mlflow-runs.png")
    parser.add_argument("--wait", type=int, default=60_000, help="milliseconds for the page to settle")
    options = parser.parse_args()
    found = open_client(f"sqlite:///{(options.runs / 'mlflow.db').absolute()}").get_experiment_by_name(options.bench)
    if found is None:
        raise SystemExit(f"{options.runs} has no runs of {options.bench}")
    condition = quote(f"tags.`{options.tag}` = 'true'")
    with mlflow_server(options.runs) as address:
        page = f"{address}/#/experiments/{found.experiment_id}/runs?searchFilter={condition}"
        picture(page, options.file, (1500, 700), options.wait)
    print(options.file)


if __name__ == "__main__":
    main()
