"""Scores of latent spaces, beside definitions written out cell by cell."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, sparse, spatial, special, stats

import scbayes as sb

N = 160


@pytest.fixture(scope="module")
def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A latent space of four labels of different sizes in three batches, which differ and are unequally shared."""
    rng = np.random.default_rng(5)
    labels = rng.choice(["a", "b", "c", "d"], N, p=[0.5, 0.3, 0.15, 0.05])
    batch = np.where(labels == "c", 2, rng.choice([0, 1, 2], N, p=[0.5, 0.3, 0.2]))
    centre = {name: rng.normal(scale=2, size=4) for name in "abcd"}
    z = np.array([centre[name] for name in labels]) + rng.normal(size=(N, 4)) + batch[:, None] * [0.9, 0, 0, 0]
    return z, batch, labels


def nearest(z: np.ndarray, k: int) -> list[np.ndarray]:
    """Indices of the k nearest others of each cell, by sorting all distances."""
    found = []
    for c in range(len(z)):
        distance = [(np.linalg.norm(z[c] - z[d]), d) for d in range(len(z)) if d != c]
        found.append(np.array([d for _, d in sorted(distance)[:k]]))
    return found


# --- batch mixing -----------------------------------------------------------------------------------------------------


def entropies(z: np.ndarray, batch: np.ndarray, k: int) -> np.ndarray:
    return np.array([stats.entropy(np.unique(batch[near], return_counts=True)[1]) for near in nearest(z, k)])


@pytest.mark.parametrize("k", [50, 7])
def test_entropy_of_batch_mixing_is_the_mean_over_cells(cells, k):
    z, batch, _ = cells
    found = sb.metrics.entropy_batch_mixing(z, batch, n_neighbors=k)
    assert type(found) is float
    assert found == pytest.approx(entropies(z, batch, k).mean(), rel=1e-12)


def test_entropy_of_two_batches_is_that_of_scvi(cells):
    """Binary entropies, mean of the means of pools of cells drawn with replacement."""
    z, batch, _ = cells
    batch = batch > 0
    each = []
    for near in nearest(z, 50):
        f = batch[near].mean()
        each.append(0 if f in (0, 1) else -f * np.log(f) - (1 - f) * np.log(1 - f))
    pools = np.random.default_rng(3).integers(N, size=(50, 100))
    expected = np.mean([np.mean([each[c] for c in pool]) for pool in pools])
    found = sb.metrics.entropy_batch_mixing(z, batch, n_pools=50, n_cells=100, rng=3)
    assert found == pytest.approx(expected, abs=1e-12)
    whole = sb.metrics.entropy_batch_mixing(z, batch)
    assert found != whole == pytest.approx(np.mean(each), abs=1e-12)
    assert sb.metrics.entropy_batch_mixing(z, batch, n_pools=2000, rng=3) == pytest.approx(whole, abs=3e-3)


def test_entropy_at_its_ends():
    rng = np.random.default_rng(0)
    batch = np.repeat(np.arange(4), 500)
    z = rng.normal(size=(2000, 3))
    mixed = sb.metrics.entropy_batch_mixing(z, batch)
    assert 0.96 * np.log(4) < mixed < np.log(4)
    assert sb.metrics.entropy_batch_mixing(z + 100 * batch[:, None], batch) == 0


# --- purity -----------------------------------------------------------------------------------------------------------


def test_knn_purity_is_that_of_scvi(cells):
    z, _, labels = cells
    same = np.array([np.mean(labels[near] == labels[c]) for c, near in enumerate(nearest(z, 30))])
    expected = np.mean([same[labels == name].mean() for name in "abcd"])
    assert sb.metrics.knn_purity(z, labels) == pytest.approx(expected, rel=1e-12)
    assert abs(expected - same.mean()) > 0.05, "rare labels weigh as much as common ones"


def test_a_cell_is_not_its_own_neighbour():
    z = np.repeat(np.arange(6.0), 2)[:, None]  # pairs of equal cells
    assert sb.metrics.knn_purity(z, np.tile([0, 1], 6), n_neighbors=1) == 0
    assert sb.metrics.knn_purity(z, np.repeat(np.arange(6), 2), n_neighbors=1) == 1


# --- clusters ---------------------------------------------------------------------------------------------------------


