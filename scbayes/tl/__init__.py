"""Tools: what is computed and written into AnnData."""

from scbayes.tl._abundance import abundance
from scbayes.tl._assign import assign
from scbayes.tl._calibrate import calibrate
from scbayes.tl._call_features import call_features
from scbayes.tl._cell_abundance import cell_abundance
from scbayes.tl._choose_components import choose_components
from scbayes.tl._compare import compare
from scbayes.tl._correlation import correlation
from scbayes.tl._de import de
from scbayes.tl._denoise import denoise
from scbayes.tl._entropy import entropy
from scbayes.tl._fit import fit
from scbayes.tl._impute import impute
from scbayes.tl._latent import latent
from scbayes.tl._likelihood_parameters import likelihood_parameters
from scbayes.tl._log_likelihood import log_likelihood
from scbayes.tl._normalize_counts import normalize_counts
from scbayes.tl._outliers import outliers
from scbayes.tl._posterior_samples import posterior_samples
from scbayes.tl._predict import predict
from scbayes.tl._remove import remove
from scbayes.tl._residuals import residuals

__all__ = [
    "abundance",
    "assign",
    "calibrate",
    "call_features",
    "cell_abundance",
    "choose_components",
    "compare",
    "correlation",
    "de",
    "denoise",
    "entropy",
    "fit",
    "impute",
    "latent",
    "likelihood_parameters",
    "log_likelihood",
    "normalize_counts",
    "outliers",
    "posterior_samples",
    "predict",
    "remove",
    "residuals",
]
