"""Recipes of family norm."""

from __future__ import annotations

from kpusim.recipes.kernel import Recipe

__all__ = ["RECIPES"]

RECIPES: tuple[Recipe, ...] = ()
