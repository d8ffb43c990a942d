"""Counts in (any matrix that AnnData can hold), sufficient statistics out."""

from scbayes.counts._counts import Counts
from scbayes.counts._summary import Summary, merge

__all__ = ["Counts", "Summary", "merge"]
