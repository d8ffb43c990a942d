"""The page for those who come from scVI: complete, and each row of it runs."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scbayes as sb

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scvi.md"

# Every argument of the functions for differential expression, apart from `self` and what is passed on as `**kwargs`.
ARGUMENTS = {
    "differential_expression_score": "idx1 idx2 mode batchid1 batchid2 use_observed_batches n_samples use_permutation "
    "M_permutation all_stats change_fn m1_domain_fn delta cred_interval_lvls",
    "get_bayes_factors": "idx1 idx2 mode batchid1 batchid2 use_observed_batches n_samples use_permutation "
    "M_permutation change_fn m1_domain_fn delta cred_interval_lvls",
    "one_vs_all_degenes": "subset cell_labels use_observed_batches min_cells n_samples use_permutation M_permutation "
    "output_file mode change_fn m1_domain_fn delta cred_interval_lvls save_dir filename",
    "within_cluster_degenes": "states cell_labels min_cells batch1 batch2 use_observed_batches subset n_samples "
    "use_permutation M_permutation mode change_fn m1_domain_fn delta cred_interval_lvls output_file save_dir filename",
    "differential_expression": "adata groupby group1 group2 idx1 idx2 mode delta batch_size all_stats batch_correction "
    "batchid1 batchid2 fdr_target silent weights filter_outlier_cells importance_weighting_kwargs",
}
COLUMNS = """proba_de bayes_factor scale1 scale2 lfc_mean lfc_median lfc_std is_de_fdr_0.05 non_zeros_proportion1
non_zeros_proportion2"""
#: What needs no counterpart.
WITHOUT = {"batch_size=", "weights=", "importance_weighting_kwargs=", "filter_outlier_cells="}


def rows() -> list[tuple[list[str], list[str]]]:
    """Names in scVI, and the code of each row."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    cells = [[re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|")[:2]] for line in lines]
    return [(names, code) for names, code in cells]


ROWS = rows()


def test_every_argument_has_a_row_and_no_other():
    found = [name for names, _ in ROWS for name in names]
    assert len(found) == len(set(found)), "a name has two rows"
    expected = {*ARGUMENTS, *COLUMNS.split()}
    for function, arguments in ARGUMENTS.items():
        own = {name for name in arguments.split() if f"{name}=" not in found}
        expected |= {f"{function}({name}=)" for name in own} | {f"{name}=" for name in set(arguments.split()) - own}
    assert set(found) == expected
    assert {name for names, code in ROWS if not code for name in names} == WITHOUT


@pytest.fixture(scope="module")
def prepared() -> dict:
    (setup,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(compile(setup, str(PAGE), "exec"), names)
    sb.tl.de(names["adata"], "cell_type", progress=False)
    return names


@pytest.mark.parametrize(("names", "code"), [row for row in ROWS if row[1]], ids=[row[0][0] for row in ROWS if row[1]])
def test_rows_run(prepared, names, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = prepared | {"adata": prepared["adata"].copy()}
    for line in code:
        found = eval(compile(line, str(PAGE), "eval"), own)
    if line.startswith("sb.tl.de"):
        assert found is None
        found = sb.get.de(own["adata"])
        assert len(found) >= own["adata"].n_vars
    if isinstance(found, pd.DataFrame | pd.Series):
        assert np.isfinite(pd.DataFrame(found).select_dtypes("number")).all(axis=None)
    if "to_csv" in code[0]:
        assert len(pd.read_csv(tmp_path / "de.csv")) == len(sb.get.de(own["adata"]))
