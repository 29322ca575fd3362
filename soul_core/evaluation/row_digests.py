"""Keyed digests of the contents of rows, by which the rows of two measurements are matched.

A plain hash of a few words is easily guessed, so digests use a key (decision 0010). Texts are folded by
`soul_core.texts.fold_to_line`: a copy in another normal form, or with other white space, matches.
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
from soul_core.texts import fold_to_line

_KEY_BYTES = 32
#: Hex digits of a digest (128 bits), and of the part for paraphrased and wrong answers.
_DIGITS, _ALTERNATIVE_DIGITS = 32, 16


@dataclass(frozen=True)
class DigestKey:
    """The key of row digests. Reports and logs contain a public key, so that anyone with the rows can match them."""

    secret: bytes
    is_public: bool

    @property
    def facts(self) -> RowDigestKey:
        """Return the report's description of the key: its id, and the key itself if it is public."""
        return RowDigestKey(id=self._mac(["key id"])[:16], key=self.secret.hex() if self.is_public else None)

    def digest(self, row: Row) -> str:
        """Return the digest of prompt and answer, 32 hex digits; `.` and 16 more follow for wrong answers, if any.

        The parts are separate because rows that differ only in their wrong answers are equal to every metric that does
        not read these.
        """
        turns = [[message.role, fold_to_line(message.content)] for message in row.messages]
        content = self._mac(["row", turns, fold_to_line(row.completion)])[:_DIGITS]
        try:
            paraphrase, wrong = read_other_answers(row)
        except ValueError:  # not in a form that a metric can read
            return content
        if not wrong:
            return content
        alternatives = ["other answers", fold_to_line(paraphrase or ""), [fold_to_line(text) for text in wrong]]
        return f"{content}.{self._mac(alternatives)[:_ALTERNATIVE_DIGITS]}"

    def _mac(self, parts: list[Any]) -> str:
        text = json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return hmac.new(self.secret, text, hashlib.sha256).hexdigest()


def add_row_digests(
    measurements: ModelMeasurements, sets: Iterable[EvaluationSet], key: DigestKey
) -> ModelMeasurements:
    """Return measurements with the digest of every measured row."""
    digests = {
        evaluation_set.name: tuple(key.digest(row) for row in evaluation_set.rows)
        for evaluation_set in sets
        if evaluation_set.name in measurements.rows
    }
    return measurements.model_copy(update={"digests": digests, "row_key": key.facts})


def split_digest(digest: str) -> tuple[str, str]:
    """Return the digest of prompt and answer, and that of the wrong answers (empty: none)."""
    content, _, alternatives = digest.partition(".")
    return content, alternatives


def find_log_key(facts: RowDigestKey | None, own: DigestKey) -> DigestKey | None:
    """Return the key of a log's digests: the public one in the log, or our own if it is the same; else None."""
    if facts is None:
        return None
    if facts.key is not None:
        return DigestKey(bytes.fromhex(facts.key), is_public=True)
    return own if own.facts.id == facts.id else None


def read_key(path: Path) -> DigestKey:
    """Read a private key: reports contain its id only. Raises BadSpec."""
    try:
        secret = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise BadSpec(
            f"{path} does not hold a key of row digests: it must be a file of {2 * _KEY_BYTES} hex digits"
        ) from error
    if len(secret) < _KEY_BYTES:
        raise BadSpec(
            f"the key of row digests in {path} is too short: it must have {2 * _KEY_BYTES} hex digits or more"
        )
    return DigestKey(secret, is_public=False)


def get_personal_key(folder: Path) -> DigestKey:
    """Return this user's key, which the first call creates.

    One key for all runs: two of the user's logs can be compared without the rows. If the folder cannot be written,
    each run has its own key.
    """
    path = folder / "row-digests.key"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".row-digests-{secrets.token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(_KEY_BYTES))
            if not path.exists():
                os.link(temporary, path)
        except FileExistsError:
            pass  # another run created it in the meantime; that key is used
        finally:
            temporary.unlink(missing_ok=True)
        return DigestKey(bytes.fromhex(path.read_text().strip()), is_public=True)
    except (OSError, ValueError):
        return DigestKey(secrets.token_bytes(_KEY_BYTES), is_public=True)
