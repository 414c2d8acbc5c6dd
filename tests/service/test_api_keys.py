import hashlib
import hmac
import tomllib
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.__main__ import main
from service.api_keys import ApiKeys, new_key
from service.errors import InvalidConfiguration
from service.telemetry.metrics import PrometheusMetrics
from tests.service.clock import Clock
from tests.service.telemetry.samples import value

DIGEST = hashlib.sha256(b"secret").hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def entry(name: str = "shop", token: str = "secret", more: str = "") -> str:  # noqa: S107
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'[{name}]\nsha256 = "{digest}"\nscopes = ["predict"]\n{more}\n'


def test_a_new_key_is_admitted_by_its_lines(path: Path) -> None:
    first, first_lines = new_key("shop", ["predict"])
    second, second_lines = new_key("ops", ["predict", "admin"])
    path.write_text(first_lines + second_lines)
    keys = ApiKeys(path, PrometheusMetrics().server)
    assert (keys.find(first.encode()).name, keys.find(first.encode()).scopes) == (
        "shop",
        {"predict"},
    )
    assert keys.find(second.encode()).scopes == {"predict", "admin"}
    assert first not in path.read_text()


def test_keys_have_256_random_bits() -> None:
    tokens = {new_key("shop", ["predict"])[0] for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) == len("vt_") + 43 for token in tokens)  # 256 bits as base64


def test_other_tokens_are_not_found(path: Path) -> None:
    path.write_text(entry())
    keys = ApiKeys(path, PrometheusMetrics().server)
    for token in (b"", b"secre", b"secret ", b"Secret", DIGEST.encode(), b"\xff" * 4000):
        assert keys.find(token) is None


def test_each_lookup_compares_one_whole_hash(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare_digest(one, other)

    compare_digest = hmac.compare_digest
    monkeypatch.setattr("service.api_keys.hmac.compare_digest", compare)
    path.write_text(entry() + entry("other", "another"))
    keys = ApiKeys(path, PrometheusMetrics().server)
    assert keys.find(b"secret") is not None
    assert keys.find(b"nonsense") is None
    assert compared == [(32, 32)] * 2


def test_a_hash_with_the_same_first_bytes_does_not_match(path: Path) -> None:
    near = DIGEST[:-1] + ("0" if DIGEST[-1] != "0" else "1")
    path.write_text(entry().replace(DIGEST, near))
    assert ApiKeys(path, PrometheusMetrics().server).find(b"secret") is None


def test_the_default_burst_is_one_second_of_the_rate(path: Path) -> None:
    path.write_text(entry(more="requests_per_second = 2.5"))
    key = ApiKeys(path, PrometheusMetrics().server, Clock()).find(b"secret")
    assert [key.take() > 0 for _ in range(4)] == [False, False, False, True]


def test_a_key_without_a_rate_is_not_limited(path: Path) -> None:
    path.write_text(entry())
    key = ApiKeys(path, PrometheusMetrics().server, Clock()).find(b"secret")
    assert not any(key.take() for _ in range(1000))


BROKEN = {
    "no toml": ("[shop", "not valid TOML"),
    "not text": (b"\xff\xfe", "not UTF-8"),
    "a key instead of its hash": (entry().replace(DIGEST, "vt_geheim"), "shop.sha256"),
    "an unknown scope": (entry().replace('"predict"', '"root"'), "shop.scopes"),
    "no scope": (entry().replace('"predict"', ""), "shop.scopes"),
    "a misspelt limit": (entry(more="request_per_second = 1"), "request_per_second"),
    "a burst alone": (entry(more="burst = 1"), "burst needs requests_per_second"),
    "a rate of nothing": (entry(more="requests_per_second = 0"), "requests_per_second"),
    "a name with spaces": (entry('"the shop"'), "the shop"),
    "the same key twice": (entry() + entry("again"), "shop and again"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_invalid_file_is_reported_in_one_sentence_without_secrets(path: Path, case: str) -> None:
    text, sentence = BROKEN[case]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidConfiguration) as caught:
        ApiKeys(path, PrometheusMetrics().server)
    message = str(caught.value)
    assert sentence in message
    assert str(path) in message
    assert "geheim" not in message
    assert "\n" not in message


def test_a_missing_file_is_reported_in_one_sentence(path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="cannot be read: No such file"):
        ApiKeys(path, PrometheusMetrics().server)


def test_reloading_admits_new_keys_and_revokes_missing_ones(path: Path) -> None:
    path.write_text(entry())
    keys = ApiKeys(path, PrometheusMetrics().server)
    path.write_text(entry("ops", "other"))
    with capture_logs() as logs:
        keys.reload()
    assert (keys.find(b"secret"), keys.find(b"other").name) == (None, "ops")
    assert [(line["event"], line["keys"]) for line in logs] == [("api_keys_reloaded", ["ops"])]
    path.write_text("")
    keys.reload()
    assert keys.find(b"other") is None


def test_an_invalid_change_keeps_the_previous_keys(path: Path) -> None:
    path.write_text(entry())
    keys = ApiKeys(path, PrometheusMetrics().server)
    path.write_text("[shop")
    with capture_logs() as logs:
        keys.reload()
    assert keys.find(b"secret").name == "shop"
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("api_keys_not_reloaded", "error")
    ]


def test_a_metric_shows_whether_the_last_reload_succeeded(path: Path) -> None:
    metrics = PrometheusMetrics()

    def succeeded() -> float | None:
        return value(metrics, "vt_last_reload_successful", file="api_keys")

    assert succeeded() is None
    path.write_text(entry())
    keys = ApiKeys(path, metrics.server)
    assert succeeded() == 1
    for damage in (lambda: path.write_text("[shop"), path.unlink):
        damage()
        keys.reload()
        assert succeeded() == 0
        path.write_text(entry())
        keys.reload()
        assert succeeded() == 1


def test_a_reload_keeps_the_bucket_of_a_key_with_the_same_limits(path: Path) -> None:
    limited = entry(more="requests_per_second = 1")
    path.write_text(limited)
    keys = ApiKeys(path, PrometheusMetrics().server, Clock())
    assert keys.find(b"secret").take() == 0
    path.write_text(limited + entry("other", "another"))
    keys.reload()
    assert keys.find(b"secret").take() > 0
    path.write_text(entry(more="requests_per_second = 2"))
    keys.reload()
    assert keys.find(b"secret").take() == 0


def test_the_command_prints_the_key_to_stderr_and_its_lines_to_stdout(
    capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    assert main(["--new-key", "ops", "--scope", "predict", "--scope", "admin"]) == 0
    out, err = capsys.readouterr()
    token = err.split()[-1]
    assert token not in out
    assert set(tomllib.loads(out)["ops"]["scopes"]) == {"predict", "admin"}
    path.write_text(out)
    assert ApiKeys(path, PrometheusMetrics().server).find(token.encode()).name == "ops"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--new-key", "two words"], "'two words' is not"),
        (["--scope", "admin"], "--scope is only valid with --new-key"),
    ],
)
def test_wrong_arguments_are_reported_in_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err
