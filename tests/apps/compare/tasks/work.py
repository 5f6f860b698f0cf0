from dump import dump


def work(cfg):
    dump(cfg, name=__name__)
    return cfg.lr
