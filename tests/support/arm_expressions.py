"""Evaluate those template expressions of Resource Manager that this project's templates use.

Source: "Syntax and expressions in Azure Resource Manager templates" and the pages of its functions.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Scope = dict[str, Any]
_TOKEN = re.compile(r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+)|(?P<name>[A-Za-z_]\w*)|(?P<mark>[()\[\],.]))")


@dataclass
class Deployment:
    """A template and the parameters given to it."""

    template: dict[str, Any]
    given: dict[str, Any]
    resources: dict[str, Any] = field(default_factory=dict)
    """The results of the function `reference`, by resource id."""

    def parameter_value(self, name: str) -> Any:
        if name in self.given:
            return self.given[name]
        return self.evaluate_node(self.template["parameters"][name]["defaultValue"])

    def evaluate_node(self, node: Any, copied: int = 0) -> Any:
        """Return a part of the template with its expressions evaluated. `copied` is the value of copyIndex()."""
        match node:
            case dict():
                return {key: self.evaluate_node(item, copied) for key, item in node.items()}
            case list():
                return [self.evaluate_node(item, copied) for item in node]
            case str() if node.startswith("[") and node.endswith("]"):
                return _Expression(self, node[1:-1], copied).compute()
        return node

    def expand_copies(self, resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the resources that a copy loop creates. A resource without a copy loop yields itself."""
        without = {key: item for key, item in resource.items() if key != "copy"}
        count = self.evaluate_node(resource["copy"]["count"]) if "copy" in resource else 1
        for number in range(count):
            if without["type"] == "Microsoft.Resources/deployments":  # the inner deployment evaluates its own template
                properties = {key: item for key, item in without["properties"].items() if key != "template"}
                made = self.evaluate_node({**without, "properties": properties}, number)
                yield {**made, "properties": {**made["properties"], "template": without["properties"]["template"]}}
            else:
                yield self.evaluate_node(without, number)


class _Expression:
    def __init__(self, deployment: Deployment, text: str, copied: int) -> None:
        self._deployment, self._copied = deployment, copied
        self._tokens = [(match.lastgroup, match[match.lastgroup or 0]) for match in _TOKEN.finditer(text)]
        assert "".join(word for _, word in self._tokens) == re.sub(r"('(?:[^']|'')*')|\s", r"\1", text), text
        self._at = 0

    def compute(self) -> Any:
        made = self._parse()({})
        assert self._at == len(self._tokens), self._tokens[self._at :]
        return made

    def _take(self, word: str = "") -> tuple[str | None, str]:
        token = self._tokens[self._at]
        assert not word or token[1] == word, (token, word)
        self._at += 1
        return token

    def _next(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _parse(self) -> Callable[[Scope], Any]:
        kind, word = self._take()
        if kind == "text":
            text = word[1:-1].replace("''", "'")
            made: Callable[[Scope], Any] = lambda _: text  # noqa: E731
        elif kind == "number":
            made = lambda _: int(word)  # noqa: E731
        else:
            made = self._call(word)
        while self._next() in (".", "["):
            made = self._member(made, self._take()[1])
        return made

    def _member(self, of: Callable[[Scope], Any], mark: str) -> Callable[[Scope], Any]:
        if mark == ".":
            name = self._take()[1]
            return lambda scope: of(scope)[name]
        index = self._parse()
        self._take("]")
        return lambda scope: of(scope)[index(scope)]

    def _call(self, name: str) -> Callable[[Scope], Any]:
        self._take("(")
        arguments: list[Callable[[Scope], Any]] = []
        while self._next() != ")":
            arguments.append(self._parse())
            if self._next() == ",":
                self._take()
        self._take(")")
        if name == "lambda":
            *names, body = arguments
            return lambda scope: (
                lambda *given: body(scope | {one({}): value for one, value in zip(names, given, strict=False)})
            )
        if name == "lambdaVariables":
            return lambda scope: scope[arguments[0](scope)]
        if name == "if":
            return lambda scope: arguments[1 if arguments[0](scope) else 2](scope)
        return lambda scope: self._function(name, [argument(scope) for argument in arguments])

    def _function(self, name: str, given: list[Any]) -> Any:
        deployment = self._deployment
        match name, given:
            case "parameters", [which]:
                return deployment.parameter_value(which)
            case "variables", [which]:
                return deployment.evaluate_node(deployment.template["variables"][which])
            case "copyIndex", _:
                return self._copied + (given[0] if given else 0)
            case "string", [str(value)]:
                return value
            case "string", [bool(value)]:
                return str(value)
            case "string", [value]:
                return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
            case "concat", _:
                return "".join(given)
            case "format", [form, *rest]:
                return form.format(*rest)
            case "replace", [text, old, new]:
                return text.replace(old, new)
            case "join", [items, between]:
                return between.join(items)
            case "base64", [text]:
                return base64.b64encode(text.encode()).decode()
            case "empty", [value]:
                return not value
            case "not", [value]:
                return not value
            case "null", []:
                return None
            case "contains", [list(items), value]:
                return value in items
            case "length", [value]:
                return len(value)
            case "div", [one, other]:
                return one // other
            case "add", [one, other]:
                return one + other
            case "createObject", []:
                return {}
            case "union", _:
                return {key: value for item in given for key, value in item.items()}
            case "items", [value]:
                return [{"key": key, "value": value[key]} for key in sorted(value)]
            case "map", [items, function]:
                return [function(item, at) for at, item in enumerate(items)]
            case "filter", [items, function]:
                return [item for item in items if function(item)]
            case "reduce", [items, start, function]:
                for item in items:
                    start = function(start, item)
                return start
            case "toObject", [items, key, value]:
                return {key(item): value(item) for item in items}
            case "guid" | "uniqueString", _:
                return f"{name}({'|'.join(given)})"
            case "resourceGroup", []:
                return {"name": "the-group", "id": "/the-group", "location": "the-location"}
            case "tenant", []:
                return {"tenantId": "the-tenant"}
            case "resourceId" | "subscriptionResourceId", [*parts]:
                return "/".join(parts)
            case "reference", [which, _]:
                return deployment.resources[which]
        raise AssertionError(f"{name} with {given}")
