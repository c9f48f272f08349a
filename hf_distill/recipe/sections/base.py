"""What all sections of a recipe are. Numbers may stand in quotes (`"1e-4"`); beyond that nothing is converted or
ignored."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Section(BaseModel):
    """A mapping of a recipe: every key is known, every value has the right kind, and nothing changes afterwards."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=False,
    )

    @classmethod
    def keys(cls) -> list[str]:
        """The keys that may be written here."""
        return [info.alias or name for name, info in cls.model_fields.items()]

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}
