"""Pictures of what is in AnnData already: each takes `ax` and returns it."""

from scbayes.pl._loss import loss

__all__ = ["loss"]
