"""Methods that take ambient counts out, by one face: `method(cells, profile, batch)`.

`cells` has counts in X and `obs["group", "batch"]`, `profile` genes x batches, `batch` the column of each cell.
Returned:

    rho, low, high     share of ambient counts of each cell, ends of its 90% interval; None where there are none
    native_mean        expected native counts, CSR
    integers           integer native counts, CSR; None: `native_mean` rounded up or down by chance
    flagged            whether the level of rho was said not to be identified; None where nothing is said
    constant           rho is one given number

The ones of this file run here, and those that know the truth are among them; SoupX, DecontX, SCAR and ours run by
`python _ambient_methods.py METHOD IN.h5ad OUT.npz` in environments of their own, without it. They get the true profile;
SoupX and DecontX the true types as clusters too.
"""

import json
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _process import Work
from scipy import sparse

FIELDS = ("rho", "low", "high", "flagged", "constant")


# --- here ------------------------------------------------------------------------------------------------------------


def raw(cells, profile, batch) -> dict:
    return {"native_mean": cells.X, "integers": cells.X}


def flat(cells, profile, batch) -> dict:
    """The soup's expected counts at the true mean share, subtracted."""
    rho, x = float(cells.obs["rho"].mean()), counts(cells)
    expected = rho * of_entries(x, np.asarray(x.sum(1)).ravel()) * profile[x.indices, of_entries(x, batch)]
    native = with_data(x, np.maximum(x.data - expected, 0))
    return {"rho": np.full(len(batch), rho), "constant": True, "native_mean": native}


def known_types(cells, profile, batch, rounds: int = 60) -> dict:
    """Multinomial counts (1 - rho_c) p + rho_c a, one profile p for each true type in each batch: EM, stopped early."""
    x, code = counts(cells), cells.obs["group"].cat.codes.to_numpy(np.int64) * profile.shape[1] + batch
    cell, total = of_entries(x, np.arange(x.shape[0])), np.asarray(x.sum(1)).ravel()
    of_gene_type = x.indices.astype(np.int64) * (code.max() + 1) + code[cell]
    soup, rho = profile[x.indices, batch[cell]], np.full(len(code), 0.1)
    native = np.ones(len(x.data))
    for _ in range(rounds):
        p = np.bincount(of_gene_type, x.data * native, minlength=x.shape[1] * (code.max() + 1))
        p = p.reshape(x.shape[1], -1)
        p = (p / p.sum(0)).ravel()[of_gene_type]
        own, ambient = (1 - rho[cell]) * p, rho[cell] * soup
        native = own / np.maximum(own + ambient, 1e-300)
        rho = 1 - np.bincount(cell, x.data * native, minlength=len(code)) / np.maximum(total, 1)
    drawn = np.random.default_rng(0).binomial(x.data.astype(np.int64), np.clip(native, 0, 1))
    return {"rho": rho, "native_mean": with_data(x, x.data * native), "integers": with_data(x, drawn)}


def oracle(cells, profile, batch) -> dict:
    """Delaporte posterior means at the true rho, integers by ranked molecules; rho as far as it can be known."""
    import _ambient_oracle as known

    mean, unit = known.native_mean(cells, cells.obs["rho"].to_numpy())
    return known.posterior_of_rho(cells) | {"native_mean": mean, "integers": known.ranked(cells, mean, unit)}


def oracle_binomial(cells, profile, batch) -> dict:
    """The same means, integers drawn from Binomial(x, E[native | x] / x)."""
    import _ambient_oracle as known

    mean, _ = known.native_mean(cells, cells.obs["rho"].to_numpy())
    x = counts(cells)
    drawn = np.random.default_rng(0).binomial(x.data.astype(np.int64), np.clip(mean.data / x.data, 0, 1))
    return {"native_mean": mean, "integers": with_data(x, drawn)}


HERE = {"raw": raw, "flat": flat, "known types": known_types, "oracle": oracle, "oracle, binomial": oracle_binomial}


def counts(cells) -> sparse.csr_matrix:
    x = sparse.csr_matrix(cells.X, dtype=np.float64)
    x.sort_indices()
    return x


