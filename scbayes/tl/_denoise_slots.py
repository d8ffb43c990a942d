"""What ``tl.denoise`` writes of cells, genes and counts, whichever model found it."""

import numpy as np
from scipy import sparse


def slots_of(x: sparse.csr_array, native: np.ndarray, whole: np.ndarray, shares) -> dict:
    """Slots, from the expected and the whole native part of each stored count, and `mean`, `low`, `high` of cells."""
    whole_x = sparse.csr_matrix((whole.astype(x.dtype), x.indices.copy(), x.indptr.copy()), shape=x.shape)
    whole_x.eliminate_zeros()
    probability = (native / np.maximum(x.data, 1)).astype(np.float32)
    total = np.bincount(x.indices, x.data, x.shape[1])
    kept = np.bincount(x.indices, native, x.shape[1])
    with np.errstate(invalid="ignore"):
        removed = 1 - kept / np.where(total > 0, total, np.nan)
    return {
        ("obs", "contamination"): shares.mean,
        ("obs", "contamination_low"): shares.low,
        ("obs", "contamination_high"): shares.high,
        ("layers", "native_probability"): sparse.csr_matrix((probability, x.indices, x.indptr), shape=x.shape),
        ("layers", "denoised"): whole_x,
        ("var", "removed"): removed,
    }
