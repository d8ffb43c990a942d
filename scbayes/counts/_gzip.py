"""Vectors in HDF5 files that gzip compressed, unpacked by several threads: HDF5 itself uses one."""

import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from scbayes.counts._threads import N_THREADS


def unpacked(dataset):
    """``dataset`` to be read by slices: as it is, or through threads where it is a vector that gzip compressed."""
    simple = getattr(dataset, "compression", None) == "gzip" and len(dataset.chunks) == 1
    if simple and not dataset.fletcher32 and dataset.scaleoffset is None:
        return Unpacked(dataset)
    return dataset


class Unpacked:
    """A vector in an HDF5 file, in chunks compressed by gzip, perhaps after sorting bytes by their place (shuffle)."""

    def __init__(self, dataset) -> None:
        self._dataset = dataset
        self.dtype, self.shape = dataset.dtype, dataset.shape

    def __getitem__(self, part: slice) -> np.ndarray:
        (size,) = self._dataset.chunks
        start, stop, _ = part.indices(self.shape[0])
        first, last = start // size, -(-stop // size)
        whole = np.empty(max(last - first, 0) * size, self.dtype)

        def unpack(chunk: int) -> None:
            skipped, packed = self._dataset.id.read_direct_chunk(((first + chunk) * size,))
            if skipped:  # a filter was left out for this chunk: HDF5 knows which
                values = self._dataset[(first + chunk) * size : (first + chunk + 1) * size]
                whole[chunk * size : chunk * size + len(values)] = values
                return
            values = np.frombuffer(zlib.decompress(packed, bufsize=size * self.dtype.itemsize), np.uint8)
            if self._dataset.shuffle:
                values = values.reshape(self.dtype.itemsize, size).T
            whole[chunk * size : (chunk + 1) * size].view(np.uint8).reshape(size, -1)[:] = values.reshape(size, -1)

        with ThreadPoolExecutor(N_THREADS) as pool:
            for _ in pool.map(unpack, range(last - first)):
                pass
        return whole[start - first * size : stop - first * size]
