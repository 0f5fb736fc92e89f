"""The table of recipes: which one a row of measurements runs by."""

from __future__ import annotations

from kpusim.errors import UserError
from kpusim.recipes import attention, elementwise, gather, gemm, launch, model, norm
from kpusim.recipes.kernel import Recipe
from kpusim.recipes.row import Row

__all__ = ["FAMILIES", "RECIPES", "recipe_of"]

RECIPES: tuple[Recipe, ...] = (
    *gemm.RECIPES, *attention.RECIPES, *norm.RECIPES, *elementwise.RECIPES, *gather.RECIPES, *launch.RECIPES,
    *model.RECIPES,
)  # fmt: skip
FAMILIES = tuple(dict.fromkeys(recipe.family for recipe in RECIPES))


def recipe_of(row: Row) -> Recipe:
    """The first recipe that applies to a row. Raises UserError if there is none, or its parameters are impossible."""
    for recipe in RECIPES:
        if recipe.family == row.family and recipe.applies(row):
            return recipe
    found = {"family": row.family, **row.params}
    raise UserError("no recipe applies", where=row.where, found=found, hint="see `kpusim validate --help`")
