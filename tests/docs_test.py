"""The pages that are made, as they are made now."""

import importlib.util
import pathlib

import tfssl

_DOCS = pathlib.Path(__file__).parents[1] / "docs"


def test_the_page_of_names_is_that_of_the_docstrings():
    spec = importlib.util.spec_from_file_location("api", _DOCS / "api.py")
    api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(api)
    made = api.text(tfssl)
    assert (_DOCS / "api.md").read_text() == made, "docs/api.md is stale: make docs"
    for name in ("tfssl.pretrain", "tfssl.data.multiview", "tfssl.methods.BYOL"):
        assert f"# {name}\n```python\n{name.rpartition('.')[2]}(" in made
