"""Addresses of stores: SQLite files in folders of any name, and servers that answer or do not."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from kdflow.errors import KdflowError, without_passwords

PORTS = {"http": 80, "https": 443, "postgresql": 5432, "postgres": 5432, "mysql": 3306, "mssql": 1433}
PATIENCE = 5.0
"""Seconds until a server that says nothing counts as one that does not answer."""
_PLAIN, _SPECIAL = "sqlite:///", "sqlite+pysqlite:///"


def sqlite_url(file: Path) -> str:
    """The address of a SQLite file, whatever characters the names of its folders hold."""
    place = str(file.absolute())
    if not set(place) & set("?#%"):
        return f"{_PLAIN}{place}"
    from sqlalchemy.engine import URL, make_url

    # With the driver's name MLflow leaves the folder alone, which it would make under the encoded name.
    url = URL.create("sqlite+pysqlite", database=place).render_as_string(hide_password=False)
    if make_url(url).database == place:
        return url
    # An SQLAlchemy that does not decode paths: SQLite itself does.
    encoded = URL.create("sqlite+pysqlite", database=f"file:{quote(place)}", query={"uri": "true"})
    return encoded.render_as_string(hide_password=False)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite address, None for every other store and for one in memory."""
    start = next((start for start in (_PLAIN, _SPECIAL) if url.startswith(start)), None)
    if start is None:
        return None
    path: str | None = url.removeprefix(start)
    if set(path or "") & set("?%"):
        from sqlalchemy.engine import make_url

        path = make_url(url).database
    if path and path.startswith("file:"):
        path = unquote(path.removeprefix("file:"))
    return Path(path) if path and path != ":memory:" else None


def require_answer(url: str, what: str) -> None:
    """Raise KdflowError where a store on a server does not answer within seconds; files are not asked.

    Args:
        url: Address of the store.
        what: Its name in the message.
    """
    os.environ.setdefault("PGCONNECT_TIMEOUT", "10")  # drivers wait for minutes unless they are told otherwise
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise KdflowError(f"{what} {url} is no address: {error}") from None
    scheme = parts.scheme.partition("+")[0]
    if scheme not in PORTS or not host:
        return
    problem = _within(PATIENCE, lambda: _ask(url) if scheme.startswith("http") else _connect(host, port or PORTS[scheme]))
    if problem:
        raise KdflowError(
            f"{what} {url} cannot be opened: {problem}. Next: start it, mend the address, or name another one"
        )


def _within(seconds: float, work: Callable[[], None]) -> str:
    """What goes wrong with ``work``, or that it takes longer: name look-ups and slow answers have no timeout of their own."""
    found: list[str] = []

    def attempt() -> None:
        try:
            work()
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            found.append("" if isinstance(reason, TimeoutError) else without_passwords(str(reason) or type(reason).__name__))
        else:
            found.append("good")

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    outcome = found[0] if found else ""
    return "" if outcome == "good" else outcome or f"it does not answer within {seconds:.0f} seconds"


def _connect(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=PATIENCE).close()


def _ask(url: str) -> None:
    """Any answer of an HTTP server will do, a refusal or a certificate of its own too."""
    request = urllib.request.Request(f"{url.rstrip('/')}/health", headers={"User-Agent": "kdflow"})
    try:
        urllib.request.urlopen(request, timeout=PATIENCE).close()
    except urllib.error.HTTPError as refusal:
        refusal.close()
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):
            raise
