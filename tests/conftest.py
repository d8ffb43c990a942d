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
