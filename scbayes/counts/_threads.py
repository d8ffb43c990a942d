"""Work on blocks of cells in threads, and the next block read meanwhile."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

#: Threads that work on a block.
N_THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
#: Values for which a thread is worth its start.
MIN_VALUES = 20_000


def over_rows[T](function: Callable[..., T], block, first: int = 0, n_parts: int | None = None) -> list[T]:
    """Results of ``function`` for ranges of rows of CSR with about equally many values each.

    Parameters
    ----------
    function
        Called with the number of the part, the slice of its rows (counted from ``first``), and the three vectors of
        its CSR: ``indptr`` of the part, and all of ``indices`` and ``data``.
    n_parts
        Number of ranges at most, that of threads if not given. Sums over parts that are the same on all machines need
        a number of their own.
    """
    n_values = int(block.indptr[-1])
    n_parts = max(1, min(n_parts or N_THREADS, n_values // MIN_VALUES))
    ends = np.searchsorted(block.indptr, np.arange(1, n_parts) * (n_values / n_parts))
    ends = [0, *ends.tolist(), block.shape[0]]

    def run(part: int, start: int, stop: int) -> T:
        vectors = block.indptr[start : stop + 1], block.indices, block.data
        return function(part, slice(first + start, first + stop), *vectors)

    if n_parts == 1:
        return [run(0, 0, block.shape[0])]
    with ThreadPoolExecutor(min(n_parts, N_THREADS)) as pool:
        return list(pool.map(run, range(n_parts), *zip(*pairwise(ends), strict=True)))


def read_ahead[T](blocks: Iterator[T]) -> Iterator[T]:
    """``blocks``, the next one read by a thread of its own while the caller works on one."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = reader.submit(next, blocks, None)
            yield block
