"""What ``tl.predict`` keeps of replicates: tables of genes and cells, histograms, counts."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import sparse

from scbayes.models._predictive import Sums
from scbayes.stats._numbers import check_whole

GENE_STATISTICS = ("mean", "variance", "zeros")
CELL_STATISTICS = ("total", "detected")
#: Bars of a histogram at most.
BARS = 100
#: Bytes of stored counts that are refused.
MOST = 2e9
#: Columns whose quantiles are taken at a time.
CHUNK = 4096


def checked(n_samples: int, use: str, quantiles) -> tuple[float, ...]:
    """The quantiles; settings that are not understood are refused."""
    check_whole(1, n_samples=n_samples)
    if use not in ("draws", "centre"):
        msg = f"use={use!r}: give 'draws' or 'centre'"
        raise ValueError(msg)
    found = np.atleast_1d(np.asarray(quantiles, float))
    if not len(found) or (np.diff(found) <= 0).any() or not (0 <= found[0] <= found[-1] <= 1):
        msg = f"quantiles={quantiles!r}: give increasing numbers from 0 to 1"
        raise ValueError(msg)
    return tuple(found.tolist())


def chosen_names(known: np.ndarray, genes: Iterable[str] | None, key: str, *, store_counts: bool) -> list[str]:
    """Genes of those that the fit ``key`` knows, each once."""
    names = [] if genes is None else [genes] if isinstance(genes, str) else list(dict.fromkeys(map(str, genes)))
    missing = sorted(set(names) - set(known))
    if missing:
        msg = f"genes that {key!r} was not fitted to: {missing[:5]}"
        raise KeyError(msg)
    if store_counts and not names:
        msg = "store_counts=True keeps the counts of the genes named in genes=, which are none"
        raise ValueError(msg)
    return names


def check_size(n_positive: int, n_samples: int) -> None:
    """Refuse counts that are too large to be stored."""
    size = 8 * n_positive * n_samples
    if size > MOST:
        msg = (
            f"{n_samples} replicates of the counts of these genes take about {size / 1e9:.1f} GB, and more than "
            f"{MOST / 1e9:g} GB are not stored: name fewer in genes=, lower n_samples=, or do without store_counts"
        )
        raise ValueError(msg)


def histograms(drawn: Sums) -> list[tuple[np.ndarray, np.ndarray]]:
    """Counts that occur in each gene that is kept, 0 first, and in how many cells."""
    found = []
    for row in np.split(drawn.kept.data, drawn.kept.indptr[1:-1])[: drawn.kept.shape[0]]:
        counts, cells = np.unique(row, return_counts=True)
        found.append((np.append(0, counts), np.append(len(drawn.cell_total) - len(row), cells)))
    return found


def tables(adata, columns: np.ndarray, of_genes, of_cells, seen: Sums | None, quantiles) -> dict:
    """The DataFrames of genes and cells by slot; ``columns``: position in ``adata`` of each gene."""
    values = {}
    for i, name in enumerate(GENE_STATISTICS):
        table = _bands(of_genes[:, i], None if seen is None else seen.of_genes[i], quantiles)
        whole = pd.DataFrame(np.nan, adata.var_names, list(table))
        whole.iloc[columns] = np.stack(list(table.values()), 1)
        values["varm", f"predicted_{name}"] = whole
    for i, name in enumerate(CELL_STATISTICS):
        table = _bands(of_cells[:, i], None if seen is None else seen.of_cells[i], quantiles)
        values["obsm", f"predicted_{name}"] = pd.DataFrame(table, index=adata.obs_names)
    return values


def _bands(values: np.ndarray, seen: np.ndarray | None, quantiles: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Columns of a table from values (n_samples, n) and what was observed (n,)."""
    chunks = [slice(first, first + CHUNK) for first in range(0, values.shape[1], CHUNK)]
    found = np.concatenate([np.quantile(values[:, chunk], quantiles, axis=0) for chunk in chunks], 1)
    table = {} if seen is None else {"observed": np.asarray(seen, float)}
    table["mean"] = values.mean(0)
    table |= {f"q{level:g}": row for level, row in zip(quantiles, found, strict=True)}
    if seen is not None:
        ranks = [(values[:, c] < seen[c]).mean(0) + 0.5 * (values[:, c] == seen[c]).mean(0) for c in chunks]
        table["rank"] = np.concatenate(ranks)
    return table


def histogram_table(names, order, bars: list, seen: Sums | None, quantiles) -> pd.DataFrame:
    """One row per gene and bar: of one count, of more where there would be more than BARS of them.

    The last bar has all counts above its lowest: one replicate with an extreme count must not widen them all.
    """
    truth = [] if seen is None else [histograms(seen)]
    parts = []
    for name, j in zip(names, order, strict=True):
        rows = [one[j] for one in bars + truth]
        largest = [counts[-1] for counts, _ in rows]
        usual = max(np.quantile(largest[: len(bars)], quantiles[-1]), *largest[len(bars) :], 1)
        width = int(usual) // BARS + 1
        n = int(usual) // width + 1
        table = np.stack([np.bincount(np.minimum(u // width, n - 1), cells, n) for u, cells in rows])
        bands = _bands(table[: len(bars)], table[-1] if truth else None, quantiles)
        low = np.arange(n) * width
        high = np.append(low[1:] - 1, max(n * width - 1, *largest))
        parts.append(pd.DataFrame({"gene": name, "low": low, "high": high} | bands))
    return pd.concat(parts, ignore_index=True)


def stacked(kept: list[sparse.csr_array], order: list[int]) -> sparse.csr_array:
    """Counts as cells x (genes x replicates)."""
    by_gene = [sparse.vstack([one[[j]] for one in kept]) for j in order]
    return sparse.csr_array(sparse.vstack(by_gene).T)
