"""Measures of a correction for ambient RNA against known native and ambient counts.

With x = native + ambient the observed counts and d the corrected ones (posterior means or integers), clipped to [0, x]:

    kept           sum min(d, native) / sum native
    removed        sum min(x - d, ambient) / sum ambient
    removed/true   sum (x - d) / sum ambient, not clipped
    RMSE           over all entries, d against native; not clipped
    LFC error      mean over genes and groups of |log2 (CPM + 5)| of d, summed over a group's cells, less that of native
    r log1p        correlation of log1p over all entries
    above zero     share of the entries with x = 0 where d > 0
    new markers    pairs of a gene and a group: marker in d, and not nearly one in the observed or the native counts

A method may be bolder or more careful than another. They are compared at the same share kept, or removed, after all
odds of being ambient were multiplied by one factor: `curve` has the shares over a grid of factors.
"""

import numpy as np
from scipy import sparse, stats

FACTORS = np.geomspace(1e-3, 1e3, 61)


def rho_scores(cells, found: dict) -> dict[str, float]:
    """Scores of the share of ambient counts; of real cells, of what was added to what the method finds without."""
    if found.get("rho") is None:
        return {}
    rho, truth = np.asarray(found["rho"], np.float64), cells.obs["rho"].to_numpy()
    which = ~cells.obs["unspiked"].to_numpy(bool)
    target = truth.copy()
    if cells.uns["added"]:
        before = before_added(cells, rho) if not found.get("constant") else np.zeros(len(rho))
        target = 1 - (1 - truth) * (1 - before)
    rho, truth, target, all_rho = rho[which], truth[which], target[which], rho
    moved = rho.std() > 1e-12
    row = {"mean rho": rho.mean(), "corr": np.corrcoef(rho, target)[0, 1] if moved else np.nan}
    row |= {"ratio": rho.mean() / target.mean(), "RMSE rho": rms(rho - target), "RMSE constant": truth.std()}
    if cells.uns["added"]:
        row["mean of unspiked"] = all_rho[~which].mean()
        row["RMSE added"] = rms(1 - (1 - rho) / (1 - before[which]) - truth)
    if found.get("low") is not None:
        low, high = (np.asarray(found[end])[which] for end in ("low", "high"))
        row |= {"coverage": np.mean((low <= target) & (target <= high)), "width": np.mean(high - low)}
    if found.get("flagged") is not None:
        row["flagged"] = bool(found["flagged"])
    return {key: value if isinstance(value, bool) else float(value) for key, value in row.items()}


def before_added(cells, rho: np.ndarray) -> np.ndarray:
    """What a method finds in cells to which nothing was added: mean of the cell's group and batch, if it has ten."""
    without = cells.obs["unspiked"].to_numpy(bool)
    result = np.full(len(rho), rho[without].mean())
    for key in (["group"], ["group", "batch"]):
        place = cells.obs.groupby(key, observed=True).ngroup().to_numpy()
        n = np.bincount(place, without)
        mean = np.bincount(place, rho * without) / np.maximum(n, 1)
        result = np.where(n[place] >= 10, mean[place], result)
    return result


def rms(difference) -> float:
    return float(np.sqrt(np.mean(np.square(difference))))


class Truth:
    """The parts of ``cells`` on the entries of the observed counts."""

    def __init__(self, cells) -> None:
        self.cells, self.x = cells, sparse.csr_matrix(cells.X, dtype=np.float64)
        self.x.sort_indices()
        self.native, self.ambient = (self.on_observed(cells.layers[part]) for part in ("native", "ambient"))
        self.code = cells.obs["group"].cat.codes.to_numpy(np.int64)
        self.cpm = cpm(self.full(self.native), self.code)
        self.near = near_marker(self.full(self.native), self.code) | near_marker(self.x, self.code)

    def on_observed(self, layer) -> np.ndarray:
        layer = sparse.csr_matrix(layer, dtype=np.float64)
        layer.sort_indices()
        if np.array_equal(layer.indptr, self.x.indptr) and np.array_equal(layer.indices, self.x.indices):
            return layer.data.copy()
        keys, wanted = entry_keys(layer), entry_keys(self.x)
        place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        return np.where(keys[place] == wanted, layer.data[place], 0.0) if len(keys) else np.zeros(len(wanted))

    def full(self, data: np.ndarray) -> sparse.csr_matrix:
        return sparse.csr_matrix((data, self.x.indices, self.x.indptr), shape=self.x.shape)

    def shares(self, d: np.ndarray) -> tuple[float, float]:
        """Kept and removed."""
        d = np.clip(d, 0, self.x.data)
        kept = np.minimum(d, self.native).sum() / self.native.sum()
        return float(kept), float(np.minimum(self.x.data - d, self.ambient).sum() / self.ambient.sum())

    def curve(self, d: np.ndarray) -> list[tuple[float, float]]:
        """Kept and removed for all `FACTORS`, from the most to the least kept."""
        ambient = np.clip(1 - d / self.x.data, 0, 1)
        return [(1.0, 0.0)] + [
            self.shares(self.x.data * (1 - f * ambient / (1 - ambient + f * ambient))) for f in FACTORS
        ]


def entry_keys(x: sparse.csr_matrix) -> np.ndarray:
    return np.repeat(np.arange(x.shape[0]), np.diff(x.indptr)) * x.shape[1] + x.indices


