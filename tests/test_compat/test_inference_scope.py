"""Models of the three libraries predict beside each other in one process."""

import itertools

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

import mmdefmamba

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def predict(task, model, image=IMAGE):
    """Return the numbers that the inference function of a library predicts."""
    if task == 'classification':
        from mmpretrain.apis import ImageClassificationInferencer

        return torch.as_tensor(ImageClassificationInferencer(model)(image)[0]['pred_scores'])
    if task == 'detection':
        from mmdet.apis import inference_detector

        return inference_detector(model, image).pred_instances.bboxes
    from mmseg.apis import inference_model

    return inference_model(model, image).seg_logits.data


@pytest.fixture(scope='module')
def alone(pico_checkpoints):
    """The predictions of each model when its library is the last one that was used."""
    return {task: predict(task, mmdefmamba.get_model(*files)) for task, files in pico_checkpoints.items()}


@pytest.mark.parametrize('order', itertools.permutations(['classification', 'detection', 'segmentation']), ids='-'.join)
def test_models_of_three_libraries_predict_in_any_order(order, alone, pico_checkpoints):
    models = {task: mmdefmamba.get_model(*pico_checkpoints[task]) for task in order}
    scope = DefaultScope.get_current_instance().scope_name
    for task in (*order, *reversed(order)):
        assert torch.equal(predict(task, models[task]), alone[task])
        assert DefaultScope.get_current_instance().scope_name == scope


def test_the_mend_can_be_left_out(run_python, pico_checkpoints):
    """Without the mend the detector fails after the segmentor was loaded. With it, the tests above use both."""
    det, seg = ((name, str(path)) for name, path in (pico_checkpoints['detection'], pico_checkpoints['segmentation']))
    code = f"""
import numpy as np, mmdefmamba
from mmdet.apis import inference_detector
model = mmdefmamba.get_model(*{det})
mmdefmamba.get_model(*{seg})
try:
    inference_detector(model, np.zeros((32, 32, 3), np.uint8))
    print('works')
except TypeError as error:
    print(error)
"""
    assert "unexpected keyword argument 'with_" in run_python(code, MMDEFMAMBA_COMPAT='inference_scope')[0]
