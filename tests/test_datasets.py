import hashlib
import inspect
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

from scbayes import datasets

# anndata 0.13 itself reads options that pandas 3 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The '(future.infer_string|mode.chained_assignment)' option is deprecated"
)

ROOT = Path(__file__).resolve().parents[1]
SPECIES = {"human": datasets.pancreas, "mouse": datasets.pancreas_mouse}


def shared(name):
    path = Path(os.environ.get("SCBAYES_DATA", ROOT.parent / "shared" / "data")) / name
    if not path.exists():
        pytest.skip(f"{path} is not here (set SCBAYES_DATA to the folder that holds it)")
    return path


@pytest.fixture(scope="module")
def pancreas():
    return {species: read() for species, read in SPECIES.items()}


# shipped data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("species", "shape", "n_types", "n_donors", "n_libraries"),
    [("human", (2142, 15085), 14, 4, 12), ("mouse", (1886, 14465), 13, 2, 6)],
)
def test_pancreas_is_what_it_says(pancreas, species, shape, n_types, n_donors, n_libraries):
    adata = pancreas[species]
    assert adata.shape == shape
    assert sp.isspmatrix_csr(adata.X)
    assert adata.X.dtype == np.float32
    assert adata.X.has_sorted_indices
    assert adata.X.data.min() >= 1
    assert np.array_equal(adata.X.data, np.round(adata.X.data))
    assert adata.X.getnnz(axis=0).min() == 3
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    assert all(isinstance(dtype, pd.CategoricalDtype) for dtype in adata.obs.dtypes)
    assert adata.obs[["cell_type", "donor", "library"]].nunique().tolist() == [n_types, n_donors, n_libraries]
    assert adata.obs.groupby("library", observed=True)["donor"].nunique().eq(1).all()
    provenance = adata.uns["provenance"]
    assert {"citation", "accession", "source", "license", "filter"} <= provenance.keys()
    assert provenance["accession"] == "GSE84133"
    assert all(isinstance(text, str) for text in provenance.values())


@pytest.mark.parametrize("species", SPECIES)
def test_pancreas_equals_the_source(pancreas, species):
    source = ad.read_h5ad(shared(f"baron_{species}.h5ad"))
    adata = pancreas[species]
    kept = source.X.getnnz(axis=0) >= 3
    assert adata.var_names.tolist() == source.var_names[kept].tolist()
    assert adata.obs_names.tolist() == source.obs_names.tolist()
    assert abs(adata.X - source.X[:, kept]).nnz == 0
    assert adata.obs["donor"].astype(str).tolist() == source.obs["donor"].astype(str).tolist()
    cell_type = source.obs["cell_type1"].astype(str).replace("t_cell", "T_cell")
    assert adata.obs["cell_type"].astype(str).tolist() == cell_type.tolist()
    libraries = [name.split(".")[0] for name in source.obs_names]
    assert adata.obs["library"].astype(str).tolist() == libraries


def test_pancreas_makes_biological_sense(pancreas):
    for species, hormones in {"human": ("INS", "GCG", "SST"), "mouse": ("Ins2", "Gcg", "Sst")}.items():
        adata = pancreas[species]
        for gene, cell_type in zip(hormones, ("beta", "alpha", "delta"), strict=True):
            means = pd.Series(adata[:, gene].X.toarray()[:, 0]).groupby(adata.obs["cell_type"].to_numpy()).mean()
            assert means.idxmax() == cell_type


def test_species_share_the_spelling_of_types(pancreas):
    human, mouse = (set(pancreas[species].obs["cell_type"].cat.categories) for species in ("human", "mouse"))
    assert human - mouse == {"acinar", "epsilon", "mast"}
    assert mouse - human == {"B_cell", "immune_other"}


def test_every_call_reads_anew_and_can_be_written(tmp_path):
    first = datasets.pancreas_mouse()
    first.X.data[:] = 0
    first.obs["donor"] = "x"
    second = datasets.pancreas_mouse()
    assert second.X.data.min() == 1
    assert second.obs["donor"].nunique() == 2
    second.write_h5ad(tmp_path / "mouse.h5ad")
    again = ad.read_h5ad(tmp_path / "mouse.h5ad")
    assert again.uns["provenance"] == second.uns["provenance"]
    assert (again.X != second.X).nnz == 0


