"""Networks that the training script trains, and the wrapper that adds their loss."""

from .completion import SemiSupCompletionModel
from .output import NetworkError
from .resnet_san import ResNetSAN01, pad_to_multiple

__all__ = ["NetworkError", "ResNetSAN01", "SemiSupCompletionModel", "pad_to_multiple"]
