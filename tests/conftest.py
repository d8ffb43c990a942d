"""Fixtures for all tests: real data when it is there, and a process that tests leave as they found it."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import pytest

if TYPE_CHECKING:
    from anndata import AnnData

ROOT = Path(__file__).resolve().parents[1]

# Before anything imports pyplot: tests draw without a screen.
mpl.use("Agg")


def pytest_configure(config: pytest.Config) -> None:
    """Keep what is compiled between modules, workers and runs: compiling is most of the time.

    NumPyro goes through sets of names, so the order of names in a set is part of each compiled program: it must be the
    same in all processes, and is in those started from here on. `--cache-clear` forgets the programs. What users set
    themselves stays.
    """
    os.environ.setdefault("PYTHONHASHSEED", "0")
    if (cache := getattr(config, "cache", None)) is not None:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.mkdir("jax")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.fixture(scope="session", autouse=True)
def quiet_scanpy() -> None:
    """Keep scanpy's log out of the captured output of failing tests."""
    import scanpy as sc

    sc.settings.verbosity = "error"


@pytest.fixture(autouse=True)
def clean_process() -> Iterator[None]:
    """Close figures; fail a test that leaves JAX switched to 64 bits for everybody else."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    if "jax" in sys.modules:
        assert not sys.modules["jax"].config.jax_enable_x64, "JAX's global x64 flag was left on"


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_code() -> Iterator[None]:
    """Let go of code that was compiled for the shapes of one module: all of it would take gigabytes."""
    yield
    if "jax" in sys.modules and "scbayes.inference._trainer" in sys.modules:
        sys.modules["scbayes.inference._trainer"]._compiled.cache_clear()
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with real data sets: SCBAYES_DATA, or `../shared/data` beside the checkout."""
    named = os.environ.get("SCBAYES_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if folder.is_dir():
        return folder
    # A folder that was asked for by name and is missing is a mistake, not an absence.
    assert not named, f"SCBAYES_DATA={named} is not a folder"
    pytest.skip(f"no real data: SCBAYES_DATA is not set and {folder} does not exist")


@pytest.fixture(scope="session")
def real(data_dir: Path) -> "Callable[[str], AnnData]":
    """Return a function that reads one real data set anew, `real("kang_ifnb")`, or skips the test without it."""

    def read(name: str) -> "AnnData":
        import anndata as ad

        path = data_dir / f"{name}.h5ad"
        if not path.is_file():
            pytest.skip(f"no real data: {path} does not exist")
        return ad.read_h5ad(path)

    return read


@pytest.fixture(scope="session")
def droplets() -> "Callable[..., tuple[AnnData, AnnData]]":
    """Return a function that simulates cells and all droplets."""
    return _droplets


def _droplets(seed: int = 0, *, cell_total: float = 2000) -> "tuple[AnnData, AnnData]":
    """Cells of two types, and droplets of two batches, whose soup differs by factors."""
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    n_genes, n_cells, n_empty = 120, 200, 3000
    rng = np.random.default_rng(seed)
    base = rng.lognormal(0, 1.2, n_genes)
    types = np.stack([base * rng.lognormal(0, 1.1, n_genes) for _ in range(2)])
    soup = np.stack([(types[0] + 2 * types[1]) * rng.lognormal(0, 0.15, n_genes) for _ in range(2)])
    types, soup = (x / x.sum(1, keepdims=True) for x in (types, soup))
    batch, kind = rng.integers(2, size=n_cells + n_empty), rng.integers(2, size=n_cells)
    total = np.round(rng.lognormal(np.log(40), 0.5, n_cells + n_empty)).astype(int)
    total[:n_cells] = np.round(rng.lognormal(np.log(cell_total), 0.3, n_cells))
    cells = rng.multinomial(total[:n_cells], 0.9 * types[kind] + 0.1 * soup[batch[:n_cells]])
    x = np.concatenate([cells, rng.multinomial(total[n_cells:], soup[batch[n_cells:]])])
    names = [f"d{i}" for i in range(len(x))]
    obs = pd.DataFrame({"batch": [f"b{b}" for b in batch], "is_cell": np.arange(len(x)) < n_cells}, index=names)
    var = pd.DataFrame(index=[f"g{i}" for i in range(n_genes)])
    raw = AnnData(sparse.csr_matrix(x.astype(np.float32)), obs=obs, var=var)
    raw.varm["soup"] = soup.T.copy()
    return raw[:n_cells].copy(), raw


@pytest.fixture(scope="session")
def soupy() -> "Callable[..., AnnData]":
    """Return a function that simulates cells with known native and ambient counts."""
    return _soupy


def _soupy(seed: int = 0, *, n_cells: int = 400, silent: float = 0.3, equal: bool = False) -> "AnnData":
    """Cells of three kinds in two batches: negative binomial counts with a programme, and soup.

    Of each kind the share ``silent`` of the genes is not expressed; ``equal``: all cells have the same share of soup.
    """
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    n_genes, rng = 300, np.random.default_rng(seed)
    kinds = rng.lognormal(0, 1.3, n_genes) * rng.lognormal(0, 0.9, (3, n_genes))
    kinds *= rng.random(kinds.shape) >= silent
    kinds /= kinds.sum(1, keepdims=True)
    soup = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]) @ kinds * rng.lognormal(0, 0.3, n_genes)
    soup /= soup.sum(1, keepdims=True)
    kind, batch = rng.integers(3, size=n_cells), rng.integers(2, size=n_cells)
    rho = np.full(n_cells, 0.12) if equal else np.clip(rng.beta(2, 14, n_cells), 0.005, 0.6)
    total = rng.lognormal(np.log(3000), 0.35, n_cells)
    expressed = kinds[kind] * np.exp(rng.normal(size=(n_cells, 1)) * rng.normal(0, 0.15, n_genes))
    expressed /= expressed.sum(1, keepdims=True)
    native = rng.poisson(rng.gamma(5, 1 / 5, expressed.shape) * expressed * (total * (1 - rho))[:, None])
    ambient = rng.poisson(soup[batch] * (total * rho)[:, None])
    obs = pd.DataFrame({"kind": pd.Categorical([f"k{k}" for k in kind]), "batch": [f"b{b}" for b in batch], "rho": rho})
    adata = AnnData(sparse.csr_matrix((native + ambient).astype(np.float32)), obs.set_index(obs.index.astype(str)))
    adata.var_names = [f"g{i}" for i in range(n_genes)]
    adata.layers["native"], adata.varm["soup"] = sparse.csr_matrix(native), soup.T.copy()
    return adata