def test_orthologs(pancreas):
    table = datasets.orthologs()
    assert table.columns.tolist() == ["human", "mouse", "type"]
    assert len(table) == 23761
    assert not table.duplicated(["human", "mouse"]).any()
    assert not table.isna().any().any()
    assert set(table["type"].cat.categories) == {"one2one", "one2many", "many2many"}
    pairs = datasets.orthologs(one_to_one=True)
    assert pairs["human"].is_unique
    assert pairs["mouse"].is_unique
    assert len(pairs) == 16601
    # One to one in the subset is one to one in the whole table.
    assert table["human"].value_counts()[pairs["human"]].eq(1).all()
    assert table["mouse"].value_counts()[pairs["mouse"]].eq(1).all()
    assert dict(zip(pairs["human"], pairs["mouse"], strict=True))["GCG"] == "Gcg"
    both = pairs["human"].isin(pancreas["human"].var_names) & pairs["mouse"].isin(pancreas["mouse"].var_names)
    assert both.sum() > 10000


def test_orthologs_equal_the_source():
    names = ["human", "mouse"]
    source = pd.read_csv(shared("gene_matches_human2mouse.csv.gz"), keep_default_na=False, usecols=[0, 1], names=names)
    table = datasets.orthologs()
    assert set(zip(table["human"], table["mouse"], strict=True)) == set(
        source.iloc[1:].itertuples(index=False, name=None)
    )
    single = pd.read_csv(
        shared("gene_matches_1v1_human2mouse.csv.gz"), keep_default_na=False, usecols=[0, 1], names=names
    )
    pairs = datasets.orthologs(one_to_one=True)
    ours = set(zip(pairs["human"], pairs["mouse"], strict=True))
    theirs = set(single.iloc[1:].itertuples(index=False, name=None))
    # They count a pair of symbols that repeats as not unique, we drop the repetition first.
    assert theirs <= ours
    assert len(ours - theirs) == 4


def test_shipped_files_are_small_and_free_of_pickles():
    files = [path for path in (ROOT / "data").iterdir() if path.is_file()]
    assert {"README.md", "LICENSE-came.txt", "build.py"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) <= 8 * 2**20
    archives = [path for path in files if path.suffix == ".npz"]
    assert len(archives) == 2
    for path in archives:
        with np.load(path, allow_pickle=False) as file:
            assert all(array.dtype != object for array in dict(file).values())


