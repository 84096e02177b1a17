"""JSON Schema of manifests and recipes; ``python -m hub_client.manifest.schema [FOLDER]`` writes ``schemas/``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from hub_client.manifest.configs import CONFIGS
from hub_client.manifest.recipe import Recipe
from hub_client.manifest.v1 import SCHEMA_VERSION, Manifest

SCHEMAS: dict[str, type[BaseModel]] = {f"manifest-{SCHEMA_VERSION}.json": Manifest, "recipe-1.json": Recipe}
"""File name to the model whose schema it holds. A file of an earlier version is never removed."""
NAMES = {config.__name__: config.model_config.get("title") or config.__name__ for config in CONFIGS.values()}
"""What a released schema calls a class that has another name by now."""
FOLDER = Path(__file__).resolve().parents[2] / "schemas"


class _Named(GenerateJsonSchema):
    """A schema whose definitions keep the names they were released with."""

    def normalize_name(self, name: str) -> str:
        """Return the name of a class's definition."""
        return super().normalize_name(NAMES.get(name, name))


def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) that the file of this name holds."""
    found = SCHEMAS[name].model_json_schema(schema_generator=_Named)
    if SCHEMAS[name] is Manifest:  # the document of a delta may leave the genes to an earlier one
        found["required"].remove("genes")
        found["anyOf"] = [{"required": ["genes"]}, {"required": ["delta"]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:archzoo:{name}", **found}


def text(name: str) -> str:
    """Return the schema file's text: sorted keys, newline at the end."""
    return json.dumps(schema(name), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write(folder: Path = FOLDER) -> list[Path]:
    """Write every schema file and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SCHEMAS:
        (folder / name).write_text(text(name), encoding="utf-8")
    return [folder / name for name in SCHEMAS]


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:]))
