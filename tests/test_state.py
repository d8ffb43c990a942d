"""A fit inside AnnData: through files into fresh processes, cut and resumed, in parts, side by side."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import scbayes as sb
from scbayes.inference import _trainer

N_CELLS, N_GENES = 80, 24
#: An optimizer that leaves the optimum with large steps and then takes hundreds to come back.
COARSE = optax.adam(lambda count: 1 / (1 + count / 50))


def simulated() -> ad.AnnData:
    adata = sb.datasets.simulate("nbvcp", n_cells=N_CELLS, n_genes=N_GENES, n_batches=2, log_mean=(2, 1), rng=3)
    adata.var["wanted"] = np.arange(N_GENES) % 4 != 0
    return adata


def fitted(**settings) -> ad.AnnData:
    adata = simulated()
    sb.tl.fit(adata, progress=False, **settings)
    return adata


#: Fits of different make-up: blocks alone, factors and batches and a pooled gene, probabilities and a global scalar.
FITS = {
    "sb": {},
    "own": {"parameterization": "standard", "batch_key": "batch", "per_batch": ("r",), "mask_var": "wanted"},
    "gates": {"model": "zinb", "parameterization": "odds_ratio", "unconstrained": True, "rng": 5},
}


@pytest.fixture(scope="module")
def _with_fits() -> ad.AnnData:
    adata = simulated()
    for key, settings in FITS.items():
        sb.tl.fit(adata, key_added=key, progress=False, **settings)
        assert sb.get.fit(adata, key).converged
    return adata


@pytest.fixture
def adata(_with_fits) -> ad.AnnData:
    """Three finished fits."""
    return _with_fits.copy()


def numbers(adata: ad.AnnData) -> dict[str, np.ndarray]:
    """All that `get` returns, flat: key/function/parameter -> array."""
    found = {}
    for key in [name for name in adata.uns if "manifest" in adata.uns[name]]:
        for use_mean in (False, True):
            for name, value in sb.get.map(adata, key, use_mean=use_mean).items():
                found[f"{key}/map/{use_mean}/{name}"] = value
        for name, value in sb.get.distributions(adata, key, backend="scipy").items():
            found[f"{key}/mean/{name}"] = value.mean()
            found[f"{key}/ppf/{name}"] = value.ppf(0.3)
        for name, value in sb.get.distributions(adata, key).items():
            found[f"{key}/numpyro/{name}"] = np.asarray(value.log_prob(np.float32(0.25)))
        for name, value in sb.get.params(adata, key).items():
            found |= {f"{key}/params/{name}/{part}": array for part, array in value.items()}
        found[f"{key}/losses"] = sb.get.fit(adata, key).losses
    return found


def assert_equal_numbers(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def assert_same_course(found: dict, expected: dict) -> None:
    """Equal, but for the order in which a processor adds: mostly to the last bit, losses to one or two units of it."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-10, err_msg=name)


# --- files and fresh processes ----------------------------------------------------------------------------------------

IN_A_FRESH_PROCESS = """
import importlib.util, sys
import anndata as ad, numpy as np, scbayes as sb
spec = importlib.util.spec_from_file_location("here", sys.argv[1])
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
read = {"h5ad": ad.read_h5ad, "zarr": ad.read_zarr}
for kind in read:
    np.savez(f"{sys.argv[2]}/{kind}.npz", **here.numbers(read[kind](f"{sys.argv[2]}/fits.{kind}")))
    print(kind, *sb.get.fit(read[kind](f"{sys.argv[2]}/fits.{kind}"), "own").facts["batches"])
for kind in read:
    half = read[kind](f"{sys.argv[2]}/half.{kind}")
    sb.tl.fit(half, resume=True, n_steps=200, optimizer=here.COARSE, progress=False)
    np.savez(f"{sys.argv[2]}/resumed_{kind}.npz", **here.numbers(half))
"""


