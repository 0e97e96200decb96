"""Where things are in a TOML text: beside texts whose places are known because they were put there."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from hopline.document.places import TomlPlaces

# values that hold what would be a table, a key or a comment elsewhere; none begins or ends a statement
SCALARS = [
    '"plain"',
    '"a # b"',
    r'"q\" ]] ="',
    "'c:\\'",
    '""',
    "''",
    '"""\n[[forward]]\nto = "x"\n"""',
    '"""a""b\\\n  """""',
    '""""""',
    "'''\n[[interface]]\n# no'''",
    "'''it''s'''''",
    "true",
    "1979-05-27 07:32:00",
    "+1_000",
    "-inf",
]
GAPS = ["", " ", "  # [[forward]]", '\t# "'.replace("\t", " ")]
KEYS = ["a", "to", "x-1", '"q k"', "'l.k'", r'"A"']


class Text:
    """A TOML text as it is put together, and the line of each path in it."""

    def __init__(self):
        self.text, self.lines = "", {}

    def put(self, text):
        self.text += text

    def mark(self, *path):
        self.lines.setdefault(path, self.text.count("\n") + 1)


def bare(key):
    return next(iter(tomllib.loads(f"{key} = 0")))


@st.composite
def texts(draw):
    made = Text()
    counts = {"forward": 0, "interface": 0}
    for _ in range(draw(st.integers(0, 6))):
        made.put(draw(st.sampled_from(["", "\n", "# [x]\n", "  \n\t# to = 1\n"])))
        table = draw(st.sampled_from(sorted(counts)))
        place, counts[table] = counts[table], counts[table] + 1
        made.mark(table)
        made.mark(table, place)
        made.put(draw(st.sampled_from([f"[[{table}]]", f' [[ "{table}" ]]'])) + draw(st.sampled_from(GAPS)) + "\n")
        for key in draw(st.lists(st.sampled_from(KEYS), unique_by=bare, max_size=4)):
            made.mark(table, place, bare(key))
            made.put(f"{key}{draw(st.sampled_from(['=', ' = ', ' =']))}")
            put_value(draw, made, (table, place, bare(key)))
            made.put(draw(st.sampled_from(GAPS)) + "\n")
            made.put(draw(st.sampled_from(["", "\n", "   # c\n"])))
    return made


def put_value(draw, made, path, depth=0):
    kind = draw(st.sampled_from(["scalar", "scalar", "list", "table"])) if depth < 2 else "scalar"
    if kind == "scalar":
        made.put(draw(st.sampled_from(SCALARS)))
    elif kind == "list":
        made.put("[")
        for place in range(draw(st.integers(0, 3))):
            made.put(draw(st.sampled_from(["", "\n", " # ] no\n  "])))
            made.mark(*path, place)
            put_value(draw, made, (*path, place), depth + 1)
            made.put(draw(st.sampled_from([",", " ,", "\n ,"])))
        made.put("]")
    else:
        made.put("{")
        for place, key in enumerate(draw(st.lists(st.sampled_from(KEYS), unique_by=bare, max_size=3))):
            made.put(", " if place else " ")
            made.mark(*path, bare(key))
            made.put(f"{key} = ")
            put_value(draw, made, (*path, bare(key)), depth + 1)
        made.put("}")


@given(texts())
def test_each_thing_is_where_it_was_put(made):
    tomllib.loads(made.text)
    places = TomlPlaces(made.text)
    assert {path: places.line_of(path) for path in made.lines} == made.lines


def test_tables_within_entries_belong_to_the_last_one():
    places = TomlPlaces("[[a]]\nb.c = 1\n[[a]]\n[a.b]\nc = 2\n[[a.d]]\n[[a.d]]\ne = 1\n[[a]]\n[[a.d]]")
    expected = {("a", 0, "b", "c"): 2, ("a", 1, "b"): 4, ("a", 1, "b", "c"): 5, ("a", 1, "d", 1, "e"): 8}
    expected |= {("a", 2): 9, ("a", 2, "d", 0): 10, ("a",): 1}
    assert {path: places.line_of(path) for path in expected} == expected


def test_what_is_absent_is_where_its_entry_is():
    places = TomlPlaces('\n[[forward]]\nto = "a"\n')
    assert places.line_of(("forward", 0, "dev")) == 2
    assert places.line_of(("forward", 1, "dev")) is None
    assert places.line_of(("other",)) is None
    assert TomlPlaces("").line_of(("forward",)) is None


def test_the_tables_that_a_dotted_key_names_begin_at_it():
    places = TomlPlaces("\nforward.to = 1\n[interface.a]\nx = {b.c = 1}")
    assert [places.line_of((name,)) for name in ("forward", "interface")] == [2, 3]
    assert places.line_of(("interface", "a", "x", "b")) == 4
