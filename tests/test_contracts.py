"""What every public function promises: copies, storage formats, order, precision, logging, seeds, compiled code."""

import copy
import inspect
import io
import json
import logging
import os
import re
import subprocess
import sys

import anndata as ad
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scbayes as sb

N_CELLS, N_GENES = 80, 24


def simulated() -> ad.AnnData:
    return sb.datasets.simulate("nbvcp", n_cells=N_CELLS, n_genes=N_GENES, n_batches=2, log_mean=(2, 1), rng=3)


def fit(adata, **settings) -> ad.AnnData | None:
    return sb.tl.fit(adata, **({"progress": False} | settings))


@pytest.fixture(scope="module")
def _fitted() -> ad.AnnData:
    adata = simulated()
    fit(adata)
    return adata


@pytest.fixture
def fitted(_fitted) -> ad.AnnData:
    return _fitted.copy()


@pytest.fixture(scope="module")
def _with_results(_fitted) -> ad.AnnData:
    """A fit, a mixture, and everything that is computed from them."""
    adata = _fitted.copy()
    adata.obs["type"], adata.obs["sample"] = np.arange(N_CELLS) % 3 % 2, np.arange(N_CELLS) % 7
    fit(adata, n_components=2, key_added="mix")
    sb.pp.ambient_profile(adata)
    sb.pp.call_cells(adata, empty_range=(1, 60))
    small = {"max_epochs": 2, "n_hidden": 8, "n_latent": 3, "batch_size": 32}
    sb.tl.fit(adata, "vae", batch_key="batch", config=small, key_added="vae", progress=False)
    for name, settings in IN_PLACE.items():
        if name.startswith("tl.") and name not in ("tl.fit", "tl.remove"):
            public("tl")[name](adata, **settings)
    return adata


@pytest.fixture
def with_results(_with_results) -> ad.AnnData:
    return _with_results.copy()


def numbers(adata, key: str = "sb") -> dict[str, np.ndarray]:
    found = sb.get.map(adata, key)
    spread = {f"{name} spread": part["scale"] for name, part in sb.get.params(adata, key).items() if "scale" in part}
    return found | spread | {"losses": sb.get.fit(adata, key).losses}


def assert_close(found: dict, expected: dict, rtol: float = 1e-9) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, err_msg=name)


# --- copies -----------------------------------------------------------------------------------------------------------


def contents(adata) -> dict:
    """Everything by value, sparse matrices as their arrays."""
    parts = {
        f"{axis}.{name}": getattr(adata, axis)[name].to_numpy()
        for axis in ("obs", "var")
        for name in getattr(adata, axis)
    }
    for group in ("layers", "obsm", "varm", "varp"):
        parts |= {f"{group}.{name}": value for name, value in getattr(adata, group).items()}
    parts["X"] = adata.X
    parts = {name: value.toarray() if sparse.issparse(value) else np.asarray(value) for name, value in parts.items()}
    return copy.deepcopy(parts | {"uns": str(dict(adata.uns)), "names": [*adata.obs_names, *adata.var_names]})


def assert_same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


