from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import InvalidConfiguration
from service.schema.version_policy import Specific, VersionPolicy
from service.settings import Settings, read_settings, unknown_variables


def test_settings_have_defaults() -> None:
    settings = read_settings({})
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.model_repository == Path("weights")
    assert settings.max_body_bytes == 16 * 1024 * 1024
    assert settings.max_image_pixels == 64 * 1024 * 1024
    assert settings.max_images_per_request == 64


def test_flags_take_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_PORT", "9000")
    monkeypatch.setenv("VT_HOST", "0.0.0.0")  # noqa: S104
    settings = read_settings({"port": "9001", "host": None})
    assert (settings.port, settings.host) == (9001, "0.0.0.0")  # noqa: S104


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_PORT", "")
    assert read_settings({}).port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VT_PORT", "70000"),
        ("VT_PORT", "http"),
        ("VT_MAX_BODY_BYTES", "0"),
        ("VT_DEFAULT_TIMEOUT_SECONDS", "-1"),
        ("VT_LOG_FORMAT", "xml"),
        ("VT_EXECUTION_PROVIDERS", "tpu"),
        ("VT_PRECISION", "int4"),
        ("VT_VERSION_POLICY", "newest"),
        ("VT_VERSION_POLICY", "latest:0"),
        ("VT_REPOSITORY_POLL_SECONDS", "0"),
        ("VT_TRACE_SAMPLE_RATIO", "nan"),
    ],
)
def test_an_invalid_value_is_reported_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidConfiguration) as caught:
        read_settings({})
    sentence = str(caught.value)
    assert sentence.startswith(name)
    assert repr(value) in sentence
    assert "\n" not in sentence


SECONDS = [name for name in Settings.model_fields if name.endswith("_seconds")]


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("name", SECONDS)
def test_times_must_be_finite(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    variable = f"VT_{name.upper()}"
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidConfiguration, match=f"^{variable} is '{value}': "):
        read_settings({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VT_OTLP_ENDPOINT", "grpc://user:SECRET@collector:4317"),
        ("VT_OTLP_ENDPOINT", "user:SECRET@collector"),
        ("VT_CORS_ORIGINS", "https://shop.example,ftp://user:SECRET@shop.example"),
    ],
)
def test_an_invalid_url_is_not_repeated_since_it_may_contain_a_password(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidConfiguration, match=f"^{name} is not valid: ") as caught:
        read_settings({})
    assert "SECRET" not in str(caught.value)


def test_the_version_policy_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings({}).version_policy is None
    monkeypatch.setenv("VT_VERSION_POLICY", "specific:1,3")
    assert read_settings({}).version_policy == VersionPolicy(specific=Specific(versions=[1, 3]))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("VT_TLS_CERTIFICATE", "Set both VT_TLS_CERTIFICATE and VT_TLS_KEY, or neither."),
        ("VT_TLS_KEY", "Set both VT_TLS_CERTIFICATE and VT_TLS_KEY, or neither."),
        ("VT_REQUIRE_KEY_FOR_METADATA", "VT_REQUIRE_KEY_FOR_METADATA needs VT_API_KEYS_FILE."),
    ],
)
def test_settings_that_depend_on_each_other_are_checked(
    monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(InvalidConfiguration, match=f"^{sentence}$"):
        read_settings({})


def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_CORS_ORIGINS", "https://shop.example, http://localhost:3000")
    origins = ("https://shop.example", "http://localhost:3000")
    assert read_settings({}).cors_origins == origins


@pytest.mark.parametrize("value", ["shop.example", "https://shop.example/", "*.example", ","])
def test_an_invalid_origin_is_reported(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("VT_CORS_ORIGINS", value)
    with pytest.raises(InvalidConfiguration, match="VT_CORS_ORIGINS is "):
        read_settings({})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


def test_unknown_variables_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_MAX_BODY_BYTE", "1")
    monkeypatch.setenv("VT_MAX_BODY_BYTES", "1")
    assert unknown_variables() == ["VT_MAX_BODY_BYTE"]


def test_gpu_devices_are_numbers_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings({}).gpu_devices == (0,)
    monkeypatch.setenv("VT_GPU_DEVICES", "0,2")
    assert read_settings({}).gpu_devices == (0, 2)
    monkeypatch.setenv("VT_GPU_DEVICES", "first")
    with pytest.raises(InvalidConfiguration, match="VT_GPU_DEVICES"):
        read_settings({})
