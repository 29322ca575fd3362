"""What a key may do to other keys."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.api.conftest import ApiClient


def make(admin: ApiClient, **body: Any) -> tuple[ApiClient, dict[str, Any]]:
    key = admin("POST", "/v1/api-keys", json={"name": "k", **body}).json()
    return ApiClient(admin.http, key["key"]), key


@pytest.fixture
def tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize("days", [None, 2])
def test_a_key_cannot_outlive_the_key_that_creates_it(admin: ApiClient, tomorrow: datetime, days: int | None) -> None:
    maker, _ = make(admin, scopes=["keys:admin"], expires_at=tomorrow.isoformat())
    expires_at = None if days is None else (datetime.now(UTC) + timedelta(days=days)).isoformat()

    response = maker("POST", "/v1/api-keys", json={"name": "n", "scopes": ["keys:admin"], "expires_at": expires_at})

    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/expires_at"


def test_a_key_may_create_one_that_expires_with_it(admin: ApiClient, tomorrow: datetime) -> None:
    maker, _ = make(admin, scopes=["keys:admin"], expires_at=tomorrow.isoformat())

    body = {"name": "n", "scopes": ["keys:admin"], "expires_at": tomorrow.isoformat()}
    assert maker("POST", "/v1/api-keys", json=body).status_code == 201


def test_a_key_cannot_revoke_one_with_scopes_that_it_lacks(admin: ApiClient) -> None:
    maker, own = make(admin, scopes=["keys:admin"])
    wide, other = make(admin, scopes=["*"])

    assert maker("DELETE", f"/v1/api-keys/{other['id']}").status_code == 403
    assert wide("GET", "/v1/me").status_code == 200
    assert wide("DELETE", f"/v1/api-keys/{own['id']}").status_code == 200
