"""Scores of results: arrays in, numbers out."""

from scbayes.metrics._accuracy import accuracy
from scbayes.metrics._calibration_error import calibration_error
from scbayes.metrics._clustering_scores import clustering_scores
from scbayes.metrics._entropy_batch_mixing import entropy_batch_mixing
from scbayes.metrics._graph_connectivity import graph_connectivity
from scbayes.metrics._imputation_error import imputation_error
from scbayes.metrics._integration_scores import integration_scores
from scbayes.metrics._knn_purity import knn_purity
from scbayes.metrics._lisi import lisi
from scbayes.metrics._nn_overlap import nn_overlap
from scbayes.metrics._silhouette_batch import silhouette_batch

__all__ = [
    "accuracy",
    "calibration_error",
    "clustering_scores",
    "entropy_batch_mixing",
    "graph_connectivity",
    "imputation_error",
    "integration_scores",
    "knn_purity",
    "lisi",
    "nn_overlap",
    "silhouette_batch",
]
