"""Hidden counts and what the model says of them, against a dense form and the peers' definitions."""

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import scbayes as sb
from scbayes.tl._corrupted import corrupt
from scbayes.tl._latent_reading import encode_cells, read_latent_with_counts

N, G = 300, 30
SMALL = {"n_latent": 3, "n_hidden": 16, "max_epochs": 12, "batch_size": 64}
KINDS = {
    "nb": {},
    "zinb": {"likelihood": "zinb"},
    "poisson": {"likelihood": "poisson", "library": "encoded"},
    "b": {"likelihood": "b"},
}


def simulated(n: int = N, seed: int = 0) -> ad.AnnData:
    """Three types in two batches whose genes differ; other sizes of cells in `obs`."""
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(3, size=n), rng.integers(2, size=n)
    level = np.exp(np.random.default_rng(9).normal(0, 1, (3, G)))
    of_batch = np.exp(np.random.default_rng(8).normal(0, 0.4, (2, G)))
    share = level[kind] * of_batch[batch]
    share /= share.sum(1, keepdims=True)
    x = rng.negative_binomial(4, 4 / (4 + share * rng.uniform(60, 200, (n, 1))))
    adata = ad.AnnData(sparse.csr_matrix(x, dtype=np.float32))
    adata.obs["batch"], adata.obs["size"] = pd.Categorical([f"b{b}" for b in batch]), x.sum(1) * 1.5
    adata.obs_names, adata.var_names = [f"c{seed}_{i}" for i in range(n)], [f"g{i}" for i in range(G)]
    return adata


@pytest.fixture(scope="module")
def _fitted() -> ad.AnnData:
    adata = simulated()
    how = {"batch_key": "batch", "progress": False}
    for key, config in KINDS.items():
        sb.tl.fit(adata, "vae", config=SMALL | config, key_added=key, **how)
    config = SMALL | {"library": "size_factor", "max_epochs": 2}
    sb.tl.fit(adata, "vae", config=config, size_factor_key="size", key_added="given", **how)
    return adata


@pytest.fixture
def fitted(_fitted) -> ad.AnnData:
    return _fitted.copy()


# --- the metric -------------------------------------------------------------------------------------------------------


def test_error_is_the_imputation_score_of_scvi():
    """Its lists of original and imputed counts of each cell, draws one after the other, written down again."""
    rng = np.random.default_rng(0)
    n_cells, n_samples, m = 40, 8, 300
    cells = np.sort(rng.choice(np.delete(np.arange(n_cells), [3, 39]), m)).astype(np.int32)
    original, imputed = rng.poisson(4, m) + 1.0, rng.gamma(2, 2, (n_samples, m))
    tiled = np.tile(cells, n_samples)
    originals = [np.tile(original, n_samples)[tiled == i] for i in range(n_cells)]
    imputeds = [imputed.ravel()[tiled == i] for i in range(n_cells)]
    score = np.median(np.abs(np.concatenate(originals) - np.concatenate(imputeds)))
    each = [np.median(np.abs(a - b)) if len(a) else 0 for a, b in zip(originals, imputeds, strict=True)]
    error = sb.metrics.imputation_error
    assert error(original, imputed) == pytest.approx(score, abs=1e-12)
    assert error(original, imputed, cells=cells, n_cells=n_cells) == pytest.approx(np.mean(each), abs=1e-12)
    there = [value for value, a in zip(each, originals, strict=True) if len(a)]
    assert error(original, imputed, cells=cells) == pytest.approx(np.mean(there), abs=1e-12)
    frame = pd.DataFrame({"cell": cells, "difference": np.abs(original - imputed[0])})
    expected = frame.groupby("cell")["difference"].median().mean()
    assert error(original, imputed[0], cells=cells) == pytest.approx(expected, abs=1e-12)
    assert error([1, 2, 7], [1, 4, 7.5]) == 0.5


@pytest.mark.parametrize(
    ("arguments", "settings", "match"),
    [
        (([1, 2], [1]), {}, r"must be \(n,\)"),
        (([[1, 2]], [[1, 2]]), {}, r"must be \(n,\)"),
        (([], []), {}, "no imputed counts"),
        (([1, 2], [1, np.nan]), {}, "NaN"),
        (([1, 2], [1, 2]), {"n_cells": 3}, "goes with cells"),
        (([1, 2], [1, 2]), {"cells": [0, -1]}, "2 integers from 0"),
        (([1, 2], [1, 2]), {"cells": [0.0, 1.0]}, "2 integers from 0"),
        (([1, 2], [1, 2]), {"cells": [0, 5], "n_cells": 5}, "holds 5"),
    ],
)
def test_error_refuses(arguments, settings, match):
    with pytest.raises(ValueError, match=match):
        sb.metrics.imputation_error(*arguments, **settings)


