"""Variational autoencoders: what is learned, what is stored, and that it goes on where it was."""

import io
import subprocess
import sys

import anndata as ad
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import stats

import scbayes as sb
from scbayes.models._latent_kinds import latent_model
from scbayes.models._latent_model import Inputs, LatentModel
from scbayes.tl._latent_reading import read_latent_with_counts

N, G = 240, 40
SMALL = {"n_latent": 3, "n_hidden": 16, "max_epochs": 4, "batch_size": 32}


def simulated(n: int = N, seed: int = 0) -> ad.AnnData:
    """Three types in two batches whose genes differ."""
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(3, size=n), rng.integers(2, size=n)
    level = np.exp(np.random.default_rng(9).normal(0, 1, (3, G)))
    of_batch = np.exp(np.random.default_rng(8).normal(0, 0.4, (2, G)))
    share = level[kind] * of_batch[batch]
    share /= share.sum(1, keepdims=True)
    x = rng.negative_binomial(4, 4 / (4 + share * rng.uniform(300, 700, (n, 1))))
    adata = ad.AnnData(x.astype(np.float32))
    adata.obs["kind"], adata.obs["batch"] = pd.Categorical(kind.astype(str)), pd.Categorical([f"b{b}" for b in batch])
    adata.obs["age"], adata.obs["size"] = rng.normal(40, 9, n), x.sum(1) / x.sum(1).mean()
    adata.obs_names, adata.var_names = [f"c{seed}_{i}" for i in range(n)], [f"g{i}" for i in range(G)]
    return adata


def fit(adata: ad.AnnData, config: dict | None = None, **settings) -> ad.AnnData | None:
    return sb.tl.fit(adata, "vae", config=SMALL | (config or {}), progress=False, **settings)


@pytest.fixture(scope="module")
def _fitted() -> ad.AnnData:
    adata = simulated()
    fit(adata, {"max_epochs": 30}, batch_key="batch")
    return adata


@pytest.fixture
def fitted(_fitted) -> ad.AnnData:
    return _fitted.copy()


def test_types_lie_apart_and_batches_together(fitted):
    sb.tl.latent(fitted)
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import NearestNeighbors

    z = fitted.obsm["X_sb"]
    assert z.shape == (N, 3)
    assert silhouette_score(z, fitted.obs["kind"]) > 0.4
    near = NearestNeighbors(n_neighbors=16).fit(z).kneighbors(return_distance=False)[:, 1:]
    other = (fitted.obs["batch"].cat.codes.to_numpy()[near] != fitted.obs["batch"].cat.codes.to_numpy()[:, None]).mean()
    assert other > 0.35  # 0.5 if mixed at random


def test_it_beats_one_profile_for_each_batch_on_cells_it_has_not_seen(fitted):
    """Held-out reconstruction against the negative binomial model without types."""
    found = sb.get.fit(fitted)
    held = (found.split == "validation").astype(bool)
    assert held.sum() == 24
    x, batch = fitted.X[held], fitted.obs["batch"].cat.codes.to_numpy()
    total = 0.0
    for b in range(2):
        train = fitted.X[~held & (batch == b)]
        share = (train.sum(0) + 0.5) / (train + 0.5 / len(train)).sum()
        size = train.sum(1, keepdims=True)
        theta = np.clip((share * size).var(0) + (share * size).mean(0) ** 2, 0.1, 50)
        excess = np.maximum(((train - share * size) ** 2 - share * size).mean(0), 1e-3)
        theta = np.clip((share * size).mean(0) ** 2 / excess, 0.05, 100)
        cells = x[batch[held] == b]
        mean = share * cells.sum(1, keepdims=True)
        total += stats.nbinom.logpmf(cells, theta, theta / (theta + mean)).sum()
    best = found.facts["convergence"]["elbo"]["validation"]
    assert best > total / held.sum() + 3


def test_parts_are_those_of_the_dense_definition(fitted):
    """One draw: the log likelihood by scipy at the decoded means, the KL divergence of normals in closed form."""
    reading = read_latent_with_counts(fitted, "sb")
    inputs = reading.at(np.arange(5))
    key = jax.random.key(3)
    parts = reading.model.parts(inputs, key)
    loc, scale = (np.asarray(v, float) for v in reading.model.encode(inputs))
    np.testing.assert_allclose(parts.kl, (0.5 * (loc**2 + scale**2 - 1) - np.log(scale)).sum(1), rtol=1e-4)
    # the draw is found again from the guide's own trace
    from numpyro import handlers

    z = handlers.trace(handlers.seed(reading.model.guide, key)).get_trace(inputs)["latent"]["value"]
    decoded = reading.model.decode(inputs, z)
    share = np.exp(np.asarray(decoded.log_share, float))
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-5)
    mean = share * fitted.X[:5].sum(1, keepdims=True)
    theta = np.exp(np.asarray(decoded.log_theta, float))
    expected = stats.nbinom.logpmf(fitted.X[:5], theta, theta / (theta + mean)).sum(1)
    np.testing.assert_allclose(parts.reconstruction, expected, rtol=1e-4)


