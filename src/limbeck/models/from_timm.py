"""Image models by their timm name."""

from dataclasses import dataclass
from typing import final

from torch import nn

from limbeck.core.errors import MissingExtraError, RunError, UsageError, nearest
from limbeck.core.online import hub
from limbeck.models.spec import Architecture, DataSpec


@final
@dataclass(frozen=True, repr=False)
class Timm(Architecture):
    """A model of the timm collection, made for this data's channels and classes.

    Models with a fixed image size (vision transformers) are made for this data's size. Taps: the model's own module names.

    Args:
        name: A name that `timm.list_models()` lists, such as "resnet18".
        pretrained: Start from the collection's weights (downloaded once), with a fresh classifier.

    Raises:
        MissingExtraError: timm is not installed.
        UsageError: timm has no model of that name.
    """

    name: str
    pretrained: bool = False

    def __post_init__(self) -> None:
        try:
            import timm
        except ImportError as error:
            raise MissingExtraError("Timm needs timm: pip install 'limbeck[vision]'.") from error
        if not timm.is_model(self.name):
            known = timm.list_models()
            raise UsageError(f"Timm: timm has no model '{self.name}'{nearest(self.name, known) or '; see timm.list_models().'}")

    def make(self, spec: DataSpec) -> nn.Module:
        """The module for this data.

        Raises:
            RunError: The pretrained weights cannot be had.
        """
        import timm

        channels, height, width = spec.input_shape
        config = timm.get_pretrained_cfg(self.name)
        sized = {"img_size": (height, width)} if config is not None and config.fixed_input_size else {}
        made = {"num_classes": spec.classes, "in_chans": channels, **sized}
        with hub(self.pretrained) as unreached:
            try:
                model = timm.create_model(self.name, pretrained=self.pretrained, **made)
            except OSError as error:
                why = unreached or error
                raise RunError(
                    f"Timm: the weights of '{self.name}' cannot be had ({why}); go online once, or set pretrained=False."
                ) from error
        assert isinstance(model, nn.Module)
        return model
