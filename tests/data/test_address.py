"""URLs of sources: variables filled in, passwords nowhere to be seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.address import is_address, resolve
from shared.config import load_config, parse_config
from shared.errors import ConfigError
from shared.sections import to_toml

PASSWORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=4).filter(
    lambda text: text.strip() and text not in "postgresql://shop@db.example:5432/shop (said: )"
)


@given(password=PASSWORDS)
def test_a_password_from_a_variable_needs_no_escaping_and_is_never_shown(password: str) -> None:
    template = "postgresql://shop:${PW}@db.example:5432/shop?sslmode=require"
    address = resolve(template, "data.source", {"PW": password})
    assert address.shown == "postgresql://shop@db.example:5432/shop"
    said = address.redacted(RuntimeError(f"said: {address.url} ({password})"))
    assert password not in said
    assert password not in repr(address)


def test_a_variable_may_hold_the_whole_url() -> None:
    address = resolve("${SHOP}", "data.source", {"SHOP": "mysql://me:pw%40x@host/shop"})
    assert (address.scheme, address.shown) == ("mysql", "mysql://me@host/shop")
    assert address.redacted(RuntimeError("pw@x pw%40x")) == "*** ***"


def test_a_variable_in_the_place_of_a_user_is_not_shown() -> None:
    address = resolve("https://${T}@host/shop.csv", "data.source", {"T": "t0/ken"})
    assert address.shown == "https://host/shop.csv"
    assert "t0" not in address.redacted(RuntimeError("t0/ken t0%2Fken"))


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(ConfigError, match=r"data\.source needs the environment variable NOPE,"):
        resolve("postgresql://a:${NOPE}@host/shop", "data.source", {})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://a:p4ss/word@host/shop",
        "postgresql://a:p4ss@word@host/shop",
        "postgresql://a:p4ss?word@host/shop",
        "postgresql://a:p4ss#word@host/shop",
        "postgresql://a@host:p4ss/shop",
        "postgresql://a:[p4ss@host/shop",
        "p4ssword",
    ],
)
def test_a_url_that_is_not_well_formed_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="not a well-formed URL") as caught:
        resolve("${SHOP}", "data.source", {"SHOP": url})
    assert "p4ss" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_parameters_are_not_shown_and_a_token_is_hidden() -> None:
    address = resolve("sc://host:15002/;use_ssl=true;token=${T}", "data.source", {"T": "t0ken"})
    assert address.shown == "sc://host:15002/"
    assert "t0ken" not in address.redacted(RuntimeError("bad token t0ken"))


@pytest.mark.parametrize(
    "source",
    [
        "postgresql://shop:secret@host/shop",
        "postgresql://shop:sec/r@et@host/shop",
        "postgresql://shop:${PW}x@host/shop",
        "postgresql://host/shop?user=shop&password=secret",
        "sc://host/;token=secret",
        "s3://key:secret@bucket/shop",
        "https://host/shop.csv?X-Amz-Signature=abc",
    ],
)
@pytest.mark.parametrize("option", ["source", "interactions", "items"])
def test_a_password_in_the_settings_is_refused_and_not_shown(source: str, option: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{option} holds a password") as caught:
        parse_config({"data": {option: source}}, "x.toml")
    assert source not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "postgresql://shop:${PW}@host:5432/shop",
        "postgresql://shop@host:5432/shop?sslmode=verify-full&sslkey=/etc/client.key",
        "sc://host/;token=${TOKEN}",
        "s3://bucket/a:b/shop",
        "folder/with:colon@sign",
        "sqlite:////var/lib/shop.db",
    ],
)
def test_what_holds_no_password_is_taken_and_written_as_it_is(source: str) -> None:
    config = load_config(None, [], {"data.source": source})
    assert config.data.source == source
    assert source in to_toml(config)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("movielens-100k", False),
        ("/a/b", False),
        ("s3://a", True),
        ("${A}", True),
        ("a${A}", False),
    ],
)
def test_addresses_are_told_from_paths(source: str, expected: bool) -> None:
    assert is_address(source) is expected
