"""Log likelihoods of cells, genes and components: values by scipy, and sums that agree."""

from itertools import product

import anndata as ad
import numpy as np
import pytest
from scipy import sparse, stats
from scipy.special import logsumexp, softmax

import scbayes as sb
from scbayes.counts import Counts
from scbayes.models._parameters import Parameters
from scbayes.tl._log_likelihood import _Score

N_CELLS, N_GENES, N_BATCHES = 24, 10, 2


def example(model: str, n_components: int) -> tuple[Parameters, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = N_BATCHES, n_components, N_GENES
    gate = rng.beta(1, 4, shape) if model.startswith("zi") else None
    log_nu = rng.normal(-1, 0.5, N_CELLS) if model.endswith("vcp") else np.zeros(N_CELLS)
    parameters = Parameters(
        rng.gamma(2, 0.5, shape), rng.normal(1, 1, shape), gate, rng.dirichlet(np.full(n_components, 5.0)), log_nu
    )
    return parameters, rng.negative_binomial(1, 0.4, (N_CELLS, N_GENES)), np.arange(N_CELLS) % N_BATCHES


def log_pmf(parameters: Parameters, counts: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """``(n_cells, n_components, n_genes)``, by scipy."""
    odds = np.exp(parameters.log_odds[batch] + parameters.log_nu[:, None, None])
    value = stats.nbinom.logpmf(counts[:, None], parameters.size[batch], 1 / (1 + odds))
    if parameters.gate is None:
        return value
    gate = parameters.gate[batch]
    return np.where(counts[:, None] == 0, np.log(gate + (1 - gate) * np.exp(value)), np.log1p(-gate) + value)


@pytest.mark.parametrize("model", ["nbdm", "zinbvcp"])
@pytest.mark.parametrize("n_components", [1, 3])
@pytest.mark.parametrize(
    ("per_component", "additive"), [(None, False), (False, False), (True, False), (False, True), (True, True)]
)
def test_values_and_sums(model, n_components, per_component, additive):
    parameters, counts, batch = example(model, n_components)
    data = Counts(sparse.csr_array(counts.astype(float)), batch, N_BATCHES)
    rng, weights = np.random.default_rng(1), None
    term = log_pmf(parameters, counts, batch)
    if per_component is not None:
        weights = rng.uniform(0.1, 2, (n_components if per_component else 1, N_GENES))
        weights = np.broadcast_to(weights, (n_components, N_GENES))
        term = term + weights if additive else term * weights
    for temperature in (1.0, 7.0):
        joint = term.sum(2) / temperature + np.log(parameters.weights)
        of_cell, parts = _Score(False, weights, additive, temperature).of(parameters, data)
        np.testing.assert_allclose(parts, joint, rtol=1e-9)
        np.testing.assert_allclose(of_cell, logsumexp(joint, 1), rtol=1e-9)
        gamma = softmax(joint, 1)[..., None]
        share = np.log(parameters.weights[:, None] / gamma) / N_GENES
        expected = (gamma * (term / temperature + share)).sum(0)
        of_gene, parts = _Score(True, weights, additive, temperature).of(parameters, data)
        np.testing.assert_allclose(parts, expected.T, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(of_gene, expected.sum(0), rtol=1e-8)
        assert of_gene.sum() == pytest.approx(of_cell.sum(), rel=1e-10)


def test_a_component_that_is_impossible():
    """Its responsibilities are zero, and its logarithm is not in the way."""
    parameters, counts, batch = example("nbvcp", 2)
    data = Counts(sparse.csr_array(counts.astype(float)), batch, N_BATCHES)
    parameters = parameters._replace(weights=np.array([1.0, 0.0]))
    of_cell, _ = _Score(False, None, False, 1.0).of(parameters, data)
    of_gene, parts = _Score(True, None, False, 1.0).of(parameters, data)
    np.testing.assert_allclose(of_cell, log_pmf(parameters, counts, batch)[:, 0].sum(1), rtol=1e-9)
    np.testing.assert_array_equal(parts[:, 1], 0)
    assert of_gene.sum() == pytest.approx(of_cell.sum(), rel=1e-10)


# --- of a fit ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _fitted() -> ad.AnnData:
    adata = sb.datasets.simulate("zinbvcp", n_cells=80, n_genes=24, n_components=2, log_mean=(2, 1), rng=3)
    adata.var["use"] = np.arange(24) < 20
    sb.tl.fit(adata, mask_var="use", n_steps=50, progress=False)
    sb.tl.fit(adata, "nbvcp", n_components=2, key_added="mix", n_steps=50, progress=False)
    return adata


@pytest.fixture
def adata(_fitted) -> ad.AnnData:
    return _fitted.copy()


def dense(adata: ad.AnnData) -> np.ndarray:
    return np.asarray(adata.X.todense())


def test_at_the_centre(adata):
    fit = sb.get.fit(adata)
    counts = dense(adata)
    pooled = np.concatenate([counts[:, :20], counts[:, 20:].sum(1, keepdims=True)], 1)
    term = log_pmf(fit.centre().parameters, pooled, fit.batch)[:, 0]
    assert sb.tl.log_likelihood(adata) is None
    np.testing.assert_allclose(adata.obs["sb_log_likelihood"], term.sum(1), rtol=1e-7)
    sb.tl.log_likelihood(adata, by="gene")
    np.testing.assert_allclose(adata.var["sb_log_likelihood"][:20], term.sum(0)[:20], rtol=1e-7)
    assert adata.var["sb_log_likelihood"][20:].isna().all()
    assert "sb_log_likelihood" in adata.obs, "one of cells stays beside one of genes"
    frame = sb.get.log_likelihood(adata, by="gene")
    assert list(frame.index) == list(adata.var_names[:20])
    pooled_part = sb.state.read_result(adata, "log_likelihood_gene", "sb").facts["pooled"]
    assert frame["log_likelihood"].sum() + pooled_part == pytest.approx(term.sum(), rel=1e-8)


def test_draws_and_components_of_a_mixture(adata):
    copy = sb.tl.log_likelihood(adata, "mix", n_samples=3, components=True, rng=4, key_added="ll", copy=True)
    assert not [name for name in adata.obs if "log_likelihood" in name]
    adata = copy
    sb.tl.log_likelihood(adata, "mix", by="gene", n_samples=3, components=True, rng=4, key_added="ll")
    fit, counts = sb.get.fit(adata, "mix"), dense(adata)
    cells, genes = (sb.get.log_likelihood(adata, "ll", by=by, draws=True) for by in ("cell", "gene"))
    assert (cells.shape, genes.shape) == ((3, 80, 2), (3, 24, 2))
    for s, draw in enumerate(fit.draws(3, np.random.default_rng(4))):
        joint = log_pmf(draw.parameters, counts, fit.batch).sum(2) + np.log(draw.parameters.weights)
        np.testing.assert_allclose(cells[s], joint, rtol=1e-7)
        np.testing.assert_allclose(adata.obsm["ll_log_likelihood_draws"][:, s], logsumexp(joint, 1), rtol=1e-7)
        assert genes[s].sum() == pytest.approx(logsumexp(joint, 1).sum(), rel=1e-8)
    frame = sb.get.log_likelihood(adata, "ll")
    assert list(frame) == ["log_likelihood", "component_0", "component_1"]
    np.testing.assert_allclose(frame["component_1"], cells[..., 1].mean(0))
    np.testing.assert_allclose(frame["log_likelihood"], logsumexp(cells, 2).mean(0))
    sb.tl.remove(adata, "mix")
    assert not [
        name for name in [*adata.obs, *adata.obsm, *adata.var, *adata.varm, *adata.uns] if name.startswith("ll_")
    ]


@pytest.mark.parametrize(
    ("key", "by", "components", "kind"),
    list(product(["sb", "mix"], ["cell", "gene"], [True, False], ["multiplicative", "additive"])),
)
def test_weights_in_all_combinations(adata, key, by, components, kind):
    rng = np.random.default_rng(5)
    for shape in [(24,), (24, sb.get.fit(adata, key).config.n_components)]:
        weights = rng.uniform(0, 2, shape)
        sb.tl.log_likelihood(adata, key, by=by, components=components, weights=weights, weight_type=kind)
        found = sb.get.log_likelihood(adata, key, by=by)
        assert np.isfinite(found.to_numpy()).all()
        neutral = np.full(shape, float(kind == "multiplicative"))
        sb.tl.log_likelihood(adata, key, by=by, components=components, weights=neutral, weight_type=kind)
        same = sb.get.log_likelihood(adata, key, by=by)
        sb.tl.log_likelihood(adata, key, by=by, components=components)
        np.testing.assert_allclose(same, sb.get.log_likelihood(adata, key, by=by), rtol=1e-9)
        assert np.abs(found.to_numpy() - same.to_numpy()).max() > 1


def test_new_cells_genes_in_another_order_and_a_file(adata, tmp_path):
    sb.tl.log_likelihood(adata, "mix")
    new = adata[::2, ::-1].copy()
    for name in list(new.uns):
        del new.uns[name]
    sb.tl.log_likelihood(new, "mix", reference=adata)
    at_home = adata.obs["mix_log_likelihood"].to_numpy()[::2]
    np.testing.assert_allclose(new.obs["mix_log_likelihood"], at_home, atol=0.5)  # nu was inferred anew
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = sb.get.log_likelihood(ad.read_h5ad(tmp_path / "a.h5ad"), "mix")
    np.testing.assert_array_equal(again, sb.get.log_likelihood(adata, "mix"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"by": "sample"}, "'cell' or 'gene'"),
        ({"n_samples": 0}, "at least 1"),
        ({"weight_type": "half"}, "multiplicative, additive"),
        ({"temperature": 0}, "positive"),
        ({"temperature": np.nan}, "positive"),
        ({"weights": np.ones(3)}, "shape"),
        ({"weights": np.ones((24, 3))}, "shape"),
        ({"weights": np.full(24, np.nan)}, "finite"),
    ],
)
def test_what_is_refused(adata, change, message):
    before = set(adata.uns)
    with pytest.raises(ValueError, match=message):
        sb.tl.log_likelihood(adata, **change)
    assert set(adata.uns) == before


def test_what_cannot_be_read(adata):
    with pytest.raises(KeyError, match="run sb"):
        sb.get.log_likelihood(adata)
    with pytest.raises(ValueError, match="'cell' or 'gene'"):
        sb.get.log_likelihood(adata, by="sample")
    sb.tl.log_likelihood(adata)
    with pytest.raises(ValueError, match="pass n_samples="):
        sb.get.log_likelihood(adata, draws=True)
