"""How is JupyterLab started, for a reader, for the doctor and for the tests?

Always on loopback and always with its token. Kernels talk over sockets in Jupyter's own
folder: the other way, TCP, is open to every user of the machine and warns at each start.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen


def options(root: Path, first: str, runtime: Path) -> list[str]:
    """JupyterLab's command line for the lessons in `root`, opened at `first`.

    `runtime` is where Jupyter will keep its sockets.
    """
    chosen = [f"--ServerApp.root_dir={root}", f"--LabApp.default_url=/lab/tree/{first}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        chosen.append("--allow-root")  # a container; Jupyter would refuse to start
    if _sockets_fit(runtime):
        chosen.append("--KernelManager.transport=ipc")
    return chosen


def _sockets_fit(runtime: Path) -> bool:
    """Whether the system has such sockets, and takes a path as long as theirs will be."""
    import zmq

    longest = runtime / f"kernel-{'0' * 36}-ipc-5"
    return os.name != "nt" and len(os.fsencode(longest)) <= zmq.IPC_PATH_MAX_LEN


class Server(NamedTuple):
    """A JupyterLab that answers."""

    url: str  # ends in a slash
    token: str

    def ask(
        self, path: str, body: Mapping[str, Any] | None = None, method: str | None = None
    ) -> Any:
        """Jupyter's answer at `path`; with a body, the answer to having posted it."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"token {self.token}"}
        request = Request(self.url + path, data, headers, method=method)
        with urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "null")


@contextmanager
def jupyterlab(root: Path, *more: str, patience: float = 120) -> Iterator[Server]:
    """A JupyterLab of its own: no settings of the user leak in, nothing leaks out.

    Raises RuntimeError with the server's own words when it does not answer within
    `patience` seconds.
    """
    # Not pytest's long folder names: the kernels' sockets must fit into 107 bytes.
    with tempfile.TemporaryDirectory(prefix="lab") as home_name:
        home, token = Path(home_name), secrets.token_hex(24)
        env = {
            **os.environ,
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home),
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0"]
        command += [*options(root, "", home), f"--IdentityProvider.token={token}", *more]
        log = home / "log"
        with log.open("wb") as out, open(os.devnull, "rb") as nothing:
            process = subprocess.Popen(command, env=env, stdin=nothing, stdout=out, stderr=out)
        try:
            yield _answering(process, home, token, log, time.monotonic() + patience)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answering(
    process: subprocess.Popen[bytes], runtime: Path, token: str, log: Path, until: float
) -> Server:
    """The server, once it has written down its port and answers there."""
    card = runtime / f"jpserver-{process.pid}.json"
    while process.poll() is None and time.monotonic() < until:
        try:
            server = Server(json.loads(card.read_text())["url"], token)
            server.ask("api/status")
        except (OSError, ValueError):  # no file yet, half a file, or nobody listening yet
            time.sleep(0.1)
        else:
            return server
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-4000:]}")
