"""The part of the packaging that depends on the layout: device code lies in the top-level folder kernels."""

from setuptools import find_packages, setup

kernels = ["depthloss.kernels", *(f"depthloss.kernels.{name}" for name in find_packages("kernels"))]
setup(
    packages=[*find_packages(include=["depthloss", "depthloss.*"]), *kernels],
    package_dir={"depthloss.kernels": "kernels"},
)