def silhouette(z: np.ndarray, group: np.ndarray) -> np.ndarray:
    d = spatial.distance.cdist(z, z)
    found = np.zeros(len(z))
    for c in range(len(z)):
        own = (group == group[c]) & (np.arange(len(z)) != c)
        if own.any():
            a = d[c, own].mean()
            b = min(d[c, group == g].mean() for g in set(group) - {group[c]})
            found[c] = (b - a) / max(a, b)
    return found


def test_clustering_scores_by_hand(cells):
    z, batch, labels = cells
    found = sb.metrics.clustering_scores(z, labels, prediction=batch)
    assert list(found.index) == ["asw", "nmi", "ari", "uca"]
    assert found["asw"] == pytest.approx(silhouette(z, labels).mean(), rel=1e-10)
    table = pd.crosstab(labels, batch).to_numpy()
    joint, rows, columns = table / N, table.sum(1) / N, table.sum(0) / N
    information = special.rel_entr(joint, np.outer(rows, columns)).sum()
    assert found["nmi"] == pytest.approx(2 * information / (stats.entropy(rows) + stats.entropy(columns)), rel=1e-10)
    pairs = list(itertools.combinations(range(N), 2))
    both = sum(labels[i] == labels[j] and batch[i] == batch[j] for i, j in pairs)
    one, other = (sum(x[i] == x[j] for i, j in pairs) for x in (labels, batch))
    expected = one * other / len(pairs)
    assert found["ari"] == pytest.approx((both - expected) / ((one + other) / 2 - expected), rel=1e-10)
    best = max(sum(table[row, b] for b, row in enumerate(rows)) for rows in itertools.permutations(range(4), 3))
    assert found["uca"] == pytest.approx(best / N, rel=1e-12)


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_clusters_are_found_and_repeat(cells, method):
    rng = np.random.default_rng(1)
    labels = np.repeat(["x", "y", "z"], [40, 60, 80])
    z = np.repeat([[0.0, 0], [9, 0], [0, 9]], [40, 60, 80], axis=0) + rng.normal(size=(180, 2))
    far = sb.metrics.clustering_scores(z, labels, prediction=method)
    np.testing.assert_array_equal(far[["nmi", "ari", "uca"]], 1)
    z, _, labels = cells
    first, second = (sb.metrics.clustering_scores(z, labels, prediction=method, n_init=1, rng=r) for r in (0, 0))
    pd.testing.assert_series_equal(first, second)
    several = [sb.metrics.clustering_scores(z, labels, prediction=method, n_init=1, rng=r)["ari"] for r in range(6)]
    assert len(set(several)) > 1


def test_methods_of_clustering_differ():
    """A tight group beside the middle of a wide one: k-means cuts the wide one in halves."""
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], [200, 400])
    z = rng.normal(size=(600, 2)) * np.where(labels, 6, 0.2)[:, None] + np.where(labels, 0, 4)[:, None] * [1, 0]
    ari = {method: sb.metrics.clustering_scores(z, labels, prediction=method)["ari"] for method in ("gmm", "kmeans")}
    assert ari["gmm"] > 0.9
    assert ari["kmeans"] < 0.5


# --- overlap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [100, 9])
def test_overlap_is_that_of_dense_adjacency(cells, k):
    z = cells[0]
    other = z[:, :2] + np.random.default_rng(0).normal(scale=0.5, size=(N, 2))
    dense = []
    for space in (z, other):
        links = np.zeros((N, N))
        for c, near in enumerate(nearest(space, k)):
            links[c, near] = 1
        dense.append(links.ravel())
    found = sb.metrics.nn_overlap(z, other, n_neighbors=k)
    assert found["spearman"] == pytest.approx(stats.spearmanr(*dense)[0], abs=1e-12)
    enrichment = np.sum(dense[0] * dense[1]) * N**2 / (dense[0].sum() * dense[1].sum())
    assert found["fold_enrichment"] == pytest.approx(enrichment, rel=1e-12)


def test_overlap_at_its_ends():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(1000, 5))
    same = sb.metrics.nn_overlap(z, 3 * z)
    np.testing.assert_allclose(same, [1, 10])
    none = sb.metrics.nn_overlap(z, rng.normal(size=(1000, 3)))
    np.testing.assert_allclose(none, [0, 1], atol=0.05)


# --- accuracy ---------------------------------------------------------------------------------------------------------


