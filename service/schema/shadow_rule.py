"""The rule that copies a share of a model's requests to another of its versions."""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import floor

_RULE = re.compile(r"(?P<model>[^:@]+):(?P<version>[1-9][0-9]{0,17})@(?P<share>[0-9.]+)")


@dataclass(frozen=True)
class ShadowRule:
    """Copy a share of the requests for a model to this version of it."""

    model: str
    version: str
    share: Decimal

    def is_due(self, number: int) -> bool:
        """Return whether to copy this request; requests are numbered from 1.

        Of the first n requests, n times the share, rounded down, are copied.
        """
        return floor(number * self.share) > floor((number - 1) * self.share)


def parse_shadow_rule(text: str) -> ShadowRule:
    """Parse `name:2@0.1`; raises `ValueError` with one sentence."""
    match = _RULE.fullmatch(text)
    try:
        share = Decimal(match["share"]) if match else Decimal(0)
    except InvalidOperation:
        share = Decimal(0)
    if match is None or not 0 < share <= 1:
        raise ValueError("must be MODEL:VERSION@SHARE with a share above 0 and at most 1")
    return ShadowRule(match["model"], match["version"], share)