def count_scores(truth: Truth, corrected, *, integers: bool) -> dict:
    """Scores of corrected counts, a CSR matrix."""
    corrected = sparse.csr_matrix(corrected, dtype=np.float64)
    corrected.sort_indices()
    x, n_entries = truth.x.data, truth.x.shape[0] * truth.x.shape[1]
    d = truth.on_observed(corrected)
    beyond = max((corrected.data**2).sum() - (d**2).sum(), 0.0)  # where nothing was observed
    row = dict(zip(("kept", "removed"), truth.shares(d), strict=True))
    row["removed/true"] = float((x.sum() - corrected.data.sum()) / truth.ambient.sum())
    row["RMSE"] = float(np.sqrt((np.sum((d - truth.native) ** 2) + beyond) / n_entries))
    difference = np.log2(cpm(corrected, truth.code) + 5) - np.log2(truth.cpm + 5)
    row["LFC error"] = float(np.abs(difference).mean())
    row["r log1p"] = correlation(np.log1p(d), np.log1p(truth.native), np.log1p(corrected.data), n_entries)
    above = np.count_nonzero(corrected.data) - np.count_nonzero(d)
    row["above zero"] = float(above / max(n_entries - len(x), 1))
    row["new markers"] = int(np.sum(marker(corrected, truth.code) & ~truth.near))
    row["valid"] = bool(above == 0 and d.min() >= 0 and np.all(d <= x * (1 + 1e-6)))
    row["valid"] &= corrected.shape == truth.x.shape
    if integers:
        row["valid"] &= bool(np.all(d == np.round(d)) and np.all((x - d) + d == x))
    if "human" in truth.cells.var:
        row |= foreign(truth, d)
    return row


def foreign(truth: Truth, d: np.ndarray) -> dict[str, float]:
    """Share of the counts of the other species that was taken out, and of the cell's own that was kept."""
    human_cell, human_gene = truth.cells.obs["human"].to_numpy(bool), truth.cells.var["human"].to_numpy(bool)
    cell = np.repeat(np.arange(truth.x.shape[0]), np.diff(truth.x.indptr))
    other = human_cell[cell] != human_gene[truth.x.indices]
    x, d = truth.x.data, np.clip(d, 0, truth.x.data)
    own = np.minimum(d, truth.native)[~other].sum() / truth.native[~other].sum()
    return {"foreign removed": float((x - d)[other].sum() / x[other].sum()), "own kept": float(own)}


def correlation(u, v, all_u, n: int) -> float:
    """Of values with n entries, zero outside those given; ``all_u`` has those of u outside v's as well."""
    mean_u, mean_v = all_u.sum() / n, v.sum() / n
    spread = np.sqrt((np.sum(all_u**2) / n - mean_u**2) * (np.sum(v**2) / n - mean_v**2))
    return float((np.sum(u * v) / n - mean_u * mean_v) / spread)


def cpm(x, code: np.ndarray) -> np.ndarray:
    """Counts per million of each gene, summed over the cells of each group: groups x genes."""
    total = members(code) @ x
    total = total.toarray()
    return 1e6 * total / np.maximum(total.sum(1, keepdims=True), 1)


def members(code: np.ndarray) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(code)), (code, np.arange(len(code)))), shape=(code.max() + 1, len(code)))


def marker(x, code, p_at_most: float = 0.01, lfc_from: float = 1.0, share_from: float = 0.1) -> np.ndarray:
    """Groups x genes: higher than in the other cells, by a Welch test of log-normalised counts (Benjamini-Hochberg).

    And in at least ``share_from`` of the group's cells, with a log2 ratio of normalised means of ``lfc_from``.
    """
    member = members(code)
    n = np.asarray(member.sum(1))
    scale = 1e4 / np.maximum(np.asarray(x.sum(1)).ravel(), 1)
    scaled = (sparse.diags(scale) @ x).tocsr()
    logged, squared, there = scaled.copy(), scaled.copy(), scaled.copy()
    logged.data = np.log1p(scaled.data)
    squared.data = logged.data**2
    there.data = (scaled.data > 0).astype(float)
    inside = [(member @ part).toarray() for part in (logged, squared, scaled, there)]
    outside = [part.sum(0) - part for part in inside]
    means, variances, raw = [], [], []
    for (s, s2, normal, _), m in ((inside, n), (outside, n.sum() - n)):
        mean = s / m
        means.append(mean)
        variances.append(np.maximum(s2 / m - mean**2, 1e-12) / np.maximum(m - 1, 1))
        raw.append(normal / m)
    p = stats.norm.sf((means[0] - means[1]) / np.sqrt(variances[0] + variances[1]))
    p = np.array([stats.false_discovery_control(row) for row in p])
    lfc = np.log2((raw[0] + 1e-3) / (raw[1] + 1e-3))
    return (p <= p_at_most) & (lfc >= lfc_from) & (inside[3] / n >= share_from)


def near_marker(x, code) -> np.ndarray:
    """Markers by a lower bar: what is one of these is not new."""
    return marker(x, code, 0.2, 0.5, 0.02)


def at_same(ours: list, theirs: tuple[float, float]) -> tuple[float, float]:
    """On the curve ``ours``: kept where as much is removed as by ``theirs``, and removed where as much is kept."""
    kept, removed = (np.array(ours)[:, i] for i in range(2))
    order = np.argsort(removed)
    return float(np.interp(theirs[1], removed[order], kept[order])), float(np.interp(-theirs[0], -kept, removed))
