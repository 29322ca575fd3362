"""A keyed digest of what a row says, by which rows of two measurements are matched.

A plain hash of a few known words is guessed in a moment, so digests are made under a key (decision 0010). Texts are
compared as `soul_core.texts.fold` gives them, runs of white space made equal: a copy in another normal form matches.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soul_core.data import Row
from soul_core.errors import BadSpec
from soul_core.evaluation.plan import read_other_answers
from soul_core.evaluation.row_selection import EvaluationSet
from soul_core.report import ModelMeasurements, RowDigestKey
from soul_core.texts import fold

_KEY_BYTES = 32
#: Hex digits of a digest (128 bits), and of the part for the row's other answers.
_DIGITS, _DIGITS_OF_OTHERS = 32, 16


@dataclass(frozen=True)
class DigestKey:
    """The key of row digests. `told`: reports and logs hold it, so that whoever has the rows can match them."""

    secret: bytes
    is_public: bool

    @property
    def facts(self) -> RowDigestKey:
        """Return what a report says of the key: always its id, and the key itself where it is told."""
        return RowDigestKey(id=self._mac(["key id"])[:16], key=self.secret.hex() if self.is_public else None)

    def digest(self, row: Row) -> str:
        """Return the digest of prompt and answer, 32 hex digits; a row with other answers has `.` and 16 more for them.

        The two parts are apart because a row with other wrong answers is the same row to every metric but those that
        read them.
        """
        turns = [[message.role, _plain(message.content)] for message in row.messages]
        content = self._mac(["row", turns, _plain(row.completion)])[:_DIGITS]
        try:
            paraphrase, wrong = read_other_answers(row)
        except ValueError:  # no answers that a metric can read
            return content
        if not wrong:
            return content
        others = ["other answers", _plain(paraphrase or ""), [_plain(text) for text in wrong]]
        return f"{content}.{self._mac(others)[:_DIGITS_OF_OTHERS]}"

    def _mac(self, parts: list[Any]) -> str:
        text = json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return hmac.new(self.secret, text, hashlib.sha256).hexdigest()


def add_row_digests(
    measurements: ModelMeasurements, sets: Iterable[EvaluationSet], key: DigestKey
) -> ModelMeasurements:
    """Return measurements with the digest of every measured row."""
    digests = {one.name: tuple(key.digest(row) for row in one.rows) for one in sets if one.name in measurements.rows}
    return measurements.model_copy(update={"digests": digests, "row_key": key.facts})


def split_digest(digest: str) -> tuple[str, str]:
    """Return the digest of prompt and answer, and that of the other answers (empty: none)."""
    content, _, others = digest.partition(".")
    return content, others


def find_log_key(facts: RowDigestKey | None, own: DigestKey) -> DigestKey | None:
    """Return the key under which a log's digests were made, where it is known: told by the log, or our own."""
    if facts is None:
        return None
    if facts.key is not None:
        return DigestKey(bytes.fromhex(facts.key), is_public=True)
    return own if own.facts.id == facts.id else None


def read_key(path: Path) -> DigestKey:
    """Read a key that its owner keeps: reports name it, and do not hold it. Raises BadSpec."""
    try:
        secret = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise BadSpec(
            f"{path} holds no key of row digests: it must be a file of {2 * _KEY_BYTES} hex digits"
        ) from error
    if len(secret) < _KEY_BYTES:
        raise BadSpec(
            f"the key of row digests in {path} is too short: it must have {2 * _KEY_BYTES} hex digits or more"
        )
    return DigestKey(secret, is_public=False)


def get_personal_key(folder: Path) -> DigestKey:
    """Return this user's key, made at the first call: one key for all runs, so that two of their logs can be compared
    without the rows. Where the folder cannot be written, each run has a key of its own.
    """
    path = folder / "row-digests.key"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".row-digests-{secrets.token_hex(8)}"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(_KEY_BYTES))
            if not path.exists():
                os.link(beside, path)
        except FileExistsError:
            pass  # another run made it meanwhile, and that one is used
        finally:
            beside.unlink(missing_ok=True)
        return DigestKey(bytes.fromhex(path.read_text().strip()), is_public=True)
    except (OSError, ValueError):
        return DigestKey(secrets.token_bytes(_KEY_BYTES), is_public=True)


def _plain(text: str) -> str:
    return " ".join(fold(text).split())
