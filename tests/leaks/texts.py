"""The texts of requests, each with canaries, and what an app knows of its sessions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hybrid_llm.core.request import GenerateOptions, Role, Tool
from tests.leaks.canaries import Canaries
from tests.leaks.situations import Part, Shape

__all__ = ["SEPARATOR", "UNSEEN", "Draft", "Said", "Texts"]

SEPARATOR = " || "
"""Between what the device adds and what it echoes."""

Value = tuple[str, str]
"""A kind, and a value of it."""
_Session = tuple[str | None, str | None]
UNSEEN = {"us_ssn": "{}-1", "payment_card": "7{}", "credential": "x{}", "medical_record": "X{}"}
"""Places in which a value is not found again: within what looks like a longer number, or at the end of a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One text: its *words* are canaries, and so are its *values*; those *unseen* stand where no detector sees them."""

    role: Role = "user"
    content: str
    words: tuple[str, ...] = ()
    values: tuple[Value, ...] = ()
    unseen: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A request, ready to be made."""

    request_id: str
    messages: tuple[Said, ...]
    beside: tuple[Said, ...] = ()
    """Texts that are no message: in the schema, in tools, in stop texts."""
    declared: frozenset[str] = frozenset()
    options: GenerateOptions = field(default_factory=GenerateOptions)
    added: Said | None = None
    """What the device says before it echoes."""

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The messages as an app passes them."""
        return [{"role": said.role, "content": said.content} for said in self.messages]

    @property
    def session(self) -> _Session:
        """Whose it is."""
        return self.options.get("tenant"), self.options.get("session_id")

    def _said(self) -> Iterable[Said]:
        return (*self.messages, *self.beside)

    @property
    def kinds(self) -> frozenset[str]:
        """What a detector finds in it."""
        return frozenset(kind for said in self._said() for kind, _ in said.values)

    @property
    def unseen(self) -> frozenset[str]:
        """The kinds of the values where no detector finds them."""
        return frozenset(kind for said in self._said() for kind, _ in said.unseen)

    @property
    def added_kinds(self) -> frozenset[str]:
        """What a detector finds in the text that the device adds."""
        return frozenset(kind for kind, _ in self.added.values) if self.added is not None else frozenset()

    def visible_added(self, hidden: frozenset[str]) -> Iterable[str]:
        """The canaries of the added text that a permitted reader sees if values of *hidden* kinds are replaced."""
        if self.added is not None:
            yield from self.added.words
            yield from (value for kind, value in self.added.values if kind not in hidden)

    def without_added(self, answer: str) -> str:
        """*answer* without the text that the device added, if it did."""
        return answer.removeprefix(f"{self.added.content}{SEPARATOR}") if self.added is not None else answer

    def values(self, kinds: frozenset[str]) -> list[Value]:
        """Its values of these kinds."""
        return [value for said in self._said() for value in said.values if value[0] in kinds]

    def visible(self, hidden: frozenset[str]) -> Iterable[str]:
        """The canaries that a permitted reader sees if values of *hidden* kinds are replaced."""
        for said in self._said():
            yield from said.words
            yield from (value for kind, value in said.values if kind not in hidden)

    def expected(self) -> str:
        """What a backend that echoes gives back, to the app."""
        last = self.messages[-1].content
        return json.dumps({"said": last}, ensure_ascii=False) if "output_schema" in self.options else last


class Texts:
    """Draws the texts of one client's requests. *canaries* are all that were ever drawn."""

    def __init__(self, source: Canaries) -> None:
        self._source = source
        self._count = 0
        self._turns: dict[_Session, list[tuple[Draft, Said]]] = {}
        self._known: dict[_Session, list[Value]] = {}
        self.canaries: list[str] = []

    def draft(self, shape: Shape) -> Draft:
        """A new request of this shape."""
        parts = [(part.place, self._said(part)) for part in shape.parts]
        messages = [said for place, said in parts if place in {"user", "system", "assistant", "tool"}]
        session = (shape.tenant, shape.session)
        back, declared = self._history(shape, session)
        options = self._options(shape, [(place, said) for place, said in parts if said not in messages])
        added = self._said(Part(place="assistant", kinds=shape.adds)) if shape.adds is not None else None
        return self._numbered(
            Draft(
                request_id="",
                messages=(*back, *messages),
                beside=tuple(said for _, said in parts if said not in messages),
                declared=shape.declared | declared,
                options={**options, "privacy": shape.declared | declared},
                added=added,
            )
        )

    def again(self, draft: Draft, shape: Shape) -> Draft:
        """The same request once more; of another tenant if *shape* says so."""
        options = GenerateOptions(**{**draft.options, "deadline": shape.deadline})
        if shape.again == "other tenant":
            options["tenant"] = "another"
        messages = tuple(self._as_known(said, (options.get("tenant"), draft.session[1])) for said in draft.messages)
        return self._numbered(replace(draft, messages=messages, options=options))

    def _numbered(self, draft: Draft) -> Draft:
        self._count += 1
        request_id = f"r{self._count}"
        return replace(draft, request_id=request_id, options={**draft.options, "request_id": request_id})

    def _said(self, part: Part) -> Said:
        words = (self._drawn(self._source.word()), self._drawn(self._source.word()))
        values = tuple((kind, self._drawn(self._source.value(kind))) for kind in part.kinds)
        content = " , ".join([words[0], *(value for _, value in values), words[1]])
        role: Role = part.place if part.place in {"system", "assistant", "tool"} else "user"  # type: ignore[assignment]
        return Said(role=role, content=content, words=words, values=values)

    def _drawn(self, canary: str) -> str:
        self.canaries.append(canary)
        return canary

    def _options(self, shape: Shape, beside: list[tuple[str, Said]]) -> GenerateOptions:
        options = GenerateOptions(task=shape.task, temperature=shape.temperature, deadline=shape.deadline)
        if shape.session is not None:
            options["session_id"] = shape.session
        if shape.tenant is not None:
            options["tenant"] = shape.tenant
        for place, said in beside:
            match place:
                case "schema":
                    options["output_schema"] = {**(options.get("output_schema") or {}), said.words[0]: said.content}
                case "tool definition":
                    tool = Tool(
                        name=said.words[0], description=said.content, parameters=json.dumps({"title": said.content})
                    )
                    options["tools"] = [*options.get("tools", ()), tool]
                case "stop":
                    options["stop"] = [*options.get("stop", ()), said.content]
        return options

    def _history(self, shape: Shape, session: _Session) -> tuple[list[Said], frozenset[str]]:
        """What comes back of the session; tags go with the texts that they were declared for."""
        turns = self._turns.get(session, [])[-3:] if shape.session is not None else []
        if shape.history == "unseen":
            known = [value for value in self._known.get(session, ()) if value[0] in UNSEEN]
            return [self._out_of_sight(value) for value in known[-1:]], frozenset()
        if shape.history == "none" or not turns:
            return [], frozenset()
        if shape.history == "answer":
            draft, answer = turns[-1]
            return [self._as_known(answer, session)], draft.declared
        said = [said for draft, answer in turns for said in (*draft.messages, answer)][-12:]
        declared = frozenset().union(*(draft.declared for draft, _ in turns))
        return [self._as_known(each, session) for each in said], declared

    def _as_known(self, said: Said, session: _Session) -> Said:
        """A value that no detector sees is a word like others once the session has forgotten it."""
        known = self._known.get(session, ())
        forgotten = tuple(text for kind, text in said.unseen if (kind, text) not in known)
        unseen = tuple(value for value in said.unseen if value in known)
        return replace(said, words=(*said.words, *forgotten), unseen=unseen)

    def _out_of_sight(self, value: Value) -> Said:
        kind, text = value
        return Said(role="assistant", content=UNSEEN[kind].format(text), unseen=(value,))

    def answered(self, draft: Draft, text: str, hidden: frozenset[str]) -> None:
        """An answer arrived; the values of *hidden* kinds were replaced in the request."""
        if draft.session[1] is None:
            return
        last = draft.messages[-1]
        more = draft.added if draft.added is not None and draft.without_added(text) != text else Said(content="")
        words, values = (*last.words, *more.words), (*last.values, *more.values)
        answer = Said(role="assistant", content=text, words=words, values=values, unseen=last.unseen)
        self._turns.setdefault(draft.session, []).append((draft, answer))
        self._known.setdefault(draft.session, []).extend(draft.values(hidden))

    def forget(self, session: str, tenant: str | None) -> None:
        """The session is over: the app keeps its texts, and the client no longer knows any value."""
        self._known.pop((tenant, session), None)

    def forget_all(self) -> None:
        """Another client knows nothing."""
        self._known.clear()
