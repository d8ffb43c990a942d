"""Pictures draw what AnnData holds."""

import anndata as ad
import numpy as np
import pytest
from matplotlib import pyplot as plt
from numpyro.infer import Trace_ELBO

import scbayes as sb
from scbayes.inference import TOLERANCE, WINDOW


def simulated() -> ad.AnnData:
    return sb.datasets.simulate("nbvcp", n_cells=80, n_genes=24, n_batches=2, log_mean=(2, 1), rng=3)


@pytest.fixture(scope="module")
def _fitted() -> ad.AnnData:
    adata = simulated()
    sb.tl.fit(adata, progress=False)
    sb.tl.fit(adata, n_steps=70, key_added="half", rng=2, progress=False)
    return adata


@pytest.fixture
def adata(_fitted) -> ad.AnnData:
    return _fitted.copy()


def drawn(ax) -> list[dict]:
    """Of each fit, in order: its points, the means of windows, and the band."""
    lines, bands = ax.get_lines(), [patch.get_extents() for patch in ax.patches]
    assert len(lines) == 2 * len(bands)
    inverse = ax.transData.inverted()
    return [
        {
            "points": lines[2 * i].get_xydata(),
            "means": lines[2 * i + 1].get_xydata(),
            "band": inverse.transform(bands[i])[:, 1],
            "colours": {line.get_color() for line in lines[2 * i : 2 * i + 2]},
        }
        for i in range(len(bands))
    ]


def test_loss_draws_what_the_fit_holds(adata):
    ax = sb.pl.loss(adata, show=False)
    losses, n_latent = sb.get.fit(adata).losses, 2 * 24 + 80
    (fit,) = drawn(ax)
    assert len(losses) >= 2 * WINDOW
    np.testing.assert_array_equal(fit["points"][:, 0], np.arange(1, len(losses) + 1))
    np.testing.assert_allclose(fit["points"][:, 1], losses - losses[-WINDOW:].mean(), atol=1e-9)
    means = losses.reshape(-1, WINDOW).mean(1)
    np.testing.assert_array_equal(fit["means"][:, 0], np.arange(WINDOW / 2, len(losses), WINDOW))
    np.testing.assert_allclose(fit["means"][:, 1], means - means[-1], atol=1e-9)
    assert abs(fit["means"][-1, 1]) < 1e-9
    np.testing.assert_allclose(fit["band"], [-TOLERANCE * n_latent, TOLERANCE * n_latent], rtol=1e-6)
    (text,) = ax.get_legend().get_texts()
    assert text.get_text().startswith(f"sb: nbvcp, mean_disp\nconverged, {len(losses)} steps\nk-hat ")
    assert "step" in ax.get_xlabel()
    assert "nats" in ax.get_ylabel()


def test_loss_of_an_unfinished_fit(adata):
    (fit,) = drawn(ax := sb.pl.loss(adata, "half", show=False))
    losses = sb.get.fit(adata, "half").losses
    np.testing.assert_allclose(fit["points"][:, 1], losses - losses[-WINDOW:].mean(), atol=1e-9)
    assert fit["points"].shape == (70, 2)
    assert fit["means"].shape == (1, 2)
    assert "NOT converged, 70 steps" in ax.get_legend().get_texts()[0].get_text()


def test_several_fits_in_one_picture(adata):
    ax = sb.pl.loss(adata, ["half", "sb"], show=False)
    half, whole = drawn(ax)
    assert half["points"].shape[0] == 70
    assert whole["points"].shape[0] == len(sb.get.fit(adata).losses)
    assert len(half["colours"]) == len(whole["colours"]) == 1
    assert half["colours"] != whole["colours"]
    assert [text.get_text().split(":")[0] for text in ax.get_legend().get_texts()] == ["half", "sb"]


def test_losses_that_are_not_finite_are_left_out(adata):
    class Broken(Trace_ELBO):
        def loss(self, *args, **kwargs):
            return super().loss(*args, **kwargs) * np.nan

    sb.tl.fit(adata, n_steps=60, key_added="bad", loss=Broken(), progress=False)
    (fit,) = drawn(sb.pl.loss(adata, "bad", show=False))
    assert np.isnan(fit["points"][:, 1]).all()
    assert np.isnan(fit["means"][:, 1]).all()
    adata.uns["half"]["loss"][[3, 15]] = np.nan
    losses = sb.get.fit(adata, "half").losses
    ax = sb.pl.loss(adata, "half", show=False)
    np.testing.assert_allclose(drawn(ax)[0]["means"][0, 1], np.nanmean(losses[:50]) - losses[-50:].mean(), atol=1e-9)
    ax.figure.canvas.draw()


def test_fit_without_a_step(adata, monkeypatch):
    """Stopped by the user before the first window was done."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("scbayes.inference._trainer.Window.__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        sb.tl.fit(adata, key_added="none", progress=False)
    (fit,) = drawn(ax := sb.pl.loss(adata, "none", show=False))
    assert fit["points"].shape == fit["means"].shape == (0, 2)
    assert "NOT converged, 0 steps" in ax.get_legend().get_texts()[0].get_text()
    ax.figure.canvas.draw()


def test_loss_draws_into_the_axes_it_is_given(adata):
    figure, (left, right) = plt.subplots(1, 2)
    assert sb.pl.loss(adata, ax=right) is right
    assert plt.get_fignums() == [figure.number]
    assert not left.lines
    assert right.lines
    again = sb.pl.loss(adata, show=False)
    assert again.figure is not figure


def test_shown_or_returned(adata, monkeypatch):
    import scanpy as sc

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf().number))
    assert sb.pl.loss(adata, show=False) is not None
    assert shown == []
    assert sb.pl.loss(adata, show=True) is None
    assert len(shown) == 1
    for autoshow in (True, False):
        monkeypatch.setattr(type(sc.settings), "autoshow", autoshow, raising=False)
        assert (sb.pl.loss(adata) is None) == autoshow
    assert len(shown) == 2
    assert sb.pl.loss(adata, ax=plt.figure().subplots()) is not None


def test_drawing_changes_neither_style_nor_data(adata):
    style, uns = plt.rcParams.copy(), str(adata.uns)  # noqa: TID251
    sb.pl.loss(adata, ["sb", "half"], show=False)
    assert plt.rcParams == style  # noqa: TID251
    assert str(adata.uns) == uns
