"""What builds the documentation: reference pages say what the code says, broken links are found."""

import importlib
import re
import sys

import pytest
from support import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))

import check_site
import method_table
import reference_configuration as configuration


def test_a_key_is_explained_by_its_comment():
    keys = list(configuration.keys_of("lr: 0.1 # per step\nnested:\n  deep: [1, 2] # below\nurl: a#b\n"))
    assert keys == [
        configuration.Key("lr", "0.1", "per step"),
        configuration.Key("nested", "", ""),
        configuration.Key("nested.deep", "[1, 2]", "below"),
        configuration.Key("url", "a#b", ""),
    ]


def test_a_key_without_a_comment_is_explained_by_the_docstring_also_of_a_base():
    said = configuration.explained("sparsebench.methods.RigL")
    assert said["until"].startswith("last moment of an update")
    assert said["density"].startswith("share of the weights that stay")


def test_inherited_keys_are_shown_with_their_own_defaults():
    rigl = configuration.merged(configuration.CONF / "method" / "rigl.yaml")
    assert rigl["replaces_step"].default == "true"
    assert rigl["drop_fraction"].default == "0.3"
    assert rigl["drop_schedule"].default == "cosine"


def test_every_group_has_a_page_with_every_option():
    written = {path.relative_to(configuration.PAGES): "\n".join(lines) for path, lines in configuration.pages()}
    groups = {path.parent.relative_to(configuration.CONF).as_posix() for path in configuration.CONF.rglob("*.yaml")}
    plain = {group for group in groups if not group.startswith("experiment")} - {"."}
    assert plain == set(configuration.GROUPS)
    for group in plain:
        page = next(text for text in written.values() if text.startswith(f"# {group}\n"))
        for path in (configuration.CONF / group).rglob("*.yaml"):
            assert f"## {path.stem}\n" in page


def test_a_subclass_belongs_to_the_family_of_its_base():
    from sparsebench.methods import CHT, Dense, RigL

    mine = type("Mine", (RigL,), {})
    assert method_table.family(mine) == method_table.family(CHT) == "Dynamic sparse training"
    assert method_table.family(Dense) == "References"
    with pytest.raises(SystemExit, match="belongs to no family"):
        method_table.family(type("Alone", (), {}))


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text('<a href="sub/a.html#here">a</a> <a href="https://example.org/x">out</a>')
    (tmp_path / "sub" / "a.html").write_text('<p id="here"><a href="../index.html">home</a> <a href="#here">up</a></p>')
    assert check_site.faults(tmp_path) == ([], 3, 1)
    (tmp_path / "index.html").write_text('<a href="sub/a.html#there">a</a> <img src="gone.png">')
    broken, _, _ = check_site.faults(tmp_path)
    assert broken == ["index.html: sub/a.html#there", "index.html: gone.png"]


NAME = r"(?<![\w.-])(sparsebench(?:\.[A-Za-z_]\w*)+)"
FILE = r"(?<![\w./-])((?:sparsebench|tests|conf|scripts|docs|hydra_plugins)/[\w./-]*\w)(?![\w<{*])"


def named(pattern: str) -> list[tuple[str, str]]:
    """Return what the pages name, each with its page."""
    pages = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md")]
    kept = [page for page in pages if not {"_build", "reference"} & set(page.relative_to(REPOSITORY).parts)]
    return [(page.name, name) for page in kept for name in re.findall(pattern, page.read_text())]


def test_names_on_the_pages_exist():
    for page, name in sorted(set(named(NAME))):
        assert exists(name), f"{page} names {name}, which does not exist"


def exists(name: str) -> bool:
    """Tell whether a dotted name is a module or lies in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


def test_files_on_the_pages_exist():
    for page, name in sorted(set(named(FILE))):
        assert (REPOSITORY / name).exists(), f"{page} names {name}, which does not exist"
