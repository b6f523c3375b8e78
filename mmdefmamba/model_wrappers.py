"""What MMEngine wraps around a model."""

from mmengine.model import BaseTTAModel, is_model_wrapper


def plain_model(model):
    """Return the model without the wrappers that distribute it or augment its tests."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
