"""Settings, read once from the command line and `VT_*` variables."""

import os
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FiniteFloat,
    HttpUrl,
    IPvAnyNetwork,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import InvalidConfiguration
from service.runtime.execution_providers import ProviderName
from service.schema.path_prefix import parse_path_prefix
from service.schema.shadow_rule import ShadowRule, parse_shadow_rule
from service.schema.version_policy import VersionPolicy, parse_version_policy

PREFIX = "VT_"
FLAGS = ("host", "port", "model_repository")
SECRET = frozenset({"otlp_endpoint", "cors_origins"})
"""URLs, which may contain passwords: error messages leave out their values."""


def _split(text: Any) -> Any:
    """Split text at its commas; pass other values through."""
    return [each.strip() for each in text.split(",")] if isinstance(text, str) else text


Seconds = Annotated[FiniteFloat, Field(gt=0)]
NonNegativeSeconds = Annotated[FiniteFloat, Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Frontends = Literal["auto"] | Annotated[int, Field(ge=0, le=64)]
Rule = Annotated[ShadowRule, NoDecode, BeforeValidator(parse_shadow_rule)]
GpuDevices = Annotated[
    tuple[NonNegativeInt, ...], NoDecode, BeforeValidator(_split), Field(min_length=1)
]
PathPrefix = Annotated[str, AfterValidator(parse_path_prefix)]
Networks = Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(_split)]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/*\s]+)$")]
Policy = Annotated[VersionPolicy, NoDecode, BeforeValidator(parse_version_policy)]


class Settings(BaseSettings):
    """Everything an operator can set; `docs/configuration.md` describes each setting."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid"
    )

    host: str = "127.0.0.1"
    port: Port = 8000
    model_repository: Path = Path("weights")
    version_policy: Policy | None = None
    repository_poll_seconds: Seconds | None = None
    shadow: Rule | None = None

    api_keys_file: Path | None = None
    local_key_file: Path | None = None
    require_key_for_metadata: bool = False
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_split)] | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    playground: bool = True
    root_path: PathPrefix | None = None
    trusted_proxies: Networks = (ip_network("127.0.0.1"), ip_network("::1"))

    max_connections: PositiveInt = 512
    max_header_bytes: PositiveInt = 32 * 1024
    header_timeout_seconds: Seconds = 10.0
    send_timeout_seconds: Seconds = 20.0
    keep_alive_timeout_seconds: Seconds = 75.0

    frontends: Frontends = "auto"

    max_body_bytes: PositiveInt = 16 * 1024 * 1024
    max_image_pixels: PositiveInt = 64 * 1024 * 1024
    max_images_per_request: PositiveInt = 64
    max_concurrent_requests: PositiveInt = 128
    max_queue_size: PositiveInt | None = None

    default_timeout_seconds: Seconds = 30.0
    body_timeout_seconds: Seconds = 20.0
    drain_timeout_seconds: Seconds = 20.0

    max_batch_size: PositiveInt | None = None
    max_batch_seconds: Seconds = 0.2
    token_sample_seconds: NonNegativeSeconds = 5.0
    max_queue_delay_microseconds: NonNegativeInt | None = None
    calibration_folder: Path | None = None

    execution_providers: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    require_provider: ProviderName | None = None
    gpu_devices: GpuDevices = (0,)
    gpu_memory_limit_bytes: PositiveInt | None = None
    tensorrt_cache_folder: Path | None = None
    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto"
    intra_op_num_threads: PositiveInt | None = None
    image_threads: PositiveInt | None = None

    metrics_port: Port | None = None
    metrics_triton_names: bool = False
    otlp_endpoint: HttpUrl | None = None
    trace_sample_ratio: Annotated[FiniteFloat, Field(ge=0, le=1)] = 1.0

    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("Set both VT_TLS_CERTIFICATE and VT_TLS_KEY, or neither.")
        if self.require_key_for_metadata and self.api_keys_file is None:
            raise ValueError("VT_REQUIRE_KEY_FOR_METADATA needs VT_API_KEYS_FILE.")
        return self


def read_settings(flags: Mapping[str, Any]) -> Settings:
    """Combine the command line's flags with the environment; the flags take precedence."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise InvalidConfiguration(_sentence(error)) from error


def unknown_variables() -> list[str]:
    """List the `VT_*` variables that match no setting, usually because they are misspelt."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)


def _sentence(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    if not problem["loc"]:  # a rule about several settings
        return str(problem["ctx"]["error"])
    name = str(problem["loc"][0])
    flag = f" (--{name.replace('_', '-')})" if name in FLAGS else ""
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    value = "not valid" if name in SECRET else repr(problem["input"])
    return f"{PREFIX}{name.upper()}{flag} is {value}: {message}"
