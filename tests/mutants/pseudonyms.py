"""Planted faults of pseudonyms: the table, the restorer and the sessions."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_item, drop_operand, in_text, never, swap
from tests.mutants.mutant import Mutant

_PSEUDONYMS = "hybrid_llm.router.privacy.pseudonyms"
_RESTORE = "hybrid_llm.router.privacy.restore"
_SESSIONS = "hybrid_llm.router.privacy.sessions"

MUTANTS = (
    Mutant("no space around the underscore", f"{_PSEUDONYMS}:_SEPARATOR", in_text(" ?\\\\{0,2}_ ?", "\\\\{0,2}_")),
    Mutant("one backslash only", f"{_PSEUDONYMS}:_SEPARATOR", in_text("{0,2}", "?")),
    Mutant("capitals only", f"{_PSEUDONYMS}:_any", swap("alphabet + alphabet.lower()", "alphabet")),
    Mutant("a type may hold digits", f"{_PSEUDONYMS}:type_of", swap("'A' <= c <= 'Z'", "c.isalnum()")),
    Mutant(
        "a short start of a type is not held back",
        f"{_PSEUDONYMS}:stream_pattern",
        swap("range(1, len(word))", "range(2, len(word))"),
    ),
    Mutant("a type before its underscore is released", f"{_PSEUDONYMS}:stream_pattern", in_text(" ?\\\\{0,2}", "")),
    Mutant("letters short by one are released", f"{_PSEUDONYMS}:stream_pattern", swap("length - 1", "length - 2")),
    Mutant("an escape of four digits is cut", f"{_PSEUDONYMS}:stream_pattern", in_text("[0-9A-Fa-f]{4}", "")),
    Mutant("a cut escape is released", f"{_PSEUDONYMS}:stream_pattern", in_text(":u[0-9A-Fa-f]{0,3})?", "!)")),
    Mutant(
        "texts are compared in capitals only",
        f"{_PSEUDONYMS}:normalise",
        swap(
            "_NORMAL.sub('_', '\\n'.join((text for text in texts if '_' in text))).upper()",
            "_NORMAL.sub('_', '\\n'.join((text for text in texts if '_' in text)))",
        ),
    ),
    Mutant(
        "known values are not replaced",
        f"{_PSEUDONYMS}:PseudonymTable._all",
        swap("[*found, *self._occurrences(text)]", "found"),
    ),
    Mutant(
        "a pseudonym in the prompt counts as ours",
        f"{_PSEUDONYMS}:PseudonymTable._strays",
        swap("(start, end) not in ours", "start < 0"),
    ),
    Mutant(
        "values escaped in JSON are not known",
        f"{_PSEUDONYMS}:PseudonymTable._learn",
        never("escaped not in self._values"),
    ),
    Mutant("only values in JSON with raw Unicode are known", f"{_PSEUDONYMS}:PseudonymTable._learn", drop_item("True")),
    Mutant(
        "JSON is escaped twice",
        f"{_PSEUDONYMS}:PseudonymTable._add",
        swap(
            "value if value in self._raw else json.dumps(value, ensure_ascii=False)[1:-1]",
            "json.dumps(value, ensure_ascii=False)[1:-1]",
        ),
    ),
    Mutant(
        "only the first occurrence is replaced",
        f"{_PSEUDONYMS}:PseudonymTable._occurrences",
        swap("text.find(value, start + 1)", "-1"),
    ),
    Mutant(
        "occurrences that overlap are missed", f"{_PSEUDONYMS}:PseudonymTable._occurrences", swap("1", "len(value)")
    ),
    Mutant(
        "a known pseudonym hides the next",
        f"{_PSEUDONYMS}:PseudonymTable._pseudonyms",
        swap("match.end() if known else match.start() + 1", "match.end()"),
    ),
    Mutant(
        "a pseudonym that text spells is not noticed",
        f"{_PSEUDONYMS}:PseudonymTable._write_all",
        swap("not any(strays)", "strays"),
    ),
    Mutant(
        "a pseudonym may already stand in the text",
        f"{_PSEUDONYMS}:PseudonymTable._name",
        drop_operand("name not in taken"),
    ),
    Mutant(
        "a pseudonym is used twice", f"{_PSEUDONYMS}:PseudonymTable._name", drop_operand("name not in self._entries")
    ),
    Mutant(
        "a value gets a new pseudonym each time",
        f"{_PSEUDONYMS}:PseudonymTable._name",
        swap("value in self._names", "value in ()"),
    ),
    Mutant(
        "every session has the same key", f"{_PSEUDONYMS}:PseudonymTable.__init__", swap("secrets.token_bytes", "bytes")
    ),
    Mutant(
        "spans that touch are joined",
        f"{_PSEUDONYMS}:_merge",
        swap("span.start < merged[-1].end", "span.start <= merged[-1].end"),
    ),
    Mutant("a joined span ends with the last", f"{_PSEUDONYMS}:_merge", swap("max(last.end, span.end)", "span.end")),
    Mutant(
        "the first span gives the type",
        f"{_PSEUDONYMS}:_merge",
        swap("span.type if length > longest else last.type", "last.type"),
    ),
    Mutant("wiping keeps the values", f"{_PSEUDONYMS}:PseudonymTable.wipe", drop("held.clear()")),
    Mutant("a wiped table can be used", f"{_PSEUDONYMS}:PseudonymTable.check", never("self._wiped")),
    Mutant("the key stays", f"{_PSEUDONYMS}:PseudonymTable.wipe", drop("self._key[:] = bytes(len(self._key))")),
    Mutant(
        "a table can be copied",
        f"{_PSEUDONYMS}:PseudonymTable.__reduce_ex__",
        swap("raise TypeError(__reason)", "return repr(__reason)"),
    ),
    Mutant(
        "a finding may lie outside its text",
        f"{_PSEUDONYMS}:_spans",
        never("not 0 <= finding.start < finding.end <= len(text)"),
    ),
    Mutant(
        "every possible start is held back",
        f"{_RESTORE}:Restorer._undecided",
        always("self._table.begins(canonical(match))"),
    ),
    Mutant(
        "no possible start is held back",
        f"{_RESTORE}:Restorer._undecided",
        never("self._table.begins(canonical(match))"),
    ),
    Mutant(
        "a cut escape is held back outside strings", f"{_RESTORE}:Restorer._undecided", drop_operand("self._inside")
    ),
    Mutant("later pseudonyms are known", f"{_RESTORE}:Restorer._value", drop_operand("entry.ordinal < self._known")),
    Mutant("nothing is escaped", f"{_RESTORE}:Restorer._written", always("not self._json")),
    Mutant("strings never end", f"{_RESTORE}:Restorer._lexical", always("not self._inside")),
    Mutant("an escape counts outside strings", f"{_RESTORE}:Restorer._lexical", drop_operand("self._inside")),
    Mutant(
        "an escape may be split", f"{_RESTORE}:Restorer._lexical", never("match.lastgroup == 'escape' and self._inside")
    ),
    Mutant(
        "an unknown pseudonym is skipped whole",
        f"{_RESTORE}:Restorer._restore",
        swap("match.start() + 1", "match.end()"),
    ),
    Mutant("the end is searched too late", f"{_RESTORE}:Restorer.__init__", swap("3", "2")),
    Mutant("text held back at the end is dropped", f"{_RESTORE}:Restorer.finish", swap("return held", "return ''")),
    Mutant(
        "a string stays open for the next answer",
        f"{_RESTORE}:Restorer.finish",
        swap("self._held, self._inside, self._given = ('', False, 0)", "self._held, self._given = ('', 0)"),
    ),
    Mutant("tenants share sessions", f"{_SESSIONS}:Sessions.open", swap("tenant", "None")),
    Mutant("a table in use is wiped", f"{_SESSIONS}:Sessions._drop", never("session.leases")),
    Mutant(
        "a dropped session is kept", f"{_SESSIONS}:Sessions._release", never("session.dropped and session.leases == 0")
    ),
    Mutant(
        "the last used session is evicted", f"{_SESSIONS}:Sessions._named", drop("self._sessions.move_to_end(name)")
    ),
    Mutant("sessions are never evicted", f"{_SESSIONS}:Sessions._named", never("len(self._sessions) > self._capacity")),
    Mutant("idle sessions stay", f"{_SESSIONS}:Sessions._sweep", never("s.used <= oldest and (not s.leases)")),
    Mutant("sessions in use count as idle", f"{_SESSIONS}:Sessions._sweep", drop_operand("not s.leases")),
    Mutant(
        "closing spares requests without a session",
        f"{_SESSIONS}:Sessions.close",
        swap("(*self._sessions.values(), *self._unnamed)", "self._sessions.values()"),
    ),
    Mutant(
        "idle time counts from the start of a session",
        f"{_SESSIONS}:Sessions._release",
        drop("session.used = self._clock()"),
    ),
)
