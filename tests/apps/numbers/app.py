"""Returns what numerical code returns: NumPy's scalars and arrays, alone and in collections."""

import hydra
import numpy as np

VALUES = {
    "float32": np.float32(0.1),
    "int64": np.int64(3),
    "bool": np.bool_(True),
    "array_0d": np.array(2.5),
    "array_of_one": np.array([[2.5]]),
    "array": np.array([[1, 2], [3, 4]]),
    "objectives": [np.float64(1.0), np.float32(0.5)],
    "metrics": {"loss": np.float32("nan"), "epochs": np.int64(3), "best": np.array(True)},
    "complex": np.complex128(1 + 2j),
}


@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    return VALUES[cfg.name]


if __name__ == "__main__":
    main()