def of_entries(x, of_cells: np.ndarray) -> np.ndarray:
    return np.repeat(of_cells, np.diff(x.indptr))


def with_data(x, data) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.asarray(data, np.float64), x.indices, x.indptr), shape=x.shape)


def rounded(mean, seed: int = 0) -> sparse.csr_matrix:
    """Up or down by chance, so that the expectation stays."""
    result = sparse.csr_matrix(mean, dtype=np.float64)
    chance = np.random.default_rng(seed).uniform(size=len(result.data))
    return with_data(result, np.floor(result.data + chance))


# --- elsewhere -------------------------------------------------------------------------------------------------------


def ours(cells, profile, batch, groupby=None) -> dict:
    import scanpy as sc

    import scbayes as sb

    sc.settings.verbosity = "error"
    known = pd.DataFrame(profile, index=cells.var_names, columns=cells.obs["batch"].cat.categories)
    sb.pp.ambient_profile(cells, profile=known, batch_key="batch" if profile.shape[1] > 1 else None)
    sb.tl.denoise(cells, groupby=groupby, progress=False)
    x, probability = counts(cells), sparse.csr_matrix(cells.layers["sb_native_probability"])
    found = {
        name: cells.obs[f"sb_contamination{end}"] for name, end in (("rho", ""), ("low", "_low"), ("high", "_high"))
    }
    found = {name: value.to_numpy(np.float64) for name, value in found.items()}
    found |= {"native_mean": x.multiply(probability).tocsr(), "integers": cells.layers["sb_denoised"]}
    samples = json.loads(str(cells.uns["sb_denoise"]["result"]))["facts"]["samples"]
    return found | {"flagged": not all(bool(facts["identified"]) for facts in samples.values())}


def ours_types_known(cells, profile, batch) -> dict:
    return ours(cells, profile, batch, groupby="group")


def soupx(cells, profile, batch) -> dict:
    """autoEstCont and adjustCounts of each batch, with its defaults; less specific markers where it finds none."""
    from pysoupx import SoupChannel, adjust_counts, auto_est_cont, set_clusters, set_soup_profile

    rho, parts = np.zeros(len(batch)), []
    for b in range(profile.shape[1]):
        own = cells[batch == b]
        x = sparse.csc_matrix(own.X.T)
        channel = SoupChannel(x, x, own.var_names, own.obs_names, calc_soup_profile=False)
        soup = {"est": profile[:, b], "counts": np.round(1e7 * profile[:, b])}
        set_soup_profile(channel, pd.DataFrame(soup, index=own.var_names))
        set_clusters(channel, own.obs["group"].astype(str).tolist())
        for tfidf in (1.0, 0.7, 0.5, 0.3, 0.1):
            try:
                auto_est_cont(channel, tfidf_min=tfidf, verbose=False, force_accept=True)
                break
            except ValueError as error:
                sys.stderr.write(f"SoupX, tfidf_min={tfidf}: {error}\n")
        rho[batch == b] = channel.meta_data["rho"].to_numpy()
        parts.append(sparse.csr_matrix(adjust_counts(channel, verbose=0).T))
    back = np.argsort(np.concatenate([np.flatnonzero(batch == b) for b in range(profile.shape[1])]))
    return {"rho": rho, "native_mean": sparse.vstack(parts, format="csr")[back]}


def decontx(cells, profile, batch) -> dict:
    """With its defaults and the true types, and the profiles as those of empty droplets."""
    import anndata as ad

    names = cells.obs["batch"].cat.categories.astype(str).to_numpy()
    empty = ad.AnnData(sparse.csr_matrix(np.round(1e7 * profile.T)), var=cells.var[[]])
    empty.obs_names = "empty " + names
    return _decontx(cells, {"background": empty} | ({"bg_batch": names} if len(names) > 1 else {}))


def decontx_without_soup(cells, profile, batch) -> dict:
    """With its defaults and the true types: the soup of a type is the mean of all others."""
    return _decontx(cells, {})


