"""Cells whose ambient counts are known, for denoise.py: simulated, real with added soup, and two species side by side.

Each maker returns AnnData with the counts in X and

    layers native, ambient      the true parts; of real cells the counts as they are, and what was added
    obs    group, batch         types, and columns of `varm["profile"]`
           rho                  true share of ambient counts
           unspiked             real cells to which nothing was added
    varm   profile              true profile of the soup, genes x batches
           native_profile       genes x (groups x batches), batches inside
    var    size                 of the negative binomial of each gene
    uns    prior                parameters of the beta distribution that rho came from (real: of the same two moments)
           added                1 where the cells had an unknown share of ambient counts before

Those of `large` have X, group, batch, rho and profile alone.
"""

import importlib.util
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _ambient_simulation import simulate, soups, type_means
from _common import data_file
from scipy import sparse

SIMULATED = [{}, {"depth": 1500}, {"base_sd": 2.2}, {"base_sd": 2.2, "n_types": 6, "beta": (2, 30)}]
HARDER = [{}, {"strength": 0.25}, {"programmes": 0}, {"silent": 0.0}, {"depth": 1500}]
REAL = {"pbmc_facs": "celltype", "scmix_sc_celseq2": "cell_line", "scmix_sc_dropseq": "cell_line"}
#: True shares of added counts; cells with none say what a method finds in these cells anyway.
LEVELS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)


