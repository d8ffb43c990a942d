"""Pictures of what is in AnnData already: each takes `ax` and returns it."""

from scbayes.pl._abundance import abundance
from scbayes.pl._ambient import ambient
from scbayes.pl._assignments import assignments
from scbayes.pl._barcode_rank import barcode_rank
from scbayes.pl._calibration import calibration
from scbayes.pl._choose_components import choose_components
from scbayes.pl._compare import compare
from scbayes.pl._composition import composition
from scbayes.pl._contamination import contamination
from scbayes.pl._correlation import correlation
from scbayes.pl._denoised import denoised
from scbayes.pl._entropy import entropy
from scbayes.pl._features import features
from scbayes.pl._imputation import imputation
from scbayes.pl._latent import latent
from scbayes.pl._lfc_forest import lfc_forest
from scbayes.pl._lfc_volcano import lfc_volcano
from scbayes.pl._loss import loss
from scbayes.pl._ma import ma
from scbayes.pl._ppc import ppc
from scbayes.pl._residuals import residuals

__all__ = [
    "abundance",
    "ambient",
    "assignments",
    "barcode_rank",
    "calibration",
    "choose_components",
    "compare",
    "composition",
    "contamination",
    "correlation",
    "denoised",
    "entropy",
    "features",
    "imputation",
    "latent",
    "lfc_forest",
    "lfc_volcano",
    "loss",
    "ma",
    "ppc",
    "residuals",
]
