"""Reads data sets for calibration and evaluation: folders, labels, arrays, recordings in order."""
