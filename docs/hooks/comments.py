"""Shapes and units of fields, which the code gives in comments, for the API pages."""

import io
import tokenize

import griffe


class FieldComments(griffe.Extension):
    """A comment above a field, or at the end of its line, is its description."""

    def on_attribute_instance(self, *, attr, agent, **_):
        """Reads the comment of a field or a constant that has no docstring."""
        if attr.docstring is not None or attr.lineno is None:
            return
        lines = agent.lines_collection[attr.filepath]
        above, number = [], attr.lineno - 2
        while number >= 0 and lines[number].lstrip().startswith("#"):
            above.insert(0, lines[number].lstrip().removeprefix("#").strip())
            number -= 1
        if attr.lineno == attr.endlineno:
            above += _comments(lines[attr.lineno - 1].strip())
        if above:
            attr.docstring = griffe.Docstring(" ".join(above), parent=attr)


def _comments(line):
    tokens = tokenize.generate_tokens(io.StringIO(line).readline)
    return [
        token.string.removeprefix("#").strip() for token in tokens if token.type == tokenize.COMMENT
    ]
