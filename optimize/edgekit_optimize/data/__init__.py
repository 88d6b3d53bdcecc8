"""Reads the user's data and splits them into a calibration and an evaluation set.

In: a folder of pictures, an ``.npz`` file or a Python function ``module:function``, and the model's logical
inputs. Out: a ``Split`` of two ``Dataset`` objects that share no sample, with facts and warnings for the
report. ``canonical`` then normalises a data set for a runtime.

>>> from edgekit_optimize.data.dataset import canonical, read_split
>>> split = read_split("pictures", inputs, prepare, labels=("cat", "dog"))  # doctest: +SKIP
>>> feeds = canonical(split.calibration, root)  # doctest: +SKIP
"""
