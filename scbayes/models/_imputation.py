r"""One posterior from those of several draws of the data: multiple imputation (Rubin 1987).

.. math:: \bar\theta = \frac1M \sum_m \theta_m, \qquad
          T = \frac1M \sum_m W_m + \Big(1 + \frac1M\Big) \frac{1}{M - 1} \sum_m (\theta_m - \bar\theta)
          (\theta_m - \bar\theta)^\top

Posteriors of draws may be of a quicker method than the one that is wanted: both are then made of one data set, and
what is between the two is taken to be the same in all draws.
"""

import numpy as np

from scbayes.models._posterior import Posterior


def pooled(wanted: Posterior, quick: Posterior, draws: list[Posterior]) -> Posterior:
    """The posterior with what draws of the data say.

    Parameters
    ----------
    wanted, quick
        Of the same data, by the method that is wanted and by that of ``draws``.
    """
    wanted, quick = (Posterior(*map(np.asarray, posterior)) for posterior in (wanted, quick))
    each = Posterior(*[np.stack(parts) for parts in zip(*draws, strict=True)])
    found = {}
    for loc, scale in (("global_loc", "global_scale"), ("cell_loc", "cell_scale")):
        width = getattr(wanted, scale) / getattr(quick, scale)
        within = np.mean((width * getattr(each, scale)) ** 2, 0)
        found[loc] = getattr(wanted, loc) + getattr(each, loc).mean(0) - getattr(quick, loc)
        found[scale] = np.sqrt(within + _more(len(draws)) * getattr(each, loc).var(0, ddof=1))
    width = wanted.gene_tril @ np.linalg.inv(quick.gene_tril)
    tril = width @ each.gene_tril
    within = np.mean(tril @ np.swapaxes(tril, -1, -2), 0)
    off = each.gene_loc - each.gene_loc.mean(0)
    between = np.einsum("m...i,m...j->...ij", off, off) / (len(draws) - 1)
    found["gene_loc"] = wanted.gene_loc + each.gene_loc.mean(0) - quick.gene_loc
    found["gene_tril"] = np.linalg.cholesky(within + _more(len(draws)) * between)
    if wanted.weights.size:
        found |= {"weights": each.weights.mean(0), "responsibilities": each.responsibilities.mean(0)}
    return wanted._replace(**found)


def _more(n: int) -> float:
    return 1 + 1 / n
