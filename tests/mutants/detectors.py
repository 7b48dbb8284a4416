"""Planted faults of the detectors: which words count for and against a find, how far they reach, what labels name."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_operand, never, returns, swap
from tests.mutants.mutant import Mutant

_DETECTORS = "hybrid_llm.router.privacy.detectors"
_EVIDENCE = f"{_DETECTORS}.evidence"
_ENGINE = f"{_DETECTORS}.engine"
_BIDI = f"{_DETECTORS}.bidi"
_PAIRS = f"{_DETECTORS}.layout.pairs"
_TABLES = f"{_DETECTORS}.layout.tables"
_MARKUP = f"{_DETECTORS}.layout.markup"
_MAIL = f"{_DETECTORS}.formats.mail"
_CONTACT = f"{_DETECTORS}.formats.contact"

MUTANTS = (
    Mutant(
        "a word against beats the word for",
        f"{_EVIDENCE}:evidence",
        swap("_in_scope(candidate, near, around)", "0.0"),
    ),
    Mutant("a word against does not count", f"{_EVIDENCE}:evidence", swap("return -opposed", "return 0.0")),
    Mutant(
        "a word against reaches over the clause",
        f"{_EVIDENCE}:_in_scope",
        swap("_clause(candidate, around)", "(candidate.start - _BEFORE, candidate.end + _AFTER)"),
    ),
    Mutant(
        "labels do not count",
        f"{_EVIDENCE}:_in_scope",
        swap("DIRECT if around and context.names(candidate.view, around[0].label) else 0.0", "0.0"),
    ),
    Mutant(
        "what names a value less directly does not count",
        f"{_EVIDENCE}:_beyond",
        never("any((near.names(candidate.view, label) for label in wider))"),
    ),
    Mutant(
        "the question before does not count",
        f"{_EVIDENCE}:_beyond",
        drop_operand("near.asked(candidate)"),
    ),
    Mutant(
        "a question in the same text does not count more",
        f"{_EVIDENCE}:Context.around",
        swap("DIRECT if _asks(word, candidate) else NEAR", "NEAR"),
    ),
    Mutant(
        "a word names a value behind another number",
        f"{_EVIDENCE}:_names",
        swap("_DIGIT.search(__, __, __) is None", "True"),
    ),
    Mutant(
        "loose words count as others",
        f"{_EVIDENCE}:Context.beside",
        swap("self._of_loose(candidate) if word.loose else DIRECT if _names(word, candidate) else NEAR", "DIRECT"),
    ),
    Mutant(
        "a loose word in prose counts no more than in program text",
        f"{_EVIDENCE}:Context._of_loose",
        swap("NEAR if self.told is not None and self.told(candidate) else LOOSE", "LOOSE"),
    ),
    Mutant(
        "a loose word beats a word against",
        f"{_EVIDENCE}:evidence",
        swap("found > LOOSE", "found"),
    ),
    Mutant("words of a phrase are not joined by underscores", f"{_EVIDENCE}:_joinable", returns("words")),
    Mutant(
        "the value on the line after its name is not named by it",
        f"{_PAIRS}:pairs",
        swap("_block(data, key[0]) or near", "_block(data, key[0])"),
    ),
    Mutant(
        "an empty field at the end of a row is not counted",
        f"{_TABLES}:_fields",
        never("separator and __ and __"),
    ),
    Mutant(
        "no word lowers a valid card number",
        f"{_DETECTORS}.formats.money:_card",
        swap("(0.5 if luhn(digits) else 0.0)", "(0.9 if luhn(digits) else 0.0)"),
    ),
    Mutant(
        "numbers in the path of a drawing are addresses",
        f"{_DETECTORS}.formats.network:_drawn",
        never("commands > 2 or (commands and any(map(_DECIMAL.search, runs)))"),
    ),
    Mutant("names in camel case are not split", f"{_DETECTORS}.layout.names:_apart", returns("names")),
    Mutant(
        "the words before an answer are forgotten",
        f"{_ENGINE}:prepare",
        swap("Prepared(text, before=before)", "Prepared(text)"),
    ),
    Mutant(
        "only the last text is a question",
        f"{_ENGINE}:prepare",
        swap("f'{before}\\n{text[-_ASKED:]}'[-_ASKED:]", "text[-_ASKED:]"),
    ),
    Mutant("what was said before is not bounded", f"{_ENGINE}:prepare", swap("__text[-_ASKED:]", "__text")),
    Mutant(
        "the words before an encoded run do not count in it",
        f"{_ENGINE}:_said_before",
        swap("text[max(0, start - _ASKED) : start]", "''"),
    ),
    Mutant("weak formats count without a word", f"{_ENGINE}:Pattern.accepts", always("score + __ >= __")),
    Mutant(
        "the key beside a value does not name it",
        f"{_PAIRS}:_closed",
        swap("names or parents", "parents"),
    ),
    Mutant("the key around a value does not name it", f"{_PAIRS}:_closed", swap("names or parents", "names")),
    Mutant("rows below an array of names have no labels", f"{_PAIRS}:_Rows._row", drop("self._header = fields")),
    Mutant("columns that are described have no labels", f"{_PAIRS}:_Rows.closed", drop("self._header = self._columns")),
    Mutant("a table is only its first row", f"{_TABLES}:below", drop("behind = row[1] if was_row else behind")),
    Mutant("a rule is a row of a table", f"{_TABLES}:below", always("not _RULE.fullmatch(data, *row)")),
    Mutant("remarks end a table", f"{_TABLES}:below", never("_REMARK.fullmatch(data, *row) is not None")),
    Mutant("a table never ends", f"{_TABLES}:below", never("not is_row and not was_row")),
    Mutant("a text is not read as it is shown", f"{_ENGINE}:Prepared._read_as_shown", returns("None")),
    Mutant("an isolate ends no override", f"{_BIDI}:_Stack.pop_isolate", drop("del __")),
    Mutant("numbers behind letters to the left are shown as they are written", f"{_BIDI}:_neutral", swap("'R'", "'L'")),
    Mutant("what nests too deep is no find", f"{_BIDI}:shown", drop("unread.append((start, end))")),
    Mutant("the header of a column in HTML does not name it", f"{_MARKUP}:_Table.column", returns("()")),
    Mutant("an attribute does not name a value", f"{_MARKUP}:markup", never("each[1].lower() in _NAMES")),
    Mutant("a quoted name is cut", f"{_MAIL}:_start", never("data.startswith(b'\"', at - 1)")),
    Mutant("a key is part of an address", f"{_MAIL}:_without_marks", never("pair is not None and pair.end() < at")),
    Mutant("paths to repositories are addresses", f"{_MAIL}:_address", drop_operand("local == b'git'")),
    Mutant(
        "a row of numbers is a telephone number",
        f"{_CONTACT}:_is_piece",
        swap("return _ROW.match(__, __) is not None or __", "return False"),
    ),
    Mutant(
        "limits of integers are telephone numbers", f"{_CONTACT}:_is_round", drop_operand("_is_power_of_two(digits)")
    ),
)
