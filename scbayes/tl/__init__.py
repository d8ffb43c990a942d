"""Tools: what is computed and written into AnnData."""

from scbayes.tl._fit import fit
from scbayes.tl._posterior_samples import posterior_samples
from scbayes.tl._predict import predict
from scbayes.tl._remove import remove

__all__ = ["fit", "posterior_samples", "predict", "remove"]
