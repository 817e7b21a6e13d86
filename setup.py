"""The list of packages: those below recbole_kd, and the property files beside it in a checkout."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["recbole_kd", "recbole_kd.*"]), "recbole_kd.properties"])