def test_decoder_takes_any_number_of_draws_and_knows_the_batch(fitted):
    reading = read_latent_with_counts(fitted, "sb")
    inputs = reading.at(np.arange(6))
    v = jnp.asarray(np.random.default_rng(0).normal(size=(7, 6, 3)), jnp.float32)
    together = reading.model.decode(inputs, v).log_share
    for s in (0, 6):
        np.testing.assert_allclose(together[s], reading.model.decode(inputs, v[s]).log_share, atol=1e-5)
    as_first, as_second = (reading.model.decode(reading.at(np.arange(6), b), v[0]).log_share for b in (0, 1))
    batch = fitted.obs["batch"].cat.codes.to_numpy()[:6]
    np.testing.assert_allclose(np.where(batch[:, None] == 0, as_first, as_second), together[0], atol=1e-5)
    assert np.abs(as_first - as_second).max() > 0.3


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ({"likelihood": "zinb", "dispersion": "gene-batch"}, {"batch_key": "batch"}),
        ({"likelihood": "poisson", "latent_distribution": "ln"}, {}),
        ({"likelihood": "b", "n_layers": 2, "scale_activation": "softplus"}, {}),
        ({"dispersion": "gene-label", "scale_activation": "softplus_sp"}, {"labels_key": "kind"}),
        ({"dispersion": "gene-cell", "library": "encoded"}, {"batch_key": "batch"}),
        (
            {"library": "size_factor", "encode_covariates": True},
            {"size_factor_key": "size", "covariates": ["age", "kind"]},
        ),
    ],
    ids=["zinb", "poisson-ln", "b-softplus", "gene-label-sp", "gene-cell-encoded", "size-factor-covariates"],
)
def test_every_setting_trains_and_comes_back(config, settings, tmp_path):
    adata = simulated()
    fit(adata, config, **settings)
    found = sb.get.fit(adata)
    assert found.table["train_elbo"].iloc[-1] > found.table["train_elbo"].iloc[0]
    assert found.facts["convergence"]["n_rejected"] == 0
    sb.tl.latent(adata, n_samples=2)
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert sb.get.fit(again).config == found.config
    new = again[:9, ::-1].copy()
    sb.tl.latent(new, reference=again)
    by_draws = config.get("latent_distribution") == "ln"
    np.testing.assert_allclose(new.obsm["X_sb"], adata.obsm["X_sb"][:9], atol=0.03 if by_draws else 1e-5)
    np.testing.assert_allclose(new.obs["sb_library"], adata.obs["sb_library"][:9], rtol=1e-5)
    if by_draws:
        np.testing.assert_allclose(adata.obsm["X_sb"].sum(1), 1, atol=1e-3)


def test_encoded_library_follows_the_totals():
    adata = simulated()
    fit(adata, {"library": "encoded", "max_epochs": 30}, batch_key="batch")
    sb.tl.latent(adata)
    assert np.corrcoef(np.log(adata.obs["sb_library"]), np.log(adata.X.sum(1)))[0, 1] > 0.9
    assert (adata.obs["sb_library_sd"] > 0).all()


def test_labels_are_learned_and_accuracy_is_reported():
    adata = simulated()
    known = adata.obs["kind"].copy()
    adata.obs["some"] = known.where(np.arange(N) % 3 == 0)
    fit(adata, {"max_epochs": 40, "early_stopping": False}, batch_key="batch", labels_key="some")
    found = sb.get.fit(adata)
    assert found.facts["accuracy"]["train"] > 0.95
    logits = found.model.label_logits(Inputs(found.params, found.fixed, None), jnp.asarray(found.loc))
    unseen = np.arange(N) % 3 != 0
    assert (np.array(found.labels)[np.asarray(logits).argmax(1)] == known.to_numpy())[unseen].mean() > 0.85
    sb.tl.assign(adata)
    table = sb.get.assignments(adata)
    assert (adata.obs["sb_assignment"].astype(str) == known.astype(str)).to_numpy()[unseen].mean() > 0.85
    np.testing.assert_allclose(adata.obsm["sb_probabilities"].sum(1), 1, rtol=1e-6)
    assert table.shape[0] == N
    sb.tl.entropy(adata, assigned="sb")
    expected = stats.entropy(adata.obsm["sb_probabilities"], axis=1)
    np.testing.assert_allclose(adata.obs["sb_entropy"], expected, atol=1e-6)
    new = adata[unseen].copy()
    sb.tl.assign(new, reference=adata, key_added="new")
    assert (new.obs["new_assignment"] == adata.obs["sb_assignment"][unseen]).mean() > 0.97
    with pytest.raises(ValueError, match="calibrate: not for the fit"):
        sb.tl.assign(adata, calibrate="kind")
    assert "accuracy" in str(found)
    assert "train_label" in found.table