#: How to call each function that writes into AnnData.
IN_PLACE = {
    "pp.ambient_profile": {"key_added": "new"},
    "pp.call_cells": {"empty_range": (1, 60), "key_added": "new"},
    "pp.prepare_counts": {"n_top_genes": 10, "min_cells": 3},
    "pp.split_counts": {},
    "tl.fit": {"progress": False, "key_added": "new"},
    "tl.calibrate": {"n_simulations": 2, "progress": False},
    "tl.choose_components": {"candidates": (1, 2), "progress": False},
    "tl.posterior_samples": {"n_samples": 3},
    "tl.predict": {"n_samples": 3, "genes": ["gene1", "gene2"], "progress": False},
    "tl.latent": {"key": "vae", "n_samples": 2},
    "tl.likelihood_parameters": {"key": "vae", "genes": ["gene1", "gene2"], "n_samples": 2, "store_samples": True},
    "tl.cell_abundance": {"key": "vae", "sample_key": "sample"},
    "tl.outliers": {"key": "vae"},
    "tl.log_likelihood": {"key": "mix", "components": True, "n_samples": 2},
    "tl.compare": {"keys": ["sb", "mix"], "n_samples": 25, "progress": False},
    "tl.normalize_counts": {"expression": ["gene1", "gene2"]},
    "tl.residuals": {"genes": ["gene1", "gene2"]},
    "tl.assign": {"key": "mix", "unknown": 0.01},
    "tl.call_features": {"doublets": False},
    "tl.denoise": {"groupby": "type", "progress": False},
    "tl.entropy": {"key": "mix"},
    "tl.correlation": {"key": "vae", "n_samples": 2, "genes": ["gene1", "gene2", "gene3"]},
    "tl.impute": {"key": "vae", "n_samples": 2, "rate": 1.0},
    "tl.de": {"groupby": "batch", "gene_sets": {"a": ["gene1", "gene2"], "b": ["gene3"]}},
    "tl.abundance": {"groupby": "type", "condition": "batch", "sample_key": "sample"},
    "tl.remove": {},
}
#: Arguments of functions that read or draw; those of a result that was computed from the mixture need its key.
READ = {f"{room}.{name}": {"key": "mix"} for room in ("get", "pl") for name in ("assignments", "entropy")}
READ |= {f"{room}.latent": {"key": "vae"} for room in ("get", "pl")}
READ |= {f"get.{name}": {"key": "vae"} for name in ("library_size", "likelihood_parameters")}
READ |= {f"get.{name}": {"key": "vae"} for name in ("aggregated_posterior", "cell_abundance")}
READ |= {"pl.denoised": {"var_names": ["gene1", "gene2"]}}
READ |= {f"{room}.{name}": {"key": "vae"} for room in ("get", "pl") for name in ("correlation", "imputation")}
READ |= {"get.log_likelihood": {"key": "mix"}, "get.component": {"key": "mix", "k": 0}}


def public(room: str) -> dict:
    module = getattr(sb, room)
    return {f"{room}.{name}": getattr(module, name) for name in module.__all__}


def test_every_function_in_place_is_here():
    assert set(IN_PLACE) == {*public("pp"), *public("tl")}


@pytest.mark.parametrize("name", IN_PLACE)
def test_copy_equals_in_place_and_leaves_the_original_alone(with_results, name):
    function = (public("pp") | public("tl"))[name]
    fitted = with_results
    if name.startswith("tl.") and name not in ("tl.fit", "tl.remove"):
        _forget(fitted, name.removeprefix("tl."))
    original, before = fitted.copy(), contents(fitted)
    result = function(original, **IN_PLACE[name], copy=True)
    assert_same(contents(original), before)
    assert result is not original
    assert function(fitted, **IN_PLACE[name]) is None
    assert_same(contents(result), contents(fitted))
    with pytest.raises(AssertionError):
        assert_same(contents(result), before)
    for parts in ("obsm", "varm"):  # nothing is shared: writing into one does not show in the other
        for slot, value in getattr(result, parts).items():
            if slot in getattr(original, parts):
                assert not np.shares_memory(value, getattr(original, parts)[slot])


def _forget(adata, verb: str) -> None:
    """Delete a result, so that it shows whether it is written again."""
    for entry in [name for name in adata.uns if name.endswith(f"_{verb}")]:
        for slot in json.loads(adata.uns[entry]["result"])["slots"].values():
            field, name = re.fullmatch(r"(\w+)\['(.*)'\]", slot).groups()
            del getattr(adata, field)[name]
        del adata.uns[entry]


@pytest.mark.parametrize("name", [*public("get"), *public("pl")])
def test_reading_and_drawing_change_nothing(with_results, name):
    function = (public("get") | public("pl"))[name]
    settings = READ.get(name, {}) | ({"show": False} if name.startswith("pl") else {})
    before = contents(with_results)
    result = function(with_results, **settings)
    assert result is not None
    assert "copy" not in inspect.signature(function).parameters
    assert_same(contents(with_results), before)
    view = with_results[:10, :5]
    function(view, **settings)
    assert view.is_view


