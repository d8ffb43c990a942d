"""How a posterior is found. Knows no biology and no AnnData."""

from scbayes.inference._trainer import Progress, Training, as_optimizer, train

__all__ = ["Progress", "Training", "as_optimizer", "train"]
