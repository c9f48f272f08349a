"""Modules that share everything with those of a model, except the few things that a shallower run changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True, eq=False)
class View:
    """A module beside `original` with its parameters, buffers, hooks, settings and mode, other `attributes` and other
    `children`. A child that is None is left out.
    """

    module: nn.Module
    original: nn.Module
    attributes: dict[str, Any] = field(default_factory=dict)
    children: dict[str, nn.Module | None] = field(default_factory=dict)

    def refresh(self) -> None:
        """Takes over what was set on the original since: its mode, its hooks, other embeddings."""
        state = vars(self.module)
        state.update(vars(self.original))
        state.update(self.attributes, _modules={**self.original._modules, **self.children})


class Views:
    """The views that make one run. The originals are never written to: the tables of parameters, buffers and hooks are
    the same objects in both, the table of children is not.
    """

    def __init__(self) -> None:
        self._made: list[View] = []

    def of(self, original: nn.Module, kind: type[nn.Module] | None = None, **attributes: Any) -> View:
        """A view of a module, of its own class or with the `forward` of another."""
        made = View(nn.Module.__new__(kind or type(original)), original, attributes)
        made.refresh()
        self._made.append(made)
        return made

    def along(self, top: View, path: str) -> View:
        """The view at a path below a view, with views of all that lies between."""
        for name in filter(None, path.split(".")):
            child = top.children.get(name)
            found = next((made for made in self._made if made.module is child), None)
            if found is None:
                found = self.of(top.original.get_submodule(name))
                top.children[name] = found.module
            top = found
        return top

    def replace(self, top: View, path: str, module: nn.Module | None) -> None:
        """Puts another module, or nothing, at a path below a view."""
        parent, _, name = path.rpartition(".")
        self.along(top, parent).children[name] = module

    def refresh(self) -> None:
        """Brings every view up to its original; before each run."""
        for made in self._made:
            made.refresh()
