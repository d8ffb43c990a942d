from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# Entries of one dense block of cells: 16 MB an array.
BLOCK = 2_000_000
# float32 holds every integer up to here.
LARGEST_COUNT = 2**24


type Settings = dict[str, float | tuple[float, float]]


def exp(name: str, log_values: np.ndarray) -> np.ndarray:
    """Exponential that stays far from overflow and underflow, so that products of a few of them do too."""
    largest = log_values.flat[np.abs(log_values).argmax()]
    if abs(largest) > 100:
        raise ValueError(f"{name} gives values of exp({largest:.4g}): pass numbers closer to 0")
    return np.exp(log_values)


def draw_genes(rng: np.random.Generator, n_genes: int, n_components: int, used: Settings) -> dict[str, np.ndarray]:
    """Draw mean at full capture `mu`, size `r` and probability of an excess zero `gate`: (genes, components) each."""
    log_mu = np.repeat(rng.normal(*used["log_mean"], (n_genes, 1)), n_components, axis=1)
    if "component_lfc" in used:
        share, sd = used["component_lfc"]
        log_mu += rng.normal(0, sd, log_mu.shape) * (rng.random(log_mu.shape) < share)
    mu = exp("log_mean", log_mu)
    if "p" in used:
        r = mu * (1 - used["p"]) / used["p"]
    else:
        r = np.repeat(exp("dispersion", rng.normal(*used["dispersion"], (n_genes, 1))), n_components, axis=1)
    gate = rng.beta(*used["gate"], mu.shape) if "gate" in used else np.zeros_like(mu)
    return {"mu": mu, "r": r, "gate": gate}


def draw_cells(
    rng: np.random.Generator, n_cells: int, n_batches: int, weights: np.ndarray, used: Settings
) -> dict[str, np.ndarray]:
    """Draw capture probability `nu`, `component` and `batch` of every cell."""
    return {
        "nu": rng.beta(*used["capture"], n_cells) if "capture" in used else np.ones(n_cells),
        "component": rng.choice(len(weights), n_cells, p=weights),
        "batch": rng.integers(n_batches, size=n_cells),
    }


def draw_batch_effects(rng: np.random.Generator, n_genes: int, n_batches: int, used: Settings) -> np.ndarray:
    """Draw log effects (genes, batches) that sum to 0 in every gene: `mu` is the geometric mean of the batches."""
    if n_batches == 1:
        return np.zeros((n_genes, 1))
    effect = rng.normal(0, used["batch_sd"], (n_genes, n_batches))
    # Centring takes some of the spread; the factor gives it back.
    return (effect - effect.mean(axis=1, keepdims=True)) * np.sqrt(n_batches / (n_batches - 1))


def draw_counts(
    rng: np.random.Generator,
    *,
    nu: np.ndarray,
    mu: np.ndarray,
    r: np.ndarray,
    gate: np.ndarray,
    factor: np.ndarray,
    component: np.ndarray,
    batch: np.ndarray,
    shared_odds: bool,
) -> "csr_matrix":
    """Draw a cells x genes CSR matrix, block by block of cells.

    Parameters
    ----------
    rng
        numpy Generator
    nu, component, batch
        (cells,) capture probability, component and batch of each cell
    mu, r, gate
        (genes, components) mean at full capture, size, probability of an excess zero
    factor
        (genes, batches) what a batch multiplies `mu` with
    shared_odds
        whether it multiplies `r` as well, which leaves the odds mean / r of a cell the same in every gene

    Returns
    -------
    csr_matrix of float32
    """
    import scipy.sparse as sp

    rows = max(1, BLOCK // len(mu))
    blocks = []
    for start in range(0, len(nu), rows):
        cells = slice(start, start + rows)
        k, b = component[cells], batch[cells]
        mean = mu.T[k] * factor.T[b] * nu[cells, None]
        size = r.T[k] * factor.T[b] if shared_odds else r.T[k]
        rate = rng.standard_gamma(size) * (mean / size)
        if rate.max() >= LARGEST_COUNT:
            raise ValueError(
                f"log_mean gives counts of {rate.max():.3g}, beyond the {LARGEST_COUNT:,} that float32 holds exactly: "
                "lower its mean or its standard deviation"
            )
        counts = sp.csr_matrix(rng.poisson(rate).astype(np.float32))
        if gate.any():
            # An excess zero shows only where there was a count, so only those entries need a draw.
            cell = np.repeat(np.arange(len(k)), np.diff(counts.indptr))
            counts.data[rng.random(counts.nnz) < gate[counts.indices, k[cell]]] = 0
            counts.eliminate_zeros()
        blocks.append(counts)
    return sp.vstack(blocks, format="csr")
