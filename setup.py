"""Find the packages; pyproject.toml says where ``msip_cli`` and ``msip_data_manifests`` lie."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["msip", "msip.*", "pad", "pad.*"]), "msip_cli", "msip_data_manifests"])
