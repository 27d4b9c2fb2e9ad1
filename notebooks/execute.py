"""Executes the notebooks from top to bottom and fails on the first cell that raises.

Several run at a time, one for each core. Run it with `--write` to store the outputs in the
notebooks, as they are committed.
"""

import argparse
import functools
import os
import pathlib
import time
from concurrent.futures import ThreadPoolExecutor

import nbformat
from nbclient import NotebookClient


def execute(path: pathlib.Path, write: bool) -> str:
    """Executes a notebook in a process of its own, and says how long it took."""
    start = time.perf_counter()
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": pathlib.Path(__file__).parent}}
    client = NotebookClient(notebook, timeout=600, resources=resources)
    client.extra_arguments = ["--log-level=ERROR"]  # of the kernel: its warnings are no output
    client.execute()
    if write:
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # time stamps would differ in every run
        nbformat.write(notebook, path)
    return f"{path.name}: executed in {time.perf_counter() - start:.0f} s"


def main() -> None:
    """Executes the notebooks named on the command line, or all of this folder."""
    here = pathlib.Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=pathlib.Path, default=sorted(here.glob("*.ipynb")))
    parser.add_argument("--write", action="store_true", help="store the outputs")
    arguments = parser.parse_args()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for line in pool.map(functools.partial(execute, write=arguments.write), arguments.paths):
            print(line, flush=True)


if __name__ == "__main__":
    main()
