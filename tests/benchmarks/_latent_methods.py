"""Methods of latent.py that run in this environment: what RUN.json and RUN.npz hold of each (see there).

Each trains on the same cells, and sees the others afterwards. Seconds of an epoch are those of the second of two equal
fits of `TIMED` epochs in one process (of factors: of all its rounds), so without compilation; their share of reading,
start and encoding is in them. Loading libraries is in none of the seconds.
"""

import sys

import numpy as np
from _process import Work
from scipy import sparse

#: Of z, for ELBO and reconstruction error: as many as `_scvi_latent.py` takes.
DRAWS = 5
#: Fewest draws that an importance sampler takes here.
FEWEST = 25
#: Epochs of the fits that are timed.
TIMED = 10


def pca(adata, n_latent: int = 10) -> tuple[dict, dict]:
    """The yardstick without a model: principal components of log-normalised counts, batches as they are."""
    import scanpy as sc

    work = Work()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=n_latent)
    return work.done(), {"latent": adata.obsm["X_pca"]}


def ours(adata, model: str, config: dict, samples: tuple[int, int], ambient: str | None) -> tuple[dict, dict]:
    """A latent model of ours; `samples` are S of validation cells and of all cells."""
    import numpyro  # noqa: F401

    import scbayes as sb

    held = (adata.obs["split"] == "validation").to_numpy()
    own = adata[~held].copy()  # the others are new cells to it
    if model == "vae":  # and here the end of its own, by which it stops
        own, config = adata[np.argsort(held, kind="stable")].copy(), config | {"shuffle_set_split": False}
    given = {"batch_key": "batch", "progress": False} | ({} if ambient is None else {"ambient": ambient})
    fit_of, work = sb.tl.fit, Work()
    fit_of(own, model, config=config, **given)
    facts = work.done()
    fit = sb.get.fit(own)
    facts["epochs"] = len(fit.history)
    kept = {}
    if model == "vae":
        assert np.array_equal(fit.split == "validation", own.obs["split"] == "validation")
        facts["best epoch"] = fit.facts["convergence"]["best_epoch"]
        kept = {"elbo_validation_history": -fit.table["validation_elbo"].to_numpy(np.float64)}
        kept |= {"elbo_validation_epochs": np.arange(facts["epochs"])}
        config = config | {"max_epochs": TIMED, "early_stopping": False}
    facts |= an_epoch(own, model, config, given)
    sb.tl.latent(adata, reference=own)
    kept["latent"] = adata.obsm["X_sb"]
    arrays, facts["validation"], facts["all"] = scores(adata, own, held, samples)
    if ambient is not None:
        kept |= native(adata, {"key": "sb", "reference": own})
    return facts, kept | arrays


def an_epoch(own, model: str, config: dict, given: dict) -> dict[str, float]:
    """Seconds of an epoch (of factors: of a round) of the second of two equal fits."""
    import scbayes as sb

    for _ in range(2):
        work = Work()
        sb.tl.fit(own, model, config=config, key_added="timed", **given)
        done = work.done()
    n = len(sb.get.fit(own, "timed").history)
    return {f"{name} an epoch": done[name] / n for name in ("seconds", "cpu s")}


def scores(adata, own, held: np.ndarray, samples: tuple[int, int]) -> tuple[dict, dict, dict]:
    """Scores of cells, and their means, S and what the marginal took: of validation cells and of all."""

    def of(cells, kind: str, n: int) -> np.ndarray:
        import scbayes as sb

        sb.tl.log_likelihood(cells, kind=kind, n_samples=n, reference=own, key_added="found")
        return cells.obs["found_log_likelihood"].to_numpy()

    cells = adata.copy()
    elbo, error = of(cells, "elbo", DRAWS), -of(cells, "reconstruction", DRAWS)
    arrays, means = {}, []
    for name, at, n_samples in zip(("validation", "all"), (held, np.ones_like(held)), samples, strict=True):
        n, part, work = max(n_samples, FEWEST), adata[at].copy(), Work()
        marginal, done = of(part, "marginal", n), work.done()
        found = {"elbo": elbo[at], "reconstruction": error[at], "marginal": marginal}
        facts = {"samples": n, "marginal seconds": done["seconds"], "marginal cpu s": done["cpu s"]}
        facts["share of k-hat above 0.7"] = float(np.mean(part.obs["found_log_likelihood_k_hat"] > 0.7))
        means.append(facts | {score: float(values.mean()) for score, values in found.items()})
        arrays |= {f"{score}_{name}": values.astype(np.float32) for score, values in found.items()}
    return arrays, *means


def denoise(adata) -> tuple[dict, dict]:
    """The division of counts that needs no latent space, with the same profile."""
    work = Work()
    kept = native(adata, {"ambient": "profile"})
    return work.done(), kept


def native(adata, given: dict) -> dict:
    """Share of ambient counts of each cell; native counts as expected and as whole numbers, CSR."""
    import scbayes as sb

    sb.tl.denoise(adata, key_added="native", progress=False, **given)
    mean = sparse.csr_matrix(adata.X).multiply(adata.layers["native_native_probability"])
    rho = adata.obs["native_contamination"].to_numpy()
    return {"rho": rho, "native_mean": mean, "integers": adata.layers["native_denoised"]}


METHODS = {"PCA": pca, "denoise": denoise}


def run(adata, method, samples: tuple[int, int]) -> tuple[dict, dict]:
    """Facts and arrays of a method: a name of `METHODS`, or arguments of `ours`."""
    if isinstance(method, str):
        return METHODS[method](adata)
    model, config, ambient = method
    sys.stderr.write(f"{model} {config}\n")
    return ours(adata, model, config, samples, ambient)