# --- corruption -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("corruption", "rate"), [("uniform", 0.5), ("uniform", 1.0), ("binomial", 0.3)])
def test_corrupted_counts(fitted, corruption, rate):
    cells = read_latent_with_counts(fitted, "nb").cells
    before = cells.x.copy()
    hidden = corrupt(cells, corruption, rate, np.random.default_rng(1), observed=True)
    x, y = before.toarray(), hidden.cells.x.toarray()
    np.testing.assert_array_equal(cells.x.toarray(), x)
    cell, gene = np.nonzero(x != y)
    np.testing.assert_array_equal(hidden.cell, cell)
    np.testing.assert_array_equal(hidden.gene, gene)
    np.testing.assert_array_equal(hidden.original, x[cell, gene])
    np.testing.assert_array_equal(hidden.corrupted, y[cell, gene])
    np.testing.assert_array_equal(hidden.cells.total, y.sum(1))
    np.testing.assert_allclose(hidden.cells.log_size, np.log(y.sum(1)), rtol=1e-6)
    ones = (x == 1).sum()
    if corruption == "uniform":
        assert (hidden.corrupted == 0).all()
        assert len(cell) == pytest.approx(0.1 * rate * before.nnz, abs=4 * np.sqrt(0.1 * rate * before.nnz))
    else:
        lost = ((x == 1) & (y == 0)).sum()
        assert lost == pytest.approx(0.8 * rate * ones, abs=4 * np.sqrt(0.8 * rate * ones))
        large = x >= 5
        kept = (x[large] - y[large]).sum() / x[large].sum()
        assert kept == pytest.approx(0.8 * rate, rel=0.15)
        # of those that were picked, nearly all changed: their rest is binomial with p = 0.2
        rest = y[large & (x != y)].sum() / x[large & (x != y)].sum()
        assert rest == pytest.approx(0.2, abs=0.03)


def test_a_cell_that_would_lose_everything_is_left_as_it_is(fitted):
    adata = fitted.copy()
    x = adata.X.tolil()
    x[:5] = 0
    x[:5, 3] = 1
    adata.X = x.tocsr().astype(np.float32)
    cells = read_latent_with_counts(adata[:, :].copy(), "nb").cells
    hidden = corrupt(cells, "binomial", 1.0, np.random.default_rng(0), observed=True)
    assert 1 <= hidden.n_spared <= 5
    assert np.isfinite(hidden.cells.log_size).all()
    assert (hidden.cells.total > 0).all()
    assert (hidden.cells.x[:5].sum(1) == 1).all()


# --- the verb ---------------------------------------------------------------------------------------------------------


def dense(adata, key, corruption, n_samples, *, seed=0, rate=0.5, batches=(None,), **where):
    """Imputed counts of all draws, cells and genes at once, ``(S, n, G)``, and the changed entries."""
    reading = read_latent_with_counts(adata, key, **where)
    fit = reading.fit
    observed = fit.config.library != "size_factor"
    hidden = corrupt(reading.cells, corruption, rate, np.random.default_rng([seed, 0]), observed=observed)
    loc, scale = encode_cells(fit.model, fit.params, fit.fixed, hidden.cells)
    seen = reading._replace(cells=hidden.cells)
    eps = np.zeros((n_samples, *loc.shape))
    for first in range(0, len(loc), 256):
        for draw in range(n_samples):
            some = np.random.default_rng([seed, 1, draw, first]).standard_normal(
                (min(256, len(loc)), loc.shape[1]), np.float32
            )
            eps[draw, first : first + 256] = some[: len(loc) - first]
    decoded = [fit.model.decode(seen.at(np.arange(len(loc)), batch), loc + scale * eps) for batch in batches]
    mean = np.mean([np.exp(np.asarray(one.log_size)[..., None] + np.asarray(one.log_share)) for one in decoded], 0)
    return mean, hidden


