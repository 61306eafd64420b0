"""Where the sidecar is put into a manifest, and how it is taken out again.

Owns the edits. YAML is only read for positions: what is put in are whole lines between two marks, and a line that had to
be written anew stands between them as a comment. So everything else stays byte for byte, and `remove` gives back what
was there.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from sidecar.inject.container import GRACE, NAME, Wanted, container, item

_BEGIN = "# sidecar-inject: begin"
_END = "# sidecar-inject: end"
_BARE = "# sidecar-inject: end, of a last line without its end"
_WAS = "# sidecar-inject, was: "

_TEMPLATES = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Where each kind has its pod."""


class InjectError(ValueError):
    """The text cannot be edited; says where and why."""


@dataclass(frozen=True, slots=True)
class Injected:
    """The manifests with the sidecar, in how many pods it is, and what a reader should know."""

    text: str
    pods: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Edit:
    """Lines that go before line `at`, or in its place."""

    at: int
    lines: tuple[str, ...]
    replaces: bool = False


def inject(text: str, wanted: Wanted) -> Injected:
    """Puts the sidecar into every pod of the manifests; what an earlier call has put there goes first.

    Raises:
        InjectError: this is not YAML, or a pod is written in a form that lines cannot be put into.
    """
    text = remove(text)
    lines = text.splitlines(keepends=True)
    edits: dict[int, _Edit] = {}
    notes: list[str] = []
    pods = 0
    found = list(_pods(text))
    texts = frozenset(_in_texts(text))
    for name, spec in found:
        made = _Pod(name, spec, lines, texts, wanted)
        pods += made.put_in
        notes += made.notes
        edits |= {edit.at: edit for edit in made.edits}
    result = "".join(_edited(lines, edits))
    for _ in _pods(result):  # it can be read again
        pass
    return Injected(result, pods, tuple(notes))


def remove(text: str) -> str:
    """The manifests as they were before `inject`, byte for byte.

    Raises:
        InjectError: a mark has lost its other half.
    """
    kept: list[str] = []
    was: list[str] | None = None
    for line in text.splitlines(keepends=True):
        mark = line.strip()
        if mark == _BEGIN:
            if was is not None:
                raise InjectError("a mark begins within another")
            was = []
        elif mark in {_END, _BARE}:
            if was is None:
                raise InjectError("a mark ends that has not begun")
            if mark == _BARE and was:
                was[-1] = was[-1].rstrip("\r\n")
            kept += was
            was = None
        elif was is None:
            kept.append(line)
        elif mark.startswith(_WAS.strip()):
            was.append(line.partition(_WAS)[2])
    if was is not None:
        raise InjectError("a mark has no end")
    return "".join(kept)


def _edited(lines: list[str], edits: dict[int, _Edit]) -> Iterator[str]:
    newline = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    for number, line in enumerate(lines):
        edit = edits.get(number)
        if edit is None:
            yield line
            continue
        indent = " " * (len(edit.lines[0]) - len(edit.lines[0].lstrip()))
        whole = line.endswith("\n")
        yield f"{indent}{_BEGIN}{newline}"
        if edit.replaces:
            yield f"{indent}{_WAS}{line if whole else line + newline}"
        yield from (f"{one}{newline}" for one in edit.lines)
        yield f"{indent}{_END if whole or not edit.replaces else _BARE}{newline}"
        if not edit.replaces:
            yield line


def _documents(text: str) -> list[Node]:
    try:
        return list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        hint = "; a template has to be rendered first" if "{{" in text else ""
        raise InjectError(f"{where}this is not YAML: {getattr(error, 'problem', error)}{hint}") from None
    except RecursionError:
        raise InjectError("this is nested too deeply to be a manifest") from None


def _in_texts(text: str) -> Iterator[int]:
    """Of what has been read as YAML, lines that begin within a text of several lines: what looks like a comment there is none."""
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.ScalarToken):
            end = token.end_mark
            yield from range(token.start_mark.line + 1, end.line + (end.column > 0))


