"""How a posterior is found. Knows no biology and no AnnData."""

from scbayes.inference._chains import Chains, run_chains
from scbayes.inference._epochs import Recipe, State, Trained, train_epochs
from scbayes.inference._trainer import TOLERANCE, WINDOW, Progress, Training, as_optimizer, prepare, train

__all__ = [
    "TOLERANCE",
    "WINDOW",
    "Chains",
    "Progress",
    "Recipe",
    "State",
    "Trained",
    "Training",
    "as_optimizer",
    "prepare",
    "run_chains",
    "train",
    "train_epochs",
]
