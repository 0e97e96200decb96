"""The API over HTTP: resources are the nouns, fields are the document's. GET /openapi.json describes all of it.

A request's way: `app` finds the operation in `operations`, which says what it takes; `parameters` and `body` read that
and refuse all else; `resources` asks the service; `answers` says what came of it. `openapi` describes the same table.

An error is `{error, field, detail, hint}`: 400 invalid_input, 401 unauthorized, 403 forbidden (a change by a door that
only shows), 404 not_found, 409 refused or kernel, 503 busy, 500 internal, which is always a bug of ours. Where several
values are wrong, `errors` has the first of them, each `{field, detail, hint}`, and `count` says how many there are;
`line` and `key` are there where they are known.
"""

from hopline.daemon.api.app import admin_app, token_app, view_app

__all__ = ["admin_app", "token_app", "view_app"]
