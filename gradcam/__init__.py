"""gradcam: where a network's evidence is, why this class and not that one, and whether the map can be trusted."""

from typing import TYPE_CHECKING, Any

from .classifiers import Classifier, available_models, load
from .explainer import Explainer, Explanation
from .methods import METHODS
from .pipeline import Inspection, Result, explain
from .targets import Target

if TYPE_CHECKING:
    from .ui import launch

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
    "launch",
    "load",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "launch":  # the page takes seconds to import, which a training script should not pay
        from .ui import launch

        return launch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
