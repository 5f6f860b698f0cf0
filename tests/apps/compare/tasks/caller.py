import hydra


def start(function):
    hydra.main(version_base="1.3", config_path="conf", config_name="config")(function)()