def test_accuracy_by_hand():
    labels = ["a", "a", "a", "a", "b", "b", None]
    predicted = ["a", "a", "a", "b", "b", "other", "a"]
    found = sb.metrics.accuracy(labels, predicted)
    assert found.to_dict() == pytest.approx({"accuracy": 4 / 6, "balanced": (3 / 4 + 1 / 2) / 2})
    predicted[0] = np.nan
    assert sb.metrics.accuracy(labels, predicted)["accuracy"] == pytest.approx(3 / 6), "no prediction is wrong"
    series = [pd.Series(x, index=list(i), dtype="category") for x, i in ((labels, "tuvwxyz"), (predicted, "abcdefg"))]
    assert sb.metrics.accuracy(*series)["accuracy"] == pytest.approx(3 / 6), "by position"
    assert sb.metrics.accuracy([1, 1, 2], [3, 3, 3]).eq(0).all()
    assert sb.metrics.accuracy([7, 7], [7.0, 7.0]).eq(1).all()


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([1, 2], [1], "predicted must have one value for each of 2 cells"),
        ([[1, 2]], [1, 2], "labels must have one value"),
        ([None, np.nan], [1, 1], "labels has no value"),
        ([], [], "labels has no value"),
        ([1, 2], ["1", "2"], "labels such as 1 are of another type than predictions such as '1'"),
    ],
)
def test_accuracy_says_what_is_wrong(labels, predicted, message):
    with pytest.raises(ValueError, match=message):
        sb.metrics.accuracy(labels, predicted)


# --- integration ------------------------------------------------------------------------------------------------------


def lisi(z: np.ndarray, group: np.ndarray, perplexity: float) -> np.ndarray:
    """One cell at a time, beta by Brent's method."""
    found = []
    for c, near in enumerate(nearest(z, int(3 * perplexity) - 1)):
        d = np.linalg.norm(z[near] - z[c], axis=1)
        weight = lambda t, d=d: special.softmax(-np.exp(t) * d)
        t = optimize.brentq(lambda t: stats.entropy(weight(t)) - np.log(perplexity), -12, 12, xtol=1e-14)  # noqa: B023
        p = pd.Series(weight(t)).groupby(group[near]).sum()
        found.append(1 / np.sum(p**2))
    return np.array(found)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_lisi_is_the_inverse_simpson_index(cells, scale):
    z, batch, _ = cells
    expected = lisi(z, batch, 12.5)
    found = sb.metrics.lisi(scale * z, batch, perplexity=12.5)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert found.min() >= 1
    assert found.max() <= 3
    assert np.ptp(expected) > 0.5


def test_lisi_where_cells_are_equal():
    batch = np.tile([0, 1], 50)
    np.testing.assert_allclose(sb.metrics.lisi(np.zeros((100, 2)), batch), 2, rtol=0.01)
    z = np.repeat([[0.0], [1.0]], 50, axis=0)  # more equal cells than the perplexity: they have all the weight
    np.testing.assert_allclose(sb.metrics.lisi(z, batch), 2, rtol=0.01)
    np.testing.assert_allclose(sb.metrics.lisi(z, z[:, 0]), 1, rtol=1e-8)


def batch_silhouette(z: np.ndarray, batch: np.ndarray, labels: np.ndarray) -> float:
    found = []
    for name in set(labels):
        own = labels == name
        if 1 < len(set(batch[own])) < own.sum():
            found.append(np.mean(1 - np.abs(silhouette(z[own], batch[own]))))
    return float(np.mean(found))


def test_silhouette_of_batches(cells):
    z, batch, labels = cells
    assert sb.metrics.silhouette_batch(z, batch, labels) == pytest.approx(batch_silhouette(z, batch, labels), rel=1e-10)


def connectivity(z: np.ndarray, labels: np.ndarray, k: int) -> float:
    links = np.zeros((len(z), len(z)), bool)
    for c, near in enumerate(nearest(z, k)):
        links[c, near] = links[near, c] = True
    found = []
    for name in set(labels):
        own = np.flatnonzero(labels == name)
        part = sparse.csgraph.connected_components(links[np.ix_(own, own)])[1]
        found.append(np.bincount(part).max() / len(own))
    return float(np.mean(found))


