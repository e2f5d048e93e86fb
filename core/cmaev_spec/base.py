"""The common base of every part of a specification."""

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """Immutable data: a misspelt key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )
