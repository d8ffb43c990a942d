"""The demo, as a newcomer runs it: in a process of its own, then read back here from the file that it wrote."""

import re
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from matplotlib.image import imread

import scbayes as sb


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "scbayes", *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[str, Path]:
    """What the demo printed, and the folder that it wrote to."""
    folder = tmp_path_factory.mktemp("demo")
    done = run("demo", "--out", "results", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Warning:" not in done.stderr
    assert [path.name for path in folder.iterdir()] == ["results"], "it wrote elsewhere as well"
    return done.stdout, folder / "results"


def rows(text: str) -> dict[str, list[float]]:
    """Printed rows of genes: counts a cell; share (low - high) in percent; r (low - high)."""
    number = r"([\d.e+-]+)"
    row = rf"^ {{4}}(\S+) +{number} +{number}% \({number} - {number}%\) +{number} \({number} - {number}\)  \w+$"
    return {name: [float(value) for value in values] for name, *values in re.findall(row, text, re.MULTILINE)}


def test_version(tmp_path):
    assert run("--version", cwd=tmp_path).stdout == f"scbayes {sb.__version__}\n"


def test_a_command_is_asked_for(tmp_path):
    done = run(cwd=tmp_path)
    assert done.returncode == 2
    assert "demo" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_demo_saves_pictures_and_the_fit(demo):
    text, folder = demo
    assert {path.name for path in folder.iterdir()} == {"loss.png", "genes.png", "check.png", "pancreas.h5ad"}
    for path in folder.glob("*.png"):
        picture = imread(path)[..., :3]
        assert picture.shape[1] >= 500, path.name
        for half in np.array_split(picture, 2, axis=1):  # what is not grey is data
            assert 0.001 < np.mean(np.ptp(half, axis=-1) > 0.15) < 0.9, f"a part of {path.name} is empty, or full"
        # nothing runs into the edge
        assert np.concatenate([picture[[0, -1]].ravel(), picture[:, [0, -1]].ravel()]).min() > 0.9, path.name
        assert path.name in text


@pytest.mark.slow
def test_demo_prints_what_the_file_holds(demo):
    text, folder = demo
    adata = ad.read_h5ad(folder / "pancreas.h5ad")
    fit = sb.get.fit(adata)
    assert fit.converged
    assert str(fit) in text
    posterior = sb.get.distributions(adata, backend="scipy")
    printed = rows(text)
    assert {"INS", "GCG", "SST", "PPY", "TTR"} < set(printed)
    assert len(printed) > 15
    for name, values in printed.items():
        gene = adata.var_names.get_loc(name)
        share = 100 * posterior["composition"].ppf([[0.5], [0.025], [0.975]])[:, gene]
        r = posterior["r"].ppf([[0.5], [0.025], [0.975]])[:, gene]
        assert values[0] == pytest.approx(adata.layers["counts"][:, [gene]].mean(), abs=0.0051)
        assert values[1:] == pytest.approx([*share, *r], rel=0.0051), name

    low, high = posterior["composition"].ppf([[0.025], [0.975]])
    assert f"for {np.sum(high < 1.5 * low)} of {adata.n_vars} genes" in text
    low, middle, high = np.quantile(posterior["nu"].median(), [0.05, 0.5, 0.95])
    assert f"shows {middle:.1%} of its mRNA, and 90% of the cells {low:.1%} to {high:.1%}" in text
    assert f"{1 - adata.X.nnz / np.prod(adata.shape):.2%} of all entries are zero" in text


@pytest.mark.slow
def test_demo_expects_the_zeros_and_variances_of_its_model(demo):
    from scbayes.__main__ import gene_table

    table = gene_table(ad.read_h5ad(demo[1] / "pancreas.h5ad"))
    posterior = sb.get.distributions(ad.read_h5ad(demo[1] / "pancreas.h5ad"), backend="scipy")
    nu = posterior["nu"].median()
    for name in ("INS", "TTR", "FTL", "GHRL"):
        gene = table.index.get_loc(name)
        r, mean = posterior["r"].median()[gene], nu * posterior["mu"].median()[gene]
        assert table["zeros_expected"][name] == pytest.approx(np.mean((r / (r + mean)) ** r), abs=1e-3)
        assert table["variance_expected"][name] == pytest.approx(np.mean(mean + mean**2 / r) + np.var(mean))
