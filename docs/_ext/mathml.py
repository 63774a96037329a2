"""Render formulas as MathML when the site is built: no script, no font and no network when it is read."""

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxTranslator

log = logging.getLogger(__name__)


def inline(translator: SphinxTranslator, node: nodes.Element) -> None:
    """Write a formula within a line."""
    write(translator, node, block=False)


def block(translator: SphinxTranslator, node: nodes.Element) -> None:
    """Write a formula on lines of its own."""
    write(translator, node, block=True)


def write(translator: SphinxTranslator, node: nodes.Element, *, block: bool) -> None:
    """Write a formula; one that cannot be read is a warning, which ends the build, with its place."""
    try:
        translator.body.append(tex2mathml(node.astext(), as_block=block))  # type: ignore[attr-defined]
    except MathError as error:
        log.warning("formula %r: %s", node.astext(), error, location=node)
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer that `conf.py` chooses."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
