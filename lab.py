#!/usr/bin/env python3
"""Sets iommu_lab up and opens it. All it needs is Python 3.11 or newer, pip and venv.

    python3 lab.py                 set up (once) and open JupyterLab on the first notebook
    python3 lab.py --no-browser    the same, but print the address to open
    python3 lab.py test            set up (once) and run all tests; what follows goes to pytest
    python3 lab.py setup           set up, and no more

Any other word is a command of iommu-lab (`python3 lab.py doctor`, `python3 lab.py --help`).

Everything goes into one folder, .venv beside this file; delete it to start over. Every package
is the one whose digest stands in requirements.lock. IOMMU_LAB_VENV puts the folder elsewhere,
IOMMU_LAB_INSTALLER=pip leaves out uv, which is only there because it is faster.
"""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit(
        f"iommu_lab needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}."
        "\nTry a newer one by name, for example:  python3.12 lab.py"
    )

import venv

HERE = Path(__file__).resolve().parent
VENV = Path(os.environ.get("IOMMU_LAB_VENV") or HERE / ".venv").absolute()
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
LOCK = HERE / "requirements.lock"


def main(argv):
    word = argv[0] if argv else "lab"
    if word in ("-h", "--help"):
        print(__doc__)
        return
    set_up()
    if word == "setup":
        return
    if word == "test":
        os.chdir(HERE)
        become("-m", "pytest", *argv[1:])
    elif word.startswith("-") and word != "--version":
        become("-m", "iommu_lab", "lab", *argv)
    else:
        become("-m", "iommu_lab", word, *argv[1:])


def set_up():
    """Make the folder, unless one made from the same lock by the same Python is there."""
    stamp, want = VENV / "iommu_lab.stamp", fingerprint()
    if stamp.is_file() and stamp.read_text() == want:
        return
    print(f"Setting up {VENV} (once; about 1.3 GB, a minute or two) ...", flush=True)
    make_venv()
    install_packages()
    stamp.write_text(want)


def fingerprint():
    made_from = [LOCK.read_bytes(), (HERE / "pyproject.toml").read_bytes(), sys.version.encode()]
    return hashlib.sha256(b"\0".join([*made_from, str(HERE).encode()])).hexdigest()


def make_venv():
    if VENV.exists() and any(VENV.iterdir()) and not (VENV / "pyvenv.cfg").is_file():
        sys.exit(f"{VENV} holds something else; it will not be overwritten. Name another folder.")
    try:
        venv.create(VENV, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(
            f"No virtual environment could be made in {VENV}: {error}\n"
            "On Debian and Ubuntu, `apt install python3-venv` brings what is missing."
        )


def install_packages():
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    uv = [PYTHON, "-m", "uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", PYTHON]
    locked = ["--require-hashes", "-r", LOCK]
    fast = os.environ.get("IOMMU_LAB_INSTALLER") != "pip"
    if not (fast and runs(*pip, "--require-hashes", "-r", lock_of_uv()) and runs(*uv, *locked)):
        print("Installing with pip ...", flush=True)
        if subprocess.call([*pip, *locked]) != 0:
            sys.exit(
                "The packages could not be installed; pip says why above.\n"
                "Run the same command again when that is mended."
            )
    # The build tool is among the locked packages, so building ourselves fetches nothing more.
    subprocess.check_call([*pip, "--no-build-isolation", "--no-deps", "--editable", HERE])


def lock_of_uv():
    """The lines of the lock that speak of uv, as a file of their own."""
    alone = VENV / "requirements-uv.lock"
    alone.write_text(re.search(r"(?m)^uv==.*(\n +--hash=.*)+", LOCK.read_text())[0])
    return alone


def runs(*command):
    """Whether a command succeeds. It stays quiet, since pip is tried next."""
    return subprocess.run(command, capture_output=True).returncode == 0


def become(*arguments):
    """Go on as the Python that was set up: it gets the keyboard, Ctrl-C and the exit status."""
    command = [str(PYTHON), *arguments]
    if os.name == "nt":
        try:
            sys.exit(subprocess.call(command))
        except KeyboardInterrupt:
            sys.exit(130)
    sys.stdout.flush()
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