def test_the_same_seed_gives_the_same_fit_and_another_one_does_not():
    first, second, other = simulated(), simulated(), simulated()
    fit(first)
    fit(second)
    fit(other, rng=1)
    np.testing.assert_array_equal(first.obsm["sb_latent"], second.obsm["sb_latent"])
    assert np.abs(first.obsm["sb_latent"] - other.obsm["sb_latent"]).max() > 0.01
    assert not first.obs["sb_split"].equals(other.obs["sb_split"])


def test_an_interrupted_fit_is_stored_and_ends_where_the_whole_one_ends(monkeypatch, tmp_path):
    from scbayes.inference import _epochs

    whole = simulated()
    fit(whole, {"max_epochs": 6})
    calls = []

    class Interrupting(_epochs.tqdm):
        def update(self, n: int = 1) -> None:
            calls.append(n)
            if len(calls) == 3:
                raise KeyboardInterrupt
            super().update(n)

    part = simulated()
    monkeypatch.setattr(_epochs, "tqdm", Interrupting)
    with pytest.raises(KeyboardInterrupt, match="resume=True"):
        fit(part, {"max_epochs": 6})
    monkeypatch.undo()
    assert not sb.get.fit(part).converged
    assert len(sb.get.fit(part).history) == 3
    part.write_h5ad(tmp_path / "part.h5ad")
    part = ad.read_h5ad(tmp_path / "part.h5ad")
    sb.tl.fit(part, resume=True, progress=False)
    np.testing.assert_array_equal(part.obsm["sb_latent"], whole.obsm["sb_latent"])
    np.testing.assert_array_equal(sb.get.fit(part).history, sb.get.fit(whole).history)
    assert "unfinished" not in part.uns["sb"]
    before = part.copy()
    sb.tl.fit(part, resume=True, progress=False)  # done: nothing happens
    np.testing.assert_array_equal(part.obsm["sb_latent"], before.obsm["sb_latent"])
    part = simulated(seed=1)
    part.obs_names = whole.obs_names


def test_an_epoch_that_is_stopped_while_it_is_waited_for_is_run_once(monkeypatch):
    from scbayes.inference import _epochs

    whole, part = simulated(), simulated()
    fit(whole, {"max_epochs": 4})
    compiled, calls = _epochs._compiled, []

    class Waiting:
        def __array__(self, *_, **__):
            raise KeyboardInterrupt

    def interrupting(*how):
        run = compiled(*how)

        def epoch(*args):
            state, row = run(*args)
            calls.append(row)
            return state, Waiting() if len(calls) == 3 else row

        return epoch

    with monkeypatch.context() as patch:
        patch.setattr(_epochs, "_compiled", interrupting)
        with pytest.raises(KeyboardInterrupt, match="resume=True"):
            fit(part, {"max_epochs": 4})
    assert len(sb.get.fit(part).history) == 2
    sb.tl.fit(part, resume=True, progress=False)
    np.testing.assert_array_equal(sb.get.fit(part).history, sb.get.fit(whole).history)
    np.testing.assert_array_equal(part.obsm["sb_latent"], whole.obsm["sb_latent"])


def cut(adata: ad.AnnData, monkeypatch) -> ad.AnnData:
    """A fit that was stopped after its first epoch."""
    from scbayes.inference import _epochs

    class Interrupting(_epochs.tqdm):
        def update(self, n: int = 1) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_epochs, "tqdm", Interrupting)
        with pytest.raises(KeyboardInterrupt, match="resume=True"):
            fit(adata)
    return adata


def test_resume_takes_no_other_settings_and_no_other_counts(monkeypatch):
    adata = cut(simulated(), monkeypatch)
    with pytest.raises(ValueError, match="leave out config, rng"):
        sb.tl.fit(adata, resume=True, config={"max_epochs": 9}, rng=3, progress=False)
    with pytest.raises(ValueError, match="leave out model"):
        sb.tl.fit(adata, "factors", resume=True, progress=False)
    with pytest.raises(ValueError, match="place them with reference="):
        sb.tl.fit(adata, update=True, progress=False)
    adata.X[0, 0] += 1
    with pytest.raises(ValueError, match="are not those"):
        sb.tl.fit(adata, resume=True, progress=False)