@pytest.mark.parametrize("k", [14, 2])
def test_graph_connectivity(cells, k):
    z, _, labels = cells
    expected = connectivity(z, labels, k)
    assert sb.metrics.graph_connectivity(z, labels, n_neighbors=k) == pytest.approx(expected, rel=1e-12)
    assert k == 14 or expected < 0.9


def test_integration_scores_are_their_parts(cells):
    z, batch, labels = cells
    found = sb.metrics.integration_scores(z, batch, labels)
    clusters = sb.metrics.clustering_scores(z, labels)
    expected = {
        "nmi": clusters["nmi"],
        "ari": clusters["ari"],
        "silhouette_label": (1 + silhouette(z, labels).mean()) / 2,
        "clisi": (4 - np.median(lisi(z, labels, 30))) / 3,
        "silhouette_batch": batch_silhouette(z, batch, labels),
        "ilisi": (np.median(lisi(z, batch, 30)) - 1) / 2,
        "graph_connectivity": connectivity(z, labels, 14),
    }
    names = list(expected)
    expected["bio_conservation"] = np.mean([expected[name] for name in names[:4]])
    expected["batch_mixing"] = np.mean([expected[name] for name in names[4:]])
    expected["total"] = 0.6 * expected["bio_conservation"] + 0.4 * expected["batch_mixing"]
    assert list(found.index) == [*names[:4], "bio_conservation", *names[4:], "batch_mixing", "total"]
    assert found.to_dict() == pytest.approx(expected, rel=1e-8)
    assert found.between(0, 1).all()


def test_integration_scores_see_what_is_better():
    rng = np.random.default_rng(0)
    labels, batch = rng.integers(3, size=600), rng.integers(2, size=600)
    good = rng.normal(size=(600, 5)) + 8 * np.eye(5)[labels]
    spaces = {"good": good, "batches apart": good + 8 * np.eye(5)[3 + batch], "no labels": rng.normal(size=(600, 5))}
    table = pd.DataFrame({name: sb.metrics.integration_scores(z, batch, labels) for name, z in spaces.items()}).T
    assert table["total"].idxmax() == "good"
    assert table.loc["good", "bio_conservation"] > 0.9
    assert table.loc["good", "batch_mixing"] > 0.95
    assert table.loc["no labels", "bio_conservation"] < 0.4
    assert table.loc["batches apart", "batch_mixing"] < 0.5


# --- what they have in common -----------------------------------------------------------------------------------------

SCORES = {
    "entropy_batch_mixing": ["batch"],
    "knn_purity": ["labels"],
    "clustering_scores": ["labels"],
    "graph_connectivity": ["labels"],
    "silhouette_batch": ["batch", "labels"],
    "integration_scores": ["batch", "labels"],
}
ALL = SCORES | {"lisi": ["groups"]}


