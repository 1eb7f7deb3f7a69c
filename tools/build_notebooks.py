"""Execute the notebooks and write them back, still pictures and all:

    python tools/build_notebooks.py [03_detach ...]

What is committed has to read well where nothing runs (a forge's page, a phone) and to change
only when the lesson changes. So a panel is replaced by the picture it carries, and whatever
differs from run to run (times, model ids, the drawing library's signature) is left out: on
one machine two builds give the same bytes.
"""

from __future__ import annotations

import base64
import os
import re
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
VIEW, STATE = (
    "application/vnd.jupyter.widget-view+json",
    "application/vnd.jupyter.widget-state+json",
)
PANEL = "(an interactive panel: run this notebook to use it)"

# A warning in a lesson is an error, except in the machinery that carries the lesson.
STARTUP = """
import warnings
warnings.simplefilter("error")
for machinery in ("ipykernel", "IPython", "jupyter_client", "tornado", "traitlets", "zmq"):
    warnings.filterwarnings("default", module=machinery)
"""


def run(notebook: NotebookNode) -> NotebookNode:
    """The notebook after all its cells have run, in order, in a kernel of its own.

    The state of its widgets is kept, so that what went wrong inside a callback can be seen.
    """
    import matplotlib.font_manager  # noqa: F401  # made once, slowly, and it talks about it

    with tempfile.TemporaryDirectory(prefix="nb") as home:
        startup = Path(home, "profile_default", "startup")
        startup.mkdir(parents=True)
        (startup / "strict.py").write_text(STARTUP)
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=120,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(ROOT / "notebooks")}},
        )
        kernel = client.create_kernel_manager()
        if os.name != "nt":
            kernel.transport = "ipc"
            kernel.connection_file = os.path.join(home, "kernel.json")
        env = {**os.environ, "IPYTHONDIR": home, "PYTHONHASHSEED": "0"}
        return client.execute(env=env)


def still(notebook: NotebookNode) -> NotebookNode:
    """What of an executed notebook is committed. Changes the notebook and returns it."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3 (ipykernel)",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        for output in cell.get("outputs", []):
            _still_output(output)
    return notebook


def _still_output(output: NotebookNode) -> None:
    data = output.get("data", {})
    if data.pop(VIEW, None) is not None:
        data["text/plain"] = PANEL
    if "image/png" in data:
        data["image/png"] = _unsigned(data["image/png"])
    if "text/html" in data:
        data["text/html"] = re.sub(
            r"(?<=data:image/png;base64,)[A-Za-z0-9+/=]+",
            lambda m: _unsigned(m[0]),
            data["text/html"],
        )


def _unsigned(png: str) -> str:
    """A PNG without its text chunks, which name the library's version; base64 in and out."""
    raw = base64.b64decode(png)
    kept, at = [raw[:8]], 8
    while at < len(raw):
        size, kind = struct.unpack_from(">I4s", raw, at)
        end = at + 12 + size  # length, kind and checksum take 12 bytes
        if kind not in (b"tEXt", b"iTXt", b"zTXt", b"tIME"):
            kept.append(raw[at:end])
        at = end
    return base64.b64encode(b"".join(kept)).decode()


def hidden_errors(notebook: NotebookNode) -> list[Any]:
    """What went wrong inside widgets: a callback's error does not stop the cell that made it."""
    widgets = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    return [
        output
        for model in widgets.values()
        for output in model.get("state", {}).get("outputs", ())
        if output.get("output_type") == "error" or output.get("name") == "stderr"
    ]


def main(names: list[str]) -> int:
    wanted = [path for path in NOTEBOOKS if not names or path.stem in names]
    if names and len(wanted) != len(names):
        sys.exit(f"the notebooks are: {', '.join(path.stem for path in NOTEBOOKS)}")
    for path in wanted:
        began, before = time.monotonic(), path.read_bytes()
        notebook = run(nbformat.read(path, as_version=4))
        if bad := hidden_errors(notebook):
            sys.exit(f"{path.name}: an error inside a widget: {bad[0]}")
        nbformat.write(still(notebook), path)
        what = "the same" if path.read_bytes() == before else "changed"
        print(f"{path.name}: {what}, {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
