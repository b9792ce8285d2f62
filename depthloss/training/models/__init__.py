"""Networks that the training script trains, and the wrapper that adds their loss."""

from .completion import SemiSupCompletionModel
from .output import NetworkError, input_parameter
from .resnet_san import ResNetSAN01, pad_to_multiple

__all__ = ["NetworkError", "ResNetSAN01", "SemiSupCompletionModel", "input_parameter", "pad_to_multiple"]
