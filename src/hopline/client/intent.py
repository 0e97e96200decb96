"""The verbs of the intent as a whole."""

from typing import TYPE_CHECKING

from hopline.client.query import flag
from hopline.config import Intent
from hopline.daemon.protocol import Applied, Confirmed
from hopline.intent import Wanted, document_of

if TYPE_CHECKING:
    from hopline.client import Client


class IntentVerbs:
    """The verbs of the intent as a whole; it is given as a document's Intent, or as entries by noun and key."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def show(self) -> Intent:
        """Return all that the operator asked for, as a document."""
        return self._client.ask("GET", "/intent", kind=Intent)

    def apply(
        self,
        want: Intent | Wanted,
        *,
        merge: bool = False,
        dry_run: bool = False,
        confirm_within: float | None = None,
        revision: int | None = None,
        limit: int | None = None,
    ) -> Applied:
        """Make the intent equal to `want`, or with `merge` add and change what it names, all or nothing.

        `confirm_within` (seconds): it is rolled back unless `confirm` comes in time. `revision`: Refused if the intent
        is no longer that one. `limit`: how many differences to return, 0 to 1000.
        """
        query = {
            "merge": flag(merge),
            "dry_run": flag(dry_run),
            "confirm_within": confirm_within,
            "revision": revision,
            "limit": limit,
        }
        return self._client.ask("PUT", "/intent", query, _document(want), kind=Applied)

    def diff(self, want: Intent | Wanted, *, merge: bool = False, limit: int | None = None) -> Applied:
        """Return what `apply` would add, change and remove; changes nothing."""
        query = {"merge": flag(merge), "limit": limit}
        return self._client.ask("POST", "/intent/diff", query, _document(want), kind=Applied, only_looks=True)

    def confirm(self) -> Confirmed:
        """Keep the change that waits for it; Refused where none does."""
        return self._client.ask("POST", "/intent/confirm", kind=Confirmed)


def _document(want: Intent | Wanted) -> Intent:
    return document_of(want) if isinstance(want, Wanted) else want