def total(result) -> float:
    """One number for all the numbers of a result."""
    if isinstance(result, dict):
        return sum(total(value) for value in result.values())
    if isinstance(result, pd.DataFrame):
        result = result.select_dtypes("number")
    if sparse.issparse(result):
        result = result.data
    try:
        return float(np.nansum(np.asarray(result, float)))
    except (TypeError, ValueError):  # a fit, a distribution
        return 0.0


def totals(adata) -> dict[str, float]:
    return {name: total(function(adata, **READ.get(name, {}))) for name, function in public("get").items()}


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_every_result_survives_a_file(with_results, tmp_path, suffix):
    """In a process of its own, which puts sets in another order; this file is its program."""
    path = tmp_path / f"x.{suffix}"
    getattr(with_results, f"write_{suffix}")(path)
    command = [sys.executable, "-W", "ignore", __file__, str(path)]
    elsewhere = os.environ | {"PYTHONHASHSEED": "random"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=elsewhere)
    found, expected = json.loads(done.stdout.splitlines()[-1]), totals(with_results)
    assert sum(value != 0 for value in expected.values()) > 10
    assert found == pytest.approx(expected, rel=1e-9)


def test_what_is_handed_out_can_be_changed_without_harm(fitted):
    expected = copy.deepcopy(numbers(fitted))
    for part in sb.get.params(fitted).values():
        for value in part.values():
            value[...] = 0
    for value in sb.get.map(fitted).values():
        value[...] = 0
    fit = sb.get.fit(fitted)
    for value in (fit.losses, fit.rest, fit.fitted, *fit.posterior, *fit.total):
        value[...] = 0
    assert_close(numbers(fitted), expected, rtol=0)


# --- formats ----------------------------------------------------------------------------------------------------------


def unsorted(x):
    """The same matrix with the entries of each row backwards, one of them in two halves, and a stored zero."""
    x = sparse.csr_matrix(x).astype(np.float64)
    rows, columns, values = [], [], []
    for c in range(x.shape[0]):
        row = x[c].tocoo()
        rows += [c] * len(row.col)
        columns += list(row.col[::-1])
        values += list(row.data[::-1])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=x.shape[0]))])
    result = sparse.csr_matrix((np.array(values), np.array(columns), indptr), shape=x.shape)
    assert not result.has_sorted_indices
    return result


def long_indices(x):
    x = sparse.csr_matrix(x, copy=True)
    x.indices, x.indptr = x.indices.astype(np.int64), x.indptr.astype(np.int64)
    return x


def dasked(x):
    import dask.array as da

    return da.from_array(np.asarray(x.todense()), chunks=(33, N_GENES))


def dasked_sparse(x):
    import dask.array as da

    return da.from_array(np.asarray(x.todense()), chunks=(20, N_GENES)).map_blocks(sparse.csr_matrix)


FORMATS = {
    "csc": sparse.csc_matrix,
    "csr array": sparse.csr_array,
    "csc array": sparse.csc_array,
    "dense": lambda x: np.asarray(x.todense()),
    "fortran": lambda x: np.asfortranarray(x.todense()),
    "float64": lambda x: x.astype(np.float64),
    "int64": lambda x: x.astype(np.int64),
    "int32 dense": lambda x: np.asarray(x.todense()).astype(np.int32),
    "uint16": lambda x: x.astype(np.uint16),
    "unsorted": unsorted,
    "long indices": long_indices,
    "dask": dasked,
    "dask of csr": dasked_sparse,
}


@pytest.mark.parametrize("format", FORMATS)
def test_all_formats_give_the_same_fit(fitted, format):
    adata = simulated()
    adata.X = FORMATS[format](adata.X)
    before = adata.X.copy()
    fit(adata)
    assert_close(numbers(adata), numbers(fitted))
    assert type(adata.X) is type(before)
    assert adata.X.dtype == before.dtype