@pytest.fixture(scope="module")
def fresh(_with_fits, tmp_path_factory) -> Path:
    """Folder with files of fits, and what a fresh process read from them and went on to."""
    folder = tmp_path_factory.mktemp("fresh")
    half = fitted(n_steps=50, optimizer=COARSE)
    for name, adata in (("fits", _with_fits), ("half", half)):
        adata.write_h5ad(folder / f"{name}.h5ad")
        adata.write_zarr(folder / f"{name}.zarr")
    command = [sys.executable, "-W", "ignore", "-c", IN_A_FRESH_PROCESS, __file__, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[:2] == ["h5ad 0 1", "zarr 0 1"]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_a_fresh_process_reads_the_same_numbers(fresh, adata, kind):
    with np.load(fresh / f"{kind}.npz") as found:
        expected = numbers(adata)
        assert len(expected) > 80
        assert_equal_numbers(dict(found), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_a_fresh_process_ends_where_the_uninterrupted_fit_ends(fresh, kind):
    whole = fitted(n_steps=200, optimizer=COARSE)
    assert sb.get.fit(whole).facts["convergence"]["n_steps"] == 200
    with np.load(fresh / f"resumed_{kind}.npz") as found:
        assert_same_course(dict(found), numbers(whole))


# --- cut and resumed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", FITS.values(), ids=FITS)
@pytest.mark.parametrize("cuts", [(50,), (70,), (20, 70), (1, 51)], ids=str)
def test_resumed_fit_equals_the_uninterrupted_one(settings, cuts):
    whole = fitted(n_steps=90, **settings)
    adata = fitted(n_steps=cuts[0], **settings)
    for n_steps in (*cuts[1:], 90):
        adata = adata.copy()
        sb.tl.fit(adata, resume=True, n_steps=n_steps, progress=False)
        assert sb.get.fit(adata).facts["convergence"]["n_steps"] == n_steps
    assert_same_course(numbers(adata), numbers(whole))
    facts, expected = sb.get.fit(adata).facts, sb.get.fit(whole).facts
    np.testing.assert_allclose(
        *[[fact.pop("convergence")[name] for name in ("loss",)] for fact in (facts, expected)], rtol=1e-12
    )
    assert facts == expected


def test_resuming_really_goes_on():
    """The first 20 steps change the answer, the next 70 change it again: equality above is not for want of change."""
    ends = [numbers(fitted(n_steps=n))["sb/params/mu/loc"] for n in (1, 20, 90)]
    assert np.abs(ends[0] - ends[1]).max() > 1e-4
    assert np.abs(ends[1] - ends[2]).max() > 1e-4


def test_resumed_fit_converges_where_the_uninterrupted_one_does():
    whole = fitted()
    adata = fitted(n_steps=70)
    assert "unfinished" in adata.uns["sb"]
    sb.tl.fit(adata, resume=True, progress=False)
    assert sb.get.fit(adata).converged
    assert "unfinished" not in adata.uns["sb"]
    assert_same_course(numbers(adata), numbers(whole))


def test_resume_has_the_settings_of_the_fit():
    """Layer, priors and batches are those of the fit, whatever the arguments' defaults would mean now."""
    settings = {"priors": {"r": dist.Gamma(2.0, 1.0), "total_mrna": dist.LogNormal(12.0, 0.3)}, "rng": 8}
    whole, adata = simulated(), simulated()
    for a in (whole, adata):
        a.layers["umi"] = a.X
        a.X = None
    sb.tl.fit(whole, layer="umi", n_steps=60, progress=False, **settings)
    sb.tl.fit(adata, layer="umi", n_steps=30, progress=False, **settings)
    sb.tl.fit(adata, resume=True, n_steps=60, progress=False)
    assert_same_course(numbers(adata), numbers(whole))
    assert sb.get.fit(adata).facts["priors"] == sb.get.fit(whole).facts["priors"]
    assert sb.get.fit(adata).facts["seed"] == 8


def test_converged_fit_resumed_is_left_as_it_is(adata):
    before = {key: str(adata.uns[key]["manifest"]) for key in FITS}, numbers(adata)
    for key in FITS:
        sb.tl.fit(adata, key_added=key, resume=True, n_steps=5000, progress=False)
        copied = sb.tl.fit(adata, key_added=key, resume=True, progress=False, copy=True)
        assert copied is not adata
        assert_equal_numbers(numbers(copied), before[1])
    assert {key: str(adata.uns[key]["manifest"]) for key in FITS} == before[0]
    assert_equal_numbers(numbers(adata), before[1])


def test_fit_that_has_its_steps_resumed_with_no_more_is_left_as_it_is():
    adata = fitted(n_steps=60)
    before = numbers(adata), str(adata.uns["sb"]["manifest"])
    sb.tl.fit(adata, resume=True, n_steps=60, progress=False)
    assert_equal_numbers(numbers(adata), before[0])
    assert str(adata.uns["sb"]["manifest"]) == before[1]


def interrupt_after(monkeypatch, windows: int) -> None:
    """The user presses Ctrl-C while the window after this many is running."""
    run, done = _trainer.Window.__call__, []

    def stop_or_run(*args):
        if len(done) == windows:
            raise KeyboardInterrupt
        done.append(1)
        return run(*args)

    monkeypatch.setattr(_trainer.Window, "__call__", stop_or_run)


@pytest.mark.parametrize("windows", [0, 1])
def test_interrupted_fit_is_stored_and_resumed(monkeypatch, tmp_path, windows):
    adata = simulated()
    with monkeypatch.context() as patch:
        interrupt_after(patch, windows)
        with pytest.raises(KeyboardInterrupt, match="resume=True"):
            sb.tl.fit(adata, progress=False)
    fit = sb.get.fit(adata)
    assert len(fit.losses) == 50 * windows
    assert fit.facts["convergence"]["interrupted"]
    assert not fit.converged
    assert "NOT converged" in str(fit)
    adata.write_h5ad(tmp_path / "cut.h5ad")
    adata = ad.read_h5ad(tmp_path / "cut.h5ad")
    sb.tl.fit(adata, resume=True, progress=False)
    assert not sb.get.fit(adata).facts["convergence"]["interrupted"]
    assert_same_course(numbers(adata), numbers(fitted()))


def test_interrupt_before_the_first_step_changes_nothing(monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("scbayes.tl._run.warm_start", stop)
    adata = simulated()
    with pytest.raises(KeyboardInterrupt):
        sb.tl.fit(adata, progress=False)
    assert list(adata.uns) == ["truth"]
    assert not [name for name in (*adata.varm, *adata.obsm) if name.startswith("sb")]


def test_interrupted_copy_says_that_nothing_is_kept(monkeypatch):
    adata = simulated()
    interrupt_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt, match="nothing is stored, since copy=True"):
        sb.tl.fit(adata, progress=False, copy=True)
    assert "sb" not in adata.uns


# --- keys -------------------------------------------------------------------------------------------------------------


def slots(adata) -> dict[str, list[str]]:
    return {name: sorted(map(str, getattr(adata, name))) for name in ("uns", "varm", "obsm", "layers", "obs", "var")}


def test_removing_one_fit_leaves_the_others(adata):
    clean, expected = slots(simulated()), numbers(adata)
    for gone in FITS:
        sb.tl.remove(adata, gone)
        expected = {name: value for name, value in expected.items() if not name.startswith(f"{gone}/")}
        assert_equal_numbers(numbers(adata), expected)
        assert not [name for group in slots(adata).values() for name in group if str(name).startswith(gone + "_")]
    assert slots(adata) == clean


def test_keys_that_begin_alike_do_not_meet():
    """`sb` and `sb_x`, a key with quotes and brackets, a key that is no identifier."""
    adata = fitted()
    expected = numbers(adata)
    keys = ["sb_x", "sb_gene", 'it\'s "[one]"', "größe 1"]
    for key in keys:
        sb.tl.fit(adata, "nbdm", parameterization="odds_ratio", key_added=key, progress=False)
    for key in keys:
        assert sb.get.map(adata, key)["r"].shape == (N_GENES,)
        sb.tl.remove(adata, key)
    assert slots(adata) == slots(fitted())
    assert_equal_numbers(numbers(adata), expected)


def test_refit_under_the_same_key_leaves_nothing_of_the_old(adata):
    """From factors, nu, batches, a pooled gene and unfinished arrays to none of them."""
    sb.tl.fit(adata, key_added="own", n_steps=50, progress=False, **FITS["own"])
    assert "own_factor" in adata.varm
    assert "own_nu" in adata.obsm
    assert "unfinished" in adata.uns["own"]
    sb.tl.fit(adata, key_added="own", progress=False, **FITS["gates"])
    assert [name for name in adata.varm if name.startswith("own")] == ["own_loc", "own_tril", "own_gene_id"]
    assert [name for name in adata.obsm if name.startswith("own")] == ["own_cell_id"]
    expected = {name.replace("gates/", "own/"): v for name, v in numbers(adata).items() if name.startswith("gates/")}
    found = {name: value for name, value in numbers(adata).items() if name.startswith("own/")}
    assert_equal_numbers(found, expected)
    assert adata.uns["own"].keys() == adata.uns["gates"].keys()


# --- parts of a data set ----------------------------------------------------------------------------------------------

GENES = {
    "ints": [3, 1, 8, 22],
    "slice": slice(2, 20, 3),
    "backwards": slice(None, None, -1),
    "mask": np.arange(N_GENES) > 15,
    "names": ["gene7", "gene0", "gene23"],
    "one": [5],
    "none": [],
}


@pytest.mark.parametrize("view", [True, False], ids=["view", "copy"])
@pytest.mark.parametrize("which", GENES)
def test_some_genes_have_the_rows_of_the_whole(adata, which, view):
    part = adata[:, GENES[which]]
    chosen = adata.var_names.get_indexer(part.var_names)
    part = part if view else part.copy()
    for key in FITS:
        fit = sb.get.fit(adata, key)
        rows = np.cumsum(fit.fitted)[chosen][fit.fitted[chosen]] - 1  # pooled genes are left out
        whole = sb.get.map(adata, key)
        found = sb.get.map(part, key)
        assert found.keys() == whole.keys()
        for name, value in found.items():
            expected = whole[name][..., rows] if fit.canonical[name].axis == "gene" else whole[name]
            np.testing.assert_array_equal(value, expected, err_msg=f"{key} {name}")
        own = sb.get.params(part, key)["gene"]
        for name, value in sb.get.params(adata, key)["gene"].items():
            np.testing.assert_array_equal(own[name], value[rows])
        scale = sb.get.distributions(part, key, backend="scipy")["composition"].std()
        np.testing.assert_array_equal(
            scale, sb.get.distributions(adata, key, backend="scipy")["composition"].std()[..., rows]
        )
        assert list(sb.get.fit(part, key).genes) == list(part.var_names)


CELLS = {
    "ints": [70, 2, 3],
    "slice": slice(5, 50, 7),
    "mask": np.arange(N_CELLS) % 3 == 0,
    "backwards": slice(None, None, -1),
}


@pytest.mark.parametrize("which", CELLS)
def test_some_cells_have_the_rows_of_the_whole(adata, which):
    part = adata[CELLS[which]]
    rows = adata.obs_names.get_indexer(part.obs_names)
    for key in FITS:
        fit, whole = sb.get.fit(adata, key), sb.get.map(adata, key)
        assert ("nu" in whole) == (key != "gates")
        for name, value in sb.get.map(part, key).items():
            expected = whole[name][rows] if fit.canonical[name].axis == "cell" else whole[name]
            np.testing.assert_array_equal(value, expected, err_msg=f"{key} {name}")


def test_one_batch_keeps_its_own_values(adata):
    """Odds of cells come from their own batch, also where only the second is left."""
    part = adata[adata.obs["batch"] == "1"]
    rows = np.flatnonzero(adata.obs["batch"] == "1")
    np.testing.assert_array_equal(sb.get.map(part, "own")["odds"], sb.get.map(adata, "own")["odds"][rows])
    assert sb.get.map(part, "own")["r"].shape == (2, 18)


def test_a_part_goes_through_a_file(adata, tmp_path):
    part = adata[::3, [3, 1, 8, 22]].copy()
    part.write_h5ad(tmp_path / "part.h5ad")
    assert_equal_numbers(numbers(ad.read_h5ad(tmp_path / "part.h5ad")), numbers(part))


def test_unknown_batches_are_refused(adata):
    adata.obs["batch"] = "new"
    with pytest.raises(ValueError, match=r"obs\['batch'\] has batches that 'own' was not fitted on: \['new'\]"):
        sb.get.map(adata, "own")
    del adata.obs["batch"]
    with pytest.raises(KeyError, match=r"'own' needs obs\['batch'\]"):
        sb.get.map(adata, "own")
    assert sb.get.fit(adata).key == "sb"


# --- concatenated -----------------------------------------------------------------------------------------------------


def test_cells_put_together_again_have_the_fit(adata):
    parts = [adata[50:].copy(), adata[:50].copy()]
    again = ad.concat(parts, merge="same", uns_merge="same")
    rows = adata.obs_names.get_indexer(again.obs_names)
    whole = sb.get.map(adata)
    for name, value in sb.get.map(again).items():
        np.testing.assert_array_equal(value, whole[name][rows] if name in ("nu", "odds") else whole[name])


@pytest.mark.parametrize("settings", [{"uns_merge": "same"}, {"uns_merge": "first"}, {"uns_merge": None}], ids=str)
@pytest.mark.parametrize("merge", ["same", "first", None])
def test_fits_of_two_data_sets_put_together_are_refused(adata, settings, merge):
    """Nothing that would hand out the cells of one fit with the genes of another."""
    other = sb.datasets.simulate("nbvcp", n_cells=N_CELLS, n_genes=N_GENES, n_batches=2, log_mean=(2, 1), rng=4)
    sb.tl.fit(other, progress=False)
    other.obs_names = "other " + other.obs_names
    with pytest.raises(ValueError, match="not called what they were"):
        sb.get.map(other)
    other.obs_names = other.obs_names.str.removeprefix("other ")
    both = ad.concat([adata[:40], other[40:]], merge=merge, **settings)
    with pytest.raises((KeyError, ValueError), match="'sb'"):
        sb.get.map(both)
    both = ad.concat([adata[:, :10], other[:, 10:]], axis="var", merge=merge, **settings)
    with pytest.raises((KeyError, ValueError), match="'sb'"):
        sb.get.map(both)


def test_cells_without_a_fit_added_are_refused(adata):
    other = simulated()
    other.obs_names = "other " + other.obs_names
    for join in ("inner", "outer"):
        both = ad.concat([adata, other], join=join, merge="first", uns_merge="first")
        with pytest.raises((KeyError, ValueError), match="'sb'"):
            sb.get.map(both)


# --- what is stored ---------------------------------------------------------------------------------------------------


def leaves(value):
    if hasattr(value, "items"):
        for name, inner in value.items():
            assert isinstance(name, str)
            assert "/" not in name
            yield from leaves(inner)
    else:
        yield value


def test_manifest_is_strict_json():
    """Also where a number is missing: no drift before there are two windows."""

    def refuse(name):
        pytest.fail(f"{name} is no JSON")

    manifest = json.loads(fitted(n_steps=50).uns["sb"]["manifest"], parse_constant=refuse)
    assert manifest["facts"]["convergence"]["drift"] is None


@pytest.mark.parametrize("n_steps", [50, 2000])
@pytest.mark.parametrize("settings", FITS.values(), ids=FITS)
def test_only_plain_arrays_and_strings_are_stored(settings, n_steps):
    adata = fitted(n_steps=n_steps, **settings)
    stored = [*leaves(adata.uns["sb"]), *adata.varm.values(), *adata.obsm.values()]
    assert {type(value) for value in stored} == {np.ndarray, str}
    assert {value.dtype.kind for value in stored if isinstance(value, np.ndarray)} <= set("fiu")
    assert all(value.flags.writeable for value in adata.varm.values())
    assert adata.varm["sb_loc"].dtype == np.float64
    assert adata.obsm["sb_cell_id"].dtype == np.uint64


def test_entry_is_small_when_converged(adata):
    for key in FITS:
        entry = dict(adata.uns[key])
        seen = sum(value.nbytes for value in leaves(entry.pop("seen")))
        n_pairs = len(adata.uns[key]["seen"]["count"])
        assert seen < 48 * N_CELLS + 16 * n_pairs + 8 * N_GENES * (2 + 2 * 32), key  # names, totals, nu; pairs; nodes
        size = sum(len(value) if isinstance(value, str) else value.nbytes for value in leaves(entry))
        assert size < 5000 + 8 * len(sb.get.fit(adata, key).losses), key
    assert sum(np.size(value) for value in leaves(fitted(n_steps=50).uns["sb"])) > 3 * N_CELLS


def test_manifest_says_what_was_run(adata):
    manifest = json.loads(adata.uns["own"]["manifest"])
    assert manifest["schema"] == 1
    assert manifest["model"] == {
        "model": "nbvcp",
        "parameterization": "standard",
        "unconstrained": False,
        "n_batches": 2,
        "per_batch": ["r"],
        "n_components": 1,
    }
    facts = manifest["facts"]
    assert [facts[name] for name in ("layer", "mask_var", "batch_key", "batches")] == [
        None,
        "wanted",
        "batch",
        ["0", "1"],
    ]
    assert (facts["n_cells"], facts["n_genes"], facts["seed"]) == (N_CELLS, N_GENES, 0)
    assert facts["n_counts"] == adata.X.sum()
    assert facts["versions"]["anndata"] == version("anndata")
    assert set(facts["priors"]) == {"r", "nu"}
    assert {part["slot"] for part in manifest["parts"]} == {
        *(f"varm['own_{name}']" for name in ("loc", "tril", "factor", "gene_id")),
        *(f"obsm['own_{name}']" for name in ("nu", "cell_id")),
    }
    pooled = ~adata.var["wanted"].to_numpy()
    assert np.isnan(adata.varm["own_loc"][pooled]).all()
    assert np.isfinite(adata.varm["own_loc"][~pooled]).all()


@pytest.mark.parametrize("settings", [{"batch_key": "batch"}, {"n_components": 2}, {"model": "nbdm"}], ids=str)
def test_a_fit_without_its_cells_reads_new_cells_as_the_whole_one_does(settings, tmp_path):
    adata = sb.datasets.simulate("nbvcp", n_cells=150, n_genes=30, n_batches=2, rng=0)
    sb.tl.fit(adata, progress=False, **settings)
    alone = sb.get.fit(adata).to_anndata()
    assert alone.shape == (0, 30)
    alone.write_h5ad(tmp_path / "alone.h5ad")
    alone = ad.read_h5ad(tmp_path / "alone.h5ad")
    ours, theirs = adata[:40, ::-1].copy(), adata[:40].copy()
    sb.tl.log_likelihood(ours, reference=alone)
    sb.tl.log_likelihood(theirs, reference=adata)
    np.testing.assert_allclose(ours.obs["sb_log_likelihood"], theirs.obs["sb_log_likelihood"], rtol=1e-9)
