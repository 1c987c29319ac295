"""Whatever a request looks like, the answer is one that the service's own description has."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


OPERATIONS = (
    ("GET", "/healthz"),
    ("GET", "/metrics"),
    ("GET", "/v1/federation"),
    ("GET", "/v1/privacy"),
    ("GET", "/v1/users"),
    ("GET", "/v1/users/{user}"),
    ("GET", "/v1/users/{user}/explanations/{item}"),
    ("GET", "/v1/users/{user}/interests"),
    ("GET", "/v1/users/{user}/recommendations"),
    ("GET", "/v1/users/{user}/words"),
    ("POST", "/v1/recommendations"),
)


@pytest.fixture(scope="module")
def described(address: str) -> schemathesis.BaseSchema:
    """The service, by its own OpenAPI."""
    return schemathesis.openapi.from_url(f"{address}/openapi.json")


def test_every_operation_is_tried(described: schemathesis.BaseSchema) -> None:
    found = [one.ok() for one in described.get_all_operations()]
    assert sorted((one.method.upper(), one.path) for one in found) == list(OPERATIONS)


TRIALS = [(*one, GenerationMode.POSITIVE) for one in OPERATIONS] + [
    # Nothing of the others can be malformed.
    (*one, GenerationMode.NEGATIVE)
    for one in OPERATIONS
    if one[1].startswith(("/v1/users", "/v1/rec")) and not one[1].endswith("interests")
]


@pytest.mark.parametrize(("method", "path", "mode"), TRIALS)
def test_no_request_whatever_it_holds_breaks_the_service(
    described: schemathesis.BaseSchema, method: str, path: str, mode: GenerationMode
) -> None:
    operation = described[path][method]

    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    @settings(
        max_examples=60,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def answered(case: schemathesis.Case, known: bool) -> None:
        if known and mode is GenerationMode.POSITIVE:
            # Beyond the first refusal.
            case.path_parameters = {name: KNOWN[name] for name in case.path_parameters or {}}
            if isinstance(case.body, dict):
                case.body["history"] = ["film-1", "film/3", "film-1"]
        response = case.call()
        if len(str(response.request.url)) > LONGEST_ADDRESS:
            # The HTTP parser refuses it before the service is asked.
            assert 400 <= response.status_code < 500
            return
        case.validate_response(response, checks=CHECKS)

    answered()


KNOWN = {"user": "user-1", "item": "film-2"}
# Of httptools, which reads lengths in 16 bits.
LONGEST_ADDRESS = 2**16 - 64

RAW = (
    ("GET", "/v1/users/%00/recommendations", b""),
    ("GET", "/v1/users/%FF%FE", b""),
    ("GET", "/v1/users/user-1/recommendations?need=%FF%00%ED%A0%80", b""),
    ("GET", "/v1/users/user-1/recommendations?k=1e999", b""),
    ("GET", "/v1/users/user-1/recommendations?filter=year%3E%3Dnan", b""),
    ("GET", "/v1/users/user-1/recommendations?filter=%3D%3D%3D", b""),
    ("GET", "/v1/users/../../../etc/passwd", b""),
    ("GET", "/page/..%2f..%2fapi.py", b""),
    ("POST", "/v1/recommendations", b"{"),
    ("POST", "/v1/recommendations", b"\xff\xfe\x00"),
    ("POST", "/v1/recommendations", b"[" * 100_000),
    ("POST", "/v1/recommendations", b'{"history": ["\\ud800"]}'),
    ("POST", "/v1/recommendations", b'{"history": [], "k": 1e400}'),
    ("POST", "/v1/recommendations", b'{"history": [], "diversity": NaN}'),
    ("POST", "/v1/recommendations", b'{"history": [], "need": "\\u0000\\ud83d"}'),
    ("POST", "/v1/recommendations", b'{"history": ' + b"9" * 10_000 + b"}"),
)


@pytest.mark.parametrize(("method", "path", "body"), RAW)
def test_bytes_that_no_client_means_are_answered(
    address: str, method: str, path: str, body: bytes
) -> None:
    host, port = address.removeprefix("http://").split(":")
    url = httpx.URL(scheme="http", host=host, port=int(port), raw_path=path.encode())
    with httpx.Client(timeout=60.0) as client:
        request = httpx.Request(method, url, content=body)
        request.headers["Content-Type"] = "application/json"
        answer = client.send(request)
    assert answer.status_code < 500
    assert "root:" not in answer.text
