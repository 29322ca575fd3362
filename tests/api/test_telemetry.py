"""Requests are measured by route template; nothing that a caller chooses becomes a label."""

from collections.abc import Callable

from tests.api.conftest import ApiClient
from tests.fixtures.samples import read_samples

COUNT = "soul_http_request_seconds_count"


def test_requests_are_counted_by_the_template_of_their_route(admin: ApiClient) -> None:
    before = read_samples(COUNT)

    admin("GET", "/v1/jobs/job_0000")
    admin("GET", "/v1/jobs/job_0001")

    after = read_samples(COUNT)
    assert {
        labels: after[labels] - before.get(labels, 0) for labels in after if after[labels] != before.get(labels)
    } == {("GET", "/v1/jobs/{job_id}", "404"): 2}


def test_unknown_paths_and_methods_make_no_labels_of_their_own(admin: ApiClient) -> None:
    admin("GET", "/v1/nothing/job_0000")
    admin("GET", "/wp-login.php?x=1")
    admin("BREW", "/v1/jobs")

    methods, routes = ({labels[index] for labels in read_samples(COUNT)} for index in (0, 1))
    assert "BREW" not in methods
    assert all(route == "none" or route.startswith(("/v1/", "/healthz", "/readyz", "/openapi")) for route in routes)
    assert not {route for route in routes if "job_0000" in route or "wp-login" in route}


def test_uploaded_bytes_are_counted_by_route(admin: ApiClient) -> None:
    before = read_samples("soul_http_upload_bytes_total").get(("/v1/datasets",), 0)

    admin.upload(b'{"prompt": "a", "completion": "b"}\n' * 1000)

    assert read_samples("soul_http_upload_bytes_total")["/v1/datasets",] - before > 35_000


def test_a_stream_is_open_while_it_runs_and_is_no_slow_request(admin: ApiClient, finish: Callable[[str], str]) -> None:
    job_id = finish("passed")

    admin("GET", f"/v1/jobs/{job_id}/events/stream")

    assert read_samples("soul_http_streams_open") == {(): 0}
    assert read_samples("soul_http_requests_in_flight") == {(): 0}
    assert ("GET", "/v1/jobs/{job_id}/events/stream", "200") not in read_samples(COUNT)
