"""What is believed: likelihoods, priors, NumPyro programs and their guides. Knows no AnnData."""

from scbayes.models._config import ModelConfig
from scbayes.models._evidence import Evidence, evidence_of
from scbayes.models._likelihood import NegativeBinomialCounts
from scbayes.models._model import Model

__all__ = ["Evidence", "Model", "ModelConfig", "NegativeBinomialCounts", "evidence_of"]
