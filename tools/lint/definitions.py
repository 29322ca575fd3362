"""The names that a Python file defines: what `tools.lint.names` judges."""

import ast
import re
from typing import Literal, NamedTuple

Kind = Literal["class", "function", "argument", "variable", "field", "attribute", "key", "file"]


class Name(NamedTuple):
    """A name that a file defines. `key` is a string that looks like an identifier: a JSON key, a metric, a status."""

    text: str
    line: int
    kind: Kind

    @property
    def parts(self) -> list[str]:
        """The lower-case words of a snake_case or CamelCase name."""
        words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+", self.text)
        return [word.lower() for word in words]


def list_names(tree: ast.Module) -> list[Name]:
    """Return each name of each scope once, where it is first defined."""
    collector = _NameCollector()
    collector.visit(tree)
    return list(collector.names.values())


_Located = ast.expr | ast.stmt | ast.arg | ast.alias | ast.ExceptHandler


class _NameCollector(ast.NodeVisitor):
    def __init__(self) -> None:
        self.names: dict[tuple[str, str, str], Name] = {}
        self._scopes: list[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef] = []

    def _add(self, text: str, node: _Located, kind: Kind) -> None:
        scope = ".".join(f"{outer.name}@{outer.lineno}" for outer in self._scopes)
        self.names.setdefault((scope, kind, text), Name(text, node.lineno, kind))

    def _visit_scope(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, kind: Kind) -> None:
        self._add(node.name, node, kind)
        self._scopes.append(node)
        self.generic_visit(node)
        self._scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_scope(node, "class")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_scope(node, "function")

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_scope(node, "function")

    def visit_arg(self, node: ast.arg) -> None:
        self._add(node.arg, node, "argument")
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            in_class = bool(self._scopes) and isinstance(self._scopes[-1], ast.ClassDef)
            self._add(node.id, node, "field" if in_class else "variable")

    def visit_alias(self, node: ast.alias) -> None:
        if node.asname:
            self._add(node.asname, node, "variable")

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self._add(node.name, node, "variable")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Store):
            self._add(node.attr, node, "attribute")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and re.fullmatch(r"[a-z]+(?:_[a-z0-9]+)*", node.value):
            self._add(node.value, node, "key")
