"""gradcam: where a network's evidence is, why this class and not that one, and whether the map can be trusted."""

from .classifiers import Classifier, available_models, load
from .explainer import Explainer, Explanation
from .methods import METHODS
from .pipeline import Inspection, Result, explain
from .targets import Target

__all__ = [
    "METHODS",
    "Classifier",
    "Explainer",
    "Explanation",
    "Inspection",
    "Result",
    "Target",
    "available_models",
    "explain",
    "load",
]
__version__ = "0.1.0"
