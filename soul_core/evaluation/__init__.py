"""Evaluation: what is measured of a model, compared between models, and concluded from it."""
