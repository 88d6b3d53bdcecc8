"""Builds the bundles of the model zoo.

In: a recipe, the folder ``models/NAME`` with ``recipe.toml`` (the packages that carry the weights, each
pinned by its hash, and the variants) and ``build.py`` (how weights become a network and golden samples).
Out: a bundle folder or ``.ekb`` file. Packages are fetched once and kept in a cache.

>>> from edgekit_optimize.zoo.build import build
>>> build("imu-exercise", Path("bundles"))  # doctest: +SKIP
PosixPath('bundles/imu-exercise-1.0.0')
"""
