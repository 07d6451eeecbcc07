"""The OpenAPI document is right: requests generated from it get replies that it describes, and no fault."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service.servers import Running

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 15  # for each operation


def document(running: Running) -> dict[str, Any]:
    found: dict[str, Any] = running.client.get("/openapi.json").json()
    return found


def test_every_operation_describes_its_errors(running: Running) -> None:
    paths = document(running)["paths"]
    assert {"/v1/streams", "/v1/chat/completions", "/v1/streams/{name}/frames"} <= set(paths)
    for path, operations in paths.items():
        for operation in operations.values():
            content = operation["responses"]["4XX"]["content"]
            assert content["application/json"]["schema"]["$ref"].endswith("/ErrorReply"), path
    fault = running.client.get("/v1/streams/nowhere").json()
    described = document(running)["components"]["schemas"]
    assert set(fault["error"]) == set(described["Fault"]["properties"]) == set(described["Fault"]["required"])


@pytest.mark.slow
def test_generated_requests_get_the_replies_that_are_described(running: Running) -> None:
    running.add("generated", 3)
    schema = schemathesis.openapi.from_dict(document(running))
    statuses: Counter[int] = Counter()
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]
        if operation.path.endswith("/events"):
            continue  # a reply that does not end

        @hypothesis.settings(
            max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(case=operation.as_strategy())
        def check(case: Any) -> None:
            if "name" in case.path_parameters and case.method != "DELETE":
                case.path_parameters["name"] = "generated"
            reply = case.call(base_url=running.address)
            statuses[reply.status_code] += 1
            case.validate_response(reply, checks=CHECKS)

        check()
    assert statuses.keys() >= {200, 201, 404, 422}
