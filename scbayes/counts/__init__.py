"""Counts in (any matrix that AnnData can hold), sufficient statistics out."""

from scbayes.counts._cluster import ClusterCounts, cluster_of
from scbayes.counts._counts import Counts
from scbayes.counts._past import Past
from scbayes.counts._summary import Summary, merge

__all__ = ["ClusterCounts", "Counts", "Past", "Summary", "cluster_of", "merge"]
