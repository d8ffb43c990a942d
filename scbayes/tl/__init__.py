"""Tools: what is computed and written into AnnData."""

from scbayes.tl._fit import fit
from scbayes.tl._remove import remove

__all__ = ["fit", "remove"]
