"""One function on every core: tasks in, results out in the same order, a few at a time, so that memory stays flat.

Workers are forked, so that what is loaded is shared: the process that asks must run no threads of its own.
"""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

FEW = 4  # with fewer tasks than this, starting workers takes longer than the work


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def ordered(function: Callable[[Any], Any], tasks: Iterable[Any], workers: int) -> Iterator[Any]:
    """`function(task)` of each task, in order; on `workers` cores where there are more than a few tasks."""
    coming = iter(tasks)
    first = list(itertools.islice(coming, FEW))
    if workers == 1 or len(first) < FEW:
        yield from map(function, itertools.chain(first, coming))
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(function,))
    try:
        pending: deque[Future[Any]] = deque()
        for task in itertools.chain(first, coming):
            pending.append(pool.submit(_work, task))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_function: Callable[[Any], Any]


def _begin(function: Callable[[Any], Any]) -> None:
    global _function  # what a forked worker does, set once as it starts
    _function = function
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _work(task: Any) -> Any:
    return _function(task)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
