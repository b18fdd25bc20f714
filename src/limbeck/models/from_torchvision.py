"""Image models by their torchvision name."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from limbeck.core.errors import MissingExtraError, RunError, UnsupportedModelError, UsageError, nearest
from limbeck.models.spec import Architecture, DataSpec

COLOURS = 3


class Colour(nn.Module):
    """Repeats the one channel of grey images: [B, 1, H, W] -> [B, 3, H, W]."""

    def forward(self, images: Tensor) -> Tensor:
        """The same image in three channels."""
        return images.expand(-1, COLOURS, -1, -1)


@final
@dataclass(frozen=True, repr=False)
class Torchvision(Architecture):
    """A classification model of torchvision, made for this data's classes.

    The models read three channels; grey images are repeated into three, and then the model's modules are tapped as `net.*`
    instead of by their own names.

    Args:
        name: A name that `torchvision.models.list_models(module=torchvision.models)` lists, such as "resnet18".
        weights: None, or the name of trained weights such as "IMAGENET1K_V1" or "DEFAULT" (downloaded once); the classifier
            is fresh where the number of classes differs.

    Raises:
        MissingExtraError: torchvision is not installed.
        UsageError: torchvision has no classification model or no weights of that name.
    """

    name: str
    weights: str | None = None

    def __post_init__(self) -> None:
        try:
            from torchvision import models
        except ImportError as error:
            raise MissingExtraError("Torchvision needs torchvision: pip install 'limbeck[vision]'.") from error
        known = models.list_models(module=models)
        if self.name not in known:
            raise UsageError(
                f"Torchvision: there is no classification model '{self.name}'{nearest(self.name, known) or '; use resnet18.'}"
            )
        offered = ["DEFAULT", *models.get_model_weights(self.name).__members__]
        if self.weights is not None and self.weights not in offered:
            choices = ", ".join(dict.fromkeys(offered))
            raise UsageError(f"Torchvision: '{self.name}' has the weights {choices}, got {self.weights!r}.")

    def make(self, spec: DataSpec) -> nn.Module:
        """The module for this data.

        Raises:
            UsageError: The images have neither one channel nor three.
        """
        from torchvision import models

        channels = spec.input_shape[0]
        if channels not in (1, COLOURS):
            raise UsageError(f"Torchvision: {self.name} takes images of 1 or 3 channels, got {channels}; use Timm.")
        model = (
            models.get_model(self.name, weights=None, num_classes=spec.classes)
            if self.weights is None
            else self._trained(spec.classes)
        )
        assert isinstance(model, nn.Module)
        return model if channels == COLOURS else nn.Sequential(OrderedDict(colour=Colour(), net=model))

    def _trained(self, classes: int) -> nn.Module:
        from torchvision import models

        weights = models.get_model_weights(self.name)[self.weights]
        labels = len(weights.meta["categories"])
        try:
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except OSError as error:
            raise RunError(
                f"Torchvision: the weights of '{self.name}' cannot be had ({error}); go online once, or set weights=None."
            ) from error
        model = models.get_model(self.name, weights=None, num_classes=labels)
        assert isinstance(model, nn.Module)
        model.load_state_dict(state)
        return model if classes == labels else fresh_classifier(model, classes)


def fresh_classifier(model: nn.Module, classes: int) -> nn.Module:
    """The model with its last linear layer replaced by a new one for so many classes.

    Raises:
        UnsupportedModelError: The model has no linear layer.
    """
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UnsupportedModelError(f"{type(model).__name__} has no linear classifier to replace; train it from weights=None.")
    name, last = linear[-1]
    model.set_submodule(name, nn.Linear(last.in_features, classes, bias=last.bias is not None))
    return model
