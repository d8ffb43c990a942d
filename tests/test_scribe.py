"""The page for those who come from SCRIBE: complete, and each row of it runs, also in a process that reads the file."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scribe.md"

# Every public name of SCRIBE's results API: of the object and its makers (methods with their arguments, attributes,
# keys of what is returned), and of the earlier object that `run_scribe` returned.
ATTRIBUTES = """params loss_history n_cells n_genes model_type model_config prior_params obs var uns n_obs n_vars
posterior_samples predictive_samples n_components __post_init__ nbdm zinb nbvcp zinbvcp _mix
r_loc r_scale r_concentration r_rate p_concentration1 p_concentration0 gate_concentration1 gate_concentration0
p_capture_concentration1 p_capture_concentration0 mixing_concentration
SVIInferenceEngine SVIResultsFactory ScribeSVIResults ScribeResults"""
ARGUMENTS = {
    "run_scribe": "counts zero_inflated variable_capture mixture_model n_components mixing_prior n_steps",
    "run_inference": "model_config count_data n_cells n_genes optimizer loss n_steps batch_size seed stable_update",
    "create_results": "svi_results model_config adata count_data n_cells n_genes model_type n_components prior_params",
    "from_anndata": "adata params loss_history model_config **kwargs",
    "__getitem__": "index",
    "get_component": "component_index",
    "get_distributions": "backend split",
    "get_map": "use_mean canonical verbose",
    "get_posterior_samples": "rng_key n_samples store_samples",
    "get_predictive_samples": "rng_key batch_size store_samples",
    "get_ppc_samples": "rng_key n_samples batch_size store_samples",
    "log_likelihood": "counts batch_size return_by cells_axis ignore_nans split_components weights weight_type dtype",
    "log_likelihood_map": "counts batch_size gene_batch_size return_by cells_axis split_components weights weight_type "
    "use_mean verbose dtype",
    "cell_type_probabilities": "counts batch_size cells_axis ignore_nans dtype fit_distribution temperature weights "
    "weight_type verbose",
    "cell_type_probabilities_map": "counts batch_size cells_axis dtype temperature weights weight_type use_mean "
    "verbose",
    "mixture_component_entropy": "counts return_by batch_size cells_axis ignore_nans temperature dtype",
    "assignment_entropy_map": "counts return_by batch_size cells_axis temperature use_mean verbose dtype",
    "normalize_counts": "rng_key n_samples_dirichlet fit_distribution store_samples sample_axis return_concentrations "
    "backend verbose",
    "compute_log_likelihood": "counts return_by batch_size",
    "compute_cell_type_assignments": "counts fit_distribution",
    "compute_cell_type_assignments_map": "counts",
    "compute_component_entropy": "counts return_by normalize",
    "compare_models": "results_list counts n_samples",
    "compare_models_by_gene": "results_list counts n_samples",
}
KEYS = {
    "get_ppc_samples": "parameter_samples predictive_samples",
    "cell_type_probabilities": "concentration mean_probabilities sample_probabilities",
    "cell_type_probabilities_map": "probabilities",
    "compute_cell_type_assignments": "concentration mean_probabilities sample_probabilities",
    "normalize_counts": "samples concentrations mean_probabilities distributions original_concentrations",
}
#: What needs no counterpart: with AnnData, sparse counts and draws that are finite there is nothing to choose.
WITHOUT = {"batch_size", "gene_batch_size", "cells_axis", "ignore_nans", "dtype", "sample_axis"}
#: Others without one. `use_mean` and `verbose` do something elsewhere.
WITHOUT_HERE = {
    "SVIResultsFactory",
    "create_results",
    "from_anndata(params=)",
    "from_anndata(loss_history=)",
    "from_anndata(model_config=)",
    "from_anndata(**kwargs)",
    "get_map(verbose=)",
    "log_likelihood_map(use_mean=)",
    "cell_type_probabilities_map(use_mean=)",
    "assignment_entropy_map(use_mean=)",
}


class Row(NamedTuple):
    """Names in SCRIBE, code that does the same here, and what is said about it."""

    names: list[str]
    code: list[str]
    note: str


def read_page() -> tuple[str, list[Row]]:
    """The block that comes before the rows, and the rows of all tables."""
    text = PAGE.read_text(encoding="utf-8")
    (setup,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    rows = []
    for line in text.splitlines():
        if line.startswith("| `"):
            names, code, note = (cell.strip() for cell in line.strip("|").split("|"))
            rows.append(Row(spans(names), spans(code), note))
            rest = re.sub(r"`[^`]+`", "", code)
            assert rest.strip() == ("" if rows[-1].code else "–"), f"neither code nor a dash: {line}"
    return setup, rows


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def public_names() -> Iterator[str]:
    yield from ATTRIBUTES.split()
    for method, arguments in ARGUMENTS.items():
        yield method
        yield from (f"{method}({name})" if "*" in name else f"{method}({name}=)" for name in arguments.split())
    for method, keys in KEYS.items():
        yield from (f'{method}()["{key}"]' for key in keys.split())


def test_every_name_has_a_row_and_no_other():
    found = [name for row in read_page()[1] for name in row.names]
    assert len(found) == len(set(found)), "a name has two rows"
    assert set(found) == set(public_names())


def test_what_has_no_counterpart_is_known_and_says_why():
    rows = [row for row in read_page()[1] if not row.code]
    names = [name for row in rows for name in row.names]
    others = {name for name in names if re.sub(r".*\((.*)=\)", r"\1", name) not in WITHOUT}
    assert others == WITHOUT_HERE
    assert [row.names for row in rows if len(row.note) < 15] == []


#: Parts of a fit that a last digit changes altogether.
HASHES = ("_id", "id", "fit")

# --- the walk --------------------------------------------------------------------------------------------------------


def summary(value) -> object:
    """Numbers by which two values are told apart, as JSON keeps them."""
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from scipy import sparse

    if isinstance(value, str) and value.startswith("{"):  # a manifest: last digits differ from process to process
        return summary(json.loads(value))
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, AnnData):
        fields = {name: getattr(value, name) for name in ("obs", "var", "obsm", "varm", "layers", "uns")}
        return summary({name: dict(field) for name, field in fields.items()})
    if hasattr(value, "items") and not isinstance(value, pd.DataFrame | pd.Series):
        known = {str(name): part for name, part in value.items() if not str(name).endswith(HASHES)}
        return {name: summary(known[name]) for name in sorted(known)}
    if isinstance(value, pd.DataFrame):
        return {str(name): summary(value[name]) for name in value}
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        return [summary(part) for part in value]
    if sparse.issparse(value):
        return [*value.shape, value.nnz, float(value.sum())]
    if isinstance(value, Axes):
        drawn = [line.get_ydata() for line in value.lines] + [c.get_offsets() for c in value.collections]
        return [value.get_xlabel(), value.get_ylabel(), summary([np.ma.filled(part, np.nan) for part in drawn])]
    if isinstance(value, np.ndarray | np.generic | pd.Series | float | int) and np.asarray(value).dtype.kind in "biuf":
        value = np.asarray(value, float)
        return [*value.shape, float(np.nansum(value)), float(np.nansum(np.sqrt(np.abs(value))))]
    if isinstance(value, pd.Series):
        return sorted((str(name), int(n)) for name, n in value.value_counts().items())
    if hasattr(value, "base_dist"):  # NumPyro has no mean of a logit-normal
        return [type(value).__name__, summary(value.base_dist)]
    if hasattr(value, "mean"):  # distributions
        return [type(value).__name__, summary(np.asarray(value.mean() if callable(value.mean) else value.mean))]
    return str(value)


def namespace(adata, new_cells) -> dict:
    import numpyro.distributions as dist
    import optax
    import scanpy as sc
    from numpyro.infer import Trace_ELBO

    import scbayes as sb

    own = {"np": np, "dist": dist, "optax": optax, "sc": sc, "Trace_ELBO": Trace_ELBO, "sb": sb}
    return own | {"adata": adata.copy(), "new_cells": new_cells.copy()}


def run(code: list[str], names: dict) -> list:
    """Run one row; what each of its expressions gives, and AnnData at the end."""
    from matplotlib import pyplot as plt
    from scanpy import settings

    found, verbosity = [], settings.verbosity
    for line in code:
        try:
            kind = "exec" if re.match(r"[\w.]+ = ", line) else "eval"
            found.append(summary(eval(compile(line, str(PAGE), kind), names)))
        except Exception as error:
            error.add_note(f"docs/scribe.md: {line}")
            raise
    settings.verbosity = verbosity
    plt.close("all")
    return found


def is_reader(line: str) -> bool:
    return not line.startswith(("sb.tl.", "sc."))


def read_both(folder: Path, name: str = "") -> dict:
    """AnnData of the fitted cells and of the new ones, as far as they were written under this name."""
    import anndata as ad

    paths = {which: folder / f"{which}{name}.h5ad" for which in ("adata", "new_cells")}
    return {which: ad.read_h5ad(path) for which, path in paths.items() if path.exists()}


def walk(folder: Path, codes: list[list[str]], *, keep: bool = False) -> list:
    """Run every row on what is in the folder; with `keep`, write what each leaves, in a file of its own."""
    found, data = [], read_both(folder)
    for i, code in enumerate(codes):
        names = namespace(**data)
        found.append([run(code, names), {which: summary(names[which]) for which in data}])
        if keep and not all(map(is_reader, code)):
            for which in data:
                if f"({which}" in " ".join(code):
                    names[which].write_h5ad(folder / f"{which}-{i}.h5ad")
    return found


def read(folder: Path, codes: list[list[str]]) -> dict[str, list]:
    """Run what only reads in those rows that were kept."""
    found, data = {}, read_both(folder)
    for i, code in enumerate(codes):
        kept = read_both(folder, f"-{i}")
        if kept:
            names = namespace(**data | kept)
            values = run([line for line in code if is_reader(line)], names)
            found[str(i)] = [values, {which: summary(names[which]) for which in kept}]
    return found


def different(a, b) -> bool:
    """Whether two summaries differ by more than rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() != b.keys() or any(different(a[name], b[name]) for name in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) != len(b) or any(different(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return not np.isclose(a, b, rtol=1e-6, atol=1e-9, equal_nan=True)
    return a != b


@pytest.fixture(scope="module")
def setup() -> dict:
    """What the block before the tables defines."""
    names = {}
    exec(compile(read_page()[0], str(PAGE), "exec"), names)
    return names


@pytest.mark.slow
def test_every_row_runs_here_and_in_a_process_that_reads_the_file(setup, tmp_path):
    import matplotlib as mpl

    assert mpl.get_backend().lower() == "agg"
    codes = [list(code) for code in dict.fromkeys(tuple(row.code) for row in read_page()[1] if row.code)]
    assert len(codes) > 60
    (tmp_path / "codes.json").write_text(json.dumps(codes), encoding="utf-8")
    for name in ("adata", "new_cells"):
        setup[name].write_h5ad(tmp_path / f"{name}.h5ad")
    command, own = [sys.executable, __file__, str(tmp_path)], os.environ | {"MPLBACKEND": "Agg"}
    with (tmp_path / "log.txt").open("w", encoding="utf-8") as log:
        there = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=own)
        try:  # both walk at the same time
            here = json.loads(json.dumps(walk(tmp_path, codes, keep=True)))
            there.communicate(b"all are kept")
        finally:
            there.kill()
    assert there.returncode == 0, (tmp_path / "log.txt").read_text(encoding="utf-8")[-3000:]
    again = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert len(here) == len(again["walk"]) == len(codes)
    changed = [code for code, a, b in zip(codes, here, again["walk"], strict=True) if different(a, b)]
    assert changed == [], "other numbers in a new process"

    kept = [i for i, code in enumerate(codes) if not all(map(is_reader, code))]
    assert sorted(again["read"], key=int) == [str(i) for i in kept]
    changed = []
    for i in kept:
        values, data = again["read"][str(i)]
        expected = [value for line, value in zip(codes[i], here[i][0], strict=True) if is_reader(line)]
        if different(values, expected) or different(data, {which: here[i][1][which] for which in data}):
            changed.append(codes[i])
    assert changed == [], "other numbers in what was read from a file"


@pytest.mark.slow
def test_weights_of_a_mixture(setup):
    """What `get` says of them, against the Dirichlet distribution that the fit stores."""
    import scbayes as sb

    adata = setup["adata"]
    concentration = adata.uns["mix"]["weights"]
    law = stats.dirichlet(concentration)
    np.testing.assert_array_equal(sb.get.params(adata, "mix")["weights"]["concentration"], concentration)
    np.testing.assert_allclose(sb.get.map(adata, "mix", use_mean=True)["weights"], law.mean())
    mode = sb.get.map(adata, "mix")["weights"]
    assert mode.sum() == pytest.approx(1)
    rng = np.random.default_rng(0)
    for near in rng.dirichlet(5e5 * mode, 20):
        assert law.logpdf(near) < law.logpdf(mode)
    for found in (
        sb.get.distributions(adata, "mix", backend="scipy")["weights"],
        sb.get.distributions(adata, "mix")["weights"],
    ):
        mean, variance = (found.mean(), found.var()) if callable(found.mean) else (found.mean, found.variance)
        np.testing.assert_allclose(mean, law.mean(), rtol=1e-5)
        np.testing.assert_allclose(variance, law.var(), rtol=1e-5)
    first, *_ = sb.get.distributions(adata, "mix", backend="scipy", split=True)["weights"]
    assert first.mean() == pytest.approx(law.mean()[0])
    assert "weights" not in sb.get.map(adata)


def test_a_row_that_fails_is_named():
    with pytest.raises(AttributeError) as caught:
        run(["np.pi", "np.nothing_of_the_kind"], {"np": np})
    assert "np.nothing_of_the_kind" in caught.value.__notes__[0]
    assert different([1.0, {"a": 2.0}], [1.0, {"a": 2.1}])
    assert not different([1.0, {"a": 2.0}], [1.0, {"a": 2.0 + 1e-12}])


if __name__ == "__main__":
    given = Path(sys.argv[1])
    rows = json.loads((given / "codes.json").read_text(encoding="utf-8"))
    values = {"walk": walk(given, rows)}
    sys.stdin.read()  # until the other process has written its files
    values["read"] = read(given, rows)
    (given / "found.json").write_text(json.dumps(values), encoding="utf-8")
