"""Data sets as configs write them."""


def innermost_dataset(cfg):
    """The config of the data set inside RepeatDataset and the like, from that of what holds it; no copy."""
    while 'dataset' in cfg:
        cfg = cfg.dataset
    return cfg
