"""Pictures of differential expression draw the table that `get.de` returns."""

import importlib.util
import json
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from scipy import sparse, stats

import scbayes as sb

PICTURES = {"lfc_volcano": sb.pl.lfc_volcano, "ma": sb.pl.ma, "lfc_forest": sb.pl.lfc_forest}
#: With adjustText, and as if it were not there.
LABELS = [
    pytest.param(
        True,
        marks=pytest.mark.skipif(importlib.util.find_spec("adjustText") is None, reason="adjustText is not installed"),
        id="adjustText",
    ),
    pytest.param(False, id="plain"),
]


@pytest.fixture(scope="module")
def _compared() -> ad.AnnData:
    """Three groups of cells of four donors; 40 of 120 genes differ, and one has no counts."""
    rng = np.random.default_rng(0)
    mean = rng.lognormal(1, 1, 120)
    effect = np.zeros((3, 120))
    effect[:, :40] = rng.normal(0, 1.2, (3, 40))
    group, donor = np.repeat(np.arange(3), 160), np.tile(np.arange(4), 120)
    level = mean * np.exp(effect[group] + rng.normal(0, 0.1, (4, 120))[donor])
    x = rng.negative_binomial(2, 2 / (2 + level))
    x[:, -1] = 0
    adata = ad.AnnData(sparse.csr_matrix(x.astype(np.float32)))
    adata.obs_names, adata.var_names = ([f"{of}{i}" for i in range(n)] for of, n in zip("cg", x.shape, strict=True))
    adata.obs["kind"], adata.obs["donor"] = np.array(["a", "b", "c/d"])[group], donor.astype(str)
    sb.tl.de(adata, "kind", sample_key="donor")
    sb.tl.de(adata, "kind", ["b"], reference="a", key_added="cells")
    return adata


@pytest.fixture
def adata(_compared) -> ad.AnnData:
    return _compared.copy()


def genes_drawn(ax) -> list[np.ndarray]:
    """Points of the genes that are not called, higher, lower."""
    from matplotlib.collections import PathCollection

    return [np.asarray(part.get_offsets()) for part in ax.collections if isinstance(part, PathCollection)]


def by_direction(table: pd.DataFrame, x, y) -> list[np.ndarray]:
    called, up = table["is_de"].to_numpy(), table["lfc_mean"].to_numpy() > 0
    return [np.stack([x, y], 1)[where] for where in (~called, called & up, called & ~up)]


def assert_drawn(ax, expected: list[np.ndarray]) -> None:
    found = genes_drawn(ax)
    assert len(found) == len(expected) == 3
    for part, those in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, those)
    assert len(expected[1]) > 3
    assert len(expected[2]) > 3


def segments(ax) -> np.ndarray:
    """All lines of collections, ``(n, 2, 2)``."""
    from matplotlib.collections import LineCollection

    return np.concatenate([part.get_segments() for part in ax.collections if isinstance(part, LineCollection)])


# --- volcano and MA ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", ["lfsr", "p_de"])
def test_volcano_draws_the_table(adata, y):
    ax = sb.pl.lfc_volcano(adata, "b", y=y, show=False)
    table = sb.get.de(adata, "b")
    height = -np.log10(np.maximum(table["lfsr"], 1e-50)) if y == "lfsr" else table["p_de"]
    assert_drawn(ax, by_direction(table, table["lfc_mean"], height))
    named = table[table["is_de"]].iloc[:12]
    ends = segments(ax)
    np.testing.assert_allclose(ends[:, :, 0], named[["ci_low", "ci_high"]])
    np.testing.assert_allclose(ends[:, 0, 1], height[named.index])
    assert ax.get_ylim()[1] > height.max()
    assert ("log10" in ax.get_ylabel()) == (y == "lfsr")
    assert ("P(DE)" in ax.get_ylabel()) == (y == "p_de")
    assert "log2" in ax.get_xlabel()


def test_ma_draws_the_table(adata):
    ax = sb.pl.ma(adata, "c/d", n_names=3, show=False)
    table = sb.get.de(adata, "c/d")
    table = table[table["mean_1"] + table["mean_2"] > 0]
    assert len(table) == 119  # one gene has no counts
    mean = (table["mean_1"] + table["mean_2"]) / 2
    assert_drawn(ax, by_direction(table, mean, table["lfc_mean"]))
    named = table[table["is_de"]].iloc[:3]
    np.testing.assert_allclose(segments(ax)[:, :, 1], named[["ci_low", "ci_high"]])
    assert ax.get_xscale() == "log"
    assert "per 10,000" in ax.get_xlabel()


