"""DefMamba for masked image modelling."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch.nn import functional as F

import mmdefmamba  # noqa: F401

ROOT = Path(__file__).parents[2]
ARCH = {'embed_dims': (8, 16, 32), 'depths': (1, 1, 1)}


def build(kind='MaskedDefMamba', **kwargs):
    torch.manual_seed(0)
    return MODELS.build(dict(type=kind, arch=ARCH, pretrain_img_size=32, **kwargs)).double().eval()


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(2, 3, 30, 48, dtype=torch.float64)


@pytest.fixture
def mask():
    """Return a mask for 30 x 48 pixels, of which the stem makes 8 x 12 tokens."""
    torch.manual_seed(2)
    return torch.randint(0, 2, (2, 4, 6)).repeat_interleave(2, 1).repeat_interleave(2, 2)


def pixels_of(mask):
    return F.interpolate(mask[:, None].double(), scale_factor=4, mode='nearest')[:, :, :30, :48].bool()


def test_without_a_mask_it_is_a_plain_defmamba(images):
    masked = build()
    plain = build('DefMamba')
    assert masked.state_dict().keys() - plain.state_dict().keys() == {'mask_token'}
    plain.load_state_dict(masked.state_dict())
    for given in ((), (None,)):
        for a, b in zip(masked(images, *given), plain(images), strict=True):
            assert torch.equal(a, b)


def test_an_empty_mask_hides_nothing_and_a_full_one_everything(images):
    model = build()
    for a, b in zip(model(images, torch.zeros(2, 8, 12)), model(images), strict=True):
        assert torch.equal(a, b)
    every = torch.ones(2, 8, 12, dtype=torch.bool)
    for a, b in zip(model(images, every), model(torch.zeros_like(images), every), strict=True):
        assert torch.equal(a, b)


def test_maps_do_not_depend_on_hidden_pixels(images, mask):
    """A visible pixel beside a hidden part changes the maps; a hidden one does not, not even the one beside it."""
    model, hidden = build(), pixels_of(mask)
    images.requires_grad_()
    maps = model(images, mask)
    for map_ in maps:
        (gradient,) = torch.autograd.grad(map_.square().sum(), images, retain_graph=True)
        assert not gradient[hidden.expand_as(gradient)].any()
    assert gradient.abs().amax(1, keepdim=True)[~hidden].all()


def test_hidden_tokens_are_the_mask_token_and_the_others_come_from_the_stem(images, mask):
    model, seen = build(), []
    model.stages[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(images, mask)
    shown = torch.where(pixels_of(mask), 0.0, images)
    expected = model.stem(shown.permute(0, 2, 3, 1))
    expected[mask.bool()] = model.mask_token
    assert torch.equal(seen[0], expected)


def test_a_coarse_mask_hides_squares_of_tokens(images, mask):
    model = build()
    for a, b in zip(model(images, mask[:, ::2, ::2]), model(images, mask), strict=True):
        assert torch.equal(a, b)


def test_each_parameter_gets_a_gradient_and_the_mask_token_belongs_to_the_stem(images, mask):
    model = build(out_indices=-1).train()
    model(images, mask)[0].square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.mask_token.grad.all()
    assert model.get_layer_depth('backbone.mask_token', 'backbone.') == (0, 5)


@pytest.mark.parametrize('shape', [(2, 8, 8), (2, 16, 24), (1, 8, 12), (2, 8, 0), (2, 96), (2, 3, 12), (2, 1, 8, 12)])
def test_a_mask_of_another_size_is_refused(images, shape):
    message = (
        rf'2 x 8 x 12 for these images, or another h x w of 8 x 12, 4 x 6, 2 x 3; got {" x ".join(map(str, shape))}\.'
    )
    with pytest.raises(ValueError, match=message):
        build()(images, torch.zeros(shape))


# -- SimMIM, as mmpretrain trains it


def test_simmim_learns_digits_and_its_checkpoint_loads_into_a_classifier(tools, tmp_path):
    config = ROOT / 'configs/classification/simmim_defmamba_pico_digits.py'
    few = {'train_dataloader.batch_size': 32, 'train_dataloader.dataset.indices': 320, 'train_cfg.max_epochs': 6}
    few |= {'param_scheduler.0.end': 1, 'default_hooks.logger.interval': 5}
    options = ['--cfg-options', *(f'{name}={value}' for name, value in few.items())]
    tools['train']([str(config), '--work-dir', str(tmp_path), *options])
    (log,) = tmp_path.glob('*/vis_data/scalars.json')
    losses = [line['loss'] for line in map(json.loads, log.read_text().splitlines()) if 'loss' in line]
    # the first loss is about that of a grey image, which is all that a network without the mask token could learn
    assert losses[-1] < 0.75 * losses[0]

    classifier = Config.fromfile(ROOT / 'configs/classification/defmamba_pico_digits.py').model
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'epoch_6.pth'), prefix='backbone.')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build({**classifier, 'backbone': {**classifier.backbone, 'init_cfg': init_cfg}})
    model.init_weights()
    trained = torch.load(tmp_path / 'epoch_6.pth', weights_only=False)['state_dict']
    own = model.backbone.state_dict()
    assert all(torch.equal(value, trained[f'backbone.{name}']) for name, value in own.items())