def test_a_fit_that_is_stopped_before_its_first_epoch_leaves_nothing(monkeypatch):
    from scbayes.inference import _epochs

    def stop(*_) -> None:
        raise KeyboardInterrupt

    adata = simulated()
    monkeypatch.setattr(_epochs, "_compiled", lambda *_: stop)
    with pytest.raises(KeyboardInterrupt, match="before the first epoch"):
        fit(adata)
    assert not adata.uns
    assert not adata.obsm


def test_a_fit_says_whether_it_converged_or_ran_out_of_epochs():
    adata = simulated()
    fit(adata)
    assert not sb.get.fit(adata).converged
    assert "all 4 epochs done" in str(sb.get.fit(adata))
    fit(adata, {"max_epochs": 90, "patience": 5, "learning_rate": 0.02, "n_latent": np.int64(2)})
    found = sb.get.fit(adata)
    assert found.converged
    assert len(found.history) < 90
    assert "converged" in str(found)


def test_a_file_gives_the_same_in_a_fresh_process(fitted, tmp_path):
    sb.tl.latent(fitted)
    fitted.write_h5ad(tmp_path / "fit.h5ad")
    code = (
        "import sys, anndata, numpy as np, scbayes as sb\n"
        "a = anndata.read_h5ad(sys.argv[1]); before = a.obsm['X_sb'].copy()\n"
        "new = a.copy(); sb.tl.latent(new, reference=a, key_added='new')\n"
        "print(np.abs(new.obsm['X_new'] - before).max())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "fit.h5ad")], capture_output=True, text=True, check=True
    )
    assert float(out.stdout.split()[-1]) < 1e-6


def test_an_exported_fit_applies_to_cells_it_never_saw(fitted, tmp_path):
    alone = sb.get.fit(fitted).to_anndata()
    assert alone.n_obs == 0
    alone.write_h5ad(tmp_path / "alone.h5ad")
    alone = ad.read_h5ad(tmp_path / "alone.h5ad")
    query = simulated(n=60, seed=5)[:, np.random.default_rng(0).permutation(G)].copy()
    sb.tl.latent(query, reference=alone)
    sb.tl.latent(fitted)
    kinds = pd.Series(list(fitted.obs["kind"]))
    centre = np.stack([fitted.obsm["X_sb"][kinds == k].mean(0) for k in "012"])
    nearest = np.linalg.norm(query.obsm["X_sb"][:, None] - centre, axis=2).argmin(1)
    assert (nearest == query.obs["kind"].cat.codes).mean() > 0.9
    assert "sb_latent" in query.uns
    missing = query[:, :-2].copy()
    with pytest.raises(ValueError, match="2 of the 40 genes"):
        sb.tl.latent(missing, reference=alone)
    query.obs["batch"] = "b7"
    with pytest.raises(ValueError, match="batches that 'sb' was not fitted on"):
        sb.tl.latent(query, reference=alone)


def test_a_subset_of_cells_keeps_its_fit_and_a_subset_of_genes_says_what_it_lacks(fitted):
    some = fitted[::7].copy()
    sb.tl.latent(some)
    sb.tl.latent(fitted)
    np.testing.assert_array_equal(some.obsm["X_sb"], fitted.obsm["X_sb"][::7])
    few = fitted[:, :10].copy()
    assert len(sb.get.fit(few).genes) == G
    with pytest.raises(ValueError, match="30 of the 40 genes"):
        sb.tl.latent(few)


def test_mask_var_chooses_the_genes(fitted):
    adata = simulated()
    adata.var["chosen"] = np.arange(G) < 25
    fit(adata, mask_var="chosen")
    found = sb.get.fit(adata)
    assert list(found.genes) == [f"g{i}" for i in range(25)]
    sb.tl.latent(adata)
    np.testing.assert_allclose(adata.obs["sb_library"], adata.X[:, :25].sum(1))


def test_the_sets_have_the_sizes_asked_for():
    adata = simulated()
    fit(adata, {"train_size": 0.5, "validation_size": 0.2, "shuffle_set_split": False})
    assert adata.obs["sb_split"].value_counts().to_dict() == {"train": 120, "validation": 48, "test": 72}
    assert (adata.obs["sb_split"][:120] == "train").all()
    fit(adata, {"train_size": 1.0})
    assert (adata.obs["sb_split"] == "train").all()
    assert np.isnan(sb.get.fit(adata).table["validation_elbo"]).all()


