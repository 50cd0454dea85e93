"""Prices: what a request, row, token, second or byte of a model costs, in a file of YAML.

Usage walk: invoice.py -> [prices.py]
Money is Decimal from the file's text to the invoice: binary fractions of a cent would not add up.
"""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from training.errors import UserError, summarize_validation_error
from training.schema import StrictModel


class ModelPrices(StrictModel):
    """What one model's usage costs, or that of all whose names match."""

    models: str = Field("*", description="Name of a model, in which * stands for any characters.")
    request: Decimal = Field(Decimal(0), ge=0, description="Price of an answered request.")
    rows_1k: Decimal = Field(Decimal(0), ge=0, description="Price of 1,000 rows.")
    tokens_in_1m: Decimal = Field(Decimal(0), ge=0, description="Price of 1,000,000 tokens of inputs.")
    tokens_out_1m: Decimal = Field(Decimal(0), ge=0, description="Price of 1,000,000 generated tokens.")
    compute_s: Decimal = Field(Decimal(0), ge=0, description="Price of a second of forward passes.")
    gb: Decimal = Field(Decimal(0), ge=0, description="Price of 1,000,000,000 bytes of requests and responses.")

    def matches(self, model: str) -> bool:
        """Whether they are those of a model."""
        return re.fullmatch(".*".join(map(re.escape, self.models.split("*"))), model) is not None


class PriceList(StrictModel):
    """The prices of all models: of several that match, the first."""

    currency: str = Field(pattern="^[A-Z]{3}$", description="Code of ISO 4217, as EUR.")
    decimals: int = Field(2, ge=0, le=6, description="Decimal places that each line of an invoice is rounded to.")
    prices: list[ModelPrices] = Field(min_length=1, description="By model.")

    def find(self, model: str) -> ModelPrices:
        """Find the prices of a model.

        Raises:
            UserError: there are none.
        """
        for prices in self.prices:
            if prices.matches(model):
                return prices
        raise UserError(f"no price for the model {model!r}; add an entry for it, or one with models: '*' at the end")


class _Loader(yaml.SafeLoader):
    """Reads numbers as they are written."""


_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: Decimal(str(node.value).replace("_", "")))


def load_prices(file: Path) -> PriceList:
    """Load a price list.

    Raises:
        UserError: it is none.
    """
    try:
        # A safe loader, which differs in its numbers alone.
        content: Any = yaml.load(file.read_text(), _Loader)  # nosec B506
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}; name a file of prices") from None
    except (yaml.YAMLError, ArithmeticError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return PriceList.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{file}: {summarize_validation_error(error)}") from None