def test_data_is_found_inside_an_installed_package(tmp_path):
    # What the wheel holds: the package with the data inside it, and nothing beside it.
    package = tmp_path / "scbayes"
    (package / "datasets").mkdir(parents=True)
    (package / "__init__.py").touch()
    for path in (ROOT / "scbayes" / "datasets").glob("*.py"):
        (package / "datasets" / path.name).write_bytes(path.read_bytes())
    code = "import scbayes.datasets as d; print(d.__file__); print(len(d.orthologs()))"
    call = partial(subprocess.run, [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    missing = call()
    assert missing.returncode != 0
    assert "reinstall scbayes" in missing.stderr
    (package / "data").mkdir()
    name = "orthologs_human_mouse.csv.gz"
    (package / "data" / name).write_bytes((ROOT / "data" / name).read_bytes())
    found = call()
    assert found.stdout.split() == [str(package / "datasets" / "__init__.py"), "23761"]


def test_import_is_light():
    heavy = ("anndata", "scanpy", "pandas", "scipy", "jax", "pooch", "requests")
    code = f"import sys, scbayes.datasets; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# simulate -----------------------------------------------------------------------------------------------------------

NAMES = [name + mix for name in ("nbdm", "zinb", "nbvcp", "zinbvcp") for mix in ("", "_mix")]


def expected(adata):
    """Mean and variance of every count from the stored truth alone, by the formulas of the docstring."""
    truth = adata.uns["truth"]
    k = adata.obs["component"].cat.codes.to_numpy()
    b = adata.obs["batch"].cat.codes.to_numpy()
    factor = np.exp(adata.varm["batch_effect"].T[b]) if "batch_effect" in adata.varm else 1.0
    mean = adata.varm["mu"].T[k] * factor * adata.obs["nu"].to_numpy()[:, None]
    size = adata.varm["r"].T[k] * (factor if truth["parameterization"] == "standard" else 1.0)
    gate = adata.varm["gate"].T[k]
    variance = (1 - gate) * (mean + mean**2 / size + gate * mean**2)
    return (1 - gate) * mean, variance, (gate + (1 - gate) * (size / (size + mean)) ** size)


@pytest.mark.parametrize("n_batches", [1, 3])
@pytest.mark.parametrize("parameterization", ["standard", "mean_disp"])
@pytest.mark.parametrize("model", NAMES)
def test_moments_follow_the_formulas(model, parameterization, n_batches):
    adata = datasets.simulate(
        model,
        n_cells=2000,
        n_genes=150,
        n_components=3 if model.endswith("_mix") else 1,
        n_batches=n_batches,
        parameterization=parameterization,
        log_mean=(1.0, 0.7),
        dispersion=None if parameterization == "standard" else (1.0, 0.3),
        p=0.7,
        rng=3,
    )
    counts = adata.X.toarray()
    mean, variance, zero = expected(adata)
    # Sums over cells, gene by gene, are near normal: their z-scores have mean 0 and standard deviation 1.
    z_mean = (counts - mean).sum(axis=0) / np.sqrt(variance.sum(axis=0))
    z_zero = ((counts == 0) - zero).sum(axis=0) / np.sqrt((zero * (1 - zero)).sum(axis=0))
    for z in (z_mean, z_zero):
        assert abs(z.mean()) < 4 / np.sqrt(len(z))
        assert 0.75 < z.std() < 1.25
    # The variance, as the mean square of the standardised residuals.
    assert np.mean((counts - mean) ** 2 / variance) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", ["nbdm", "nbvcp"])
def test_counts_have_the_whole_distribution(name):
    # With p given as NumPyro's, odds = nu p / (1 - p), and scipy's probability is 1 / (1 + odds).
    adata = datasets.simulate(name, n_cells=4000, n_genes=40, p=0.8, capture=(20, 20), log_mean=(1.0, 0.5), rng=5)
    counts = adata.X.toarray()
    law = stats.nbinom(adata.varm["r"].T, 1 / (1 + adata.obs["odds"].to_numpy()[:, None]))
    # Randomised PIT values are uniform when the law is right.
    u = np.random.default_rng(0).random(counts.shape)
    pit = law.cdf(counts - 1) + u * law.pmf(counts)
    assert stats.kstest(pit.ravel(), "uniform").pvalue > 1e-3


def test_parameters_follow_their_distributions():
    adata = datasets.simulate(
        "zinbvcp", n_cells=3000, n_genes=3000, log_mean=(-3.0, 0.5), capture=(2, 6), gate=(3, 5), p=0.6, rng=2
    )
    for values, law in [
        (np.log(adata.varm["mu"][:, 0]), stats.norm(-3, 0.5)),
        (adata.varm["gate"][:, 0], stats.beta(3, 5)),
        (adata.obs["nu"], stats.beta(2, 6)),
    ]:
        assert stats.kstest(values, law.cdf).pvalue > 1e-3
    assert np.allclose(adata.varm["r"], adata.varm["mu"] * 0.4 / 0.6)
    assert np.allclose(adata.obs["odds"], adata.obs["nu"] * 0.6 / 0.4)
    free = datasets.simulate("nbdm", n_cells=2, n_genes=3000, parameterization="mean_disp", dispersion=(1, 0.5), rng=2)
    assert stats.kstest(np.log(free.varm["r"][:, 0]), stats.norm(1, 0.5).cdf).pvalue > 1e-3
    assert "odds" not in free.obs
    assert "p" not in free.uns["truth"]


def test_components_and_batches():
    adata = datasets.simulate(
        n_cells=4000, n_genes=4000, n_components=4, n_batches=3, component_lfc=(0.25, 2), batch_sd=0.4, log_mean=(-4, 1)
    )
    weights = adata.uns["truth"]["weights"]
    share = adata.obs["component"].value_counts(normalize=True, sort=False).to_numpy()
    assert weights.sum() == pytest.approx(1)
    assert np.allclose(share, weights, atol=0.04)
    assert np.allclose(adata.obs["batch"].value_counts(normalize=True), 1 / 3, atol=0.04)
    effect = adata.varm["batch_effect"]
    assert effect.shape == (4000, 3)
    assert np.allclose(effect.sum(axis=1), 0)
    assert effect.std() == pytest.approx(0.4, rel=0.05)
    log_mu = np.log(adata.varm["mu"])
    assert log_mu.shape == (4000, 4)
    # Two components agree in the genes where both keep the common mean.
    assert np.isclose(log_mu[:, 0], log_mu[:, 1]).mean() == pytest.approx(0.75**2, abs=0.04)


def test_models_write_what_they_have():
    plain = datasets.simulate("nbdm", n_cells=20, n_genes=10)
    assert (plain.obs["nu"] == 1).all()
    assert (plain.varm["gate"] == 0).all()
    assert "batch_effect" not in plain.varm
    assert set(plain.uns["truth"]) == {
        "model", "parameterization", "n_components", "n_batches", "log_mean", "p", "weights",
    }  # fmt: skip
    mixed = datasets.simulate("zinbvcp_mix", n_cells=20, n_genes=10, n_components=2, n_batches=2)
    assert mixed.uns["truth"]["model"] == "zinbvcp"
    assert {"gate", "capture", "component_lfc", "batch_sd"} <= mixed.uns["truth"].keys()
    assert mixed.obs["component"].cat.categories.tolist() == ["0", "1"]
    assert mixed.X.format == "csr"
    assert mixed.X.dtype == np.float32
    assert (mixed.X.data >= 1).all()


def test_seed_decides_everything():
    draw = partial(datasets.simulate, "zinbvcp", n_cells=200, n_genes=50, n_components=2)
    first, second, other = draw(rng=1), draw(rng=1), draw(rng=2)
    assert (first.X != second.X).nnz == 0
    assert np.array_equal(first.varm["r"], second.varm["r"])
    assert first.obs.equals(second.obs)
    assert (first.X != other.X).nnz > 0
    generator = np.random.default_rng(1)
    assert (first.X != draw(rng=generator).X).nnz == 0
    assert (first.X != draw(rng=generator).X).nnz > 0
    # Coordinates of one model draw the same counts.
    assert (first.X != draw(rng=1, parameterization="linked").X).nnz == 0
    assert (first.X != draw(rng=1, parameterization="mean_disp").X).nnz > 0


def test_blocks_leave_no_seam(monkeypatch):
    # With blocks of 7 cells the counts still follow the truth of their own cell.
    from scbayes.datasets import _draw

    monkeypatch.setattr(_draw, "BLOCK", 700)
    adata = datasets.simulate(
        n_cells=1000, n_genes=100, n_components=3, component_lfc=(1, 1), capture=(2, 3), log_mean=(2, 1), rng=4
    )
    mean, variance, _ = expected(adata)
    assert adata.shape == (1000, 100)
    assert np.mean((adata.X.toarray() - mean) ** 2 / variance) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1)])
def test_smallest_shapes(shape):
    assert datasets.simulate(n_cells=shape[0], n_genes=shape[1]).shape == shape


def test_truth_survives_a_file(tmp_path):
    adata = datasets.simulate("zinbvcp", n_cells=30, n_genes=20, n_components=2, n_batches=2)
    adata.write_h5ad(tmp_path / "x.h5ad")
    again = ad.read_h5ad(tmp_path / "x.h5ad")
    assert again.uns["truth"].keys() == adata.uns["truth"].keys()
    assert all(np.array_equal(again.uns["truth"][name], value) for name, value in adata.uns["truth"].items())
    assert np.array_equal(again.varm["batch_effect"], adata.varm["batch_effect"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "nbvpc"}, "'nbvpc' is unknown: choose one of nbdm, zinb, nbvcp, zinbvcp, nbdm_mix"),
        ({"model": None}, "model=None is unknown"),
        ({"model": "nbdm_mix"}, "n_components=1: pass n_components=2"),
        ({"parameterization": "mean"}, "'mean' is unknown: choose one of standard, linked, odds_ratio, mean_disp"),
        ({"dispersion": (0, 1)}, r"dispersion=\(0, 1\) does not apply"),
        ({"n_cells": 0}, "n_cells=0"),
        ({"n_genes": 2.5}, "n_genes=2.5"),
        ({"n_components": True}, "n_components=True"),
        ({"n_batches": -1}, "n_batches=-1"),
        ({"p": 1}, "p=1 is out of range"),
        ({"p": float("nan")}, "p=nan"),
        ({"p": "0.9"}, "p='0.9'"),
        ({"log_mean": 0.5}, "log_mean=0.5 is not a pair"),
        ({"log_mean": (0.5, -1)}, r"log_mean=\(0.5, -1\) is out of range"),
        ({"log_mean": (200, 1)}, "log_mean gives values of"),
        ({"log_mean": (40, 1)}, "log_mean gives counts of"),
        ({"capture": (0, 54)}, r"capture=\(0, 54\)"),
        ({"capture": (1, 2, 3)}, r"capture=\(1, 2, 3\) is not a pair"),
        ({"gate": (1, float("inf"))}, r"gate=\(1, inf\)"),
        ({"parameterization": "mean_disp", "dispersion": (0, -1)}, r"dispersion=\(0, -1\)"),
        ({"component_lfc": (1.5, 1)}, r"component_lfc=\(1.5, 1\)"),
        ({"batch_sd": -0.1}, "batch_sd=-0.1"),
        ({"rng": "seed"}, "rng='seed'"),
        ({"rng": -1}, "rng=-1"),
        ({"rng": None}, "rng=None"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        datasets.simulate(**({"n_cells": 10, "n_genes": 5} | arguments))


def test_everything_but_the_model_is_keyword_only():
    kinds = [parameter.kind for parameter in inspect.signature(datasets.simulate).parameters.values()]
    assert set(kinds[1:]) == {inspect.Parameter.KEYWORD_ONLY}


# fetch --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    class Handler(SimpleHTTPRequestHandler):
        requests = []

        def do_GET(self):
            self.requests.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "cells.bin").write_bytes(b"counts")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}", Handler.requests
        httpd.shutdown()
        thread.join()


