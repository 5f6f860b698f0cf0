import functools


def counted(function):
    @functools.wraps(function)
    def inner(cfg):
        return 1 + function(cfg)

    return inner


def without_wraps(function):
    def inner(cfg):
        return 2 * function(cfg)

    return inner
