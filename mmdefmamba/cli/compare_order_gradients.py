"""Compare the gradients of the deformable scan's order with measured changes of the loss, on a classifier's images.

Every pair of tokens that follow each other is swapped, one model run each: meant for small networks and images.
"""

import torch
from mmengine.runner import Runner

from ..analysis.markdown import markdown_table
from ..apis.zoo import load_config
from ..files import say
from ..paper.order_gradients import compare_order_gradients
from .program import Parser
from .run_options import CfgOptions


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument('config', help='config file of a classifier')
    parser.add_argument('checkpoint', nargs='?', help='default: a network with its initial weights')
    parser.add_argument('--images', type=int, default=32, help='how many images of the test set, from its start')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='change the config')
    args = parser.parse_args(argv)
    cfg = load_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.update(work_dir='work_dirs/order_gradients', load_from=args.checkpoint)
    cfg.test_dataloader.batch_size = args.images
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    data = runner.model.data_preprocessor(next(iter(runner.test_dataloader)))
    labels = torch.cat([sample.gt_label for sample in data['data_samples']])
    rows = [('scan', 'gradient', 'cosine', 'sign')]
    for (scan, gradient), scores in compare_order_gradients(runner.model, data['inputs'], labels).items():
        rows.append((scan, gradient, f'{scores["cosine"]:.2f}', f'{100 * scores["sign"]:.0f} %'))
    say(*markdown_table(rows).split('\n'))