def _pods(text: str) -> Iterator[tuple[str, MappingNode]]:
    """Each workload's name and the spec of its pod."""
    documents = _documents(text)
    seen: set[int] = set()
    while documents:
        document = documents.pop(0)
        kind = _text(_get(document, "kind"))
        if kind == "List" or kind.endswith("List"):
            items = _get(document, "items")
            documents = [*(items.value if isinstance(items, SequenceNode) else ()), *documents]
            continue
        node: Node | None = document if kind in _TEMPLATES else None
        for key in (*_TEMPLATES.get(kind, ()), "spec"):
            node = _get(node, key)
        if isinstance(node, MappingNode) and node.start_mark.index not in seen:
            seen.add(node.start_mark.index)
            yield _text(_get(_get(document, "metadata"), "name")) or kind.lower(), node


def _get(node: Node | None, key: str) -> Node | None:
    pairs = node.value if isinstance(node, MappingNode) else ()
    return next((value for name, value in pairs if _text(name) == key), None)


def _key(node: MappingNode, key: str) -> ScalarNode | None:
    return next((name for name, _ in node.value if _text(name) == key), None)


def _text(node: Node | None) -> str:
    return str(node.value) if isinstance(node, ScalarNode) else ""


class _Pod:
    """One pod's edits."""

    def __init__(
        self, name: str, spec: MappingNode, lines: list[str], texts: Collection[int], wanted: Wanted
    ) -> None:
        self._lines = lines
        self._texts = texts
        self._wanted = wanted
        self._name = name
        self.edits: list[_Edit] = []
        self.notes: list[str] = []
        containers = _get(spec, "containers")
        anchor = _key(spec, "containers")
        self.put_in = False
        if not isinstance(containers, SequenceNode) or anchor is None or not containers.value:
            self.notes.append(f"{name}: no containers, left alone")
            return
        initial = _get(spec, "initContainers")
        before = initial.value if isinstance(initial, SequenceNode) else []
        if NAME in {_text(_get(one, "name")) for one in (*before, *containers.value)}:
            self.notes.append(f"{name}: there is a container named {NAME} already, left alone")
            return
        self._block(spec, "the pod's spec")
        self._block(containers, "containers")
        self.put_in = True
        self._sidecar(spec, anchor, containers)
        for one in containers.value:
            self._app(one)

    def _block(self, node: Node, what: str) -> None:
        if getattr(node, "flow_style", False):
            line = node.start_mark.line + 1
            raise InjectError(
                f"line {line}: {what} of {self._name} in braces or brackets: write it over several lines"
            )

    def _own(self, node: MappingNode, key: str) -> ScalarNode | None:
        """The node's key; where there is none, one that is put in must not hide one that is merged."""
        merged, own = _key(node, "<<"), _key(node, key)
        if merged is not None and own is None:
            line = merged.start_mark.line + 1
            raise InjectError(f"line {line}: `<<` may give {self._name} its {key}: write {key} out here")
        return own

    def _above(self, line: int) -> int:
        """The line, or the comment right above it."""
        while line and line - 1 not in self._texts and self._lines[line - 1].lstrip().startswith("#"):
            line -= 1
        return line

    def _dash(self, items: SequenceNode) -> tuple[int, str]:
        """The line of the list's first dash, and the blanks before it; an anchor may stand in between."""
        first = items.value[0].start_mark
        line, before = first.line, self._lines[first.line][: first.column]
        while "-" not in before:
            line -= 1
            before = self._lines[line]
        return line, " " * before.rindex("-")

    def _sidecar(self, spec: MappingNode, anchor: ScalarNode, containers: SequenceNode) -> None:
        column = anchor.start_mark.column
        _, dash = self._dash(containers)
        block = [dash + line for line in container(self._wanted, self._name)]
        own = self._own(spec, "terminationGracePeriodSeconds")
        grace = [f"terminationGracePeriodSeconds: {GRACE}"] if own is None else []
        head = [" " * column + line for line in grace]
        key, initial = self._own(spec, "initContainers"), _get(spec, "initContainers")
        at = self._above(anchor.start_mark.line)
        if key is None:
            self._put(at, [*head, " " * column + "initContainers:", *block])
            return
        if head:
            self._put(at, head)
        if isinstance(initial, SequenceNode) and initial.value:
            self._block(initial, "initContainers")
            at, dash = self._dash(initial)
            self._put(
                self._above(at),
                [dash + line for line in container(self._wanted, self._name)],
            )
        else:
            self._replace(key.start_mark.line, [" " * column + "initContainers:", *block])

    def _app(self, app: Node) -> None:
        if not isinstance(app, MappingNode):
            raise InjectError(f"line {app.start_mark.line + 1}: a container of {self._name} is not a mapping")
        name = _text(_get(app, "name"))
        environ, key = _get(app, "env"), self._own(app, "env")
        present = (
            {_text(_get(one, "name")) for one in environ.value}
            if isinstance(environ, SequenceNode)
            else set()
        )
        variables = self._wanted.variables()
        for variable in sorted(present & variables.keys()):
            self.notes.append(f"{self._name}: container {name} sets {variable} itself, left alone")
        added = [line for one, value in variables.items() if one not in present for line in item(one, value)]
        if not added:
            return
        column = " " * (app if app.flow_style else app.value[0][0]).start_mark.column
        items = [f"{column}  {line}" for line in added]
        if app.flow_style:
            self._whole_line(app)
            pairs = [(one, value) for one, value in app.value if one is not key]
            texts = [f"{self._slice(one)}: {self._slice(value)}" for one, value in pairs]
            before = self._lines[app.start_mark.line][: app.start_mark.column]
            rest = [
                f"{column}  - {self._slice(one)}"
                for one in (environ.value if isinstance(environ, SequenceNode) else ())
            ]
            head = [before + texts[0], *(column + text for text in texts[1:])]
            self._replace(app.start_mark.line, [*head, f"{column}env:", *items, *rest])
        elif key is None:
            self._new_environ(app, [f"{column}env:", *items])
        elif isinstance(environ, SequenceNode) and environ.value and not environ.flow_style:
            at, dash = self._dash(environ)
            self._put(self._above(at), [dash + line for line in added])
        else:
            rest = []
            if isinstance(environ, SequenceNode):
                self._whole_line(environ)
                rest = [f"{column}  - {self._slice(one)}" for one in environ.value]
            line = key.start_mark.line
            self._replace(line, [self._lines[line][: key.start_mark.column] + "env:", *items, *rest])

    def _new_environ(self, app: MappingNode, block: list[str]) -> None:
        """Before a key that stands on a line of its own; a container of one key is followed by it."""
        first = app.value[0][0].start_mark.line
        own = next((one.start_mark.line for one, _ in app.value if one.start_mark.line > first), None)
        if own is not None:
            self._put(self._above(own), block)
        else:
            self._whole_line(app.value[0][1])
            self._replace(first, [self._lines[first].rstrip("\r\n"), *block])

    def _whole_line(self, node: Node) -> None:
        if node.end_mark.line != node.start_mark.line:
            raise InjectError(
                f"line {node.start_mark.line + 1}: brackets of {self._name} that go over several lines: write one item per line"
            )

    def _slice(self, node: Node) -> str:
        return self._lines[node.start_mark.line][node.start_mark.column : node.end_mark.column]

    def _put(self, at: int, lines: list[str]) -> None:
        self._edit(_Edit(at, tuple(lines)))

    def _replace(self, at: int, lines: list[str]) -> None:
        self._edit(_Edit(at, tuple(lines), replaces=True))

    def _edit(self, edit: _Edit) -> None:
        if any(edit.at == one.at for one in self.edits):
            raise InjectError(
                f"line {edit.at + 1}: two things of {self._name} on one line: write them on several"
            )
        self.edits.append(edit)
