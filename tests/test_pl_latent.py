"""The picture of a latent space, and its table."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import SymLogNorm, to_rgba_array

import scbayes as sb

N = 90


@pytest.fixture
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    kind = np.repeat(["a", "b", "c"], 30)
    obs = pd.DataFrame({"kind": pd.Categorical(kind, ["c", "b", "a", "unused"]), "score": rng.normal(size=N)})
    obs["part"] = np.where(np.arange(N) < 20, None, kind)
    obs.index = [f"cell{i}" for i in range(N)]
    result = ad.AnnData(rng.poisson(30, (N, 2)).astype(np.float32), obs, pd.DataFrame(index=["g0", "g1"]))
    result.obsm["X_sb"] = (10 * np.eye(4)[np.repeat([0, 1, 2], 30)] + rng.normal(size=(N, 4))).astype(np.float32)
    result.layers["half"] = result.X / 2 - 3.25
    return result


def draw(adata, **settings):
    return sb.pl.latent(adata, show=False, **settings)


def points(ax) -> tuple[np.ndarray, np.ndarray]:
    """Places and colours of all points; those of the legend have no place."""
    drawn = [c for c in ax.collections if len(c.get_offsets())]
    ax.figure.canvas.draw()
    colors = [np.broadcast_to(c.get_facecolor(), (len(c.get_offsets()), 4)) for c in drawn]
    return np.vstack([c.get_offsets() for c in drawn]), np.vstack(colors)


def test_table(adata):
    table = sb.get.latent(adata)
    assert list(table.columns) == ["z1", "z2", "z3", "z4"]
    np.testing.assert_array_equal(table, adata.obsm["X_sb"])
    assert list(table.index) == list(adata.obs_names)
    assert (table.dtypes == np.float32).all()
    table.iloc[:] = 0
    assert adata.obsm["X_sb"].any()
    with pytest.raises(KeyError, match=r"no 'X_vae'; run sb\.tl\.latent first"):
        sb.get.latent(adata, "vae")
    with pytest.raises(TypeError, match="AnnData"):
        sb.get.latent(adata.obsm["X_sb"])


def test_dimensions_themselves(adata):
    ax = draw(adata, method=None, dimensions=(3, 1))
    places = points(ax)[0]
    expected = adata.obsm["X_sb"][:, [2, 0]]
    np.testing.assert_allclose(places[np.lexsort(places.T)], expected[np.lexsort(expected.T)])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z3", "z1")


@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_maps_keep_groups_together_and_repeat(adata, method):
    ax = draw(adata, method=method, color="kind")
    x, colors = points(ax)
    assert len(x) == N
    groups = np.unique(colors, axis=0, return_inverse=True)[1].ravel()
    assert np.bincount(groups).tolist() == [30, 30, 30]
    centre = np.array([x[groups == g].mean(0) for g in range(3)])
    assert (np.linalg.norm(x[:, None] - centre, axis=2).argmin(1) == groups).mean() > 0.95
    np.testing.assert_array_equal(points(draw(adata, method=method, color="kind"))[0], x)
    assert not np.array_equal(points(draw(adata, method=method, color="kind", rng=1))[0], x)
    assert ax.get_xlabel() == {"umap": "UMAP 1", "tsne": "t-SNE 1"}[method]
    assert not np.array_equal(points(draw(adata, method=method, n_neighbors=4))[0], x)


def test_colours_belong_to_their_cells(adata):
    adata.uns["kind_colors"] = ["red", "green", "blue", "black"]
    ax = draw(adata, method=None, color="kind")
    x, colors = points(ax)
    index = {tuple(row): i for i, row in enumerate(adata.obsm["X_sb"][:, :2].astype(float))}
    kinds = adata.obs["kind"].iloc[[index[tuple(row)] for row in x]]
    stored = {"c": "red", "b": "green", "a": "blue"}
    np.testing.assert_allclose(colors, to_rgba_array([stored[kind] for kind in kinds]))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["c", "b", "a"]
    assert ax.get_legend().get_title().get_text() == "kind"


def test_numbers_and_genes(adata):
    adata.X[0] = 0
    axes = draw(adata, method=None, color=["score", "g1"])
    mapped = [next(c for c in ax.collections if c.get_array() is not None) for ax in axes]
    places = mapped[1].get_offsets()
    index = {tuple(row): i for i, row in enumerate(adata.obsm["X_sb"][:, :2].astype(float))}
    order = [index[tuple(row)] for row in places]
    np.testing.assert_array_equal(mapped[1].get_array(), adata.X[order, 1])
    np.testing.assert_array_equal(mapped[0].get_array(), adata.obs["score"].iloc[order])
    assert isinstance(mapped[1].norm, SymLogNorm), "counts"
    assert not isinstance(mapped[0].norm, SymLogNorm)
    assert mapped[0].norm.vmax == pytest.approx(adata.obs["score"].quantile(0.99, "higher"))
    assert mapped[0].norm.vmin == adata.obs["score"].min()
    half = draw(adata, method=None, color="g1", layer="half")
    array = next(c for c in half.collections if c.get_array() is not None).get_array()
    np.testing.assert_allclose(np.sort(array), np.sort(adata.layers["half"][:, 1]))
    assert half.figure.axes[1].get_ylabel() == "g1"


def test_genes_that_few_cells_have(adata):
    adata.X[:, 0], adata.X[:, 1] = 0, 0
    adata.X[5, 0] = 40
    rare, never = draw(adata, method=None, color=["g0", "g1"])
    norm = next(c for c in rare.collections if c.get_array() is not None).norm
    assert norm.vmax == 40
    assert len(points(never)[0]) == N


def test_cells_without_a_value_are_grey(adata):
    adata.obs.loc["cell3", "score"] = np.nan
    categories, numbers = draw(adata, method=None, color=["part", "score"])
    grey = to_rgba_array("0.85")[0]
    for ax, n in ((categories, 20), (numbers, 1)):
        assert np.all(np.isclose(points(ax)[1], grey), 1).sum() == n
    assert [text.get_text() for text in categories.get_legend().get_texts()] == ["a", "b", "c", "no value"]
    adata.obs["nothing"] = np.nan
    assert len(points(draw(adata, method=None, color="nothing"))[0]) == N


def test_names_beside_their_cells(adata):
    ax = draw(adata, method=None, color="part", names=True)
    assert ax.get_legend() is None
    assert ax.get_title() == "part"
    x = pd.DataFrame(adata.obsm["X_sb"][:, :2]).groupby(adata.obs["part"].to_numpy()).median()
    written = {text.get_text(): np.array(text.get_position()) for text in ax.texts}
    assert set(written) == {"a", "b", "c"}
    for name, place in written.items():
        assert np.linalg.norm(x - place, axis=1).argmin() == list(x.index).index(name)


def test_fewer_cells(adata):
    ax = draw(adata, method=None, n_cells=40)
    places = points(ax)[0]
    assert len(places) == 40
    assert ax.get_xlabel() == "z1 (40 of 90 cells)"
    whole = {tuple(row) for row in adata.obsm["X_sb"][:, :2].astype(float)}
    assert {tuple(row) for row in places} < whole
    assert len({tuple(row) for row in places}) == 40, "none twice"
    assert len(points(draw(adata, method=None, n_cells=None))[0]) == N
    for method in ("umap", "tsne"):
        assert len(points(draw(adata, method=method, n_cells=6))[0]) == 6


def test_axes_that_are_given(adata):
    axes = plt.figure().subplots(1, 3)
    drawn = draw(adata, method=None, color=["kind", "g1"], ax=axes)
    assert list(drawn) == list(axes[:2])
    assert sb.pl.latent(adata, method=None, ax=axes[2]) is axes[2]
    assert len(draw(adata, method=None, color=["kind", None, "g0", "score"])) == 4


def test_many_categories(adata):
    adata.obs["many"] = [f"k{i}" for i in range(N)]
    adata.obs["more"] = np.arange(N) % 2 == 0
    first, second = draw(adata, method=None, color=["many", "more"])
    assert len(first.get_legend().get_texts()) == N
    assert len(np.unique(points(first)[1], axis=0)) == N
    assert [text.get_text() for text in second.get_legend().get_texts()] == ["False", "True"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "pca"}, ValueError, "choose 'umap', 'tsne' or None"),
        ({"method": None, "dimensions": (1, 5)}, ValueError, "give two of the 4"),
        ({"method": None, "dimensions": (0, 1)}, ValueError, "from 1 on"),
        ({"color": "nobody"}, KeyError, "color='nobody'"),
        ({"color": []}, ValueError, "empty"),
        ({"key": "vae"}, KeyError, "X_vae"),
        ({"n_cells": 3}, ValueError, "fewer than 5 cells"),
        ({"color": ["kind", "score"], "ax": "one"}, ValueError, "2 panels and 1 axes"),
        ({"method": None, "dimensions": (1, 2, 3)}, ValueError, "give two of the 4"),
        ({"layer": "zz"}, KeyError, "no layer 'zz'"),
        ({"n_neighbors": 1}, ValueError, "at least 2"),
    ],
)
def test_what_is_wrong(adata, settings, error, message):
    if settings.get("ax") == "one":
        settings = settings | {"ax": plt.figure().subplots()}
    with pytest.raises(error, match=message):
        draw(adata, **settings)


def test_latent_spaces_with_nan(adata):
    adata.obsm["X_sb"][4, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        draw(adata)
