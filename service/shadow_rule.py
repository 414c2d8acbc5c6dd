"""Which requests are copied to which version."""

import re
from dataclasses import dataclass

_RULE = re.compile(r"(?P<model>[^:@]+):(?P<version>[1-9][0-9]{0,17})@(?P<share>[0-9.]+)")


@dataclass(frozen=True)
class ShadowRule:
    """A share of the requests for a model is copied to this version of it."""

    model: str
    version: str
    share: float


def parse_shadow_rule(text: str) -> ShadowRule:
    """Read `name:2@0.1`; raises `ValueError` with one sentence."""
    match = _RULE.fullmatch(text)
    try:
        share = float(match["share"]) if match else 0.0
    except ValueError:
        share = 0.0
    if match is None or not 0 < share <= 1:
        raise ValueError("must be MODEL:VERSION@SHARE with a share above 0 and at most 1")
    return ShadowRule(match["model"], match["version"], share)
