"""Write requirements.lock from pyproject.toml:  python tools/lock.py [--upgrade]

One lock serves every platform and every Python from 3.11 on. It holds digests and no
addresses: any mirror may serve the files, none may change them.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(argv: list[str]) -> int:
    command = ["uv", "pip", "compile", "pyproject.toml", "-o", "requirements.lock", "--quiet"]
    command += ["--all-extras", "--universal", "--python-version", "3.11", "--generate-hashes"]
    command += ["--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    command += ["--custom-compile-command", "python tools/lock.py"]
    done = subprocess.call([sys.executable, "-m", *command, *argv], cwd=ROOT)
    if done == 0 and "://" in (ROOT / "requirements.lock").read_text():
        sys.exit("requirements.lock names an address; it is not to be committed like this")
    return done


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