SHA256 = hashlib.sha256(b"counts").hexdigest()


def test_fetch_downloads_once(server, tmp_path):
    address, requests = server
    call = partial(datasets.fetch, f"{address}/cells.bin?version=2", cache_dir=tmp_path / "cache")
    path = call(sha256=SHA256)
    assert path == tmp_path / "cache" / "cells.bin"
    assert path.read_bytes() == b"counts"
    assert call(sha256=SHA256.upper()) == path
    assert len(requests) == 1
    assert call(sha256=SHA256, name="other.bin").name == "other.bin"
    assert len(requests) == 2


def test_fetch_repairs_a_damaged_file(server, tmp_path):
    (tmp_path / "cells.bin").write_bytes(b"coun")
    path = datasets.fetch(f"{server[0]}/cells.bin", sha256=SHA256, cache_dir=tmp_path)
    assert path.read_bytes() == b"counts"


def test_fetch_refuses_another_checksum(server, tmp_path):
    call = partial(datasets.fetch, f"{server[0]}/cells.bin", cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match=f"cells.bin is not the file with sha256={'0' * 64}; nothing was kept"):
        call(sha256="0" * 64)
    assert list((tmp_path / "cache").iterdir()) == []
    # A good file stays where another checksum is asked for.
    path = call(sha256=SHA256)
    with pytest.raises(ValueError, match="is not the file"):
        call(sha256="0" * 64)
    assert path.read_bytes() == b"counts"


def test_fetch_says_when_there_is_no_file(server, tmp_path):
    with pytest.raises(OSError, match="404"):
        datasets.fetch(f"{server[0]}/none.bin", sha256=SHA256, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache" / "none.bin").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "/data/cells.h5ad"}, "'/data/cells.h5ad' is not an http"),
        ({"url": Path("cells.h5ad")}, "is not an http"),
        ({"url": "s3://bucket/cells.h5ad"}, "is not an http"),
        ({"sha256": "abc"}, "sha256='abc' is not a SHA-256 checksum"),
        ({"sha256": None}, "sha256=None"),
        ({"url": "https://example.org/"}, "name='' is not a plain file name"),
        ({"name": "../cells.h5ad"}, "name='../cells.h5ad'"),
        ({"url": "https://example.org/..%2Fcells.h5ad%2F.."}, "is not a plain file name"),
    ],
)
def test_fetch_names_what_is_wrong(arguments, message, tmp_path):
    good = {"url": "https://example.org/cells.h5ad", "sha256": SHA256, "cache_dir": tmp_path}
    with pytest.raises(ValueError, match=message):
        datasets.fetch(**(good | arguments))
