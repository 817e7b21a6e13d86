"""Inert objects that represent names in a pickle until our own code builds the real ones."""

from __future__ import annotations

from typing import Any, NoReturn


class RefusedError(Exception):
    """The file asks for something outside the list; the argument names it."""


class Placeholder:
    """Base of all stand-ins while a pickle is read; none may remain in the result."""

    __slots__ = ()


class Reference(Placeholder):
    """A name read from a file; it cannot be called and holds nothing."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Inert(Placeholder):
    """An object read from a file as its class reference and its state, without behaviour."""

    __slots__ = ("reference", "state")

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.state: Any = None

    def __str__(self) -> str:
        return str(self.reference)

    def build(self, state: Any) -> Inert:
        """Store ``state`` unchanged and return the same object."""
        self.state = state
        return self


class Recipe(Placeholder):
    """An object that a pickle makes empty and then gives one state.

    Our code builds the real object from that state.
    """

    __slots__ = ("built", "reference")

    def __init__(self, module: str, name: str) -> None:
        self.reference = Reference(module, name)
        self.built: Any = None

    def __str__(self) -> str:
        return str(self.reference)

    def build(self, state: Any) -> Any:
        """Return the real object for ``state``; a second state is refused.

        Raises:
            RefusedError: the object already has a state, or RecBole's files never hold such a state.
            ValueError: the state contradicts itself.
        """
        if self.built is not None:
            self.refuse_state()
        self.built = self._build(state)
        return self.built

    def _build(self, state: Any) -> Any:
        raise NotImplementedError

    def refuse_state(self) -> NoReturn:
        """Refuse a state.

        Raises:
            RefusedError: always.
        """
        raise RefusedError(f"a state for {self}")


class Budget:
    """A limit on the memory that a file may use: its own size, whatever it repeats."""

    def __init__(self, size: int) -> None:
        self._left = size

    def spend(self, amount: int) -> None:
        """Spend ``amount`` bytes or elements.

        Raises:
            ValueError: nothing is left.
        """
        self._left -= amount
        if self._left < 0:
            raise ValueError("it would take more memory than the file's own size")
