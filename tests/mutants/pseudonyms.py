"""Planted faults of pseudonyms: the table, the restorer and the sessions."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_item, drop_operand, in_text, never, returns, swap
from tests.mutants.mutant import Mutant

_PSEUDONYMS = "hybrid_llm.router.privacy.pseudonyms.table"
_NOTATION = "hybrid_llm.router.privacy.pseudonyms.notation"
_SPANS = "hybrid_llm.router.privacy.pseudonyms.spans"
_PATTERNS = "hybrid_llm.router.privacy.pseudonyms.patterns"
_VALUES = "hybrid_llm.router.privacy.pseudonyms.values"
_SPELLING = "hybrid_llm.router.privacy.pseudonyms.spelling"
_DATES = "hybrid_llm.router.privacy.pseudonyms.dates"
_NORMAL = "hybrid_llm.router.privacy.normal"
_BEGINNINGS = "hybrid_llm.router.privacy.pseudonyms.beginnings"
_MANGLED = "hybrid_llm.router.privacy.pseudonyms.mangled"
_RESTORE = "hybrid_llm.router.privacy.restore"
_SESSIONS = "hybrid_llm.router.privacy.sessions"

MUTANTS = (
    Mutant("a hyphen does not separate", f"{_NOTATION}:_VISIBLE", in_text("\\u2015-]", "\\u2015]")),
    Mutant("no escape separates", f"{_NOTATION}:_ENCODED", in_text("u[0-9a-fA-F]{4}|[nrt]|", "")),
    Mutant("no entity separates", f"{_NOTATION}:_ENCODED", in_text("|&#?[0-9A-Za-z]{1,7};", "")),
    Mutant("one separator only", f"{_NOTATION}:_SEPARATOR", in_text("){0,5}", "){0,0}")),
    Mutant("nothing may stand in a type", f"{_NOTATION}:_IN_TYPE", in_text("]?", "]{0}")),
    Mutant("nothing may stand in a code", f"{_NOTATION}:_IN_CODE", in_text("]?", "]{0}")),
    Mutant("capitals only", f"{_NOTATION}:_any", swap("alphabet + alphabet.lower()", "alphabet")),
    Mutant("a type may hold digits", f"{_NOTATION}:capitals", swap("'A' <= c <= 'Z'", "c.isalnum()")),
    Mutant(
        "a short start of a type is not held back",
        f"{_NOTATION}:_beginning",
        swap("len(word) > 1", "len(word) > 5"),
    ),
    Mutant("a type before its separator is released", f"{_NOTATION}:Spellings._streamed", in_text(")|", ")|(?!)")),
    Mutant("letters short by one are released", f"{_NOTATION}:_cut_code", swap("length - 2", "length - 3")),
    Mutant("a longer type is released", f"{_NOTATION}:Spellings.read", never("self._is_nested")),
    Mutant(
        "a code alone is known within a word",
        f"{_NOTATION}:_word",
        in_text("(?:(?<![0-9A-Za-z_].)|(?<=\\\\[nrt].))", ""),
    ),
    Mutant("a code alone goes on", f"{_NOTATION}:Spellings.whole", in_text("(?![0-9A-Za-z_])", "")),
    Mutant(
        "a code alone is not held back", f"{_NOTATION}:Spellings._streamed", in_text("(?P<begun>)", "(?!)(?P<begun>)")
    ),
    Mutant("an escape of four digits is cut", f"{_NOTATION}:Spellings.streamed_json", in_text("[0-9A-Fa-f]{4}", "")),
    Mutant("a cut escape is released", f"{_NOTATION}:Spellings.streamed_json", in_text(":u[0-9A-Fa-f]{0,3})?", "!)")),
    Mutant(
        "a code may be a word",
        f"{_PSEUDONYMS}:_letters",
        never("telling and (code.isalpha() or code.isdigit())"),
    ),
    Mutant(
        "two types share a code", f"{_PSEUDONYMS}:PseudonymTable._new_name", drop_operand("letters not in self._codes")
    ),
    Mutant("any text behind a type counts as mangled", f"{_MANGLED}:_begins", returns("True")),
    Mutant("nothing counts as mangled", f"{_MANGLED}:_kind", returns("''")),
    Mutant("what is behind a type counts twice", f"{_MANGLED}:_Remains.__init__", always("run.start() not in behind")),
    Mutant(
        "what was restored counts as mangled", f"{_MANGLED}:_unrestored", swap("answer[done:start]", "answer[done:end]")
    ),
    Mutant(
        "texts are compared in capitals only",
        f"{_NOTATION}:suffixes",
        swap("_NORMAL.sub('_', text).upper()", "_NORMAL.sub('_', text)"),
    ),
    Mutant(
        "known values are not replaced",
        f"{_PSEUDONYMS}:PseudonymTable._all",
        swap("[*found, *known]", "found"),
    ),
    Mutant(
        "a pseudonym in the prompt counts as ours",
        f"{_PSEUDONYMS}:PseudonymTable._strays",
        never("(start, end) not in ours"),
    ),
    Mutant(
        "values escaped in JSON are not known",
        f"{_VALUES}:KnownValues._learn",
        never("json_forms(''.join(values))"),
    ),
    Mutant(
        "only values in JSON with raw Unicode are known", f"{_VALUES}:json_forms", drop_item("json.dumps(value)[1:-1]")
    ),
    Mutant(
        "JSON is escaped twice",
        f"{_PSEUDONYMS}:PseudonymTable.entry",
        swap("() if is_escaped else json_forms(value)", "json_forms(value)"),
    ),
    Mutant(
        "occurrences that overlap are missed",
        f"{_PATTERNS}:Patterns._found",
        swap("automaton.iter(text[first:start + PART])", "automaton.iter_long(text[first:start + PART])"),
    ),
    Mutant(
        "of values with one beginning the first is known",
        f"{_PATTERNS}:Patterns.matches",
        swap("heads[head]", "heads[head][:1]"),
    ),
    Mutant(
        "the rest of a value is not compared",
        f"{_PATTERNS}:Patterns.matches",
        always("text.startswith(pattern, start)"),
    ),
    Mutant(
        "merged automata lose what they held",
        f"{_PATTERNS}:Patterns._build",
        swap("[*self._automata.pop()[1], *heads]", "self._automata.pop() and heads"),
    ),
    Mutant(
        "every value rebuilds everything",
        f"{_PATTERNS}:Patterns._build",
        always("len(self._automata[-1][1]) < _GROWTH * len(heads)"),
    ),
    Mutant(
        "a whole value counts as a beginning",
        f"{_PATTERNS}:Patterns._goes_on",
        swap("head != beginning", "head"),
    ),
    Mutant(
        "an answer cut within a long value leaves",
        f"{_PATTERNS}:Patterns.beginnings",
        swap("pattern.startswith(end)", "pattern == end"),
    ),
    Mutant("other spellings of a value leave", f"{_VALUES}:KnownValues._learn_normal", drop("others.append(form)")),
    Mutant("values in decoded texts leave", f"{_VALUES}:KnownValues._learn_escaped", swap("json_forms(value)", "()")),
    Mutant(
        "values behind a code leave as they are",
        f"{_VALUES}:KnownValues._all",
        swap("yield from self._implied.matches(prepared.text)", "pass"),
    ),
    Mutant(
        "an encoded run that holds a value leaves",
        f"{_VALUES}:KnownValues.occurrences",
        never("held is not None"),
    ),
    Mutant(
        "telephone numbers are known with their country only",
        f"{_VALUES}:KnownValues._learn",
        drop("self._learn_numbers(values, __about)"),
    ),
    Mutant("a date is known in one notation", f"{_VALUES}:KnownValues._learn", drop("self._dates.update(__x)")),
    Mutant("a short number is found in longer ones", f"{_VALUES}:_is_whole", always("length >= FREE or __e")),
    Mutant(
        "a name is found in other words", f"{_VALUES}:_is_whole", never("form.is_name and text[start:stop].islower()")
    ),
    Mutant("the deadline does not end learning", f"{_VALUES}:KnownValues.learn", drop("look()")),
    Mutant(
        "what reaches beyond a find leaves", f"{_VALUES}:KnownValues._spelled", swap("before and __x >= stop", "before")
    ),
    Mutant(
        "no separators may change",
        f"{_VALUES}:KnownValues._spelled",
        drop_operand("end - first >= SPACED and normal.is_close(first, end)"),
    ),
    Mutant("case counts", f"{_SPELLING}:_LOWER", swap("bytes(range(256)).lower()", "bytes(range(256))")),
    Mutant(
        "full-width digits are others", f"{_SPELLING}:_normal", swap("return ascii_form.lower()", "return char.lower()")
    ),
    Mutant("the trunk zero counts", f"{_SPELLING}:national", in_text("0+", "+")),
    Mutant("years of two digits are other dates", f"{_DATES}:equivalents", never("year > 99")),
    Mutant("the month always comes first", f"{_DATES}:_orders", drop("yield (third, second, first)")),
    Mutant("dates without separators leave", f"{_DATES}:readings", swap("_split(tokens[0])", "()")),
    Mutant(
        "a cut date leaves",
        f"{_BEGINNINGS}:Beginnings._plain",
        drop_operand("begins_date(view.data.decode('latin-1'), self.dates)"),
    ),
    Mutant(
        "a cut value in another spelling leaves",
        f"{_BEGINNINGS}:Beginnings._plain",
        drop_operand("self._normal_form(Normal(view))"),
    ),
    Mutant("a cut code hides the beginning before it", f"{_BEGINNINGS}:_variants", never("cut != tail")),
    Mutant("a spelled-out address may break off", f"{_BEGINNINGS}:_variants", never("spoken != tail")),
    Mutant(
        "a cut code that begins a value leaves",
        f"{_BEGINNINGS}:Beginnings._is_cut",
        always("match is None or match.lastgroup is None"),
    ),
    Mutant("base64 begins at one alignment", f"{_BEGINNINGS}:_decoded", swap("range(4)", "range(1)")),
    Mutant("a value in a cut run leaves", f"{_BEGINNINGS}:Beginnings._inner", drop_operand("self._holds(text)")),
    Mutant(
        "any end of an answer counts once a telephone number is known",
        f"{_BEGINNINGS}:Beginnings._plain",
        drop_operand("_DIAL.search(view.text[-TRUNK_REACH:]) is not None"),
    ),
    Mutant(
        "any letter in a word counts",
        f"{_BEGINNINGS}:Beginnings._opens",
        never("text[start - 1:start].isalnum() or (behind and text[start].isdigit())"),
    ),
    Mutant(
        "a known pseudonym hides the next",
        f"{_PSEUDONYMS}:PseudonymTable.pseudonyms",
        swap("match.end() if is_ours else match.start() + 1", "match.end()"),
    ),
    Mutant(
        "a pseudonym that text spells is not noticed",
        f"{_PSEUDONYMS}:PseudonymTable._write_all",
        swap("not any(strays)", "strays"),
    ),
    Mutant(
        "a pseudonym may already stand in the text",
        f"{_PSEUDONYMS}:PseudonymTable._new_name",
        drop_operand("letters not in taken"),
    ),
    Mutant(
        "a pseudonym is used twice",
        f"{_PSEUDONYMS}:PseudonymTable._new_name",
        drop_operand("name not in self._entries"),
    ),
    Mutant(
        "a value gets a new pseudonym each time",
        f"{_PSEUDONYMS}:PseudonymTable._write",
        drop_operand("self._names.get(value)"),
    ),
    Mutant(
        "every session has the same key", f"{_PSEUDONYMS}:PseudonymTable.__init__", swap("secrets.token_bytes", "bytes")
    ),
    Mutant(
        "spans that touch are joined",
        f"{_SPANS}:merge",
        swap("start >= last", "start > last or not merged"),
    ),
    Mutant(
        "the first span gives the type",
        f"{_SPANS}:merge",
        swap("kind if end - start > longest else known", "known"),
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
        f"{_RESTORE}:Restorer._restore_from",
        always("self._table.begins(name)"),
    ),
    Mutant(
        "no possible start is held back",
        f"{_RESTORE}:Restorer._restore_from",
        never("self._table.begins(name)"),
    ),
    Mutant(
        "a cut escape is held back outside strings", f"{_RESTORE}:Restorer._restore_from", drop_operand("self._inside")
    ),
    Mutant(
        "what stood before is forgotten",
        f"{_RESTORE}:Restorer._restore_from",
        swap("text[max(0, end - 2):end]", "''"),
    ),
    Mutant("later pseudonyms are known", f"{_RESTORE}:Restorer._value", drop_operand("entry.ordinal < self._known")),
    Mutant("nothing is escaped", f"{_RESTORE}:Restorer._written", always("not self._json")),
    Mutant("strings never end", f"{_RESTORE}:Restorer._lexical", always("not self._inside")),
    Mutant("an escape counts outside strings", f"{_RESTORE}:Restorer._lexical", drop_operand("self._inside")),
    Mutant("an escape may be split", f"{_RESTORE}:Restorer._lexical", never("reading is ESCAPE and self._inside")),
    Mutant(
        "an unknown pseudonym is skipped whole",
        f"{_RESTORE}:Restorer._restore_from",
        swap("match.start() + 1", "match.end()"),
    ),
    Mutant("text held back at the end is dropped", f"{_RESTORE}:Restorer.finish", swap("return rest", "return ''")),
    Mutant(
        "a string stays open for the next answer",
        f"{_RESTORE}:Restorer.finish",
        swap(
            "self._before, self._held, self._inside, self._given = ('', '', False, 0)",
            "self._before, self._held, self._given = ('', '', 0)",
        ),
    ),
    Mutant("calls are not looked at", f"{_RESTORE}:AnswerRestorer._warnings", drop_item("self._call")),
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
