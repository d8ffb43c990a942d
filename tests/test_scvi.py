"""The page for those who come from scVI: complete, and each row of it runs in a process that reads the file."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scvi.md"

# Every method of scVI's Posterior, with its arguments, and every attribute.
POSTERIOR = {
    "Posterior": "model gene_dataset shuffle indices use_cuda data_loader_kwargs",
    "accuracy": "",
    "apply_t_sne": "latent n_samples",
    "clustering_scores": "prediction_algorithm",
    "corrupted": "",
    "differential_expression_score": "idx1 idx2 mode batchid1 batchid2 use_observed_batches n_samples use_permutation "
    "M_permutation all_stats change_fn m1_domain_fn delta cred_interval_lvls **kwargs",
    "differential_expression_stats": "M_sampling",
    "elbo": "",
    "entropy_batch_mixing": "**kwargs",
    "generate": "n_samples genes batch_size",
    "generate_denoised_samples": "n_samples batch_size rna_size_factor transform_batch",
    "generate_feature_correlation_matrix": "n_samples batch_size rna_size_factor transform_batch correlation_type",
    "generate_parameters": "n_samples give_mean",
    "get_bayes_factors": "idx1 idx2 mode batchid1 batchid2 use_observed_batches n_samples use_permutation "
    "M_permutation change_fn m1_domain_fn delta cred_interval_lvls **kwargs",
    "get_latent": "give_mean sample",
    "get_sample_scale": "transform_batch gene_list library_size return_df n_samples return_mean",
    "get_stats": "",
    "imputation": "n_samples transform_batch",
    "imputation_benchmark": "n_samples show_plot title_plot save_path",
    "imputation_list": "n_samples",
    "imputation_score": "original_list imputed_list n_samples",
    "knn_purity": "",
    "marginal_ll": "n_mc_samples",
    "nn_overlap_score": "**kwargs",
    "one_vs_all_degenes": "subset cell_labels use_observed_batches min_cells n_samples use_permutation M_permutation "
    "output_file mode change_fn m1_domain_fn delta cred_interval_lvls save_dir filename **kwargs",
    "raw_data": "",
    "reconstruction_error": "",
    "save_posterior": "dir_path",
    "scale_sampler": "selection n_samples n_samples_per_cell batchid use_observed_batches give_mean **kwargs",
    "sequential": "batch_size",
    "show_t_sne": "n_samples color_by save_name latent batch_indices labels n_batch",
    "to_cuda": "tensors",
    "uncorrupted": "",
    "update": "data_loader_kwargs",
    "update_sampler_indices": "idx",
    "within_cluster_degenes": "states cell_labels min_cells batch1 batch2 use_observed_batches subset n_samples "
    "use_permutation M_permutation mode change_fn m1_domain_fn delta cred_interval_lvls output_file save_dir filename "
    "**kwargs",
}
POSTERIOR_ATTRIBUTES = "indices nb_cells posterior_type"
# The same of scvi-tools' SCAR.
SCAR = {
    "SCAR": "adata ambient_profile n_hidden n_latent n_layers dropout_rate gene_likelihood latent_distribution "
    "scale_activation sparsity **model_kwargs",
    "convert_legacy_save": "dir_path output_dir_path overwrite prefix **save_kwargs",
    "data_registry": "registry_key",
    "deregister_manager": "adata",
    "differential_abundance": "adata sample_key batch_size num_cells_posterior dof",
    "differential_expression": "adata groupby group1 group2 idx1 idx2 mode delta batch_size all_stats batch_correction "
    "batchid1 batchid2 fdr_target silent weights filter_outlier_cells importance_weighting_kwargs **kwargs",
    "get_aggregated_posterior": "adata indices batch_size dof",
    "get_ambient_profile": "adata raw_adata prob min_raw_counts iterations n_batch sample",
    "get_anndata_manager": "adata required",
    "get_denoised_counts": "adata n_samples batch_size",
    "get_elbo": "adata indices batch_size dataloader return_mean data_loader_kwargs **kwargs",
    "get_feature_correlation_matrix": "adata indices n_samples batch_size rna_size_factor transform_batch "
    "correlation_type silent",
    "get_from_registry": "adata registry_key",
    "get_importance_weights": "adata indices qz px zs max_cells truncation n_mc_samples n_mc_samples_per_pass "
    "**data_loader_kwargs",
    "get_latent_library_size": "adata indices give_mean batch_size dataloader **data_loader_kwargs",
    "get_latent_representation": "adata indices give_mean mc_samples batch_size return_dist dataloader "
    "**data_loader_kwargs",
    "get_likelihood_parameters": "adata indices n_samples give_mean batch_size dataloader **data_loader_kwargs",
    "get_marginal_ll": "adata indices n_mc_samples batch_size return_mean dataloader data_loader_kwargs **kwargs",
    "get_normalized_expression": "adata indices transform_batch gene_list library_size n_samples n_samples_overall "
    "weights batch_size return_mean return_numpy silent dataloader data_loader_kwargs **importance_weighting_kwargs",
    "get_reconstruction_error": "adata indices batch_size dataloader return_mean data_loader_kwargs **kwargs",
    "get_setup_arg": "setup_arg",
    "get_state_registry": "registry_key",
    "get_var_names": "legacy_mudata_format",
    "load": "dir_path adata accelerator device prefix backup_url datamodule allowed_classes_names_list",
    "load_registry": "dir_path prefix",
    "posterior_predictive_sample": "adata indices transform_batch n_samples gene_list batch_size dataloader silent "
    "**data_loader_kwargs",
    "register_manager": "adata_manager",
    "save": "dir_path prefix overwrite save_anndata save_kwargs legacy_mudata_format datamodule **anndata_write_kwargs",
    "setup_anndata": "adata batch_key labels_key layer size_factor_key **kwargs",
    "to_device": "device",
    "train": "max_epochs accelerator devices train_size validation_size shuffle_set_split load_sparse_tensor "
    "batch_size early_stopping datasplitter_kwargs plan_config plan_kwargs datamodule trainer_config **trainer_kwargs",
    "transfer_fields": "adata **kwargs",
    "update_setup_method_args": "setup_method_args",
    "view_anndata_setup": "adata hide_state_registries",
    "view_registry": "hide_state_registries",
    "view_setup_args": "dir_path prefix",
    "view_setup_method_args": "",
}
SCAR_ATTRIBUTES = """adata adata_manager device get_normalized_function_name history is_trained registry run_id run_name
summary_string test_indices train_indices validation_indices"""
COLUMNS = """proba_de bayes_factor scale1 scale2 lfc_mean lfc_median lfc_std is_de_fdr_0.05 non_zeros_proportion1
non_zeros_proportion2"""
#: Arguments that mean the same wherever they are, and have one row.
SAME = """adata indices batch_size dataloader data_loader_kwargs datamodule silent use_cuda accelerator device devices
idx1 idx2 mode delta change_fn m1_domain_fn cred_interval_lvls use_permutation M_permutation use_observed_batches
batchid1 batchid2 fdr_target all_stats output_file save_dir filename"""
#: What needs no counterpart: loaders and devices, registries, and what memory or old files asked for.
WITHOUT = {
    *("batch_size=", "dataloader=", "data_loader_kwargs=", "datamodule=", "use_cuda=", "accelerator=", "device="),
    *("devices=", "Posterior(shuffle=)", "train(load_sparse_tensor=)", "device", "get_normalized_function_name"),
    *("sequential", "update", "update(data_loader_kwargs=)", "update_sampler_indices", "update_sampler_indices(idx=)"),
    *("to_cuda", "to_cuda(tensors=)", "to_device", "convert_legacy_save", "convert_legacy_save(dir_path=)"),
    *("convert_legacy_save(output_dir_path=)", "convert_legacy_save(overwrite=)", "convert_legacy_save(prefix=)"),
    *("data_registry", "data_registry(registry_key=)", "deregister_manager", "get_anndata_manager"),
    *("get_anndata_manager(required=)", "get_from_registry", "get_from_registry(registry_key=)", "get_state_registry"),
    *("get_state_registry(registry_key=)", "load_registry", "load_registry(dir_path=)", "load_registry(prefix=)"),
    *("register_manager", "register_manager(adata_manager=)", "transfer_fields", "update_setup_method_args"),
    *("update_setup_method_args(setup_method_args=)", "view_anndata_setup(hide_state_registries=)"),
    *("view_registry(hide_state_registries=)", "view_setup_args(dir_path=)", "view_setup_args(prefix=)"),
    *("load(allowed_classes_names_list=)", "save(legacy_mudata_format=)", "get_var_names(legacy_mudata_format=)"),
    *("get_ambient_profile(n_batch=)", "differential_expression(importance_weighting_kwargs=)"),
    *(f"get_importance_weights({name}=)" for name in ("qz", "px", "zs", "max_cells", "truncation", "n_mc_samples")),
    "get_importance_weights(n_mc_samples_per_pass=)",
}


#: Shape of what rows give, by their first name: `c` cells, `g` genes, `n` new cells, 3 genes that are named, 5 latent
#: dimensions, `*` what is a matter of chance; of a dict, its length comes first.
SHAPES = """
    indices c, nb_cells, raw_data c g, get_var_names g, history 10 6, train_indices 149, load c g, indices= 623 g,
    Posterior(gene_dataset=) 577 g, adata c g, adata= n 15085, load(adata=) n 15085, get_latent c 5,
    get_latent(give_mean=) 4 c 5, get_latent(sample=) 1 c 5, differential_abundance c 4,
    get_latent_representation(return_dist=) c 5, get_latent_library_size c, get_latent_library_size(give_mean=) c,
    get_aggregated_posterior 50, get_aggregated_posterior(dof=) 50, differential_abundance(sample_key=) c,
    get_sample_scale c 3, get_sample_scale(transform_batch=) c 3, get_sample_scale(gene_list=) c 1,
    get_sample_scale(library_size=) c 3, get_sample_scale(return_df=) c 3, get_sample_scale(n_samples=) c 3,
    get_sample_scale(return_mean=) 25 c 3, get_normalized_expression(n_samples_overall=) 500 3, scale_sampler 500 3,
    get_normalized_expression(weights=) 500 3, scale_sampler(selection=) 500 3, scale_sampler(n_samples=) 100 3,
    scale_sampler(n_samples_per_cell=) 3 c 3, scale_sampler(batchid=) 100 3, scale_sampler(give_mean=) c 3,
    scale_sampler(use_observed_batches=) 100 3, differential_expression_stats 10 c 3, imputation c 3,
    differential_expression_stats(M_sampling=) 20 c 3, imputation(n_samples=) c 3, generate 3 5 c,
    generate(n_samples=) 3g 8, generate(genes=) 1 5 c, get_denoised_counts c g,
    posterior_predictive_sample(transform_batch=) 3g 6, generate_denoised_samples 3 5 c, get_ambient_profile g *,
    generate_denoised_samples(n_samples=) 3 3 c, generate_parameters 2 c 3, generate_parameters(n_samples=) 2 5 c 3,
    generate_parameters(give_mean=) 2 c 3, generate_feature_correlation_matrix g g,
    generate_feature_correlation_matrix(n_samples=) g g, generate_feature_correlation_matrix(rna_size_factor=) 3 3,
    generate_feature_correlation_matrix(transform_batch=) 3 3, generate_feature_correlation_matrix(correlation_type=)
    3 3, elbo c 1, get_elbo(return_mean=), reconstruction_error c 1, get_reconstruction_error(return_mean=),
    marginal_ll c 3, marginal_ll(n_mc_samples=) c 3, get_marginal_ll(return_mean=), entropy_batch_mixing, knn_purity,
    clustering_scores 4, clustering_scores(prediction_algorithm=) 4, nn_overlap_score 2, accuracy 2, corrupted *,
    uncorrupted *, imputation_list 8 *, imputation_list(n_samples=) * 5, imputation_score,
    imputation_score(original_list=), imputation_score(n_samples=), get_importance_weights 100 3,
    differential_expression_score 3g *, mode= g, delta= 3g *, differential_expression(groupby=) 3g *,
    differential_expression(group1=) 2g *, differential_expression(group2=) g *, idx1= g *, change_fn= 3g *,
    m1_domain_fn= 3g *, cred_interval_lvls= 3g *, use_permutation= 3g *, differential_expression_score(n_samples=) 3g
    *, differential_expression(batch_correction=) 3g *, fdr_target= 3g *, use_observed_batches= 3g *, batchid1= 3g *,
    all_stats= g 4, differential_expression(weights=) 3g *, differential_expression(filter_outlier_cells=) 3g *,
    one_vs_all_degenes 3g *, one_vs_all_degenes(cell_labels=) 3g *, one_vs_all_degenes(subset=) 3g *,
    one_vs_all_degenes(min_cells=) 3g *, within_cluster_degenes 3g *, within_cluster_degenes(states=) 3g *,
    within_cluster_degenes(cell_labels=) 3g *, within_cluster_degenes(batch1=) 3g *, proba_de g, bayes_factor g,
    scale1 g 2, lfc_mean g 3, is_de_fdr_0.05 g, non_zeros_proportion1 g 2
