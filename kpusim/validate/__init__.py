"""Predictions held against measurements: rows of a CSV file, the recipes they ran by, and how far off the model is."""
