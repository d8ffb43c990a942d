"""Scores of results: arrays in, numbers out."""

from scbayes.metrics._calibration_error import calibration_error

__all__ = ["calibration_error"]
