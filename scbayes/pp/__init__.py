"""Preprocessing: from a count matrix to data that can be fitted."""

from scbayes.pp._prepare_counts import prepare_counts
from scbayes.pp._split_counts import split_counts

__all__ = ["prepare_counts", "split_counts"]
