"""Counts whose blocks lie on the workers of a dask cluster: work goes there, and sums come back."""

from collections.abc import Callable
from itertools import batched, pairwise

import numpy as np

from scbayes.counts._blocks import is_dask, join
from scbayes.counts._counts import Counts
from scbayes.counts._summary import Summary, merge

#: Results that one task joins, in the order of the cells.
FAN_IN = 8


def cluster_of(x):
    """The `dask.distributed` client that would compute ``x``; None if it is no dask array or no client would."""
    if not is_dask(x):
        return None
    from dask.base import get_scheduler

    client = getattr(get_scheduler(collections=[x]), "__self__", None)
    return client if type(client).__module__.startswith("distributed.") else None


class ClusterCounts(Counts):
    """The same as :class:`Counts`, of a dask array that a cluster holds.

    What is kept for further passes stays with the workers, who move it to disk where memory gets short.
    """

    def __init__(self, x, batch=None, n_batches: int = 1, mask=None, where: str = "X") -> None:
        from dask import delayed

        super().__init__(x, batch, n_batches, mask, where)
        self._client = cluster_of(x)
        self._cells = [slice(*ends) for ends in pairwise(np.cumsum([0, *x.chunks[0]]).tolist())]
        self._parts = [
            delayed(_counts)(list(chunks), own, n_batches, mask, where)
            for chunks, own in zip(x.to_delayed(), self._send(self.batch), strict=True)
        ]

    def summarise(self, *, keep: bool = False) -> Summary:
        """Sufficient statistics, from one checked pass over the non-zeros where they lie."""
        import dask

        both = [dask.delayed(_summarised, nout=2)(part, keep) for part in self._parts]
        if keep:
            both = dask.persist(*both, scheduler=self._client)
            self._parts = [part for part, _ in both]
        return self._joined(merge, [summary for _, summary in both])

    def tally(self, first: np.ndarray, count: np.ndarray, membership: np.ndarray) -> np.ndarray:
        return self._joined(np.add, self._each("tally", {"membership": membership}, {"first": first, "count": count}))

    def gather(self, weights: np.ndarray, *, detected: bool) -> tuple[np.ndarray, np.ndarray]:
        return self._joined(_add_pairs, self._each("gather", {"weights": weights}, {"detected": detected}))

    def scatter(self, per_count: np.ndarray, per_detection: np.ndarray | None = None, active=None) -> np.ndarray:
        tables = {"per_count": per_count, "per_detection": per_detection}
        return self._stacked(self._each("scatter", {"active": active}, tables))

    def score_cells(self, size, odds, gate, nu, weight=None) -> np.ndarray:
        tables = {"size": size, "odds": odds, "gate": gate, "weight": weight}
        return self._stacked(self._each("score_cells", {"nu": nu}, tables))

    def score_genes(self, size, odds, gate, nu, weight) -> np.ndarray:
        tables = {"size": size, "odds": odds, "gate": gate}
        return self._joined(np.add, self._each("score_genes", {"nu": nu, "weight": weight}, tables))

    def _send(self, values) -> list:
        """The values of each chunk's cells, with the workers: a graph of tasks is no place for arrays."""
        if values is None:
            return [None] * len(self._cells)
        return self._client.scatter([np.ascontiguousarray(values[cells]) for cells in self._cells], hash=False)

    def _each(self, method: str, of_cells: dict, shared: dict) -> list:
        """Tasks that call a method of the counts of each chunk."""
        from dask import delayed

        own = {name: self._send(values) for name, values in of_cells.items()}
        tables = [name for name, value in shared.items() if np.ndim(value)]
        if tables:
            sent = self._client.scatter([np.asarray(shared[name]) for name in tables], hash=False, broadcast=True)
            shared = shared | dict(zip(tables, sent, strict=True))
        call = delayed(_call, pure=False)
        return [
            call(part, method, shared | {name: parts[i] for name, parts in own.items()})
            for i, part in enumerate(self._parts)
        ]

    def _joined(self, join: Callable, tasks: list):
        """The results of tasks joined by ``join``, a few at a time and in order, with the workers."""
        from dask import delayed

        while len(tasks) > 1:
            tasks = [delayed(_reduced)(join, list(few)) for few in batched(tasks, FAN_IN)]
        return self._client.compute(tasks[0], sync=True)

    def _stacked(self, tasks: list) -> np.ndarray:
        return np.concatenate(self._client.compute(tasks, sync=True))


def _counts(chunks: list, batch: np.ndarray, n_batches: int, mask, where: str) -> Counts:
    return Counts(join(chunks), batch, n_batches, mask, where)


def _summarised(counts: Counts, keep: bool) -> tuple[Counts, Summary]:  # noqa: FBT001
    summary = counts.summarise(keep=keep)
    return counts, summary


def _call(counts: Counts, method: str, arguments: dict):
    return getattr(counts, method)(**arguments)


def _reduced(join: Callable, few: list):
    result = few[0]
    for part in few[1:]:
        result = join(result, part)
    return result


def _add_pairs(first: tuple, second: tuple) -> tuple:
    return first[0] + second[0], first[1] + second[1]