def _decontx(cells, options: dict) -> dict:
    import anndata as ad
    from pydecontx import decontx as run

    plain = ad.AnnData(sparse.csr_matrix(cells.X), obs=cells.obs[["batch"]].astype(str), var=cells.var[[]])
    options |= {"batch": "batch"} if len(cells.obs["batch"].cat.categories) > 1 else {}
    run(plain, z=cells.obs["group"].astype(str).to_numpy(), compute_umap=False, verbose=False, **options)
    rho = plain.obs["decontX_contamination"].to_numpy(np.float64)
    return {"rho": rho, "native_mean": sparse.csr_matrix(plain.layers["decontX_counts"])}


def scar(cells, profile, batch, sparsity: float = 0.9, epochs: int | None = None) -> dict:
    """scvi-tools' SCAR with its defaults; one profile, as it takes no more: the mean over the cells' batches."""
    import scvi
    import torch
    from scvi.external import SCAR

    scvi.settings.seed = 0
    torch.set_num_threads(1)
    share = np.bincount(batch, np.asarray(cells.X.sum(1)).ravel())
    cells.obs["batch"] = cells.obs["batch"].astype(str)
    SCAR.setup_anndata(cells, batch_key="batch")
    model = SCAR(cells, ambient_profile=profile @ (share / share.sum()), sparsity=sparsity)
    options = {"max_epochs": epochs} | ({"plan_kwargs": {"n_epochs_kl_warmup": epochs}} if epochs else {})
    model.train(enable_progress_bar=False, logger=False, **options)
    rho, parts = [], []
    with torch.no_grad():
        model.module.eval()
        for tensors in model._make_data_loader(adata=cells):
            _, found = model.module.forward(tensors=tensors, compute_loss=False)
            expected = tensors["X"].sum(1, keepdim=True) * found["px"].probs
            expected[expected < 1e-3] = 0  # a smooth is nowhere zero
            rho.append(found["pamb_scale"].sum(1) / model.module.ambient_profile.sum())  # each cell's noise ratio
            parts.append(sparse.csr_matrix(expected.numpy()))
    integers = sparse.csr_matrix(model.get_denoised_counts())
    return {"rho": torch.cat(rho).numpy(), "native_mean": sparse.vstack(parts, format="csr"), "integers": integers}


def scar_sparse_half(cells, profile, batch) -> dict:
    """With the settings that did best in a survey: half the entries native, a quarter of the epochs."""
    return scar(cells, profile, batch, sparsity=0.5, epochs=100)


#: Method, and the environment that it needs (None: this one).
ELSEWHERE = {
    "ours": (ours, None),
    "ours, types known": (ours_types_known, None),
    "SoupX": (soupx, "ambient"),
    "DecontX": (decontx, "ambient"),
    "DecontX, no soup": (decontx_without_soup, "ambient"),
    "SCAR": (scar, "scvi"),
    "SCAR, sparsity 0.5": (scar_sparse_half, "scvi"),
}


def save(path: Path, found: dict) -> None:
    parts = {name: found[name] for name in FIELDS if found.get(name) is not None}
    for name in ("native_mean", "integers"):
        if found.get(name) is not None:
            x = sparse.csr_matrix(found[name])
            parts |= {
                f"{name} data": x.data.astype(np.float32),
                f"{name} indices": x.indices,
                f"{name} indptr": x.indptr,
            }
            parts["shape"] = x.shape
    np.savez_compressed(path, **parts)


def load(path: Path) -> dict:
    with np.load(path) as kept:
        found = {name: kept[name] for name in FIELDS if name in kept}
        for name in ("native_mean", "integers"):
            if f"{name} data" in kept:
                parts = tuple(kept[f"{name} {part}"] for part in ("data", "indices", "indptr"))
                found[name] = sparse.csr_matrix(parts, shape=tuple(kept["shape"]))
    return found


def main(name: str, source: str, target: str) -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    stdout, sys.stdout = sys.stdout, sys.stderr  # for the result alone
    sys.path.remove(str(Path(__file__).parent))  # names of our files are not to be found by what others import
    import anndata as ad

    cells = ad.read_h5ad(source)
    work = Work()
    found = ELSEWHERE[name][0](cells, cells.varm["profile"], cells.obs["batch"].cat.codes.to_numpy(np.int64))
    facts = work.done()
    save(Path(target), found)
    stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