def call(name: str, z, **change):
    """One score of three batches and labels."""
    values = {"batch": np.arange(len(z)) % 3, "labels": np.arange(len(z)) // 5 % 3, "groups": np.arange(len(z)) % 3}
    values |= change
    return getattr(sb.metrics, name)(z, **{key: values[key] for key in ALL[name]})


@pytest.mark.parametrize("name", SCORES)
def test_cells_without_a_label_are_left_out(cells, name):
    z = cells[0]
    kind = SCORES[name][-1]
    values = np.array(["u", "v", "w"], object)[np.arange(N) // 5 % 3]
    values[[3, 50, 60]] = None, np.nan, pd.NA
    known = ~pd.isna(values)
    rest = {key: np.arange(N) % 3 for key in SCORES[name][:-1]}
    expected = call(name, z[known], **{kind: values[known]}, **{key: value[known] for key, value in rest.items()})
    changed = z.copy()
    changed[50] = np.nan
    for given in (values, list(values), pd.Series(values, index=range(N, 0, -1)), pd.Categorical(values)):
        np.testing.assert_array_equal(call(name, changed, **{kind: given}, **rest), expected)
    with pytest.raises(ValueError, match="NaN or infinite numbers in 1 cells, the first in row 50"):
        call(name, changed, **{kind: np.arange(N) % 3}, **rest)


@pytest.mark.parametrize("name", ALL)
def test_scores_do_not_depend_on_names_order_or_type(cells, name):
    z = cells[0].astype(np.float32)
    expected = call(name, z)
    order = np.random.default_rng(0).permutation(N)
    values = {key: np.array(["x", "c", "a"])[call_values[order]] for key, call_values in _values().items()}
    found = call(name, pd.DataFrame(z[order]), **values)
    np.testing.assert_allclose(found, np.asarray(expected)[order] if name == "lisi" else expected, rtol=1e-6)


def _values() -> dict[str, np.ndarray]:
    return {"batch": np.arange(N) % 3, "labels": np.arange(N) // 5 % 3, "groups": np.arange(N) % 3}


@pytest.mark.parametrize("name", ALL)
def test_scores_say_what_is_wrong(cells, name):
    z = cells[0]
    kind = ALL[name][0]
    for wrong, message in [
        ({kind: np.arange(N - 1) % 3}, f"{kind} must have one value for each of {N} cells"),
        ({kind: np.zeros((N, 1))}, f"{kind} must have one value"),
        ({kind: np.full(N, "only")}, f"{kind} has one value, 'only'"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(name, z, **wrong)
    for bad, message in [
        (z[:, 0], "n_latent"),
        (z[:, :0], "n_latent"),
        (z[:0], "n_latent"),
        (z * np.inf, "NaN or inf"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(name, bad)
    if name not in ("clustering_scores", "silhouette_batch"):
        with pytest.raises(ValueError, match="neighbours of each of 12 cells"):
            call(name, z[:12])


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda z, b: sb.metrics.knn_purity(z, b, n_neighbors=0), "0 neighbours"),
        (lambda z, b: sb.metrics.knn_purity(z, b, n_neighbors=N), f"{N} neighbours of each of {N} cells"),
        (lambda z, b: sb.metrics.knn_purity(z, [None] * N), "labels has no value"),
        (lambda z, b: sb.metrics.entropy_batch_mixing(z, b, n_pools=0), "n_pools=0"),
        (lambda z, b: sb.metrics.entropy_batch_mixing(z, b, n_pools=3, n_cells=0), "n_cells=0"),
        (lambda z, b: sb.metrics.clustering_scores(z, b, prediction="leiden"), "choose kmeans or gmm"),
        (lambda z, b: sb.metrics.clustering_scores(z, b, prediction=b[1:]), "prediction must have one value"),
        (lambda z, b: sb.metrics.clustering_scores(z, b, n_init=0), "n_init is 0"),
        (lambda z, b: sb.metrics.clustering_scores(z, np.arange(N)), "a label of its own"),
        (lambda z, b: sb.metrics.silhouette_batch(z, b, b), "no label has cells of several batches"),
        (lambda z, b: sb.metrics.lisi(z, b, perplexity=1), "perplexity is 1"),
        (lambda z, b: sb.metrics.lisi(z, [None, *b[1:]]), f"groups misses 1 of {N} values"),
        (lambda z, b: sb.metrics.nn_overlap(z, z[1:]), f"latent1 has {N} cells and latent2 {N - 1}"),
        (lambda z, b: sb.metrics.nn_overlap(z, z[:, 0]), "latent2 must be"),
        (lambda z, b: sb.metrics.nn_overlap(z * np.nan, z), "latent1 has NaN"),
        (lambda z, b: sb.metrics.nn_overlap(z[:50], z[:50]), "100 neighbours of each of 50 cells"),
    ],
)
def test_settings_that_are_wrong(cells, score, message):
    with pytest.raises(ValueError, match=message):
        score(cells[0], cells[1])


def test_scores_of_real_batches(real):
    """Two protocols, three cell lines: batches are apart in principal components; at cell lines' means they are not."""
    import anndata as ad
    import scanpy as sc

    parts = {name: real(f"scmix_sc_{name}") for name in ("celseq2", "dropseq")}
    adata = ad.concat(parts, label="protocol", index_unique="-")
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=10)
    z, obs = adata.obsm["X_pca"], adata.obs
    centred = z.copy()
    for rows in obs.groupby(["protocol", "cell_line"]).indices.values():
        line = (obs["cell_line"] == obs["cell_line"].iloc[rows[0]]).to_numpy()
        centred[rows] += z[line].mean(0) - z[rows].mean(0)
    before, after = (sb.metrics.integration_scores(x, obs["protocol"], obs["cell_line"]) for x in (z, centred))
    assert before["ilisi"] < 0.05
    assert after["ilisi"] > 0.3
    assert after["total"] > before["total"] + 0.1