@pytest.mark.parametrize("corruption", ["uniform", "binomial"])
@pytest.mark.parametrize("key", [*KINDS, "given"])
def test_imputed_counts_are_those_of_a_dense_form(fitted, key, corruption):
    sb.tl.impute(fitted, key, corruption=corruption, rate=0.5, n_samples=3, keep_draws=True)
    mean, hidden = dense(fitted, key, corruption, 3)
    expected = mean[:, hidden.cell, hidden.gene]
    table = sb.get.imputation(fitted, key)
    np.testing.assert_allclose(sb.get.imputation(fitted, key, draws=True), expected, rtol=2e-4)
    np.testing.assert_allclose(table["imputed"], expected.mean(0), rtol=2e-4)
    assert list(table["cell"]) == list(fitted.obs_names[hidden.cell])
    assert list(table["gene"]) == list(fitted.var_names[hidden.gene])
    x = fitted.X.toarray()
    at = fitted.obs_names.get_indexer(table["cell"]), fitted.var_names.get_indexer(table["gene"])
    np.testing.assert_array_equal(table["original"], x[at])
    assert (table["corrupted"] < table["original"]).all()
    facts, gap = table.attrs, np.abs(x[at] - expected)
    assert facts["error"] == pytest.approx(np.median(np.abs(x[at] - expected.mean(0))), rel=1e-4)
    assert facts["error_of_draws"] == pytest.approx(np.median(gap), rel=1e-4)
    assert facts["error_of_corrupted"] == np.median(x[at] - hidden.corrupted)
    low = hidden.cells.x.toarray()
    profile = (low.sum(1, keepdims=True) * low.sum(0) / low.sum())[at]
    assert facts["error_of_profile"] == pytest.approx(np.median(np.abs(x[at] - profile)), rel=1e-5)
    each = [np.median(gap[:, hidden.cell == i]) if (hidden.cell == i).any() else 0 for i in range(N)]
    assert facts["error_of_draws_per_cell"] == pytest.approx(np.mean(each), rel=1e-4)
    assert facts["n_changed"] == len(table)


def test_the_model_says_more_than_no_model(fitted):
    """Below the errors of zeros and of the average cell, on cells that it has not seen."""
    adata = simulated()
    sb.tl.fit(adata, "vae", config=SMALL | {"max_epochs": 60}, batch_key="batch", progress=False)
    new = simulated(400, 7)
    sb.tl.impute(new, reference=adata, corruption="binomial", rate=0.2)
    facts = sb.get.imputation(new).attrs
    assert facts["error"] < 0.9 * facts["error_of_profile"] < 0.9 * facts["error_of_corrupted"]
    table = sb.get.imputation(new)
    assert stats.spearmanr(table["original"], table["imputed"]).statistic > 0.5


def test_batches_that_cells_are_taken_to_be_of(fitted):
    sb.tl.impute(fitted, "nb", rate=0.5, n_samples=2, transform_batch=["b0", "b1"])
    mean, hidden = dense(fitted, "nb", "uniform", 2, batches=(0, 1))
    table = sb.get.imputation(fitted, "nb")
    np.testing.assert_allclose(table["imputed"], mean.mean(0)[hidden.cell, hidden.gene], rtol=2e-4)
    assert table.attrs["batches"] == ["b0", "b1"]


def test_new_cells_and_a_file(fitted, tmp_path):
    new = simulated(90, 5)
    sb.tl.impute(new, "nb", reference=sb.get.fit(fitted, "nb").to_anndata(), rate=0.5, key_added="new", keep_draws=True)
    mean, hidden = dense(new, "nb", "uniform", 8, reference=fitted)
    table = sb.get.imputation(new, "new")
    np.testing.assert_allclose(table["imputed"], mean.mean(0)[hidden.cell, hidden.gene], rtol=2e-4)
    new.write_h5ad(tmp_path / "x.h5ad")
    back = ad.read_h5ad(tmp_path / "x.h5ad")
    pd.testing.assert_frame_equal(sb.get.imputation(back, "new"), table)
    assert sb.get.imputation(back, "new").attrs == table.attrs
    np.testing.assert_array_equal(sb.get.imputation(back, "new", draws=True), sb.get.imputation(new, "new", draws=True))
    pd.testing.assert_frame_equal(sb.get.imputation(new[:3, :2], "new"), table)


def test_seeds(fitted):
    def at(rng):
        sb.tl.impute(fitted, "nb", n_samples=1, rng=rng)
        return sb.get.imputation(fitted, "nb")

    pd.testing.assert_frame_equal(at(3), at(3))
    assert not at(3)["cell"].equals(at(4)["cell"])


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"corruption": "gaussian"}, ValueError, "'uniform', 'binomial'"),
        ({"rate": 0}, ValueError, "rate=0"),
        ({"rate": 1.1}, ValueError, "rate=1.1"),
        ({"rate": 1e-9}, ValueError, "no count changed"),
        ({"n_samples": 0}, ValueError, "n_samples=0"),
        ({"keep_draws": 3}, TypeError, "keep_draws=3"),
        ({"transform_batch": "b7"}, ValueError, "does not know"),
        ({"key": "none"}, KeyError, "none"),
    ],
)
def test_errors_come_before_anything_is_written(fitted, settings, error, match):
    before = set(fitted.uns)
    with pytest.raises(error, match=match):
        sb.tl.impute(fitted, **({"key": "nb"} | settings))
    assert set(fitted.uns) == before


