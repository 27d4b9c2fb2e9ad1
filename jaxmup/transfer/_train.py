"""Training the cells of a search: program by program, group by group, each recorded at once."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import jax

from jaxmup.transfer._config import Config
from jaxmup.transfer._experiment import Networks, identity, require_models
from jaxmup.transfer._hosts import exchanged, is_mine
from jaxmup.transfer._network import network
from jaxmup.transfer._progress import Progress
from jaxmup.transfer._search import Cell, search
from jaxmup.transfer._store import Store, key_of, open_store
from jaxmup.transfer._sweep import group_of, keys_of, program_of, trainer
from jaxmup.transfer._task import Task, replayable, require_arrays
from jaxmup.transfer._trial import Trial


def train_all(
    task: Task,
    config: Config,
    progress: Callable[[Progress], None],
    directory: str | os.PathLike[str] | None,
) -> list[Trial]:
    """Every trial of a configuration; see `jaxmup.transfer.measure`."""
    require_arrays(task.evaluation, "evaluation")
    task = dataclasses.replace(task, batches=replayable(task.batches))
    networks = functools.cache(lambda cell: network(task, config, cell))
    require_models(config, networks)
    with contextlib.ExitStack() as stack:
        store = Store()
        if directory is not None:
            facts = identity(task, config, networks)
            store = stack.enter_context(open_store(directory, facts, jax.process_index()))
        return search(config, lambda cells: train(task, config, cells, store, progress, networks))


def train(
    task: Task,
    config: Config,
    cells: Sequence[Cell],
    store: Store,
    progress: Callable[[Progress], None] = lambda _: None,
    networks: Networks | None = None,
) -> list[Trial]:
    """The trials of some cells, in their order.

    Those that the store knows are not trained again. A group of runs is always trained as a whole,
    so that a run has the same bits whichever of its neighbors are known.
    """
    # Cells that differ in numbers alone are trained by one program, which is compiled once.
    sharing: dict[Cell, list[Cell]] = {}
    for cell in cells:
        sharing.setdefault(program_of(config, cell), []).append(cell)
    made = {at: networks(at) if networks else network(task, config, at) for at in sharing}
    keys = {at: keys_of(config, sharing[at]) for at in sharing}
    work = {
        at: net.num_parameters * config.of("steps", dict(at.setting)) for at, net in made.items()
    }
    done, total = 0, sum(work[at] * len(keys[at]) for at in sharing)
    for turn, at in enumerate(sharing):
        progress(Progress(done, total, at.parametrization, at.width))
        if any(key not in store.known for key in keys[at]):
            size, train_group = trainer(task, config, at, made[at], len(keys[at]))
            for i, start in enumerate(range(0, len(keys[at]), size)):
                group = keys[at][start : start + size]
                # Programs begin their turns one process later each, so that the first process does
                # not have a group more of every program.
                if is_mine(turn + i) and any(key not in store.known for key in group):
                    store.append(train_group(group_of(config, group)))
                at_end = done + work[at] * (start + len(group))
                progress(Progress(at_end, total, at.parametrization, at.width))
        done += work[at] * len(keys[at])
    progress(Progress(total, total))
    wanted = [key for cell in cells for key in keys_of(config, [cell])]
    known = {key_of(t): t for t in exchanged(store.known[k] for k in wanted if k in store.known)}
    return [known[key] for key in wanted]
