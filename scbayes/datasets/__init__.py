"""Shipped data, simulated data with known truth, and downloads with checksums."""

from ._fetch import fetch
from ._orthologs import orthologs
from ._pancreas import pancreas
from ._pancreas_mouse import pancreas_mouse
from ._simulate import simulate

__all__ = ["fetch", "orthologs", "pancreas", "pancreas_mouse", "simulate"]
