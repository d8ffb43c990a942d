"""Read results back from AnnData."""

from scbayes.get._distributions import distributions
from scbayes.get._fit import fit
from scbayes.get._map import map
from scbayes.get._params import params
from scbayes.get._predictive import predictive
from scbayes.get._samples import samples

__all__ = ["distributions", "fit", "map", "params", "predictive", "samples"]
