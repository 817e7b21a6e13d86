"""Objects without behaviour that stand for what a pickle names, until our own code makes the real thing from them."""

from __future__ import annotations

from typing import Any, NoReturn


class RefusedError(Exception):
    """The file asks for something outside the list; the argument says for what."""


class Placeholder:
    """Base of all that stands for something else while a pickle is read; none may be left in the result."""

    __slots__ = ()


class Reference(Placeholder):
    """A name read from a file: it cannot be called and holds nothing."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Inert(Placeholder):
    """An object read from a file as its class reference and its state, with no behaviour."""

    __slots__ = ("reference", "state")

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.state: Any = None

    def __str__(self) -> str:
        return str(self.reference)

    def build(self, state: Any) -> Inert:
        """Keep ``state`` as it is and return the same object."""
        self.state = state
        return self


class Recipe(Placeholder):
    """An object that a pickle makes empty and then gives one state: our code builds the real one from that state."""

    __slots__ = ("built", "reference")

    def __init__(self, module: str, name: str) -> None:
        self.reference = Reference(module, name)
        self.built: Any = None

    def __str__(self) -> str:
        return str(self.reference)

    def build(self, state: Any) -> Any:
        """Return the real object of ``state``; a second state is refused.

        Raises:
            RefusedError: the object has a state already, or RecBole's files never hold such a state.
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
    """A limit on what a file may make in memory: no more than its own size, however often it repeats a part of itself."""

    def __init__(self, size: int) -> None:
        self._left = size

    def spend(self, amount: int) -> None:
        """Take ``amount`` bytes or elements.

        Raises:
            ValueError: nothing is left.
        """
        self._left -= amount
        if self._left < 0:
            raise ValueError("it would take more memory than the file's own size")