"""


class Row(NamedTuple):
    """Names in scVI, code that does the same here, and what is said about it."""

    names: list[str]
    code: list[str]
    note: str


def read_page() -> tuple[str, str, list[Row]]:
    """The blocks that make and that read the file, and the rows of all tables."""
    text = PAGE.read_text(encoding="utf-8")
    make, load = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    rows = []
    for line in text.splitlines():
        if line.startswith("| `"):
            names, code, note = (cell.strip() for cell in line.strip("|").split("|"))
            rows.append(Row(re.findall(r"`([^`]+)`", names), re.findall(r"`([^`]+)`", code), note))
            rest = re.sub(r"`[^`]+`", "", code)
            assert rest.strip() == ("" if rows[-1].code else "–"), f"neither code nor a dash: {line}"
    return make, load, rows


def arguments() -> Iterator[tuple[str, str]]:
    for function, names in (POSTERIOR | SCAR).items():
        yield from ((function, name) for name in names.split())


def test_every_name_has_a_row_and_no_other():
    found = [name for row in read_page()[2] for name in row.names]
    assert len(found) == len(set(found)), "a name has two rows"
    names = {*POSTERIOR, *SCAR, *f"{POSTERIOR_ATTRIBUTES} {SCAR_ATTRIBUTES} {COLUMNS}".split()}
    names |= {name for _, name in arguments() if name.startswith("**")}
    plain = [(function, name) for function, name in arguments() if not name.startswith("**")]
    names |= {f"{name}=" if name in SAME.split() else f"{function}({name}=)" for function, name in plain}
    further = {f"{function}({name}=)" for function, name in plain if name in SAME.split()}  # some have their own, too
    assert names - set(found) == set()
    assert set(found) - names <= further


def test_what_has_no_counterpart_is_known_and_says_why():
    rows = [row for row in read_page()[2] if not row.code]
    names = {name for row in rows for name in row.names}
    assert {name for name in names if not name.startswith("**")} == WITHOUT
    assert [row.names for row in rows if len(row.note) < 15] == []


# --- the other process -----------------------------------------------------------------------------------------------


def summary(value) -> dict:
    """Shape of a value, and whether all its numbers are finite."""
    from anndata import AnnData
    from matplotlib.axes import Axes

    if isinstance(value, AnnData):
        return {"shape": [*value.shape], "finite": finite_slots(value)}
    if isinstance(value, Axes):
        return {"shape": [], "finite": bool(value.collections or value.lines or value.images)}
    if isinstance(value, dict):
        parts = [summary(part) for part in value.values()]
        shape = [len(parts), *(parts[0]["shape"] if parts else [])]
        return {"shape": shape, "finite": all(part["finite"] for part in parts)}
    shape = [*value.shape] if hasattr(value, "shape") else []
    if isinstance(value, pd.DataFrame):
        value = value.select_dtypes(["number", "bool"])
    numbers = np.asarray(value.data if sparse.issparse(value) else value)
    return {"shape": shape, "finite": numbers.dtype.kind not in "f" or bool(np.isfinite(numbers).all())}


def finite_slots(adata) -> bool:
    """Whether all numbers beside the cells and genes are finite."""
    aligned = [adata.obsm, adata.varm, adata.layers, adata.varp]
    tables = [adata.obs, adata.var, *(part for slots in aligned for part in slots.values())]
    return all(summary(table)["finite"] for table in tables)


def run(code: list[str], names: dict) -> list[dict]:
    """Run one row: what each of its expressions gives; of those that write, what is written."""
    from matplotlib import pyplot as plt

    found = []
    for line in code:
        try:
            value = eval(compile(line, str(PAGE), "eval"), names)
            if value is None and line.startswith("sb.pl."):
                value = plt.gca()
            elif value is None:
                own = names["new_cells"] if "(new_cells" in line else names["adata"]
                value = names["sb"].get.de(own) if line.startswith("sb.tl.de(adata,") else own
            found.append(summary(value))
        except Exception as error:
            error.add_note(f"docs/scvi.md: {line}")
            raise
    plt.close("all")
    return found


def walk() -> dict[str, list[dict]]:
    """Run every row in this process, each on what the file holds."""
    _, load, rows = read_page()
    names: dict = {}
    exec(compile(load, str(PAGE), "exec"), names)
    copied = ("adata", "new_cells")
    codes = {" ".join(row.code): row.code for row in rows if row.code}
    return {text: run(code, names | {name: names[name].copy() for name in copied}) for text, code in codes.items()}


def expected() -> dict[str, list[str]]:
    """Name of a row -> shape."""
    return {name: shape for name, *shape in (row.split() for row in SHAPES.split(","))}


@pytest.mark.slow
def test_every_row_runs_in_a_process_that_reads_the_file(tmp_path, monkeypatch):
    make, _, rows = read_page()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(make, str(PAGE), "exec"), names)
    with (tmp_path / "log.txt").open("w", encoding="utf-8") as log:
        own = os.environ | {"MPLBACKEND": "Agg"}
        there = subprocess.run([sys.executable, __file__], stdout=log, stderr=log, env=own, check=False)
    assert there.returncode == 0, (tmp_path / "log.txt").read_text(encoding="utf-8")[-3000:]
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert set(found) == {" ".join(row.code) for row in rows if row.code}
    assert [text for text, parts in found.items() if not all(part["finite"] for part in parts)] == []

    c, g = names["adata"].shape
    sizes = {"c": c, "g": g, "2g": 2 * g, "3g": 3 * g, "n": 144}
    last = {row.names[0]: found[" ".join(row.code)][-1]["shape"] for row in rows if row.code}
    for name, shape in expected().items():
        right = [n if size == "*" else int(sizes.get(size, size)) for size, n in zip(shape, last[name], strict=True)]
        assert last[name] == right, name
    others = {name: shape for name, shape in last.items() if shape not in ([], [c, g]) and name not in expected()}
    assert set(others) == {"adata_manager"}


def test_a_row_that_fails_is_named():
    with pytest.raises(AttributeError) as caught:
        run(["np.pi", "np.nothing_of_the_kind"], {"np": np})
    assert caught.value.__notes__ == ["docs/scvi.md: np.nothing_of_the_kind"]


if __name__ == "__main__":
    (Path.cwd() / "found.json").write_text(json.dumps(walk()), encoding="utf-8")
