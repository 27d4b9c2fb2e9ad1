"""Executes the notebooks from top to bottom and fails on the first cell that raises.

Run it with `--write` to store the outputs in the notebooks, as they are committed.
"""

import argparse
import pathlib
import time

import nbformat
from nbclient import NotebookClient


def main() -> None:
    """Executes the notebooks named on the command line, or all of this folder."""
    here = pathlib.Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=pathlib.Path, default=sorted(here.glob("*.ipynb")))
    parser.add_argument("--write", action="store_true", help="store the outputs")
    arguments = parser.parse_args()
    for path in arguments.paths:
        start = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": here}})
        client.extra_arguments = ["--log-level=ERROR"]  # of the kernel: its warnings are no output
        client.execute()
        if arguments.write:
            for cell in notebook.cells:
                cell.metadata.pop("execution", None)  # time stamps would differ in every run
            nbformat.write(notebook, path)
        print(f"{path.name}: executed in {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
