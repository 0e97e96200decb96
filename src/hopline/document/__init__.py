"""The document: an intent as a file, read with every problem found and its line known, and written.

`read_document` reads TOML, JSON, JSON lines and CSV; `BulkReader` the last two as they arrive; `write_toml` writes.
"""

from hopline.document.bulk import MOST_COUNTED, BulkReader
from hopline.document.problem import describe
from hopline.document.read import FORMATS, Document, Format, read_document, read_json
from hopline.document.write import write_toml

__all__ = [
    "FORMATS",
    "MOST_COUNTED",
    "BulkReader",
    "Document",
    "Format",
    "describe",
    "read_document",
    "read_json",
    "write_toml",
]
