"""A real PostgreSQL server of its own, in a folder of its own, for as long as a test runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

USER = "kdflow"


def programs() -> Path:
    """Folder of ``initdb`` and ``postgres``; raises with the command that installs them where there are none."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    found = [*installed, *(Path(place) for place in [shutil.which("initdb")] if place)]
    if not found:
        raise RuntimeError("this check needs a PostgreSQL server: apt-get install postgresql")
    return found[0].parent


@contextmanager
def server() -> Iterator[str]:
    """Start a server; gives the URL of an empty database, and removes the server and its files at the end."""
    with TemporaryDirectory(prefix="kdflow-postgres-") as folder, _running(Path(folder), _free_port()) as url:
        yield url


@contextmanager
def _running(folder: Path, port: int) -> Iterator[str]:
    """PostgreSQL refuses to run as root; where the tests do, the server runs as ``nobody``."""
    place, data = programs(), folder / "data"
    who = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
    data.mkdir()
    if who:
        folder.chmod(0o755)
        shutil.chown(data, **who)
    words = [str(place / "initdb"), "-D", str(data), "-U", USER, "--auth=trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(words, check=True, capture_output=True, cwd="/", **who)
    settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
    options = ["-D", str(data), "-p", str(port), *(word for setting in settings for word in ("-c", setting))]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(place / "postgres"), *options], stdout=log, stderr=log, cwd="/", **who)
    try:
        _wait(port, process, folder / "log")
        yield f"postgresql+psycopg://{USER}@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # "fast": does not wait for connections that are still open
        process.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    for _ in range(200):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
        try:
            psycopg.connect(host="127.0.0.1", port=port, user=USER, dbname="postgres").close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise RuntimeError("the server does not answer")
