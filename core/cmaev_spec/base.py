"""The common base of every part of a specification."""

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """Immutable data in which a misspelt key is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