def cases(simulators: Path | None, seeds: int) -> dict:
    """Name of each data set, and a function that makes it."""
    found = {}
    if simulators:
        spec = importlib.util.spec_from_file_location("ambient", simulators / "ambient.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for settings in SIMULATED:
            for seed in range(seeds):
                found[named("sim", settings, seed)] = lambda s=settings, i=seed: simulated(
                    module.simulate(seed=i, n_empty=100, **s)[0], s.get("beta", (2, 14))
                )
    for settings in HARDER:
        for seed in range(seeds):
            found[named("harder", settings, seed)] = lambda s=settings, i=seed: simulated(
                simulate(seed=i, **s), (2, 14)
            )
    for name, group in REAL.items():
        found[name] = lambda name=name, group=group: with_soup(ad.read_h5ad(data_file(name)), group)
    found["species"] = lambda: species(ad.read_h5ad(data_file("baron_human")), ad.read_h5ad(data_file("baron_mouse")))
    found["large"] = large
    return found


def named(kind: str, settings: dict, seed: int) -> str:
    said = [f"{k}={'-'.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in settings.items()]
    return " ".join([kind, *said, f"seed={seed}"])


def simulated(cells: ad.AnnData, beta) -> ad.AnnData:
    """Cells of either simulation, under the names above."""
    batch, group = (cells.obs[key].astype("category") for key in ("batch", "cell_type"))
    obs = {"group": group, "batch": batch, "rho": cells.obs["amb_frac"], "unspiked": False}
    result = ad.AnnData(cells.X, obs=pd.DataFrame(obs), var=pd.DataFrame({"size": cells.var["theta"]}))
    for name in ("native", "ambient"):
        result.layers[name] = cells.layers[name]
    result.varm["profile"] = cells.varm["true_ambient"]
    native = cells.varm.get("true_native")
    result.varm["native_profile"] = of_types_and_batches(cells) if native is None else native
    result.uns |= {"prior": list(map(float, beta)), "added": 0}
    return result


def of_types_and_batches(cells: ad.AnnData) -> np.ndarray:
    """Profiles of types in batches, from those of types: a gene's effect of the batch is that on the soup."""
    soup, mean = cells.varm["true_ambient"], cells.varm["true_mean_rho"]
    ratio = soup[:, 1] / soup[:, 0]
    parts = []
    for t, name in enumerate(cells.obs["cell_type"].cat.categories):
        share = np.mean(cells.obs["batch"][cells.obs["cell_type"] == name] == "b1")
        first = mean[:, t] / (1 - share + share * ratio)
        parts += [first / first.sum(), first * ratio / (first * ratio).sum()]
    return np.column_stack(parts)


def with_soup(cells: ad.AnnData, group: str, seed: int = 0, levels=LEVELS) -> ad.AnnData:
    """Real cells in two batches, to which known shares of soup are added: mixtures of the types' means, skewed."""
    rng = np.random.default_rng(seed)
    x = sparse.csr_matrix(cells.X, dtype=np.float32)
    seen = np.asarray(x.sum(0)).ravel() > 0
    if "ercc" in cells.var:
        seen &= ~cells.var["ercc"].to_numpy(bool)
    x = x[:, seen]
    obs = pd.DataFrame({"group": cells.obs[group].astype(str).astype("category")})
    means = group_profiles(x, obs["group"].cat.codes.to_numpy(np.int64))
    skew = np.exp(rng.normal(0, 0.4, x.shape[1]))
    soup = rng.dirichlet(np.ones(means.shape[1]), 2) @ means.T * skew * np.exp(rng.normal(0, 0.2, (2, x.shape[1])))
    soup /= soup.sum(1, keepdims=True)
    batch, level = rng.integers(2, size=len(obs)), rng.choice(levels, len(obs))
    extra = np.round(np.asarray(x.sum(1)).ravel() * level / (1 - level)).astype(int)
    return assembled(x, drawn(rng, extra, soup, batch), obs, batch, soup, cells.var_names[seen])


def species(human: ad.AnnData, mouse: ad.AnnData, seed: int = 0) -> ad.AnnData:
    """Cells of two species with the genes of both, and one soup of all of them: what is foreign is ambient."""
    rng = np.random.default_rng(seed)
    parts = [sparse.csr_matrix(part.X, dtype=np.float32) for part in (human, mouse)]
    x = sparse.block_diag(parts, format="csr")
    obs = pd.concat([part.obs[["cell_type1"]].astype(str) for part in (human, mouse)])
    kind = np.repeat(["human", "mouse"], [human.n_obs, mouse.n_obs])
    names = np.r_["human_" + human.var_names.to_numpy(object), "mouse_" + mouse.var_names.to_numpy(object)]
    seen = np.asarray(x.sum(0)).ravel() > 0
    x, names = x[:, seen], names[seen]
    obs = pd.DataFrame({"group": pd.Categorical(kind + " " + obs["cell_type1"].to_numpy())}, index=obs.index)
    soup = np.asarray(x.sum(0)).ravel()[None] / x.sum(dtype=np.float64)
    level = np.clip(rng.beta(2, 14, len(obs)), 0.005, 0.6)
    extra = rng.poisson(np.asarray(x.sum(1)).ravel() * level / (1 - level))
    result = assembled(x, drawn(rng, extra, soup, np.zeros(len(obs), int)), obs, np.zeros(len(obs), int), soup, names)
    result.var["human"] = pd.Index(names).str.startswith("human_")
    result.obs["human"] = kind == "human"
    result.obs["unspiked"], result.uns["added"] = False, 0
    return result


def large(n_cells: int = 20_000, n_genes: int = 20_000, n_types: int = 10, depth: int = 3000) -> ad.AnnData:
    """Simulated cells in blocks, for time and memory: without the parts of the counts."""
    rng = np.random.default_rng(0)
    log_mean, batch_effect = type_means(rng, n_types, n_genes, 1.6, 0.3), rng.normal(0, 0.25, n_genes)
    soup, size = soups(rng, log_mean, batch_effect), rng.gamma(3.0, 1.5, n_genes) + 0.3
    code, batch, level = rng.integers(n_types, size=n_cells), rng.integers(2, size=n_cells), rng.beta(2, 14, n_cells)
    parts, rho = [], []
    for cells in np.array_split(np.arange(n_cells), max(n_cells // 500, 1)):
        mean = np.exp(log_mean[code[cells]] + batch[cells, None] * batch_effect)
        mean *= depth / mean.sum(1, keepdims=True)
        native = rng.poisson(mean * rng.gamma(size, 1 / size, mean.shape))
        total = native.sum(1) * level[cells] / (1 - level[cells])
        ambient = rng.poisson(total[:, None] * soup[batch[cells]])
        parts.append(sparse.csr_matrix((native + ambient).astype(np.float32)))
        rho.append(ambient.sum(1) / (native + ambient).sum(1))
    obs = pd.DataFrame({"rho": np.concatenate(rho), "unspiked": False}, index=[f"cell{i}" for i in range(n_cells)])
    obs["group"], obs["batch"] = pd.Categorical([f"T{t}" for t in code]), pd.Categorical([f"b{b}" for b in batch])
    var = pd.DataFrame(index=[f"g{i}" for i in range(n_genes)])
    result = ad.AnnData(sparse.vstack(parts, format="csr"), obs=obs, var=var)
    result.varm["profile"], result.uns["added"] = soup.T.copy(), 0
    return result


def assembled(x, ambient, obs, batch, soup, names) -> ad.AnnData:
    total = (x + ambient).astype(np.float32).tocsr()
    added, all_counts = (np.asarray(part.sum(1)).ravel() for part in (ambient, total))
    obs["batch"] = pd.Categorical([f"b{b}" for b in batch])
    obs["rho"] = added / np.maximum(all_counts, 1)
    obs["unspiked"] = added == 0
    obs.index = [f"cell{i}" for i in range(len(obs))]
    result = ad.AnnData(total, obs=obs, var=pd.DataFrame(index=pd.Index(names.astype(str))))
    result.var_names_make_unique()
    result.layers["native"], result.layers["ambient"] = x, ambient.astype(np.float32)
    code = obs["group"].cat.codes.to_numpy(np.int64)
    profiles = group_profiles(x, code)
    result.var["size"] = sizes(x, code, profiles)
    result.varm["profile"] = soup.T.copy()
    result.varm["native_profile"] = np.repeat(profiles, len(soup), axis=1)
    mean, variance = obs["rho"].mean(), obs["rho"].var()
    total = mean * (1 - mean) / variance - 1
    result.uns |= {"prior": [float(mean * total), float((1 - mean) * total)], "added": 1}
    return result


def drawn(rng, extra: np.ndarray, soup: np.ndarray, batch: np.ndarray) -> sparse.csr_matrix:
    """Multinomial counts of the soup of each cell's batch."""
    rows = [sparse.csr_matrix(rng.multinomial(n, soup[b])) for n, b in zip(extra, batch, strict=True)]
    return sparse.vstack(rows, format="csr")


def group_sums(x, code: np.ndarray) -> np.ndarray:
    """Counts of each gene in each group: genes x groups."""
    member = sparse.csr_matrix((np.ones(len(code)), (code, np.arange(len(code)))), shape=(code.max() + 1, len(code)))
    return (member @ x).toarray().T


def group_profiles(x, code: np.ndarray) -> np.ndarray:
    found = group_sums(x, code)
    return found / found.sum(0)


def sizes(x, code: np.ndarray, profiles: np.ndarray) -> np.ndarray:
    """Size of each gene by moments: of mean m and size s, the variance within groups is m + m² / s."""
    n = np.asarray(x.sum(1)).ravel()
    n2 = np.bincount(code, n**2)
    weighted = group_sums(sparse.diags(n) @ x, code)
    square = x.copy()
    square.data = square.data**2
    m2 = profiles**2 @ n2
    excess = np.asarray(square.sum(0)).ravel() - 2 * np.sum(weighted * profiles, 1) + m2 - np.asarray(x.sum(0)).ravel()
    return np.clip(m2 / np.maximum(excess, 1e-9), 0.05, 1000)