def test_reading_refuses(fitted):
    with pytest.raises(KeyError, match=r"run sb\.tl\.impute first"):
        sb.get.imputation(fitted, "nb")
    sb.tl.impute(fitted, "nb", n_samples=1)
    with pytest.raises(KeyError, match="keep_draws=True"):
        sb.get.imputation(fitted, "nb", draws=True)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_picture_of_imputed_counts(fitted):
    from matplotlib import pyplot as plt

    sb.tl.impute(fitted, "nb", corruption="binomial", rate=0.5)
    ax = sb.pl.imputation(fitted, "nb", show=False)
    table = sb.get.imputation(fitted, "nb")
    shown = ax.collections[0].get_array()
    assert shown.sum() == len(table)
    assert ax.get_xscale() == ax.get_yscale() == "log"
    same, regression = ax.lines
    np.testing.assert_array_equal(same.get_xdata(), same.get_ydata())
    expected = stats.linregress(np.log(table["original"]), np.log(table["imputed"]))
    slope = np.diff(np.log(regression.get_ydata())) / np.diff(np.log(regression.get_xdata()))
    assert slope[0] == pytest.approx(expected.slope, rel=1e-4)
    assert f"{table.attrs['error']:.3g}" in ax.get_title()
    _, given = plt.subplots()
    assert sb.pl.imputation(fitted, "nb", ax=given) is given
    plt.close("all")


def test_picture_of_training(fitted):
    from matplotlib import pyplot as plt

    ax = sb.pl.loss(fitted, "nb", show=False)
    fit = sb.get.fit(fitted, "nb")
    drawn = {tuple(np.asarray(line.get_ydata(), float)) for line in ax.lines if len(line.get_xdata())}
    assert tuple(fit.table["train_elbo"]) in drawn
    assert tuple(fit.table["validation_elbo"]) in drawn
    best = fit.facts["convergence"]["best_epoch"]
    marked = next(line for line in ax.lines if line.get_marker() == "o")
    assert list(marked.get_xdata()) == [best]
    assert marked.get_ydata()[0] == fit.table["validation_elbo"][best] == fit.table["validation_elbo"].max()
    right = next(other for other in ax.figure.axes if other is not ax)
    np.testing.assert_array_equal(right.lines[0].get_ydata(), fit.table["validation_kl"])
    assert f"epoch {best}" in ax.get_legend().get_texts()[0].get_text()
    assert len({line.get_marker() for line in sb.pl.loss(fitted, ["nb", "b"], show=False).lines}) >= 3
    _, given = plt.subplots()
    assert sb.pl.loss(fitted, "nb", ax=given) is given
    plt.close("all")


def test_pictures_of_training_that_cannot_be(fitted, monkeypatch):
    other = sb.datasets.simulate("nbdm", n_cells=N, n_genes=G, rng=0)
    other.obs_names, other.var_names = fitted.obs_names, fitted.var_names
    fitted.layers["nbdm"] = other.X
    sb.tl.fit(fitted, "nbdm", layer="nbdm", progress=False, n_steps=50)
    with pytest.raises(ValueError, match="draw each alone"):
        sb.pl.loss(fitted, ["sb", "nb"], show=False)
    none = replace(sb.get.fit(fitted, "nb"), history=np.zeros((0, 2, 3)))
    monkeypatch.setattr(sb.get, "fit", lambda adata, key: none)
    with pytest.raises(ValueError, match="no epoch behind it"):
        sb.pl.loss(fitted, "nb", show=False)


def test_training_without_validation_is_drawn():
    adata = simulated(100, 3)
    sb.tl.fit(adata, "vae", config=SMALL | {"max_epochs": 2, "train_size": 1.0}, progress=False)
    ax = sb.pl.loss(adata, show=False)
    assert np.isfinite(ax.get_ylim()).all()
    marked = next(line for line in ax.lines if line.get_marker() == "o")
    assert marked.get_ydata()[0] == sb.get.fit(adata).table["train_elbo"][2]
