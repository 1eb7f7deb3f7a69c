"""Write environment.yml (conda, Binder) from pyproject.toml:  python tools/sync_env.py

The lessons' extras are in it, the tests' are not. conda reads a version's bounds as pip does,
but knows no markers: what pip must leave out on some platforms conda has for all.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("speed", "scale")
# What conda-forge calls by another name.
CONDA = {"duckdb": "python-duckdb", "matplotlib": "matplotlib-base"}


def render() -> str:
    """The text of environment.yml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    wanted = sorted(map(Requirement, [*project["dependencies"], *extras]), key=lambda r: r.name)
    if odd := [str(r) for r in wanted if r.extras or r.url]:
        raise ValueError(f"conda has neither extras nor addresses: {', '.join(odd)}")
    names = {r.name: CONDA.get(r.name, r.name) for r in wanted}
    lines = [
        "# Written by tools/sync_env.py from pyproject.toml; change that one.",
        f"name: {project['name']}",
        "channels:",
        "  - conda-forge",
        "  - nodefaults",
        "dependencies:",
        f'  - "python {project["requires-python"]}"',
        *(f'  - "{names[r.name]} {r.specifier}"' for r in wanted),
        "  - pip",
        "  - pip:",
        "      - -e .",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "environment.yml").write_text(render())
