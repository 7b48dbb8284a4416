"""The planted faults of pseudonyms: the table, the restorer and the sessions."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_FORM, _TABLE = "privacy/form.py", "privacy/pseudonyms.py"
_RESTORE, _SESSIONS = "privacy/restore.py", "privacy/sessions.py"

MUTANTS = (
    Mutant("no space around the underscore", _FORM, 'r" ?\\\\{0,2}_ ?"', 'r"\\\\{0,2}_"'),
    Mutant("one backslash only", _FORM, 'r" ?\\\\{0,2}_ ?"', 'r" ?\\\\?_ ?"'),
    Mutant("capitals only", _FORM, "(alphabet + alphabet.lower())", "(alphabet)"),
    Mutant("a type may hold digits", _FORM, '"A" <= c <= "Z"', "c.isalnum()"),
    Mutant("no short end of a type is held", _FORM, "for end in range(1, len(word))", "for end in range(2, len(word))"),
    Mutant("a type before its underscore is let go", _FORM, " ?\\\\{{0,2}}|{_rest(heads)", "|{_rest(heads)"),
    Mutant("letters short by one are let go", _FORM, "{letter}{{0,{length - 1}}}", "{letter}{{0,{length - 2}}}"),
    Mutant("an escape of four digits is two", _FORM, "u[0-9A-Fa-f]{4}|", "u|"),
    Mutant("a cut escape is let go", _FORM, "(?:u[0-9A-Fa-f]{0,3})?)", "(?!))"),
    Mutant("texts are compared in capitals only", _FORM, ' if "_" in text)).upper()', ' if "_" in text))'),
    Mutant("known values are not looked for", _TABLE, "[*found, *self._occurrences(text)]", "found"),
    Mutant("a typed pseudonym is taken for ours", _TABLE, "if (start, end) not in ours", "if start < 0"),
    Mutant(
        "values in JSON are forgotten", _TABLE, "            if escaped not in self._values:", "            if False:"
    ),
    Mutant("only ASCII in JSON is known", _TABLE, "for ascii_only in (False, True):", "for ascii_only in (False,):"),
    Mutant("JSON is escaped twice", _TABLE, "value if value in self._raw else ", ""),
    Mutant("one finding of a value is enough", _TABLE, "text.find(value, start + 1)", "-1"),
    Mutant("occurrences that overlap are missed", _TABLE, "value, start + 1)", "value, start + len(value))"),
    Mutant("a known pseudonym hides the next", _TABLE, "match.end() if known else match.start() + 1", "match.end()"),
    Mutant("what text and pseudonym spell is not seen", _TABLE, "if not any(strays):", "if strays:"),
    Mutant("a pseudonym may stand in the text", _TABLE, " and name not in taken:", ":"),
    Mutant("a pseudonym is given twice", _TABLE, "if name not in self._entries and", "if"),
    Mutant("a value gets a new one each time", _TABLE, "        if value in self._names:", "        if value in ():"),
    Mutant("every session has the same key", _TABLE, "secrets.token_bytes(32)", "bytes(32)"),
    Mutant("spans that touch are joined", _TABLE, "span.start < merged[-1].end:", "span.start <= merged[-1].end:"),
    Mutant("a joined span ends with the last", _TABLE, "max(last.end, span.end)", "span.end"),
    Mutant("the first span gives the type", _TABLE, "span.type if length > longest else last.type", "last.type"),
    Mutant("wiping keeps the values", _TABLE, "                held.clear()", "                pass"),
    Mutant("a wiped table goes on", _TABLE, "        if self._wiped:", "        if False:"),
    Mutant("the key stays", _TABLE, "self._key[:] = bytes(len(self._key))", "pass"),
    Mutant("a table can be copied", _TABLE, 'raise TypeError("a PseudonymTable', 'return repr("a PseudonymTable'),
    Mutant("a finding may be anywhere", _TABLE, "if not 0 <= finding.start < finding.end <= len(text):", "if False:"),
    Mutant("every beginning is held", _RESTORE, "return self._table.begins(canonical(match))", "return True"),
    Mutant("no beginning is held", _RESTORE, "return self._table.begins(canonical(match))", "return False"),
    Mutant("a cut escape is held outside strings", _RESTORE, '"cut" and self._inside)', '"cut")'),
    Mutant("later pseudonyms are known", _RESTORE, " and entry.ordinal < self._known else", " else"),
    Mutant("nothing is escaped", _RESTORE, "        if not self._json:\n", "        if True:\n"),
    Mutant("strings never end", _RESTORE, "self._inside = not self._inside", "self._inside = True"),
    Mutant(
        "an escape counts outside strings",
        _RESTORE,
        'return match.lastgroup == "escape" and self._inside',
        'return match.lastgroup == "escape"',
    ),
    Mutant("an escape is no unit", _RESTORE, 'return match.lastgroup == "escape" and self._inside', "return False"),
    Mutant("what is unknown is skipped whole", _RESTORE, "else match.start() + 1", "else match.end()"),
    Mutant("the end is searched too late", _RESTORE, "default=0) + 3", "default=0) + 2"),
    Mutant("the end drops what is held", _RESTORE, "        return held\n", '        return ""\n'),
    Mutant(
        "a string stays open for the next answer",
        _RESTORE,
        'self._held, self._inside, self._given = "", False, 0',
        'self._held, self._given = "", 0',
    ),
    Mutant("tenants share sessions", _SESSIONS, "self._named((tenant, session_id))", "self._named((None, session_id))"),
    Mutant("a table in use is wiped", _SESSIONS, "        if session.leases:\n", "        if False:\n"),
    Mutant("a table that is left is kept", _SESSIONS, "if session.left and session.leases == 0:", "if False:"),
    Mutant("the last used makes room", _SESSIONS, "        self._sessions.move_to_end(name)\n", ""),
    Mutant("there is room for all", _SESSIONS, "if len(self._sessions) > self._most:", "if False:"),
    Mutant("idle sessions stay", _SESSIONS, "if s.used <= oldest and not s.leases]", "if False]"),
    Mutant("busy sessions are idle", _SESSIONS, "if s.used <= oldest and not s.leases]", "if s.used <= oldest]"),
    Mutant(
        "closing spares those alone", _SESSIONS, "(*self._sessions.values(), *self._alone)", "self._sessions.values()"
    ),
    Mutant(
        "idle time counts from the start",
        _SESSIONS,
        "            session.leases -= 1\n            session.used = self._clock()\n",
        "            session.leases -= 1\n",
    ),
)
