"""Commands in a process of their own, which sees what they open and start."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jaxmup

ROOT = str(Path(jaxmup.__file__).parents[1])
ENVIRONMENT = os.environ | {"PYTHONPATH": ROOT, "JAX_PLATFORMS": "cpu", "COLUMNS": "100"}
WATCHING = """
import sys
import matplotlib.font_manager  # which asks the system for its fonts, once for all of a user's runs
from jaxmup import cli

seen = []
LOUD = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn",
        "urllib.", "http.", "ftplib.", "smtplib.")
sys.addaudithook(lambda event, args: seen.append((event, args)) if event.startswith(LOUD) else None)
code = cli.run(sys.argv[1:])
assert not seen, seen
print(code)
"""


def watched(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command of jaxmup in a folder; what opens a socket or starts a process ends in error.

    The last line that it prints is its exit code.
    """
    return subprocess.run(
        [sys.executable, "-B", "-c", WATCHING, *command],
        env=ENVIRONMENT,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
