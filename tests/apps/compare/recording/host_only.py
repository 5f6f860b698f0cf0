"""A module that the host has and the image has not: it registers a resolver."""

from omegaconf import OmegaConf

OmegaConf.register_new_resolver("host_only", lambda number: f"{number} from the host")
