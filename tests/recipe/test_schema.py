from __future__ import annotations

import json
from pathlib import Path

import pytest

from gluon_compress.recipe.schema import recipe_schema, write_schema

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def schema() -> dict:
    return recipe_schema()


def test_committed_schema_is_current(tmp_path):
    write_schema(tmp_path / "schema.json")
    committed = ROOT / "docs" / "recipe.schema.json"
    assert committed.read_text() == (tmp_path / "schema.json").read_text(), (
        "write it: python -m gluon_compress.recipe.schema docs/recipe.schema.json"
    )


def test_every_property_is_explained(schema):
    unexplained = [
        f"{name}.{key}"
        for name, definition in schema["$defs"].items()
        for key, entry in definition.get("properties", {}).items()
        if not entry.get("description")
    ]
    assert unexplained == []


def test_registries_and_limits_are_in_the_schema(schema):
    prune = schema["$defs"]["PruneSettings"]["properties"]
    assert "taylor" in prune["criterion"]["enum"]
    assert "greedy" in prune["selection"]["enum"]
    assert schema["$defs"]["Schedule"]["properties"]["epochs"]["minimum"] == 1
    rows = schema["$defs"]["DetectionRecipe"]["properties"]["compression"]["items"]
    assert {"$ref": "#/$defs/DeleteSettings"} in rows["anyOf"]


def test_recipes_may_name_the_schema(schema):
    for name in ("DetectionRecipe", "ClassificationRecipe"):
        assert "$schema" in schema["$defs"][name]["properties"]
        assert schema["$defs"][name]["additionalProperties"] is False


def test_schema_is_json(schema):
    assert json.loads(json.dumps(schema)) == schema
