"""`tl.denoise`: what always holds, known truth, every argument, odd and bad input."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scbayes as sb
from scbayes.models._native_counts import ROUNDINGS


def denoise(adata, **settings):
    return sb.tl.denoise(adata, **({"progress": False} | settings))


def facts(adata, key="sb") -> dict:
    return sb.state.read_result(adata, "denoise", key).facts


def shares(adata, key="sb"):
    return [adata.obs[f"{key}_contamination{end}"].to_numpy() for end in ("", "_low", "_high")]


def check(adata, x, key="sb") -> None:
    """What holds for any data; ``x`` are the counts as they were."""
    x = sparse.csr_matrix(x, copy=True)
    x.eliminate_zeros()
    whole, probability = adata.layers[f"{key}_denoised"], adata.layers[f"{key}_native_probability"]
    for layer in (whole, probability):
        assert layer.format == "csr"
        assert layer.shape == x.shape
        assert (abs(layer).sign() > abs(x).sign()).nnz == 0  # zeros stay
    assert whole.dtype == x.dtype
    assert probability.dtype == np.float32
    assert (whole.data == np.round(whole.data)).all()
    assert (whole.data > 0).all()
    ambient = x.astype(float) - whole.astype(float)
    assert ambient.data.min(initial=0) >= 0
    assert 0 <= probability.data.min() <= probability.data.max() <= 1
    mean, low, high = shares(adata, key)
    known = np.asarray(x.sum(1)).ravel() > 0
    np.testing.assert_array_equal(np.isnan(mean), ~known)
    assert (low[known] <= mean[known]).all()
    assert (mean[known] <= high[known]).all()
    assert 0 <= low[known].min() <= high[known].max() <= 1
    total = np.asarray(x.sum(0)).ravel()
    kept = np.asarray(x.astype(float).multiply(probability).sum(0)).ravel()
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(adata.var[f"{key}_removed"], 1 - kept / np.where(total, total, np.nan), atol=1e-6)


@pytest.fixture(scope="module")
def _clean(soupy):
    adata = soupy()
    denoise(adata, ambient=adata.varm["soup"], batch_key="batch", groupby="kind")
    return adata


@pytest.fixture
def data(_clean):
    """Counts, and what `denoise` made of them, whose parts tests may change."""
    return _clean.copy()


@pytest.fixture
def fresh(data):
    return ad.AnnData(data.X, data.obs[["kind", "batch", "rho"]], data.var[[]], varm={"soup": data.varm["soup"]})


# --- known truth ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "silent"), [(0, 0.3), (1, 0.3), (2, 0.0)])
def test_shares_are_recovered(soupy, seed, silent):
    adata = soupy(seed, silent=silent)
    x, names = adata.X.copy(), list(adata.obs_names)
    denoise(adata, ambient="soup", batch_key="batch", groupby="kind")
    check(adata, x)
    assert (x != adata.X).nnz == 0
    assert list(adata.obs_names) == names
    mean, low, high = shares(adata)
    rho = adata.obs["rho"].to_numpy()
    assert np.corrcoef(mean, rho)[0, 1] >= 0.9
    one = facts(adata)["samples"]["all"]
    if silent:
        assert one["identified"]
    if one["identified"]:
        assert mean.mean() / rho.mean() == pytest.approx(1, abs=0.15)
        assert 0.8 <= np.mean((low <= rho) & (rho <= high)) <= 0.98
    assert abs(one["level"] - rho.mean()) < 2.5 * one["level_sd"]


def test_counts_are_nearer_to_the_native_ones(data):
    x, native, whole = (m.astype(float) for m in (data.X, data.layers["native"], data.layers["sb_denoised"]))
    assert abs(whole - native).sum() < 0.8 * abs(x - native).sum()
    mean = x.multiply(data.layers["sb_native_probability"])
    assert abs(mean - native).power(2).sum() < 0.7 * abs(x - native).power(2).sum()
    assert whole.sum() / native.sum() == pytest.approx(1, abs=0.02)
    total = np.asarray(x.sum(0)).ravel()
    many = total > 500
    true = 1 - np.asarray(native.sum(0)).ravel() / np.maximum(total, 1)
    assert np.corrcoef(data.var["sb_removed"][many], true[many])[0, 1] > 0.9


def test_level_that_nothing_tells_is_flagged(soupy, caplog):
    """All cells hold the same share, and express all genes."""
    adata = soupy(3, silent=0.0, equal=True)
    caplog.set_level(logging.WARNING)
    found = {}
    with sb_verbosity("warning"):
        for prior in ((0.03, 0.4), (0.08, 1.0), (0.2, 0.4)):
            denoise(adata, ambient="soup", batch_key="batch", groupby="kind", prior=prior)
            one = facts(adata)["samples"]["all"]
            assert not one["identified"]
            mean, low, high = shares(adata)
            found[prior] = mean.mean()
            if prior[1] == 1:
                assert np.mean((low <= 0.12) & (high >= 0.12)) > 0.5
    assert found[0.03, 0.4] < 0.8 * found[0.2, 0.4]


def sb_verbosity(level):
    import scanpy as sc

    return sc.settings.verbosity.override(level)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2])
def test_a_profile_of_the_cells_themselves_tells_no_level(noise):
    """One kind of cells, which makes the soup: nothing tells them apart, and half of the counts must not go."""
    rng = np.random.default_rng(0)
    m = rng.lognormal(0, 1.5, 300)
    m /= m.sum()
    x = rng.poisson(rng.gamma(4, 0.25, (200, 300)) * m * rng.lognormal(np.log(3000), 0.3, (200, 1)))
    adata = ad.AnnData(sparse.csr_matrix(x.astype(np.float32)))
    adata.obs["kind"] = "one"
    profile = x.sum(0) * rng.lognormal(0, noise, 300) if noise else x.sum(0)
    denoise(adata, ambient=profile, groupby="kind")
    check(adata, adata.X)
    assert not facts(adata)["samples"]["all"]["identified"]


# --- arguments --------------------------------------------------------------------------------------------------------


def test_profiles_in_every_form_are_the_same(data, fresh):
    soup = data.varm["soup"]
    table = pd.DataFrame(soup[:, ::-1], data.var_names, ["b1", "b0"])[::-1]
    for ambient in ("soup", table, 7 * soup):
        denoise(fresh, ambient=ambient, batch_key="batch", groupby="kind")
        apart = np.abs(np.subtract(shares(fresh), shares(data)))
        # rounding moves a mode to the next node; batches in another order are seen with other halves of the genes
        assert (apart < 0.05).mean() > 0.99 if ambient is table else apart.max() < 1e-3
        assert apart.mean() < 0.002
        assert facts(fresh)["batch_key"] == "batch"
    np.testing.assert_allclose(fresh.varm["sb_denoise_ambient"], soup)
    fresh.obs["batch"] = [float(name[1]) for name in fresh.obs["batch"]]
    denoise(fresh, ambient=table.set_axis([1.0, 0.0], axis=1), batch_key="batch", groupby="kind")
    assert np.abs(np.subtract(shares(fresh), shares(data))).mean() < 0.002
    one = pd.Series(soup.mean(1), data.var_names)
    denoise(fresh, ambient=one[::-1], groupby="kind")
    expected = shares(fresh)
    denoise(fresh, ambient=one.to_numpy(), groupby="kind")
    np.testing.assert_array_equal(shares(fresh), expected)
    sb.pp.ambient_profile(fresh, batch_key="batch")  # which knows its batches, here numbers
    denoise(fresh, groupby="kind")
    assert facts(fresh)["ambient"] == "sb_ambient"
    assert facts(fresh)["batch_key"] == "batch"


def test_kinds_of_cells(data, fresh):
    soup = {"ambient": "soup", "batch_key": "batch"}
    denoise(fresh, **soup)
    cross = pd.crosstab(fresh.obs["sb_denoise_group"], fresh.obs["kind"])
    assert (cross.max(axis=1) / cross.sum(axis=1)).min() > 0.95
    assert facts(fresh)["kinds"] == "clusters"
    assert np.corrcoef(shares(fresh)[0], fresh.obs["rho"])[0, 1] > 0.9
    sb.tl.fit(fresh, n_components=3, progress=False, n_steps=50)
    denoise(fresh, **soup, key="sb", key_added="fit")
    assert facts(fresh, "fit")["kinds"] == "components of 'sb'"
    with pytest.raises(ValueError, match="give one"):
        denoise(fresh, **soup, groupby="kind", key="sb")
    fresh.obs["kind"] = pd.Categorical(np.where(np.arange(fresh.n_obs) > 30, fresh.obs["kind"], None))
    denoise(fresh, **soup, groupby="kind")
    assert (fresh.obs["sb_denoise_group"][:31] == "missing").all()
    check(fresh, fresh.X)
    fresh.obs["kind"] = "all"
    denoise(fresh, **soup, groupby="kind")
    assert list(fresh.obs["sb_denoise_group"].cat.categories) == ["all"]
    check(fresh, fresh.X)


def test_samples_have_levels_of_their_own(fresh):
    fresh.obs["sample"] = np.where(np.arange(fresh.n_obs) < 5, "tiny", fresh.obs["batch"])
    denoise(fresh, ambient="soup", batch_key="batch", groupby="kind", sample_key="sample")
    samples = facts(fresh)["samples"]
    assert list(samples) == ["b0", "b1", "tiny"]
    assert samples["b0"]["identified"]
    assert not samples["tiny"]["identified"]
    assert samples["tiny"]["level_sd"] > 3 * samples["b0"]["level_sd"]
    levels = fresh.uns["sb_denoise"]["levels"]
    assert levels["n_cells"].sum() == fresh.n_obs
    assert set(levels["sample"]) == set(samples)
    _, low, high = shares(fresh)
    assert (high - low)[:5].min() > 0.15


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_rounding(fresh, rounding):
    for key, rng in (("one", 1), ("two", 1), ("other", 2)):
        denoise(fresh, ambient="soup", batch_key="batch", groupby="kind", rounding=rounding, rng=rng, key_added=key)
        check(fresh, fresh.X, key)
    whole = [fresh.layers[f"{key}_denoised"].astype(float) for key in ("one", "two", "other")]
    assert abs(whole[0] - whole[1]).sum() == 0
    assert abs(whole[0] - whole[2]).sum() > 0
    expected = (1 - fresh.var["one_removed"]) * np.asarray(fresh.X.sum(0)).ravel()
    error = np.asarray(whole[0].sum(0)).ravel() - expected
    if rounding == "ranked":  # of each gene in each of six groups
        assert np.abs(error).max() < 6
    else:
        assert np.abs(error).sum() < 0.02 * expected.sum()


def test_interval_and_names(data, fresh):
    settings = {"ambient": "soup", "batch_key": "batch", "groupby": "kind", "interval": 0.5, "key_added": "half"}
    result = denoise(fresh, **settings, copy=True)
    assert "half_contamination" not in fresh.obs
    np.testing.assert_allclose(result.obs["half_contamination"], data.obs["sb_contamination"])
    width = [np.subtract(*shares(*which)[:0:-1]).mean() for which in ((result, "half"), (data, "sb"))]
    assert width[0] == pytest.approx(0.41 * width[1], rel=0.15)  # of a normal distribution


def test_formats_and_files(data, fresh, tmp_path):
    settings = {"ambient": "soup", "batch_key": "batch", "groupby": "kind"}
    x = fresh.X.copy()
    fresh.write_h5ad(tmp_path / "x.h5ad")
    backed = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    denoise(backed, **settings)
    check(backed, x)
    np.testing.assert_allclose(shares(backed), shares(data))
    backed.file.close()
    for form in (x.toarray(), x.tocsc(), x.astype(np.int64), x.astype(np.uint16)):
        fresh.X = form
        denoise(fresh, **settings)
        check(fresh, fresh.X)
        np.testing.assert_allclose(shares(fresh), shares(data))
    fresh.layers["counts"], fresh.X = x, x.log1p()
    denoise(fresh, **settings, layer="counts")
    np.testing.assert_allclose(shares(fresh), shares(data))
    view = fresh[:, :]
    with pytest.warns(UserWarning, match="Received a view"):
        denoise(view, **settings, layer="counts")
    np.testing.assert_allclose(shares(view), shares(data))
    data.write_h5ad(tmp_path / "y.h5ad")
    again = ad.read_h5ad(tmp_path / "y.h5ad")
    assert facts(again) == facts(data)
    check(again, again.X)


# --- odd input --------------------------------------------------------------------------------------------------------


def test_cells_without_counts_stay_as_they_are(fresh):
    keep = np.arange(fresh.n_obs) >= 7
    fresh.X = sparse.csr_matrix(fresh.X.multiply(keep[:, None]))
    for settings in ({"groupby": "kind"}, {}, {"groupby": "kind", "rounding": "draw"}):
        denoise(fresh, ambient="soup", batch_key="batch", **settings)
        check(fresh, fresh.X)
        assert np.isnan(shares(fresh)[0]).sum() == 7


@pytest.mark.parametrize(
    "case", ["one gene", "two genes", "one cell", "30 cells", "one each", "alike", "lacking", "alone"]
)
def test_odd_input(fresh, case):
    soup, settings = fresh.varm["soup"].mean(1), {}
    if case.endswith(("gene", "genes")):
        n = 1 + case.startswith("two")
        fresh, soup = fresh[:, :n].copy(), soup[:n] + 1e-3
    elif case.endswith(("cell", "cells")):
        fresh = fresh[: 1 if case == "one cell" else 30].copy()
    elif case == "one each":
        fresh = fresh[:12].copy()
        fresh.obs["one"], settings = [f"c{i}" for i in range(12)], {"groupby": "one"}
    elif case == "alike":
        fresh.X = sparse.csr_matrix(np.tile(fresh.X[:1].toarray(), (fresh.n_obs, 1)))
    elif case == "lacking":  # the profile lacks genes, and others are in no cell
        soup[::2] = 0
        fresh.X = sparse.csr_matrix(fresh.X.multiply(np.arange(fresh.n_vars) % 3 > 0))
        settings = {"groupby": "kind"}
    else:
        soup = np.eye(fresh.n_vars)[np.asarray(fresh.X.sum(0)).argmax()]
    denoise(fresh, ambient=soup, **settings)
    check(fresh, fresh.X)
    probability = fresh.layers["sb_native_probability"].tocsc()
    assert all(probability[:, g].data.min(initial=1) == 1 for g in np.flatnonzero(soup == 0))


# --- real data --------------------------------------------------------------------------------------------------------


def test_pancreas():
    adata = sb.datasets.pancreas()
    some = np.argsort(-np.asarray(adata.X.sum(0)).ravel())[:1500]
    adata = adata[::2, np.sort(some)].copy()
    x = adata.X.copy()
    profile = np.asarray(x.sum(0)).ravel() * np.random.default_rng(0).lognormal(0, 0.3, 1500)
    denoise(adata, ambient=profile, groupby="cell_type")
    check(adata, x)
    assert shares(adata)[0].mean() < 0.15


@pytest.mark.parametrize("name", ["soupx_toy_raw", "scmix_RNAmix_celseq2"])
def test_real_cells(real, name):
    adata = real(name)
    if "is_cell" in adata.obs:
        profile = np.asarray(adata[~adata.obs["is_cell"].to_numpy(bool)].X.sum(0)).ravel()
        adata = adata[adata.obs["is_cell"].to_numpy(bool)].copy()
    else:
        adata = adata[:, np.argsort(-np.asarray(adata.X.sum(0)).ravel())[:1000]].copy()
        profile = np.asarray(adata.X.sum(0)).ravel()
    x = sparse.csr_matrix(adata.X)
    denoise(adata, ambient=profile + 1e-9)
    check(adata, x)
