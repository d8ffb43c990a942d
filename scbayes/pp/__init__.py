"""Preprocessing: from a count matrix to data that can be fitted."""

from scbayes.pp._ambient_profile import ambient_profile
from scbayes.pp._call_cells import call_cells
from scbayes.pp._prepare_counts import prepare_counts
from scbayes.pp._split_counts import split_counts

__all__ = ["ambient_profile", "call_cells", "prepare_counts", "split_counts"]