@pytest.mark.parametrize("format", FORMATS)
def test_all_formats_give_the_same_denoised_counts(with_results, format):
    adata = simulated()
    adata.X = FORMATS[format](adata.X)
    before = adata.X.copy()
    adata.obs["type"] = with_results.obs["type"]
    adata.varm["sb_ambient"] = with_results.varm["sb_ambient"]
    sb.tl.denoise(adata, **IN_PLACE["tl.denoise"])
    np.testing.assert_allclose(adata.obs["sb_contamination"], with_results.obs["sb_contamination"], rtol=1e-6)
    for name in ("sb_denoised", "sb_native_probability"):
        assert isinstance(adata.layers[name], sparse.csr_matrix)
        np.testing.assert_allclose(adata.layers[name].todense(), with_results.layers[name].todense(), rtol=1e-6)
    assert type(adata.X) is type(before)
    assert adata.X.dtype == before.dtype


def test_layer_gives_the_same_fit(fitted):
    adata = simulated()
    adata.layers["umi"] = adata.X
    adata.X = adata.X.log1p()
    fit(adata, layer="umi")
    assert_close(numbers(adata), numbers(fitted))


def test_prepared_counts_are_found(fitted):
    """Of prepare_counts come the layer and the mask; an explicit one wins."""
    import scanpy as sc

    adata = simulated()
    sb.pp.prepare_counts(adata)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    fit(adata)
    assert sb.get.fit(adata).facts["layer"] == "counts"
    assert_close(numbers(adata), numbers(fitted))
    sb.pp.prepare_counts(adata, "counts", n_top_genes=20)
    adata.var["all"] = True
    fit(adata, mask_var="all")
    assert_close(numbers(adata), numbers(fitted))
    fit(adata, n_steps=50)
    assert sb.get.fit(adata).fitted.sum() == 20


def test_backed_counts_give_the_same_fit(fitted, tmp_path):
    """In a file, read in blocks; the fit is in memory until written. No copies: AnnData has none of backed data."""
    simulated().write_h5ad(tmp_path / "x.h5ad")
    before = (tmp_path / "x.h5ad").read_bytes()
    adata = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    fit(adata)
    assert adata.isbacked
    assert_close(numbers(adata), numbers(fitted))
    with pytest.raises(ValueError, match="backed"):
        fit(adata, copy=True)
    adata.to_memory().write_h5ad(tmp_path / "y.h5ad")
    adata.file.close()
    assert (tmp_path / "x.h5ad").read_bytes() == before
    assert_close(numbers(ad.read_h5ad(tmp_path / "y.h5ad")), numbers(fitted))


