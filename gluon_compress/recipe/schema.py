"""The JSON Schema of recipes, by which editors complete, explain and check them.

``python -m gluon_compress.recipe.schema docs/recipe.schema.json`` writes it.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Union

from pydantic import TypeAdapter

from gluon_compress.recipe import RECIPES
from gluon_compress.storage.atomic import write_json

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema of recipes of all tasks."""
    recipes: Any = Union[tuple(RECIPES.values())]
    schema = TypeAdapter(recipes).json_schema()
    for cls in RECIPES.values():
        recipe = schema["$defs"][cls.__name__]
        where = {"type": "string", "description": "Where this schema is."}
        recipe["properties"] = {"$schema": where, **recipe["properties"]}
    return {
        "$schema": DIALECT,
        "title": "Recipe of gluon_compress",
        "description": "An experiment: net, data, compression and training.",
        **schema,
    }


def write_schema(path: str | os.PathLike) -> None:
    """Write the JSON Schema of recipes."""
    write_json(path, recipe_schema())


if __name__ == "__main__":
    write_schema(sys.argv[1])
