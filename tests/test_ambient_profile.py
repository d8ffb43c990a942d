"""The profile of ambient RNA: against SciPy, known truth, every source, and bad input."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from scipy.io import mmwrite

import scbayes as sb
from scbayes.counts import Counts
from scbayes.models._ambient_profile import posterior
from scbayes.models._empty_droplets import find_concentration, gene_scores, pool_empty, total_scores
from scbayes.models._iterative_profile import iterative_profile
from scbayes.stats._barcode_ranks import barcode_ranks
from scbayes.stats._urn import beside_draws

N_GENES, N_CELLS, N_EMPTY = 120, 200, 3000


@pytest.fixture(scope="module")
def _data(droplets):
    return droplets()


@pytest.fixture
def data(_data):
    return tuple(part.copy() for part in _data)


def pooled_truth(raw) -> np.ndarray:
    empty = raw[~raw.obs["is_cell"].to_numpy()]
    total = np.asarray(empty.X.sum(1)).ravel()
    return raw.varm["soup"] @ np.array([total[empty.obs["batch"] == b].sum() for b in ("b0", "b1")]) / total.sum()


def l1(found, truth) -> float:
    return float(np.abs(np.asarray(found) - truth).sum())


# --- numerics ---------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_scipy():
    rng = np.random.default_rng(1)
    x, alpha = rng.poisson(3, (6, 9)), rng.gamma(1, 2, (3, 9))
    counts = Counts(sparse.csr_array(x))
    found = gene_scores(counts, alpha) + total_scores(x.sum(1), alpha.sum(1))
    expected = [[stats.dirichlet_multinomial.logpmf(row, a, row.sum()) for a in alpha] for row in x]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_p_values_are_exact_probabilities():
    """Two genes: every outcome of a total can be listed."""
    profile, concentration, n = np.array([0.7, 0.3]), 5.0, 12
    first = np.arange(n + 1)
    x = np.stack([first, n - first], 1)
    probability = np.exp([stats.dirichlet_multinomial.logpmf(row, concentration * profile, n) for row in x])
    score = gene_scores(Counts(sparse.csr_array(x)), concentration * profile[None])[:, 0]
    found = beside_draws(score, np.full(n + 1, n), profile, concentration, 200_000, np.random.default_rng(0))
    lower = np.array([probability[score <= s + 1e-9].sum() for s in score])
    upper = np.array([probability[score >= s - 1e-9].sum() for s in score])
    np.testing.assert_allclose(found.p, np.minimum(2 * np.minimum(lower, upper), 1), atol=0.006)
    mean = probability @ score
    sd = np.sqrt(probability @ (score - mean) ** 2)
    np.testing.assert_allclose(found.z, (score - mean) / sd, atol=0.05)


def test_draws_of_several_totals_do_not_disturb_each_other():
    rng = np.random.default_rng(2)
    profile = rng.dirichlet(np.ones(30))
    total = rng.integers(1, 80, 400)
    score = gene_scores(Counts(sparse.csr_array(rng.multinomial(total, profile))), 1e5 * profile[None])[:, 0]
    p = beside_draws(score, total, profile, 1e5, 500, np.random.default_rng(3)).p
    assert 0.01 < np.mean(p < 0.05) < 0.1
    assert stats.kstest(p[total > 30], "uniform").statistic < 0.12


@pytest.mark.parametrize("true", [50, 2000])
def test_concentration_is_found(true):
    rng = np.random.default_rng(4)
    profile = rng.dirichlet(np.ones(60))
    x = np.stack([rng.multinomial(150, rng.dirichlet(true * profile)) for _ in range(800)])
    assert find_concentration(Counts(sparse.csr_array(x)), profile) == pytest.approx(true, rel=0.25)


def test_posterior_of_one_batch_is_dirichlet():
    n = np.random.default_rng(5).multinomial(5000, np.random.default_rng(6).dirichlet(np.full(300, 0.3)))
    found = posterior(n[None])
    s = (found.concentration[0] - n.sum()) / 300  # what the posterior adds to each gene
    dirichlet = stats.dirichlet(n + s)
    np.testing.assert_allclose(found.mean[:, 0], dirichlet.mean(), rtol=1e-6)
    np.testing.assert_allclose(found.sd[:, 0] ** 2, dirichlet.var(), rtol=1e-6)
    grid = np.geomspace(0.01, 10, 60)
    level = [stats.dirichlet_multinomial.logpmf(n, np.full(300, a), n.sum()) for a in grid]
    assert s == pytest.approx(grid[np.argmax(level)], rel=0.15)


def test_batches_are_drawn_together_and_their_intervals_hold_the_truth():
    rng = np.random.default_rng(7)
    base = rng.lognormal(0, 1.5, 800)
    truth = np.stack([base * rng.lognormal(0, 0.15, 800) for _ in range(3)])
    truth /= truth.sum(1, keepdims=True)
    n = np.stack([rng.multinomial(20_000, row) for row in truth])
    found = posterior(n)
    assert l1(found.mean.T, truth) < 0.85 * l1(n / 20_000, truth)
    assert np.mean(np.abs(found.mean.T - truth) < 1.645 * found.sd.T) == pytest.approx(0.9, abs=0.04)
    np.testing.assert_allclose(found.mean.sum(0), 1)
    assert (found.mean > 0).all()


def test_humps_are_split():
    rng = np.random.default_rng(8)
    total = np.round(np.concatenate([rng.lognormal(np.log(40), 0.5, 9000), rng.lognormal(8, 0.4, 300)])).astype(int)
    ranks = barcode_ranks(total)
    assert ranks.apart
    assert 200 < ranks.split < 1000
    assert ranks.sure < ranks.split < ranks.knee
    lower = total[total <= ranks.split]
    assert lower[lower <= ranks.sure].sum() >= lower.sum() / 2 > lower[lower < ranks.sure].sum()
    assert ranks.droplets.sum() == (total > 0).sum()
    assert not barcode_ranks(total[:9000]).apart
    assert not barcode_ranks(total[9000:]).apart
    place = np.searchsorted(-ranks.total, -total[:50])
    np.testing.assert_allclose(ranks.rank[place], stats.rankdata(-total[total > 0])[: len(place)])


# --- profiles ---------------------------------------------------------------------------------------------------------


def test_profile_is_that_of_empty_droplets(data):
    cells, raw = data
    sb.pp.ambient_profile(cells, raw)
    mean, sd, truth = cells.varm["sb_ambient"], cells.varm["sb_ambient_sd"], pooled_truth(raw)
    assert mean.shape == sd.shape == (N_GENES, 1)
    assert mean.dtype == sd.dtype == np.float64
    best = np.asarray(raw.X[N_CELLS:].sum(0)).ravel()
    assert l1(mean[:, 0], truth) < 1.15 * l1(best / best.sum(), truth)
    assert l1(np.asarray(cells.X.sum(0)).ravel() / cells.X.sum(), truth) > 0.15
    assert np.mean(np.abs(mean[:, 0] - truth) < 1.645 * sd[:, 0]) > 0.8
    assert mean.sum() == pytest.approx(1)
    facts = sb.get.ambient_profile(cells).attrs
    assert facts["source"] == "droplets"
    assert 0.95 * N_EMPTY < facts["n_empty"][0] <= N_EMPTY
    assert facts["n_refused"][0] < 0.05 * facts["n_tested"][0]


def test_cells_among_small_droplets_are_refused(droplets):
    """Cells with totals like those of large empty droplets, unknown by name."""
    _, raw = droplets(1)
    rng = np.random.default_rng(0)
    small = raw[:N_CELLS].copy()
    kept = rng.binomial(small.X.data.astype(int), 0.05)  # about 100 counts
    small.X = sparse.csr_matrix((kept.astype(np.float32), small.X.indices, small.X.indptr), shape=small.shape)
    small.X.eliminate_zeros()
    small.obs_names = [f"small{i}" for i in range(N_CELLS)]
    raw = ad.concat([raw, small], merge="same")
    sb.pp.ambient_profile(cells := raw[:N_CELLS].copy(), raw)
    facts = sb.get.ambient_profile(cells).attrs
    assert facts["n_refused"][0] > 40
    sb.pp.ambient_profile(cells, raw, alpha=0.001, key_added="strict")
    assert 20 < sb.get.ambient_profile(cells, "strict").attrs["n_refused"][0] < facts["n_refused"][0]
    named = raw[[*range(N_CELLS), *range(len(raw) - N_CELLS, len(raw))]].copy()
    sb.pp.ambient_profile(named, raw)
    assert sb.get.ambient_profile(named).attrs["n_refused"][0] < 20
    assert sb.get.barcode_rank(named)["cells"].sum() == 2 * N_CELLS


def test_batches_have_profiles(data):
    cells, raw = data
    sb.pp.ambient_profile(cells, raw, batch_key="batch")
    mean = cells.varm["sb_ambient"].copy()
    truth = raw.varm["soup"]
    assert mean.shape == (N_GENES, 2)
    assert l1(mean, truth) < 0.6 * l1(mean[:, ::-1], truth)
    parts = {name: raw[raw.obs["batch"] == name].copy() for name in ("b1", "b0")}
    sb.pp.ambient_profile(cells, parts, batch_key="batch")
    assert l1(cells.varm["sb_ambient"], mean) < 0.02
    table = sb.get.ambient_profile(cells)
    assert list(table["batch"].unique()) == ["b0", "b1"]
    np.testing.assert_array_equal(table.loc[table["batch"] == "b1", "mean"], cells.varm["sb_ambient"][:, 1])


def tenx_h5(path, raw) -> None:
    import h5py

    x = sparse.csr_matrix(raw.X)
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(list(raw.obs_names), "S")
        matrix["data"], matrix["indices"], matrix["indptr"] = x.data.astype(np.int32), x.indices, x.indptr
        matrix["shape"] = np.array(x.shape[::-1])
        features = matrix.create_group("features")
        names = np.array(list(raw.var_names), "S")
        features["id"], features["name"] = np.char.add(b"ENS", names), names
        features["feature_type"] = np.array(list(raw.var["feature_types"]), "S")
        features["genome"] = np.array(["x"] * raw.n_vars, "S")


def stored(kind: str, raw, folder):
    raw = ad.AnnData(raw.X, obs=raw.obs[[]], var=raw.var.assign(feature_types="Gene Expression"))
    match kind:
        case "csc":
            raw.X = sparse.csc_matrix(raw.X)
        case "dense":
            raw.X = np.asarray(raw.X.todense())
        case "backed":
            raw.write_h5ad(folder / "raw.h5ad")
            return ad.read_h5ad(folder / "raw.h5ad", backed="r")
        case "h5ad" | "zarr":
            getattr(raw, f"write_{kind}")(folder / f"raw.{kind}")
            return folder / f"raw.{kind}"
        case "h5":
            tenx_h5(folder / "raw_feature_bc_matrix.h5", raw)
            return str(folder / "raw_feature_bc_matrix.h5")
        case "mtx":
            mmwrite(folder / "matrix.mtx", raw.X.T.astype(int))
            pd.DataFrame({"i": raw.var_names, "n": raw.var_names}).to_csv(
                folder / "genes.tsv", sep="\t", header=False, index=False
            )
            pd.Series(raw.obs_names).to_csv(folder / "barcodes.tsv", header=False, index=False)
            return folder
    return raw


@pytest.mark.parametrize("kind", ["csc", "dense", "backed", "h5ad", "zarr", "h5", "mtx"])
def test_every_source_gives_the_same_profile(data, kind, tmp_path):
    cells, raw = data
    sb.pp.ambient_profile(cells, raw)
    sb.pp.ambient_profile(cells, source := stored(kind, raw, tmp_path), key_added="other")
    np.testing.assert_allclose(cells.varm["other"], cells.varm["sb_ambient"], rtol=1e-12)
    np.testing.assert_allclose(cells.varm["other_sd"], cells.varm["sb_ambient_sd"], rtol=1e-12)
    if kind == "backed":
        assert source.isbacked
        source.file.close()


def test_antibodies_beside_genes_are_left_out(data, tmp_path):
    cells, raw = data
    sb.pp.ambient_profile(cells, raw)
    rng = np.random.default_rng(0)
    tags = ad.AnnData(sparse.csr_matrix(rng.poisson(20, (raw.n_obs, 5)).astype(np.float32)), obs=raw.obs)
    tags.var_names = [f"tag{i}" for i in range(5)]
    both = ad.concat([tags, raw], axis=1)
    both.var["feature_types"] = ["Antibody Capture"] * 5 + ["Gene Expression"] * N_GENES
    tenx_h5(tmp_path / "raw.h5", both)
    sb.pp.ambient_profile(cells, tmp_path / "raw.h5", key_added="other")
    np.testing.assert_allclose(cells.varm["other"], cells.varm["sb_ambient"], rtol=1e-12)
    cells.var_names = ["tag1", *cells.var_names[1:]]
    cells.var["feature_types"] = "Gene Expression"
    sb.pp.ambient_profile(cells, both, key_added="other")
    assert cells.varm["other"][0] == 0  # an antibody of the same name is none of the genes


def test_counts_of_tags_that_vary_among_droplets_are_worth_less():
    rng = np.random.default_rng(0)
    share = rng.dirichlet(10 * np.full(5, 0.2), 2000)  # A = 10
    counts = Counts(sparse.csr_array(np.stack([rng.multinomial(20, row) for row in share])))
    pooled, inflation = pool_empty(counts, np.arange(2000) < 1500, rng)
    np.testing.assert_array_equal(pooled[0], counts.x[:1500].sum(0))
    assert inflation[0] == pytest.approx((20 + 10) / (1 + 10), rel=0.1)


@pytest.fixture(scope="module")
def tagged(_data):
    """Tags beside the genes of all droplets; two are called as genes are. Cells have 30 of one tag, soup has few."""
    _, raw = _data
    rng = np.random.default_rng(3)
    soup, cell = np.array([0.5, 0.25, 0.15, 0.1]), raw.obs["is_cell"].to_numpy()
    x = (
        rng.multinomial(rng.poisson(6, raw.n_obs), soup)
        + 30 * cell[:, None] * np.eye(4)[rng.integers(4, size=raw.n_obs)]
    )
    both = ad.AnnData(sparse.hstack([raw.X, sparse.csr_matrix(x.astype(np.float32))], format="csr"), obs=raw.obs)
    both.var_names = [*raw.var_names, "g0", "g1", "tag2", "tag3"]
    both.var["feature_types"] = ["Gene Expression"] * N_GENES + ["Antibody Capture"] * 4
    return both


def test_tags_have_a_profile_of_their_own_in_droplets_whose_rna_is_empty(data, tagged, tmp_path):
    cells, raw = data
    own = tagged[:N_CELLS, N_GENES:].copy()
    sb.pp.ambient_profile(own, tagged)
    sb.pp.ambient_profile(cells, raw)
    facts, of_rna = sb.get.ambient_profile(own).attrs, sb.get.ambient_profile(cells).attrs
    assert facts["n_empty"] == of_rna["n_empty"]
    pooled = np.asarray(tagged.X[N_CELLS:, N_GENES:].sum(0)).ravel()
    assert facts["n_counts"][0] == pytest.approx(pooled.sum(), rel=0.01)
    np.testing.assert_allclose(own.varm["sb_ambient"][:, 0], pooled / pooled.sum(), rtol=0.02)
    assert (np.abs(own.varm["sb_ambient"][:, 0] - [0.5, 0.25, 0.15, 0.1]) < 3 * own.varm["sb_ambient_sd"][:, 0]).all()
    tenx_h5(tmp_path / "raw.h5", tagged)
    sb.pp.ambient_profile(own, tmp_path / "raw.h5", key_added="file")
    np.testing.assert_allclose(own.varm["file"], own.varm["sb_ambient"])
    del own.var["feature_types"]  # names alone tell what they are: all four are among the antibodies
    sb.pp.ambient_profile(own, tagged, key_added="names")
    np.testing.assert_allclose(own.varm["names"], own.varm["sb_ambient"])
    sb.pp.ambient_profile(own, tagged, batch_key="batch", key_added="batches")
    assert l1(own.varm["batches"], own.varm["sb_ambient"]) < 0.05
    alone = tagged[:, N_GENES:].copy()
    sb.pp.ambient_profile(own, alone, key_added="alone")
    assert l1(own.varm["alone"], own.varm["sb_ambient"]) < 0.02


def test_cells_are_called_by_rna(tagged):
    var = tagged.var.set_axis([f"f{i}" for i in range(tagged.n_vars)])[::-1]
    raw = ad.AnnData(tagged.X[:, ::-1], obs=tagged.obs, var=var)
    sb.pp.call_cells(raw)
    expected = raw[:, 4:].copy()
    sb.pp.call_cells(expected)
    np.testing.assert_array_equal(raw.obs["sb_cell_probability"], expected.obs["sb_cell_probability"])


def test_files_of_cell_ranger_2_are_read(data, tmp_path):
    import h5py

    cells, raw = data
    x = sparse.csr_matrix(raw.X)
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        group = file.create_group("GRCh38")
        group["data"], group["indices"], group["indptr"] = x.data.astype(np.int32), x.indices, x.indptr
        group["shape"], group["barcodes"] = np.array(x.shape[::-1]), np.array(list(raw.obs_names), "S")
        group["gene_names"] = group["genes"] = np.array(list(raw.var_names), "S")
    sb.pp.ambient_profile(cells, raw)
    sb.pp.ambient_profile(cells, tmp_path / "raw.h5", key_added="other")
    np.testing.assert_allclose(cells.varm["other"], cells.varm["sb_ambient"], rtol=1e-12)
    with pytest.raises(KeyError, match="files of 10x have none"):
        sb.pp.ambient_profile(cells, tmp_path / "raw.h5", raw_layer="umi")
    with h5py.File(tmp_path / "raw.h5", "a") as file:
        file.copy("GRCh38", "mm10")
    with pytest.raises(ValueError, match="several genomes"):
        sb.pp.ambient_profile(cells, tmp_path / "raw.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(ValueError, match="no HDF5 file"):
        sb.pp.ambient_profile(cells, tmp_path / "text.h5")


def test_batches_are_called_the_same_whatever_their_type(data):
    cells, raw = data
    sb.pp.ambient_profile(cells, raw, batch_key="batch")
    cells.obs["batch"] = [int(name[1]) for name in cells.obs["batch"]]
    raw.obs["batch"] = [float(name[1]) for name in raw.obs["batch"]]
    sb.pp.ambient_profile(cells, raw, batch_key="batch", key_added="other")
    np.testing.assert_array_equal(cells.varm["other"], cells.varm["sb_ambient"])
    one = cells[cells.obs["batch"] == 1].copy()
    sb.pp.ambient_profile(one, raw, batch_key="batch")  # droplets of other batches are nobody's
    assert l1(one.varm["sb_ambient"][:, 0], raw.varm["soup"][:, 1]) < 1.3 * l1(cells.varm["other"], raw.varm["soup"])
    cells.obs["batch"] = 5
    with pytest.raises(ValueError, match="no droplets of batch '5' in raw, which has"):
        sb.pp.ambient_profile(cells, raw, batch_key="batch")


def test_genes_are_aligned_by_name(data, caplog):
    cells, raw = data
    sb.pp.ambient_profile(cells, raw)
    expected = pd.Series(cells.varm["sb_ambient"][:, 0], cells.var_names)
    order = np.random.default_rng(0).permutation(N_GENES)
    some = cells[:, order[:70]].copy()
    sb.pp.ambient_profile(some, raw)
    np.testing.assert_allclose(
        some.varm["sb_ambient"][:, 0], (expected / expected[some.var_names].sum())[some.var_names], rtol=0.03
    )
    share = sb.get.ambient_profile(some).attrs["share_of_genes"][0]
    assert share == pytest.approx(expected[some.var_names].sum(), rel=1e-3)
    renamed = raw.copy()
    renamed.var["gene_ids"], renamed.var_names = raw.var_names, [f"x{i}" for i in range(N_GENES)]
    sb.pp.ambient_profile(cells, renamed, key_added="by_id")
    np.testing.assert_allclose(cells.varm["by_id"][:, 0], expected)
    sb.pp.ambient_profile(cells, raw[:, 20:].copy(), key_added="fewer")
    assert (cells.varm["fewer"][:20] == 0).all()
    assert np.isnan(cells.varm["fewer_sd"][:20]).all()
    assert cells.varm["fewer"].sum() == pytest.approx(1)
    assert sb.get.ambient_profile(cells, "fewer").attrs["missing_genes"] == 20


def test_without_droplets_the_cells_have_to_do(data):
    cells, _ = data
    sb.pp.ambient_profile(cells, batch_key="batch")
    facts = sb.get.ambient_profile(cells).attrs
    assert facts["source"] == "cells"
    assert np.isnan(facts["concentration"]).all()
    assert np.isnan(cells.varm["sb_ambient_sd"]).all()
    own = np.asarray(cells.X[(cells.obs["batch"] == "b1").to_numpy()].sum(0)).ravel()
    np.testing.assert_allclose(cells.varm["sb_ambient"][:, 1], own / own.sum(), rtol=0.05)
    with pytest.raises(KeyError, match="no ranks"):
        sb.get.barcode_rank(cells)


def test_profiles_that_are_known(data):
    cells, raw = data
    counts = pd.Series(np.asarray(raw.X[N_CELLS:].sum(0)).ravel(), raw.var_names)
    sb.pp.ambient_profile(cells, profile=counts[::-1], key_added="counts")
    np.testing.assert_allclose(cells.varm["counts"][:, 0], counts / counts.sum(), rtol=0.1)
    totals = pd.Series(np.asarray(raw.X.sum(1)).ravel(), raw.obs_names)
    cells.var["soup"] = (counts / counts.sum()).to_numpy()
    sb.pp.ambient_profile(cells, totals, profile="soup", key_added="totals")
    np.testing.assert_allclose(cells.varm["totals_sd"], cells.varm["counts_sd"], rtol=0.1)
    assert sb.get.ambient_profile(cells, "totals").attrs["source"] == "totals"
    assert sb.get.barcode_rank(cells, "totals")["droplets"].sum() == (totals >= 2).sum()
    sb.pp.ambient_profile(cells, profile=cells.var["soup"].to_numpy(), key_added="shares")
    assert np.isnan(cells.varm["shares_sd"]).all()


def test_iterative_is_the_method_of_scar(data):
    cells, raw = data
    x = np.asarray(raw.X.todense())
    a = x.sum(0) / x.sum()
    for _ in range(2):
        level = np.array([stats.multinomial.logpmf(row, int(row.sum()), a) for row in x])
        empty = level >= N_GENES * np.log(0.6)
        a = x[empty].sum(0) / x[empty].sum()
    assert 50 < empty.sum() < N_EMPTY
    pooled, chosen = iterative_profile(sparse.csr_array(raw.X), 0.6, 2)
    np.testing.assert_array_equal(chosen, empty)
    np.testing.assert_allclose(pooled / pooled.sum(), a, rtol=1e-5)
    sb.pp.ambient_profile(cells, raw, method="iterative", prob=0.6, iterations=2)
    np.testing.assert_allclose(cells.varm["sb_ambient"][:, 0], a, rtol=1e-5)
    sb.pp.ambient_profile(cells, raw, method="iterative", prob=0.6, iterations=2, sample=500, rng=1)
    assert sb.get.ambient_profile(cells).attrs["n_empty"][0] < 500
    with pytest.raises(ValueError, match="lower it"):
        sb.pp.ambient_profile(cells, raw, method="iterative", prob=0.9999)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_results_survive_a_file(data, suffix, tmp_path):
    cells, raw = data
    sb.pp.ambient_profile(cells, raw, batch_key="batch")
    getattr(cells, f"write_{suffix}")(tmp_path / f"x.{suffix}")
    again = (ad.read_zarr if suffix == "zarr" else ad.read_h5ad)(tmp_path / f"x.{suffix}")
    for read in (sb.get.ambient_profile, sb.get.barcode_rank):
        pd.testing.assert_frame_equal(read(again), read(cells))


def test_order_of_droplets_does_not_matter_much(data):
    cells, raw = data
    sb.pp.ambient_profile(cells, raw)
    sb.pp.ambient_profile(cells, raw[np.random.default_rng(0).permutation(raw.n_obs)].copy(), key_added="other")
    assert l1(cells.varm["sb_ambient"], cells.varm["other"]) < 0.005


def test_picture(data):
    cells, raw = data
    sb.pp.ambient_profile(cells, raw, batch_key="batch")
    ax = sb.pl.barcode_rank(cells, show=False)
    assert ax.get_xscale() == ax.get_yscale() == "log"
    table = sb.get.barcode_rank(cells)
    points = np.concatenate([np.asarray(part.get_offsets()) for part in ax.collections])
    np.testing.assert_allclose(points, table[["rank", "total"]])
    marks = ["knee", "surely empty below", "split"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["b0", "b1", *marks]
    sb.pp.ambient_profile(cells, raw)
    assert [text.get_text() for text in sb.pl.barcode_rank(cells, show=False).get_legend().get_texts()] == marks


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"method": "mean"}, ValueError, "unknown method"),
        ({"alpha": 0}, ValueError, "alpha"),
        ({"prob": 1}, ValueError, "prob"),
        ({"iterations": 0}, ValueError, "iterations"),
        ({"min_raw_counts": 0}, ValueError, "min_raw_counts"),
        ({"empty_range": (9, 3)}, ValueError, "empty_range"),
        ({"empty_range": (1e6, 1e7)}, ValueError, "no droplets"),
        ({"empty_range": (2, 50), "method": "iterative"}, ValueError, "belongs"),
        ({"batch_key": "lane"}, KeyError, "no column 'lane'"),
        ({"raw_layer": "umi"}, KeyError, "no layer 'umi'"),
        ({"profile": np.ones(N_GENES)}, ValueError, "profile= goes with"),
        ({"raw": "nowhere.h5"}, FileNotFoundError, "nowhere"),
        ({"raw": 3}, TypeError, "raw is a int"),
        ({"raw": np.ones(5)}, ValueError, "totals of droplets alone"),
        ({"raw": {"b0": None}, "batch_key": "batch"}, ValueError, "has the batches"),
        ({"raw": {"b0": None}}, ValueError, "give batch_key"),
        ({"alpha": 1e-9}, ValueError, "between 0.0001 and 1"),
        ({"empty_range": 5}, ValueError, "empty_range=5"),
        ({"empty_range": "ab"}, ValueError, "empty_range='ab'"),
        ({"min_raw_counts": 10**7}, ValueError, "no droplets of at least 10000000 counts"),
        ({"raw": np.ones((5, 1)), "profile": np.ones(N_GENES)}, ValueError, "shape"),
        ({"raw": np.full(9, 30), "profile": np.ones(N_GENES)}, ValueError, "one hump"),
        ({"raw": None, "profile": pd.Series([1.0], ["x"])}, ValueError, "no gene of the cells"),
        ({"raw": None, "profile": pd.Series([np.nan], ["g1"])}, ValueError, "NaN"),
        ({"raw": None, "profile": np.full(N_GENES, "a")}, TypeError, "no array of numbers"),
        ({"raw": None, "profile": "soup"}, KeyError, "no column 'soup'"),
        ({"raw": None, "profile": np.ones(3)}, ValueError, "shape"),
        ({"raw": None, "profile": -np.ones(N_GENES)}, ValueError, "negative"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(data, settings, error, match):
    cells, raw = data
    with pytest.raises(error, match=match):
        sb.pp.ambient_profile(cells, **({"raw": raw} | settings))
    assert "sb_ambient" not in cells.varm
    assert "sb_ambient" not in cells.uns


def test_droplets_that_cannot_tell_are_refused(data):
    cells, raw = data
    with pytest.raises(ValueError, match="one hump"):
        sb.pp.ambient_profile(cells, raw[N_CELLS:].copy())
    sb.pp.ambient_profile(cells, raw[N_CELLS:].copy(), empty_range=(2, 1000))
    assert sb.get.ambient_profile(cells).attrs["n_empty"] == [N_EMPTY]
    with pytest.raises(ValueError, match="before cells were called"):
        sb.pp.ambient_profile(cells, cells.copy())
    only = raw[(raw.obs["batch"] == "b1") | raw.obs["is_cell"]].copy()
    with pytest.raises(ValueError, match="of batch 'b0', but those that are cells by name"):
        sb.pp.ambient_profile(cells, only, batch_key="batch")
    raw.var_names = [f"other{i}" for i in range(N_GENES)]
    with pytest.raises(ValueError, match="no gene of the cells"):
        sb.pp.ambient_profile(cells, raw)
    raw.X = raw.X * 0.5
    raw.var_names = cells.var_names
    with pytest.raises(ValueError, match="fractional"):
        sb.pp.ambient_profile(cells, raw)
    with pytest.raises(TypeError, match="AnnData"):
        sb.pp.ambient_profile(raw.X)
    cells.X = cells.X.multiply((cells.obs["batch"] == "b0").to_numpy()[:, None]).tocsr()
    with pytest.raises(ValueError, match="no counts in batch 'b1'"):
        sb.pp.ambient_profile(cells, batch_key="batch")
    cells.var_names = ["g0", *cells.var_names[:-1]]
    with pytest.raises(ValueError, match="var_names_make_unique"):
        sb.pp.ambient_profile(cells, raw)


def test_pooling_the_true_empties_is_nearly_reached(real):
    """On a real profile, 33,694 genes; the limit is the chance of sampling."""
    raw = real("pbmc4k_semisynthetic_raw")
    cells, truth = raw[raw.obs["is_cell"].to_numpy()].copy(), raw.var["soup_fraction"].to_numpy()
    pooled = np.asarray(raw.X[~raw.obs["is_cell"].to_numpy()].sum(0)).ravel()
    sb.pp.ambient_profile(cells, raw)
    assert l1(cells.varm["sb_ambient"][:, 0], truth) < 1.2 * l1(pooled / pooled.sum(), truth)
