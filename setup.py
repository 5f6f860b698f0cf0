"""Packaging of hydra-docker-launcher."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "hydra_plugins/hydra_docker_launcher/__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="hydra-docker-launcher",
    version=VERSION,
    description="Hydra launcher plugin: every job of a sweep in a Docker container of its own, "
    "pinned to a commit and an image, recorded in MLflow",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_namespace_packages(include=["hydra_plugins.*"]),
    package_data={"hydra_plugins.hydra_docker_launcher": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=[
        "hydra-core>=1.3,<1.5",
        "omegaconf>=2.3",
        "docker>=7",
        "gitpython>=3.1.40",
        "mlflow>=3.1",
        "pyyaml>=5.1",
        'tomli>=1.1; python_version < "3.11"',
    ],
    # To compare volumes with what the commit's DVC files pin (hydra.launcher.data_check).
    extras_require={"dvc": ["dvc>=3"]},
    # Hydra 1.4 finds plugins by this; 1.3 by the namespace package alone.
    entry_points={
        "hydra.plugins": [
            "docker = hydra_plugins.hydra_docker_launcher.docker_launcher:DockerLauncher"
        ],
        "console_scripts": ["hydra-docker = hydra_plugins.hydra_docker_launcher._cli:main"],
    },
    # There is no classifier for Hydra; the tests run on 1.3 and on the newest 1.4.
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: MIT License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Typing :: Typed",
    ],
)
