"""Reading back and pictures of contamination: what is drawn is what is stored."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy import sparse
from scipy.special import ndtri

import scbayes as sb


def without(x, *, cell: int = -1, gene: int = -1):
    """The same counts, but none of this cell, or of this gene."""
    x = x.tocoo()
    kept = (x.row != cell) & (x.col != gene)
    return sparse.csr_matrix((x.data[kept], (x.row[kept], x.col[kept])), shape=x.shape)


@pytest.fixture(scope="module")
def _denoised(droplets) -> ad.AnnData:
    """Two batches with a profile each, samples across them, three kinds of cells of which one is too small to ask."""
    cells, raw = droplets(0)
    cells.obs["kind"] = pd.Categorical(np.where(np.arange(200) < 5, "few", np.where(np.arange(200) % 2, "b", "a")))
    cells.obs["donor"] = np.where(np.arange(200) % 3, "d1", "d0")
    cells.X = without(cells.X, cell=7)
    sb.pp.ambient_profile(cells, raw, batch_key="batch")
    sb.pp.ambient_profile(cells, raw, key_added="one")
    settings = {"groupby": "kind", "progress": False}
    sb.tl.denoise(cells, **settings)
    sb.tl.denoise(cells, ambient="one", sample_key="donor", interval=0.5, key_added="own", **settings)
    return cells


@pytest.fixture
def adata(_denoised) -> ad.AnnData:
    return _denoised.copy()


def known(adata, key: str, **identified) -> None:
    """Change what is recorded of levels."""
    import json

    record = json.loads(adata.uns[f"{key}_denoise"]["result"])
    for name, value in identified.items():
        record["facts"]["samples"][name]["identified"] = value
    adata.uns[f"{key}_denoise"]["result"] = json.dumps(record)


# --- reading back -----------------------------------------------------------------------------------------------------


def test_cells(adata):
    table = sb.get.contamination(adata)
    assert list(table.columns) == ["contamination", "low", "high", "group", "sample"]
    assert table.index.equals(adata.obs_names)
    for column, slot in (("contamination", ""), ("low", "_low"), ("high", "_high")):
        np.testing.assert_array_equal(table[column], adata.obs[f"sb_contamination{slot}"])
    assert table["contamination"].isna().sum() == 1
    inside = table.dropna()
    assert ((inside["low"] < inside["contamination"]) & (inside["contamination"] < inside["high"])).all()
    assert list(table["group"]) == list(adata.obs["kind"])
    assert set(table["sample"]) == {"all"}
    assert table.attrs["interval"] == 0.9
    assert list(table.attrs["samples"]) == ["all"]
    table["low"] = 0.0
    assert (sb.get.contamination(adata)["low"].dropna() > 0).all(), "what is handed out is a copy"


def test_samples(adata):
    table = sb.get.contamination(adata, "own")
    assert list(table["sample"]) == list(adata.obs["donor"])
    assert list(table.attrs["samples"]) == ["d0", "d1"]
    assert list(sb.get.contamination(adata[5:9], "own")["sample"]) == list(adata.obs["donor"][5:9])


def test_groups(adata):
    table = sb.get.contamination(adata, by="group")
    assert list(table.columns) == ["group", "sample", "batch", "n_cells", "level", "level_sd", "noise", "identified"]
    seen = adata[adata.obs["sb_contamination"].notna()]
    expected = seen.obs.groupby(["kind", "batch"], observed=True).size()
    assert table.set_index(["group", "batch"])["n_cells"].to_dict() == expected.to_dict()
    assert set(table["sample"]) == {"all"}
    own = sb.get.contamination(adata, "own", by="group")
    assert set(own["batch"]) == {"all"}
    assert set(own["sample"]) == {"d0", "d1"}
    assert not {"T", "F"} & set(own["identified"].astype(str))
    known(adata, "own", d0=True, d1=False)
    own = sb.get.contamination(adata, "own", by="group")
    assert (own["identified"] == (own["sample"] == "d0")).all()


def test_groups_are_of_the_cells_that_they_name(adata):
    """The level of a group of enough cells is close to the mean of its cells."""
    table = sb.get.contamination(adata, by="group").query("n_cells > 30")
    assert len(table) == 4
    for row in table.itertuples():
        own = adata.obs[(adata.obs["kind"] == row.group) & (adata.obs["batch"] == row.batch)]
        assert abs(own["sb_contamination"].mean() / row.level - 1) < 0.25


def test_shares_in_cells(adata):
    table = sb.get.ambient_profile(adata, cells=True)
    assert list(table.columns) == ["gene", "batch", "mean", "sd", "count", "in_cells"]
    for batch, part in table.groupby("batch"):
        counts = np.asarray(adata[adata.obs["batch"] == batch].X.sum(0)).ravel()
        np.testing.assert_array_equal(part["count"], counts)
        np.testing.assert_allclose(part["in_cells"], counts / counts.sum())
    adata.layers["other"] = adata.X * 2
    doubled = sb.get.ambient_profile(adata, cells=True, layer="other")
    np.testing.assert_array_equal(doubled["count"], 2 * table["count"])
    adata.X = adata.X * 0.5
    assert list(sb.get.ambient_profile(adata).columns) == ["gene", "batch", "mean", "sd"]
    with pytest.raises(ValueError, match="fractional"):
        sb.get.ambient_profile(adata, cells=True)
    with pytest.raises(KeyError, match="no layer 'none'"):
        sb.get.ambient_profile(adata, cells=True, layer="none")
    del adata.obs["batch"]
    with pytest.raises(KeyError, match="batch"):
        sb.get.ambient_profile(adata, cells=True, layer="other")


def test_bad_input(adata):
    with pytest.raises(ValueError, match="unknown by='gene'; choose one of 'cell', 'group'"):
        sb.get.contamination(adata, by="gene")
    with pytest.raises(KeyError, match=r"no result 'none_denoise' .* run sb.tl.denoise first"):
        sb.get.contamination(adata, "none")
    del adata.obs["donor"]
    with pytest.raises(KeyError, match=r"obs\['donor'\]"):
        sb.get.contamination(adata, "own")
    assert len(sb.get.contamination(adata, "own", by="group"))


# --- the profile beside the cells -------------------------------------------------------------------------------------


def test_ambient_draws_the_profile(adata):
    axes = sb.pl.ambient(adata, n_genes=4, show=False)
    table = sb.get.ambient_profile(adata, cells=True)
    assert [ax.get_title() for ax in axes] == ["b0", "b1"]
    for ax, batch in zip(axes, ("b0", "b1"), strict=True):
        part = table[table["batch"] == batch].set_index("gene")
        seen = part[part["in_cells"] > 0]
        points = next(line for line in ax.lines if line.get_marker() == ".").get_xydata()
        np.testing.assert_array_equal(points, seen[["in_cells", "mean"]])
        (errors,) = ax.collections
        ends = np.array([path.vertices[:, 1] for path in errors.get_paths()])
        np.testing.assert_allclose(ends[:, 1] - part["mean"], part["sd"], rtol=1e-6, atol=1e-12)
        names = {text.get_text() for text in ax.texts}
        assert len(names) == 4
        ratio = part["mean"] / part["in_cells"]
        assert (ratio[list(names)] > ratio.median()).all()
        named = next(line for line in ax.lines if line.get_color() == "tab:red").get_xydata()
        np.testing.assert_array_equal(sorted(named[:, 1]), sorted(part.loc[list(names), "mean"]))
        assert {"cells", "ambient"} <= set((ax.get_xlabel() + " " + ax.get_ylabel()).split())


def test_genes_that_leak_are_named(adata):
    """Three genes whose share in the soup is 20 times that in cells; one of few counts, which could be chance."""
    counts = np.asarray(adata.X.sum(0)).ravel()
    common = np.flatnonzero(counts > 500)[:3]
    rare = int(np.argmin(counts))
    profile = counts / counts.sum()
    profile[common] *= 20
    profile[rare] *= 20
    adata.var["known"] = np.round(5e3 * profile / profile.sum())
    adata.var.loc[adata.var_names[rare], "known"] = 2
    adata.X = without(adata.X, gene=rare)  # so that its ratio is the largest
    sb.pp.ambient_profile(adata, profile="known", key_added="soup")
    ax = sb.pl.ambient(adata, "soup", n_genes=3, show=False)
    assert {text.get_text() for text in ax.texts} == set(adata.var_names[common])


def test_genes_in_no_cell_are_hollow_and_at_the_edge(adata):
    silent = adata.var_names[3]
    adata.X = without(adata.X, gene=3)
    ax = sb.pl.ambient(adata, "one", n_genes=0, show=False)
    table = sb.get.ambient_profile(adata, "one", cells=True).set_index("gene")
    hollow = next(line for line in ax.lines if line.get_markerfacecolor() == "white")
    ((x, y),) = hollow.get_xydata()
    assert y == table.loc[silent, "mean"]
    assert 0 < x < table.loc[table["in_cells"] > 0, "in_cells"].min()
    assert ax.get_xlim()[0] < x
    assert not ax.texts


def test_a_profile_of_the_cells_is_called_so(adata):
    sb.pp.ambient_profile(adata, key_added="mean")
    ax = sb.pl.ambient(adata, "mean", show=False)
    assert ax.get_ylabel().endswith("the mean of the cells")
    assert not [path for lines in ax.collections for path in lines.get_paths()], "its error is not known"


def test_ambient_in_given_axes(adata):
    _, (left, right) = plt.subplots(1, 2)
    assert list(sb.pl.ambient(adata, ax=[left, right])) == [left, right]
    with pytest.raises(ValueError, match="2 batches and 1 axes"):
        sb.pl.ambient(adata, ax=left)
    assert sb.pl.ambient(adata, "one", ax=left) is left
    with pytest.raises(ValueError, match="n_genes=-1"):
        sb.pl.ambient(adata, n_genes=-1)
    with pytest.raises(KeyError, match="no result 'none'"):
        sb.pl.ambient(adata, "none")


# --- shares by group --------------------------------------------------------------------------------------------------


def rows(ax) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]


def points(ax) -> list[np.ndarray]:
    """Of each row, from top to bottom: the points of its cells."""
    return [line.get_xydata() for line in ax.lines if line.get_marker() == "."]


def diamonds(ax) -> list[tuple[float, float, bool]]:
    """Row, level, and whether it is filled."""
    lines = [line for line in ax.lines if line.get_marker() == "D"]
    return sorted((y, x, line.get_markerfacecolor() != "white") for line in lines for x, y in line.get_xydata())


def test_contamination_draws_cells_in_order(adata):
    ax = sb.pl.contamination(adata, show=False)
    table = sb.get.contamination(adata).dropna()
    assert rows(ax) == ["a", "b", "few"]
    assert ax.get_ylabel() == "kind"
    assert "90%" in ax.get_xlabel()
    for row, (name, drawn) in enumerate(zip(rows(ax), points(ax), strict=True)):
        own = table[table["group"] == name].sort_values("contamination", kind="stable")
        np.testing.assert_array_equal(drawn[:, 0], own["contamination"])
        assert (np.diff(drawn[:, 1]) < 0).all(), "up from the lowest, on an axis that goes down"
        assert np.abs(drawn[:, 1] - row).max() < 0.4
        ends = np.array([path.vertices[:, 0] for path in ax.collections[row].get_paths()])
        np.testing.assert_array_equal(ends, own[["low", "high"]])
        assert f"n = {len(own)}" in [text.get_text() for text in ax.texts]


def test_levels_of_kinds(adata):
    known(adata, "sb", all=True)
    ax = sb.pl.contamination(adata, show=False)
    table = sb.get.contamination(adata, by="group")
    for row, (name, (y, x, filled)) in enumerate(zip(rows(ax), diamonds(ax), strict=True)):
        own = table[table["group"] == name]
        assert y == row
        assert filled
        assert x == pytest.approx((own["level"] * own["n_cells"]).sum() / own["n_cells"].sum())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["common level"]
    assert ax.get_title() == ""


def test_levels_of_samples_and_their_flags(adata):
    known(adata, "own", d0=True, d1=False)
    ax = sb.pl.contamination(adata, "own", show=False)
    samples = sb.get.contamination(adata, "own").attrs["samples"]
    assert rows(ax) == ["d0", "d1"]
    assert ax.get_ylabel() == "donor"
    assert "50%" in ax.get_xlabel()
    assert diamonds(ax) == [(0, samples["d0"]["level"], True), (1, samples["d1"]["level"], False)]
    ends = np.array([path.vertices[:, 0] for path in ax.collections[-1].get_paths()])
    reach = np.array([one["level_sd"] for one in samples.values()]) * ndtri(0.75)
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 2 * reach)
    assert ax.get_title() == "level of d1 not identified"
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["common level", "common level, not identified"]
    assert rows(sb.pl.contamination(adata, "own", groupby="donor", show=False)) == ["d0", "d1"]
    known(adata, "own", d0=False)
    assert sb.pl.contamination(adata, "own", show=False).get_title() == "level of d0, d1 not identified"
    by_kind = sb.pl.contamination(adata, "own", groupby="kind", show=False)
    assert rows(by_kind) == ["a", "b", "few"]
    assert len(diamonds(by_kind)) == 3
    assert not any(filled for *_, filled in diamonds(by_kind))


def test_other_groups_have_no_level(adata):
    adata.obs["half"] = pd.Series(["x"] * 100 + ["y"] * 90 + [None] * 10, index=adata.obs_names)
    known(adata, "sb", all=False)
    ax = sb.pl.contamination(adata, groupby="half", show=False)
    assert rows(ax) == ["x", "y"]
    assert [len(own) for own in points(ax)] == [99, 90]
    assert diamonds(ax) == []
    assert ax.get_legend() is None
    assert ax.get_title() == "level not identified"
    with pytest.raises(KeyError, match="groupby='none': no such column"):
        sb.pl.contamination(adata, groupby="none", show=False)


def test_of_many_cells_some_are_drawn(adata, monkeypatch):
    monkeypatch.setattr("scbayes.pl._contamination.N_SHOWN", 20)
    ax = sb.pl.contamination(adata, show=False)
    assert [len(own) for own in points(ax)] == [20, 20, 5]
    a = sb.get.contamination(adata).query("group == 'a'")["contamination"]
    assert points(ax)[0][0, 0] == a.min()
    assert points(ax)[0][-1, 0] == a.max()


# --- genes before and after -------------------------------------------------------------------------------------------


def test_denoised_draws_shares_of_cells_and_of_counts(adata):
    lost = (adata.X > 0).sum(0) - (adata.layers["sb_denoised"] > 0).sum(0)
    genes = [*adata.var_names[np.argsort(-np.asarray(lost).ravel())[:2]], "g0"]
    ax = sb.pl.denoised(adata, genes, show=False)
    assert [text.get_text() for text in ax.get_xticklabels()] == genes
    sizes = adata.obs["kind"].value_counts()
    assert rows(ax) == [f"{name} ({sizes[name]})" for name in ("a", "b", "few")]
    before, after = ax.collections[:2]
    at = np.asarray(before.get_offsets())
    np.testing.assert_array_equal(at, after.get_offsets())
    for (x, y), ring, dot, kept in zip(at, before.get_sizes(), after.get_sizes(), after.get_array(), strict=True):
        own = adata[adata.obs["kind"] == ["a", "b", "few"][int(y)], genes[int(x)]]
        raw, clean = own.X.toarray(), own.layers["sb_denoised"].toarray()
        assert ring == pytest.approx((raw > 0).mean() * 190)
        assert dot == pytest.approx((clean > 0).mean() * 190)
        assert kept == pytest.approx(clean.sum() / raw.sum())
    assert (after.get_sizes() < before.get_sizes()).any()


def test_denoised_of_other_groups_and_layers(adata):
    adata.obs["half"] = pd.Series([2] * 100 + [10] * 90 + [np.nan] * 10, index=adata.obs_names)
    adata.layers["umi"] = adata.X.copy()
    adata.X = adata.X.log1p()
    sb.tl.denoise(adata, groupby="kind", layer="umi", progress=False, key_added="new")
    ax = sb.pl.denoised(adata, "g5", groupby="half", key="new", show=False)
    assert [row.split(" ")[1] for row in rows(ax)] == ["(100)", "(90)"]
    assert ax.get_ylabel() == "half"
    after = ax.collections[1]
    own = adata[:100, "g5"]
    assert after.get_array()[0] == pytest.approx(own.layers["new_denoised"].sum() / own.layers["umi"].sum())


def test_genes_that_nobody_has_are_left_white(adata):
    """Not an error, and no warning of a division by zero."""
    adata.X = without(adata.X, gene=5)
    sb.tl.denoise(adata, groupby="kind", progress=False)
    before, after = sb.pl.denoised(adata, ["g5", "g6"], show=False).collections[:2]
    assert (before.get_sizes()[::2] == 0).all()
    assert (after.get_sizes()[::2] == 0).all()
    assert (before.get_sizes()[1::2] > 0).all()


def test_bad_input_of_denoised(adata):
    with pytest.raises(ValueError, match="names no gene"):
        sb.pl.denoised(adata, [])
    with pytest.raises(KeyError, match=r"\['none'\] are not in adata\.var_names"):
        sb.pl.denoised(adata, ["g1", "none"])
    with pytest.raises(KeyError, match="groupby='none': no such column"):
        sb.pl.denoised(adata, "g1", groupby="none")
    with pytest.raises(KeyError, match=r"run sb\.tl\.denoise first"):
        sb.pl.denoised(adata, "g1", key="none")
    _, ax = plt.subplots()
    assert sb.pl.denoised(adata, ["g1", "g1"], ax=ax) is ax
    assert len(ax.get_xticklabels()) == 1