def test_the_first_group_is_drawn_by_default(adata):
    for name, picture in PICTURES.items():
        assert picture(adata, show=False).get_title() == "a over all others", name


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", LABELS)
@pytest.mark.parametrize("picture", ["lfc_volcano", "ma"])
def test_names_do_not_lie_on_each_other(adata, picture, moved, monkeypatch):
    if not moved:
        monkeypatch.setitem(sys.modules, "adjustText", None)
    ax = PICTURES[picture](adata, "b", n_names=10, show=False)
    ax.figure.canvas.draw()
    table = sb.get.de(adata, "b")
    first = list(table["names"][table["is_de"]])
    names = [text.get_text() for text in ax.texts]
    assert names == (first[:10] if moved else [name for name in first if name in names])
    assert len(names) >= 6
    boxes = [text.get_window_extent() for text in ax.texts]
    overlaps = [
        (a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.shrunk(0.9, 0.7).overlaps(b.shrunk(0.9, 0.7))
    ]
    assert overlaps == []
    frame = ax.get_window_extent().padded(2)
    for text, box in zip(ax.texts, boxes, strict=True):
        row = table[table["names"] == text.get_text()].iloc[0]
        x = row["lfc_mean"] if picture == "lfc_volcano" else (row["mean_1"] + row["mean_2"]) / 2
        y = -np.log10(max(row["lfsr"], 1e-50)) if picture == "lfc_volcano" else row["lfc_mean"]
        at = ax.transData.transform((x, y))
        assert np.hypot(*(np.array([box.x0, (box.y0 + box.y1) / 2]) - at)) < 130  # near its point
        assert not moved or frame.containsx(box.x0 + 1)


@pytest.mark.parametrize("moved", LABELS)
def test_pictures_repeat_themselves(adata, moved, monkeypatch):
    if not moved:
        monkeypatch.setitem(sys.modules, "adjustText", None)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    images = []
    for _ in range(2):
        figure = sb.pl.lfc_volcano(adata, show=False).figure
        figure.canvas.draw()
        images.append(np.asarray(figure.canvas.buffer_rgba()).copy())
    np.testing.assert_array_equal(*images)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("moved", LABELS)
@pytest.mark.parametrize("n_names", [0, 500])
def test_any_number_of_names(adata, moved, n_names, monkeypatch):
    if not moved:
        monkeypatch.setitem(sys.modules, "adjustText", None)
    called = sb.get.de(adata, "a")["is_de"].sum()
    for picture in (sb.pl.lfc_volcano, sb.pl.ma):
        ax = picture(adata, n_names=n_names, show=False)
        assert len(ax.texts) <= min(n_names, called)
        assert not moved or len(ax.texts) == min(n_names, called)
        ax.figure.canvas.draw()


# --- forest -----------------------------------------------------------------------------------------------------------


def points_of(ax) -> dict[str, dict]:
    """Gene -> x, filled, marker and colour of each point in it, from top to bottom."""
    rows: dict[str, list] = {label.get_text(): [] for label in ax.get_yticklabels()}
    names = list(rows)
    for line in ax.get_lines():
        if line.get_marker() in ("None", None, ""):
            continue
        filled = line.get_markerfacecolor() != "white"
        for x, y in line.get_xydata():
            rows[names[round(y)]].append((y, x, filled, line.get_marker(), to_rgba(line.get_color())))
    return rows


def test_forest_draws_the_first_genes_of_a_group(adata):
    ax = sb.pl.lfc_forest(adata, "b", n_genes=7, show=False)
    table = sb.get.de(adata, "b").iloc[:7]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(table["names"])
    ends = segments(ax)
    thick = pd.DataFrame(ends[:, :, 0].round(9), columns=["ci_low", "ci_high"])
    for _, row in table.iterrows():
        assert (np.abs(thick - row[["ci_low", "ci_high"]].to_numpy(float)).max(axis=1) < 1e-8).sum() == 1
        reach = stats.norm.ppf(0.975) * np.hypot(row["lfc_sd"], np.sqrt(2) * row["donor_sd"])
        new = row["lfc_mean"] - reach, row["lfc_mean"] + reach
        assert (np.abs(thick - np.array(new)).max(axis=1) < 1e-8).sum() == 1
    assert len(ends) == 14
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top


def test_forest_draws_chosen_genes_and_says_which_are_called(adata):
    genes = ["g3", "g100", "g0", "g100"]
    ax = sb.pl.lfc_forest(adata, "b", genes=genes, show=False)
    table = sb.get.de(adata, "b").set_index("names")
    rows = points_of(ax)
    assert list(rows) == ["g3", "g100", "g0"]
    for name, points in rows.items():
        assert {round(x, 9) for _, x, *_ in points} == {round(table["lfc_mean"][name], 9)}
        assert points[-1][2] == table["is_de"][name]  # what is drawn last is seen: filled if called
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(labels) == len(set(labels))
    assert not table["is_de"]["g100"]


def test_groups_stand_side_by_side(adata):
    ax = sb.pl.lfc_forest(adata, ["c/d", "a"], genes=["g1", "g2"], show=False)
    rows = points_of(ax)
    for name, points in rows.items():
        at = {y: x for y, x, *_ in points}
        assert len(at) == 2
        expected = [sb.get.de(adata, group).set_index("names")["lfc_mean"][name] for group in ("c/d", "a")]
        np.testing.assert_allclose([at[y] for y in sorted(at)], expected)
        assert len({marker for *_, marker, _ in points}) == 2
        assert len({colour for *_, colour in points}) == 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["c/d", "a"]
    assert ax.get_title() == "over all others"
    several = sb.pl.lfc_forest(adata, ["c/d", "a"], n_genes=5, show=False)
    first, second = (list(sb.get.de(adata, group)["names"]) for group in ("c/d", "a"))
    shown = [label.get_text() for label in several.get_yticklabels()]
    assert shown[:2] == list(dict.fromkeys([first[0], second[0]])) + ([first[1]] if first[0] == second[0] else [])
    assert len(shown) == 5


# --- what the result cannot say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("picture", PICTURES)
def test_titles_say_what_the_result_cannot(adata, picture):
    draw = PICTURES[picture]
    assert "descriptive" not in draw(adata, show=False).get_title()
    title = draw(adata, key="cells", show=False).get_title()
    assert title.startswith("b over a\n")
    assert "descriptive" in title
    assert "these counts" not in title
    record = json.loads(adata.uns["cells"]["result"])
    record["facts"]["double_use"] = True
    adata.uns["cells"]["result"] = json.dumps(record)
    assert "groups from these counts" in draw(adata, key="cells", show=False).get_title()


def test_cells_as_replicates_have_no_new_donors(adata):
    ax = sb.pl.lfc_forest(adata, key="cells", n_genes=4, show=False)
    assert len(segments(ax)) == 4
    assert "donors" not in ax.get_xlabel()
    assert "donors" in sb.pl.lfc_forest(adata, show=False).get_xlabel()


def test_where_nothing_is_called(adata):
    adata.uns["sb_de"]["columns"]["is_de"][:] = 0
    for name, picture in PICTURES.items():
        ax = picture(adata, show=False)
        ax.figure.canvas.draw()
        assert [text.get_text() for text in ax.texts] == [], name
        assert "not called" in ax.get_legend().get_texts()[0].get_text()


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("picture", PICTURES)
def test_axes_are_used_and_errors_are_those_of_get(adata, picture):
    draw = PICTURES[picture]
    _, ax = plt.subplots()
    assert draw(adata, ax=ax) is ax
    with pytest.raises(KeyError, match="no group 'x'"):
        draw(adata, "x", show=False)
    with pytest.raises(KeyError, match="no result 'x'"):
        draw(adata, key="x", show=False)


WRONG = {
    "y": (sb.pl.lfc_volcano, {"y": "pvals"}, ValueError, "'lfsr' or 'p_de'"),
    "gene": (sb.pl.lfc_forest, {"genes": ["g1", "x"]}, KeyError, r"\['x'\] are not in"),
    "no gene": (sb.pl.lfc_forest, {"genes": []}, ValueError, "names no gene"),
    "number": (sb.pl.lfc_forest, {"n_genes": 0}, ValueError, "n_genes=0"),
    "no group": (sb.pl.lfc_forest, {"group": []}, ValueError, "empty list"),
}


@pytest.mark.parametrize(("draw", "settings", "error", "match"), WRONG.values(), ids=WRONG)
def test_bad_arguments(adata, draw, settings, error, match):
    with pytest.raises(error, match=match):
        draw(adata, **settings, show=False)
    assert plt.get_fignums() == []
