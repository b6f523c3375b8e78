"""DefMamba for torch.hub: ``torch.hub.load('.', 'defmamba_tiny', source='local')`` in a clone.

Each function builds a :class:`mmdefmamba.models.DefMamba` with random weights and passes its arguments on, such as
``formulation='released'``, ``out_indices`` and ``drop_path_rate``. The network returns a tuple of maps. The names with
``_classifier`` are the same networks with timm's classification head, and need timm. No weights are published.
"""

dependencies = ['torch', 'mmengine']


def defmamba_tiny(**kwargs):
    """Build DefMamba-T: (B, 3, H, W) -> maps of 48, 96, 192 and 384 channels at strides 4, 8, 16 and 32."""
    return _backbone('tiny', kwargs)


def defmamba_small(**kwargs):
    """Build DefMamba-S: (B, 3, H, W) -> maps of 96, 192, 384 and 768 channels at strides 4, 8, 16 and 32."""
    return _backbone('small', kwargs)


def defmamba_base(**kwargs):
    """Build DefMamba-B: (B, 3, H, W) -> maps of 96, 192, 384 and 768 channels at strides 4, 8, 16 and 32."""
    return _backbone('base', kwargs)


def defmamba_tiny_classifier(**kwargs):
    """Build DefMamba-T with timm's head: (B, 3, H, W) -> (B, num_classes); arguments as in ``mmdefmamba.timm``."""
    return _classifier('tiny', kwargs)


def defmamba_small_classifier(**kwargs):
    """Build DefMamba-S with timm's head: (B, 3, H, W) -> (B, num_classes); arguments as in ``mmdefmamba.timm``."""
    return _classifier('small', kwargs)


def defmamba_base_classifier(**kwargs):
    """Build DefMamba-B with timm's head: (B, 3, H, W) -> (B, num_classes); arguments as in ``mmdefmamba.timm``."""
    return _classifier('base', kwargs)


def _backbone(arch, kwargs):
    from mmdefmamba.models import DefMamba

    return DefMamba(arch, **kwargs)


def _classifier(arch, kwargs):
    import mmdefmamba.timm

    return mmdefmamba.timm.DefMambaClassifier(arch, **kwargs)
