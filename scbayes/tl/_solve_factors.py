"""Find the factors of a linear model: rounds over all cells, without a network."""

import numpy as np
from tqdm.auto import tqdm

from scbayes.counts import Counts
from scbayes.models._factor_model import ACTIVE, factor_params
from scbayes.models._factors import fit_factors
from scbayes.tl._latent_run import Found, LatentRun

#: Rounds at most.
ROUNDS = 50


def solve_factors(run: LatentRun, *, show: bool) -> Found:
    """Rounds of cells and genes until the ELBO hardly rises."""
    config, cells = run.config, run.cells
    counts = Counts(cells.x, cells.batch, run.sizes.n_batches)
    bar = tqdm(desc="fit", unit="round", disable=not show)

    def said(_, elbo: float) -> None:
        bar.update()
        bar.set_postfix_str(f"ELBO {elbo:.1f}")

    how = {"n_latent": config.n_latent, "likelihood": config.likelihood, "seed": run.facts["seed"]}
    with bar:
        found = fit_factors(counts, cells.log_size, **how, n_rounds=config.max_epochs or ROUNDS, on_round=said)
    params, loc, scale = factor_params(config, found)
    n = len(found.history)
    history = np.full((n, 2, 3), np.nan)
    history[:, 0, :2], history[:, 0, 2] = found.history, 0
    return Found(
        params=params,
        loc=loc,
        scale=scale,
        history=history,
        best_epoch=n - 1,
        n_rejected=0,
        n_active=int((found.information > ACTIVE).sum()),
        accuracy=None,
        converged=found.converged,
        interrupted=False,
        unfinished=None,
    )
