"""Where a bucket is, and with which credentials: SOUL_BLOBS_URL and the variables that every S3 client reads."""

import configparser
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from soul_store.blobs.contract import BlobStoreConfigError, check_key

_FORM = "s3://bucket/prefix?endpoint=https://host&region=name"


@dataclass(frozen=True)
class S3Location:
    """A prefix of a bucket at an endpoint; without an endpoint, AWS."""

    bucket: str
    prefix: str
    endpoint: str | None
    region: str
    allow_http: bool

    @classmethod
    def parse(cls, url: str, *, allow_http: bool) -> Self:
        """Read `s3://bucket/prefix?endpoint=…&region=…`. Raises BlobStoreConfigError."""
        try:
            parts = urlsplit(url)
            query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError as error:
            raise _make_error(url, str(error)) from error
        if unknown := query.keys() - {"endpoint", "region"}:
            raise _make_error(url, f"it has the unknown part {min(unknown)!r}")
        if parts.username is not None:
            raise BlobStoreConfigError("SOUL_BLOBS_URL contains credentials: put them into AWS_ACCESS_KEY_ID and so on")
        prefix = unquote(parts.path).strip("/")
        try:
            check_key(parts.netloc)
            if prefix:
                check_key(prefix)
        except ValueError as error:
            raise _make_error(url, str(error)) from error
        endpoint = query.get("endpoint", [None])[-1] or os.environ.get("AWS_ENDPOINT_URL")
        region = query.get("region", [""])[-1] or os.environ.get("AWS_REGION", "us-east-1")
        is_http = endpoint is not None and _check_endpoint(url, endpoint, allow_http=allow_http)
        return cls(parts.netloc, prefix, endpoint, region, is_http)


def read_credentials() -> dict[str, str]:
    """Return keys from the file AWS_SHARED_CREDENTIALS_FILE, profile AWS_PROFILE; without it, none.

    The S3 client reads AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, web identities and instance roles
    by itself, but not this file. Raises BlobStoreConfigError.
    """
    path = os.environ.get("AWS_SHARED_CREDENTIALS_FILE")
    if not path or "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    profile = os.environ.get("AWS_PROFILE", "default")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(Path(path).read_text())
        section = parser[profile]
        keys = {
            "access_key_id": section["aws_access_key_id"],
            "secret_access_key": section["aws_secret_access_key"],
        }
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError) as error:
        msg = (
            f"AWS_SHARED_CREDENTIALS_FILE is {path}, and it has no readable section [{profile}] with "
            "aws_access_key_id and aws_secret_access_key: correct the file, or set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
        raise BlobStoreConfigError(msg) from error
    if token := section.get("aws_session_token"):
        keys["session_token"] = token
    return keys


def _check_endpoint(url: str, endpoint: str, *, allow_http: bool) -> bool:
    """Return whether the endpoint is http. Raises BlobStoreConfigError, also if http would leave the machine."""
    try:
        parts = urlsplit(endpoint)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise _make_error(url, str(error)) from error
    if parts.scheme not in {"http", "https"} or not host:
        raise _make_error(url, f"its endpoint {endpoint!r} is not https://host")
    if parts.scheme == "http" and not allow_http and not _is_loopback(host):
        msg = (
            f"the endpoint {endpoint} is not encrypted: use https, or set SOUL_BLOBS_ALLOW_HTTP=true if the network "
            "between the service and the bucket is trusted"
        )
        raise BlobStoreConfigError(msg)
    return parts.scheme == "http"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _make_error(url: str, reason: str) -> BlobStoreConfigError:
    return BlobStoreConfigError(f"SOUL_BLOBS_URL is {url!r}: {reason}; set it to {_FORM}")