# --- order, precision, seeds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", ["cells", "genes", "both"])
def test_order_of_cells_and_genes_does_not_matter(fitted, axis):
    """Up to the draws of the optimisation, a small part of a posterior standard deviation."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(N_CELLS) if axis != "genes" else np.arange(N_CELLS)
    columns = rng.permutation(N_GENES) if axis != "cells" else np.arange(N_GENES)
    adata = simulated()[rows][:, columns].copy()
    fit(adata)
    here, there = sb.get.fit(adata), sb.get.fit(fitted[rows][:, columns])
    assert list(here.genes) == list(there.genes)
    for name, marginal in here.canonical.items():
        other = there.canonical[name]
        assert np.abs((marginal.loc - other.loc) / other.scale).max() < 0.2, name
        np.testing.assert_allclose(marginal.scale, other.scale, rtol=0.1, err_msg=name)


def test_precision_of_the_user_is_left_alone(fitted):
    assert not jax.config.jax_enable_x64
    adata = simulated()
    fit(adata)
    assert not jax.config.jax_enable_x64
    assert jnp.ones(2).dtype == jnp.float32
    with pytest.raises(ValueError, match="unknown model"):
        fit(adata, model="nb")
    with pytest.raises(ValueError, match="no counts"):
        fit(ad.AnnData(np.zeros((5, 5), np.float32)))
    assert not jax.config.jax_enable_x64
    for value in (*sb.get.map(adata).values(), adata.varm["sb_loc"]):
        assert value.dtype == np.float64
    with jax.enable_x64(True):
        fit(adata)
        assert jnp.ones(2).dtype == jnp.float64
    assert_close(numbers(adata), numbers(fitted))


def test_the_global_random_state_is_left_alone():
    np.random.seed(1)  # noqa: NPY002, TID251
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002, TID251
    fit(simulated())
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002


def test_seed_is_recorded_and_repeats_the_fit(fitted):
    adata = simulated()
    generator = np.random.default_rng(7)
    seed = int(np.random.default_rng(7).integers(2**31))
    fit(adata, rng=generator, key_added="drawn")
    fit(adata, rng=generator, key_added="next")
    fit(adata, rng=seed, key_added="given")
    seeds = [sb.get.fit(adata, key).facts["seed"] for key in ("drawn", "next", "given")]
    assert seeds[0] == seeds[2] == seed != seeds[1]
    assert sb.get.fit(fitted).facts["seed"] == 0
    assert_close(numbers(adata, "drawn"), numbers(adata, "given"), rtol=0)
    assert not np.array_equal(sb.get.map(adata, "next")["mu"], sb.get.map(adata, "given")["mu"])
    fit(adata, rng=np.int64(seed), key_added="given")
    assert_close(numbers(adata, "drawn"), numbers(adata, "given"), rtol=0)


# --- logging ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def log():
    """What scanpy logs at verbosity "hint"."""
    import scanpy as sc

    before, stream = (sc.settings.verbosity, sc.settings.logfile), io.StringIO()
    sc.settings.verbosity, sc.settings.logfile = "hint", stream
    yield stream
    sc.settings.verbosity, sc.settings.logfile = before


def test_log_names_what_was_done_and_every_slot(log):
    adata = simulated()
    slots = set(adata.varm) | set(adata.obsm)
    fit(adata, parameterization="standard", key_added="own", n_steps=50)
    text = log.getvalue()
    assert text.startswith("fitting nbvcp")
    assert "has not converged in 50 steps" in text
    assert re.search(r"finished: added\n[^()]*\(0:\d\d:\d\d\)", text)
    for where in ("varm", "obsm"):
        for name in set(getattr(adata, where)) - slots:
            assert f"{where}['{name}']" in text
    assert "uns['own']" in text
    assert len(set(adata.varm) | set(adata.obsm) - slots) > 5
    log.truncate(0)
    fit(adata, key_added="own", resume=True)
    assert "resuming 'own'" in log.getvalue()
    assert "varm['own_factor']" in log.getvalue()
    fit(adata, key_added="own", resume=True)
    assert "'own' had converged: nothing to resume" in log.getvalue()
    log.truncate(0)
    sb.tl.remove(adata, "own")
    assert re.search(r"removed .*varm\['own_loc'\].*obsm\['own_nu'\].*uns\['own'\]", log.getvalue())


def test_quiet_fits_print_nothing(capfd):
    fit(simulated())
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


# --- compiled code ----------------------------------------------------------------------------------------------------


@pytest.fixture
def compiled(caplog):
    """Names of what JAX compiles from here on."""
    caplog.set_level(logging.WARNING, logger="jax")
    with jax.log_compiles(True):
        yield lambda: [record.message[:120] for record in caplog.records if "Compiling " in record.getMessage()]


def test_a_second_fit_of_the_same_shape_compiles_nothing(fitted, compiled):
    jax.jit(lambda x: x + 12.5)(np.ones(3))
    assert len(compiled()) == 1, "compilations are seen"
    for settings in ({"rng": 11}, {"n_steps": 70, "key_added": "other"}):
        fit(fitted, **settings)
    assert compiled()[1:] == []
    fit(fitted, n_steps=130, resume=True, key_added="other")
    assert [name for name in compiled() if "jit(run)" in name] == []


def test_index_and_names_do_not_matter(fitted):
    """Names with blanks, slashes, quotes and letters of other scripts; integers as strings."""
    adata = simulated()
    adata.obs_names = [str(i) for i in range(N_CELLS)]
    adata.var_names = pd.Index([f"{i}/a 'ü' \"π\"" for i in range(N_GENES)])
    fit(adata)
    assert_close(numbers(adata), numbers(fitted))
    assert_close(numbers(adata[:, ["3/a 'ü' \"π\""]]), numbers(adata[:, 3]))


if __name__ == "__main__":
    read = ad.read_zarr if sys.argv[1].endswith("zarr") else ad.read_h5ad
    sys.stdout.write(json.dumps(totals(read(sys.argv[1]))) + "\n")