def test_draws_have_the_stored_moments(fitted):
    sb.tl.latent(fitted, n_samples=400, rng=2)
    z = sb.get.latent(fitted, statistic="samples")
    assert z.shape == (400, N, 3)
    np.testing.assert_allclose(z.mean(0), sb.get.latent(fitted), atol=0.25)
    np.testing.assert_allclose(z.std(0), sb.get.latent(fitted, statistic="sd"), rtol=0.2)
    sb.tl.latent(fitted)
    with pytest.raises(KeyError, match="n_samples"):
        sb.get.latent(fitted, statistic="samples")


def test_writing_a_fit_takes_the_results_of_the_former_with_it(fitted):
    sb.tl.latent(fitted)
    fit(fitted)
    assert "X_sb" not in fitted.obsm
    sb.tl.remove(fitted)
    assert not [slot for slot in (*fitted.obsm, *fitted.uns, *fitted.obs) if slot.startswith("sb")]


def test_functions_for_the_other_family_say_so(fitted):
    with pytest.raises(ValueError, match="model='vae'"):
        sb.get.map(fitted)
    with pytest.raises(ValueError, match="no labels to assign"):
        sb.tl.assign(fitted)
    sb.tl.fit(fitted, progress=False, key_added="nb")
    with pytest.raises(ValueError, match="no latent space"):
        sb.tl.latent(fitted, "nb")


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"config": {"n_latents": 3}}, ValueError, "n_latents"),
        ({"config": {"n_latent": 0}}, ValueError, "n_latent=0"),
        ({"config": {"likelihood": "gauss"}}, ValueError, "'nb', 'zinb'"),
        ({"config": {"dropout_rate": 1.0}}, ValueError, "below 1"),
        ({"config": {"train_size": 0.8, "validation_size": 0.3}}, ValueError, "sum to 1.1"),
        ({"config": {"train_size": None}}, ValueError, "both None"),
        ({"config": {"likelihood": "poisson", "dispersion": "gene-batch"}}, ValueError, "no dispersion"),
        ({"config": {"dispersion": "gene-batch"}}, ValueError, "needs batch_key"),
        ({"config": {"library": "size_factor"}}, ValueError, "go together"),
        ({"config": {"early_stopping": 1}}, ValueError, "True or False"),
        ({"config": [1]}, TypeError, "dict"),
        ({"size_factor_key": "size"}, ValueError, "go together"),
        ({"covariates": "nothing"}, KeyError, "nothing"),
        ({"labels_key": "nothing"}, KeyError, "nothing"),
        ({"parameterization": "linked"}, ValueError, "parameterization"),
        ({"n_components": 2, "priors": {}}, ValueError, "n_components, priors"),
        ({"model": "nbvcp", "config": {"n_latent": 3}}, ValueError, "config"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(settings, error, match):
    adata = simulated()
    with pytest.raises(error, match=match):
        sb.tl.fit(adata, **({"model": "vae", "progress": False} | settings))
    assert not adata.uns
    assert not adata.obsm


def test_bad_cells_are_named():
    adata = simulated()
    adata.X[3] = 0
    with pytest.raises(ValueError, match="first 'c0_3'"):
        fit(adata)
    adata = simulated()
    adata.obs["size"] = -1.0
    with pytest.raises(ValueError, match="size factors"):
        fit(adata, {"library": "size_factor"}, size_factor_key="size")


def test_a_damaged_fit_is_refused(fitted):
    del fitted.uns["sb"]["params"]["log_theta"]
    with pytest.raises(ValueError, match="log_theta"):
        sb.get.fit(fitted)


def test_collapse_is_said():
    adata = simulated()
    adata.X = np.random.default_rng(0).poisson(3, (N, G)).astype(np.float32)
    sc.settings.logfile, before, level = io.StringIO(), sc.settings.logfile, sc.settings.verbosity
    try:
        sc.settings.verbosity = 2
        fit(adata, {"max_epochs": 60, "early_stopping": False})
        said = sc.settings.logfile.getvalue()
    finally:
        sc.settings.logfile, sc.settings.verbosity = before, level
    assert sb.get.fit(adata).facts["active_units"] < 2
    assert "collapsed" in said


def test_models_of_equal_configs_are_one():
    found = sb.get.fit
    adata = simulated()
    fit(adata)
    one, other = found(adata).model, found(adata).model
    assert one is other
    assert isinstance(one, LatentModel)
    assert latent_model(found(adata).config, found(adata).sizes) is one
