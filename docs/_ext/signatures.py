"""Show defaults in signatures as one would write them: `erk`, not `<function erk>`."""

import re
from typing import Any

from sphinx.application import Sphinx


def tidy(app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None) -> Any:
    """Return the signature with plain names in the place of object descriptions."""
    del app, what, name, obj, options
    if signature is None:
        return None
    plain = re.sub(r"<(?:class|function) '?(?:[\w.]+\.)?(\w+)'?(?: at 0x\w+)?>", r"\1", signature)
    plain = re.sub(r"<[\w.]*?(\w+) object(?: at 0x\w+)?>", r"\1()", plain)
    return plain, returns


def setup(app: Sphinx) -> dict[str, Any]:
    """Listen to autodoc."""
    app.connect("autodoc-process-signature", tidy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
