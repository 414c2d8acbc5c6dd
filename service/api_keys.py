"""API keys: scopes and rate limits, read from a file that contains only hashes."""

import hashlib
import hmac
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Annotated, Literal, Protocol, Self, get_args

import structlog
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from service.errors import InvalidConfiguration
from service.schema.validation import first_problem
from service.telemetry.events import ServerEvents
from service.token_bucket import TokenBucket

Scope = Literal["predict", "admin"]

NAME = r"[A-Za-z0-9_-]{1,64}"  # a bare key in TOML, and safe as a metric label

SCOPES: tuple[Scope, ...] = get_args(Scope)
TOKEN_PREFIX = "vt_"  # noqa: S105  # recognised by people and secret scanners
TOKEN_BYTES = 32
INDEX_BYTES = 8

_log = structlog.get_logger()


class Bucket(Protocol):
    """A rate limit."""

    rate: float
    burst: int

    def take(self) -> float:
        """Take a token and return 0; if there is none, return the seconds until there is one."""


NewBucket = Callable[[bytes, float, int], Bucket]
"""Makes the rate limit of the key with a digest, from its rate and its burst."""


class KeyEntry(BaseModel):
    """A key as described in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    requests_per_second: PositiveFloat | None = None
    burst: PositiveInt | None = None

    @model_validator(mode="after")
    def _burst_has_a_rate(self) -> Self:
        if self.burst is not None and self.requests_per_second is None:
            raise ValueError("burst needs requests_per_second")
        return self


_ENTRIES = TypeAdapter(dict[Annotated[str, Field(pattern=rf"^{NAME}$")], KeyEntry])


@dataclass(frozen=True)
class ApiKey:
    """A key that is valid now."""

    name: str
    digest: bytes
    scopes: frozenset[Scope]
    bucket: Bucket | None

    def take(self) -> float:
        """Count a request; return 0 if it is allowed, else the seconds until one would be."""
        return 0.0 if self.bucket is None else self.bucket.take()


class ApiKeys:
    """The keys of a file.

    Keys are random and 256 bits long. They cannot be guessed, so a plain SHA-256 is as safe as a
    slow hash.
    """

    def __init__(
        self,
        path: Path,
        events: ServerEvents,
        clock: Callable[[], float] = time.monotonic,
        shared_bucket: NewBucket | None = None,
    ) -> None:
        """Read the keys; `shared_bucket` makes rate limits that other processes share."""
        self.path = path
        self._shared_bucket = shared_bucket
        self._events = events
        self._clock = clock
        self._keys: Mapping[bytes, ApiKey] = {}
        self._load()

    def find(self, token: bytes) -> ApiKey | None:
        """Return the key of a token, in a time that does not reveal how much of it is right.

        A whole hash is always compared, whether or not its first bytes find a candidate.
        """
        digest = hashlib.sha256(token).digest()
        found = self._keys.get(digest[:INDEX_BYTES], _NOBODY)
        return found if hmac.compare_digest(found.digest, digest) else None

    def reload(self) -> None:
        """Read the file again; if it is not valid, keep the previous keys."""
        try:
            self._load()
        except InvalidConfiguration as error:
            self._events.file_reloaded("api_keys", ok=False)
            _log.error("api_keys_not_reloaded", error=str(error))
        else:
            _log.info("api_keys_reloaded", keys=[key.name for key in self._keys.values()])

    def _load(self) -> None:
        self._keys = self._read()
        self._events.file_reloaded("api_keys", ok=True)

    def _read(self) -> Mapping[bytes, ApiKey]:
        keys: dict[bytes, ApiKey] = {}
        for name, entry in _read_entries(self.path).items():
            digest = bytes.fromhex(entry.sha256)
            index = digest[:INDEX_BYTES]
            if index in keys:
                raise InvalidConfiguration(
                    f"The API keys {keys[index].name} and {name} in {self.path} are the same key."
                )
            keys[index] = ApiKey(name, digest, entry.scopes, self._bucket(digest, entry))
        return keys

    def _bucket(self, digest: bytes, entry: KeyEntry) -> Bucket | None:
        """Return the bucket of a key: the existing one, unless the limits have changed."""
        rate = entry.requests_per_second
        if rate is None:
            return None
        burst = entry.burst or ceil(rate)
        if self._shared_bucket is not None:
            return self._shared_bucket(digest, rate, burst)
        before = self._keys.get(digest[:INDEX_BYTES], _NOBODY).bucket
        if before is not None and (before.rate, before.burst) == (rate, burst):
            return before
        return TokenBucket(rate, burst, self._clock)


_NOBODY = ApiKey("", bytes(hashlib.sha256().digest_size), frozenset(), None)


def _read_entries(path: Path) -> Mapping[str, KeyEntry]:
    """Parse a file; error messages leave out the values, which may be secrets."""
    try:
        return _ENTRIES.validate_python(tomllib.loads(path.read_text()))
    except OSError as error:
        raise InvalidConfiguration(
            f"The API keys in {path} cannot be read: {error.strerror}."
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidConfiguration(
            f"The API keys in {path} are not valid TOML: not UTF-8."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfiguration(
            f"The API keys in {path} are not valid TOML: {error}."
        ) from error
    except ValidationError as error:
        raise InvalidConfiguration(
            f"The API keys in {path} are not valid: {first_problem(error)}."
        ) from None


def new_key(name: str, scopes: Sequence[Scope]) -> tuple[str, str]:
    """Create a key; return it, and the lines to add to the file."""
    if not re.fullmatch(NAME, name):
        raise InvalidConfiguration(
            f"{name!r} is not a valid key name; use 1 to 64 letters, digits, - and _."
        )
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    digest = hashlib.sha256(token.encode()).hexdigest()
    quoted = ", ".join(f'"{scope}"' for scope in scopes)
    return token, f'\n[{name}]\nsha256 = "{digest}"\nscopes = [{quoted}]\n'
