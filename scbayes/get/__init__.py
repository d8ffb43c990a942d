"""Read results back from AnnData."""

from scbayes.get._abundance import abundance
from scbayes.get._aggregated_posterior import aggregated_posterior
from scbayes.get._ambient_profile import ambient_profile
from scbayes.get._assignments import assignments
from scbayes.get._barcode_rank import barcode_rank
from scbayes.get._calibration import calibration
from scbayes.get._cell_abundance import cell_abundance
from scbayes.get._choose_components import choose_components
from scbayes.get._comparison import comparison
from scbayes.get._component import component
from scbayes.get._composition import composition
from scbayes.get._contamination import contamination
from scbayes.get._correlation import correlation
from scbayes.get._de import de
from scbayes.get._de_sets import de_sets
from scbayes.get._distributions import distributions
from scbayes.get._entropy import entropy
from scbayes.get._expression import expression
from scbayes.get._features import features
from scbayes.get._fit import fit
from scbayes.get._imputation import imputation
from scbayes.get._latent import latent
from scbayes.get._library_size import library_size
from scbayes.get._likelihood_parameters import likelihood_parameters
from scbayes.get._log_likelihood import log_likelihood
from scbayes.get._map import map
from scbayes.get._params import params
from scbayes.get._predictive import predictive
from scbayes.get._residuals import residuals
from scbayes.get._samples import samples

__all__ = [
    "abundance",
    "aggregated_posterior",
    "ambient_profile",
    "assignments",
    "barcode_rank",
    "calibration",
    "cell_abundance",
    "choose_components",
    "comparison",
    "component",
    "composition",
    "contamination",
    "correlation",
    "de",
    "de_sets",
    "distributions",
    "entropy",
    "expression",
    "features",
    "fit",
    "imputation",
    "latent",
    "library_size",
    "likelihood_parameters",
    "log_likelihood",
    "map",
    "params",
    "predictive",
    "residuals",
    "samples",
]
