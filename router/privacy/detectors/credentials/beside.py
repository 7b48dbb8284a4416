"""Secrets beside a word for them: `password: X`, `pw=X`, `<secret>X</secret>`, `my PIN is X`, `IDENTIFIED BY 'X'`.

Every piece of evidence has a score: the word, the sign between it and the value, the value itself, what stands around
them. None of them is enough alone, and each can be outweighed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hybrid_llm.router.privacy.detectors.credentials import plausible
from hybrid_llm.router.privacy.detectors.credentials.labels import LINE, OURS, Label, label_at, words_in
from hybrid_llm.router.privacy.detectors.credentials.others import ahead, is_long, linked, more, pair
from hybrid_llm.router.privacy.detectors.credentials.plausible import MIXED, PHRASE, WORD
from hybrid_llm.router.privacy.detectors.credentials.readings import (
    CLAUSE,
    ENDS,
    Value,
    bare_at,
    is_alone,
    judged,
    phrase_at,
    quoted_at,
    value_at,
)
from hybrid_llm.router.privacy.detectors.text import View

_LINKED: Final = 8
"""Characters that a link of another script has at most."""
_NONE: Final = Value("", 0, quoted=False)
_CLOSE: Final = r"[\"'`*_\])}]{0,4}(?:</[a-z]{1,8}>)?"
_BOLD: Final = r"(?:\*\*|__|<(?:b|strong|em|i|u|code|span|mark|kbd|tt)(?: [^<>]{0,60})?>)?"
"""What emphasises a value in a sentence."""
_CLOSED: Final = re.compile(r"(?:[ ]?\]|[\"'`)])?")
_SIGN: Final = re.compile(
    rf"{_CLOSE}[ \t]{{0,12}}(?P<about>\([^()\n]{{1,40}}\)[ \t]{{0,3}})?"
    rf"(?:(?P<sign>:=|=>|->|===?|!==?|=|\.{{3,60}}[ ]?:?|_{{3,60}}[ ]?:?|::?|\xa1)"
    rf"|(?P<attribute>(?:\{{[ \t\r]{{0,3}}(?:\n[ \t]{{1,24}}[a-z_]{{1,16}}[ \t]{{0,12}}=[^\n{{}}]{{0,80}}){{0,4}})?"
    rf"(?:[,\s]{{1,24}}[\"'`]?(?:type|in|required|kind|sensitive|description|secret|nullable)[\"'`]?[ \t]{{0,12}}[:=]"
    rf"[^\n,<>]{{1,60}}){{0,2}}[,\s]{{1,24}}[\"'`]?(?:value|val|content|default|example)[\"'`]?[ \t]{{0,12}}[:=])"
    rf"|(?P<call>\()|(?P<item>[,|;]|[ ]{{0,20}}\t|[ ]-[ ]|[ ]{{2,40}}))"
    rf"(?P<space>(?:\*\*|__)?(?:</[a-z]{{1,8}}>)?\s{{0,16}}(?:<[a-z]{{1,8}}>\s{{0,4}})?(?:\[\s{{0,8}})?)(?:\*\*|__)?",
    re.IGNORECASE,
)
_TYPED: Final = re.compile(
    rf"{_CLOSE}(?:\s{{0,3}}:\s{{0,3}}[\w.\[\]|&*?, ]{{1,40}}=|[ \t][A-Za-z]+(?:\([0-9]+\))?[ \t]+default)\s{{0,4}}",
    re.IGNORECASE,
)
_COPULA: Final = re.compile(
    rf"(?:{_CLOSE}|'s)(?:\s(?:for|to|of|on|at|in|you|we|I|that|from|used|here|now|below|zum|zur|vom|von|im|am|fuer|fur"
    rf"|para|pour|por|de|del|des|du|do|da|das|dos|di|della|dello|van|voor|till?|na|k|ke|od|pro|za|fran?|pa|mitt|min"
    rf"|mea|mou)\b[^\n!?;:=]{{0,60}}?|,? (?:which|das|qui|que|che|dat)|\s?(?:-|\()[^\n!?;:=()-]{{1,40}}(?:-|\)))?"
    r"(?:(?:,? ?\b|\s)(?:c'est|dat is)|\s{1,3}(?:is|lautet|was|are|will be|has been|(?:should|must|can|could|may"
    r"|might|would) be|ist|war|lautet|waren|es|era|est|etait|e|fue|foi|er|var|ar|adalah|jest|je|sera|seria"
    r"|este|lyder|brzmi|luidt|zni))"
    r"(?:\s(?:now|currently|still|just|simply|only|actually|jetzt|maintenant|ahora|agora|ora|nu|also|again|probably"
    rf"|not))?(?:\s(?:set|changed|reset|updated)\sto)?(?P<colon>:?)\s{{1,3}}{_BOLD}"
    rf"|(?:{_CLOSE}\s(?:set|changed|reset|updated)\sto|'s)(?P<other>:?)\s{{1,3}}{_BOLD}",
    re.IGNORECASE,
)
_FOR: Final = re.compile(
    rf"{_CLOSE},?\s(?:for|to|of|on|at|you|we|I|that|which|from|in|fuer|fur|para|pour|voor|de|del|des|du|zum|zur|vom"
    rf"|von|van|do|da"
    rf"|das|der|die|que|qui|till?|na|k|ke|od|pro|za|w|fran?|x[ox]|ox|xxx|xa|x)\s[^\n!?;=:]{{1,50}}?(?P<sign>:\s|\s?="
    rf"|\s-\s)(?P<space>\s{{0,2}})",
    re.IGNORECASE,
)
_TO: Final = re.compile(
    rf"{_CLOSE}(?:\s(?:do|od|w|na|k|ke)\s[^\n!?;:=]{{1,40}}?)?\s(?:auf|en|ao?|para|naar|till?|na|on|to|to jest)\s",
    re.IGNORECASE,
)
"""*To* and *is* in other languages: `Passwort auf X geändert`, `hasło to X`."""
_FIELD: Final = re.compile(
    r"(?:[\"'][^<>]{0,60})?(?:/?>|[ ]?[:=]?</[A-Za-z]{1,8}>)\s{0,20}(?:<br ?/?>\s{0,8}"
    r"|<[A-Za-z][\w:.-]{0,20}(?:\s[^<>]{0,80})?>\s{0,20})(?P<value>(?:[^<\n]|<[^/\n]){3,100}?)\s{0,20}(?:<|$)"
)
"""What follows in the next element of XML or HTML."""
_NEXT: Final = re.compile(
    rf"{_CLOSE}(?P<gap>\s{{1,3}})(?:(?:from|to|as|like|of|was|code|number|string|value|no\.?|nr\.?|by|with"
    rf"|changed|reset|updated|rotated)\s{{1,3}}){{0,2}}{_BOLD}"
)
_TAG: Final = re.compile(r"(?:\s[^<>]{0,80})?>\s{0,8}(?P<value>(?:[^<\n]|<[^/\n]){3,200}?)\s{0,8}</")
_NAMED: Final = re.compile(r"(?i)\b(?:user|username|login|account)\s{1,3}[\w.@-]{2,40},?\s(?:and |with |with the )?$")
_IS: Final = re.compile(r"(?i)\sis:?\s")
"""The predicate of English; other languages need an owner, since their adjectives are not known here."""
_FOREIGN: Final = re.compile(
    r"(?:ig|lich|isch|bar|los|haft|end|et|sam|ert|en|zt|ant|ent|aire|eurx?|eux|euse|able|ible|ee?|ad[oa]|id[oa]|os[oa]"
    r"|iv[oa]|al|ari[oa]|ori[oa]|[ae]nte|[aeiu]t[oa]|elijk|baar|loos|nie|n[yaeoi]|k[oaiy]|wa|[io]wy|an)$|^(?:[a-z]{2,6})?ge[a-z]{3,}(?:d|t|en)$"
)
"""How adjectives and participles end in other languages, and how those of Dutch and German begin."""
_GRANTS: Final = re.compile(r"(?i)\b(?:user|role|grant|alter|account)\b")
_OPTION_END: Final = re.compile(r"[ \t]{0,3}(?:$|[\r\n|;&>\"'`)\\]|-|[\w./-]*[/.@:])")
_SETS: Final = re.compile(r"(?i)\b(?:set|chang(?:e|ed|ing)|reset|updated?|made|make|switch(?:ed)?)\b[^.\n]{0,40}$")
_NESTED: Final = re.compile(
    r"(?i)[\"']?(?:value|content|default|text|data)[\"']?\s{0,2}:\s{1,2}|[|>][+-]?[ \t]{0,4}\n\s{1,16}"
    r"|![A-Za-z][\w:-]{0,20}\s{1,2}(?:[|>][+-]?\s{1,16})?"
)
_REPLIED: Final = re.compile(
    r"[\"'`]?\s?\?(?: {1,2}|[ \t]{0,3}\n{1,3})(?:[\w .@-]{1,24}[:>]\s{1,3}|[>-]\s)?(?:(?:it'?s|it is|sure|ok|yes|yeah"
    r"|that'?s)[\s,:]{1,3}){0,2}",
    re.IGNORECASE,
)
_NEXT_LINE: Final = re.compile(r"[ \t]{0,8}\r?\n[ \t]{0,8}")
_SEQUEL: Final = re.compile(
    r"[^\n.!?:;=]{0,60}[.!?,;]\s{1,3}(?:(?:so|and|ok|now|well),? )?(?:it'?s|it is|it was|that'?s|now it'?s"
    r"|the new one is|the new one's"
    r"|(?:it )?should be|try|es ist|er ist|es lautet|c'est|es|e|het is|ora e|agora e|ahora es)(?: now| jetzt)?:?\s",
    re.IGNORECASE,
)
"""The clause after the one with the word, which begins with what stands for it."""
_CHANGED: Final = re.compile(r"(?i)\b(?:changed|new|reset|updated|geandert|neu|change|cambiad[oa]|cambiata|mudou)\b")
_APPOSED: Final = re.compile(
    r",\s(?:which|that|and|but|so|it|valid|who|die|das|der|qui|que|che)\b|[,.;]?\s{0,3}(?:$|\n)"
)
_ONE: Final = re.compile(
    r"(?i)\b(?:an?|the|this|einem?|einen|das|une?|le|una?|la|el|il|um|uma|een|het)\s(?:[\w-]{1,16}\s){0,2}$"
)
_ABOVE: Final = re.compile(
    rf"{_CLOSE}(?P<rest>[^\n.?!:;=]{{0,60}})[.:?]?[ \t]{{0,3}}\r?\n(?:\r?\n)?[ \t>*-]{{0,8}}"
    r"(?P<speaker>(?:[\[(]?[0-9][0-9:., T/Z+-]{3,24}[\])]?[ \t-]{0,3})?[A-Za-z\x80-\xa1][\w .@()-]{0,24}[:>]\s{1,3})?"
    r"(?:(?:it'?s|it is|sure|ok|yes|yeah|that'?s)[\s,:]{1,3}){0,2}",
    re.IGNORECASE,
)
_HEADING: Final = re.compile(r"(?:^|[\r\n])[#*\s>\"-]{0,8}(?:[\w'-]{1,20}[ _.-]){0,3}[\w-]{0,20}$")
_PAIR_BEHIND: Final = re.compile(r"[ \t]{1,2}[A-Za-z_][\w.-]{0,30}=")
_OPENED: Final = re.compile(r"<(?:[\w-]{1,20}:)?[\w.-]{0,30}$")


def beside(view: View) -> Iterator[tuple[int, int]]:
    """Yield each value beside a word for a secret, where the evidence suffices."""
    for found in words_in(view):
        label = label_at(view, found)
        if label is not None:
            for value in (*values(label), *linked(label, view.text[label.offset : label.offset + _LINKED])):
                yield label.offset + value.start, label.offset + value.end


def values(label: Label) -> Iterator[Value]:
    """The values beside *label* whose evidence suffices."""
    for found in (_tagged, _typed, _signed, _told, _replied, _next, _beside_tag, _below, _above):
        value = found(label)
        if value is not None:
            yield value
            yield from more(label, value)
            break
    yield from pair(label)
    yield from ahead(label)


def _tagged(label: Label) -> Value | None:
    """`<password>X</password>`"""
    if not _OPENED.search(label.before):
        return None
    match = _TAG.match(label.behind)
    return judged(label, Value(match["value"], match.start("value"), quoted=True), 0.2) if match else None


def _beside_tag(label: Label) -> Value | None:
    """`<label>Password</label><span>X</span>`, `<setting name="password"><value>X</value>`"""
    match = _FIELD.match(label.behind)
    if match is None or plausible.likeness(match["value"], bare=True) < MIXED:
        return None
    return judged(label, Value(match["value"], match.start("value"), quoted=True), 0.1)


def _typed(label: Label) -> Value | None:
    """`password: str = "X"`"""
    match = _TYPED.match(label.behind)
    value = quoted_at(label.behind, match.end()) if match else None
    return judged(label, value, 0.2) if value is not None else None


def _signed(label: Label) -> Value | None:
    """`password: X`, `password = "X"`, `("password", "X")`"""
    match = _SIGN.match(label.behind)
    if match is None:
        return None
    at = match.end()
    nested = _NESTED.match(label.behind, at)
    if nested and (nested.group()[0] in "|>!" or "\n" in match["space"]):
        at = nested.end()
    value = quoted_at(label.behind, at)
    if value is not None:
        if (match["item"] or match["call"]) and label.word in value.text.lower():
            return None  # names in a row: "password1", "password2"
        if match["item"] == "," and match.group()[0] == "," and not is_alone(label, value):
            return None  # a variable and the next argument: encode(password, "utf8")
        return judged(label, value, 0.2 if match["sign"] or match["attribute"] else -0.1 if match["item"] else 0.0)
    return _signed_bare(label, match, at)


def _signed_bare(label: Label, match: re.Match[str], at: int) -> Value | None:
    """A value without quotes behind a sign."""
    sign = match["sign"] or ""
    if match["call"] or "==" in sign or sign == "!=" or "[" in match["space"]:
        return None
    is_clause = sign == ":" and label.kind == "password" and "\n" not in match["space"]
    value = (phrase_at(label, at) if is_clause else None) or bare_at(label, at)
    if value is None or (is_clause and " " in value.text):
        return value
    name = value.text.rstrip(",;)")
    is_line = is_alone(label, value)
    if label.word in name.lower() and name.isidentifier() and (match["item"] or not is_line or name != value.text):
        return None  # names in program text: token_1=token_1, password1, password2
    if match["attribute"]:
        return judged(label, value, 0.1) if "\n" in match["attribute"] and ENDS.match(label.behind, value.end) else None
    score = _of_sign(label, match, value)
    is_line = is_line and score >= 0.1 and label.kind == "password" and not plausible.is_code(value.text)
    return judged(label, value._replace(quoted=is_line), score) and value


def _of_sign(label: Label, match: re.Match[str], value: Value) -> float:
    """What the sign before a value without quotes adds."""
    rest = label.behind[value.end :]
    item = match["item"]
    if item and is_alone(label, value) and (item.strip() == "-" or not match["space"]):
        return 0.1
    if item and item.isspace() and "\t" not in item:
        return -1.0  # words of a sentence or of program text
    if item == "," and match["space"] and _is_apposed(label, value, rest):
        return 0.0
    if item:
        return -0.1 if not match["space"] or match["item"] not in {",", ";"} else -1.0
    if "\n" in match["space"]:
        return 0.1 if match["space"].count("\n") == 1 and ENDS.match(rest) and LINE.search(label.before) else -0.1
    if plausible.likeness(value.text, bare=True) < MIXED and match.group()[0] in "\"'`":
        return -1.0  # a name in program text
    is_line = is_alone(label, value)
    if match["sign"] == "=":
        return 0.2 if is_line and not match["space"] and match.group()[0] == "=" else _of_equals(label, value, rest)
    return 0.1 if is_line or CLAUSE.match(rest) else 0.0


def _is_apposed(label: Label, value: Value, rest: str) -> bool:
    """Whether a value stands between commas behind its word: `a temporary password, X, which expires tonight`."""
    if OURS.search(label.before):
        return rest[:1] in {",", "."}
    is_one = label.kind == "password" and _ONE.search(label.before) is not None and _APPOSED.match(rest) is not None
    return is_one and plausible.likeness(value.text, bare=True) >= PHRASE


def _of_equals(label: Label, value: Value, rest: str) -> float:
    if "_" in value.text.rstrip("_") and value.text.isidentifier() and not plausible.is_random(value.text):
        return -1.0  # a name in program text
    if label.kind == "pin" or label.before.endswith("--") or rest[:1] in {";", "&"} or _PAIR_BEHIND.match(rest):
        return 0.1
    return 0.0


def _told(label: Label) -> Value | None:
    """`my password is X`, `the password for the door: X`"""
    match = _COPULA.match(label.behind) or _FOR.match(label.behind)
    if match is None:
        return None
    if match.group().endswith(" este ") and not label.word.startswith("parol"):
        return None  # *is* in Romanian, and *this* in Spanish and Portuguese
    value = quoted_at(label.behind, match.end())
    if match.group().startswith("'s ") and (value or bare_at(label, match.end()) or _NONE).text.isalpha():
        return None
    is_told = _IS.search(match.group()) is not None or OURS.search(label.before) is not None
    if value is None and is_told and label.kind == "password" and (phrase := phrase_at(label, match.end())) is not None:
        return phrase
    value = value or (None if match.group().rstrip()[-1:] == "=" else bare_at(label, match.end()))
    if value is None or (not value.quoted and not _may_be_told(label, value, match.group())):
        return None
    quoted = value.quoted
    if label.kind == "password":
        value = value._replace(quoted=True)  # prose, where no name of a variable stands
    found = judged(label, value, 0.2 if quoted else 0.1)
    return None if found is None else found._replace(quoted=quoted)


def _replied(label: Label) -> Value | None:
    """`the password?`, and on the next line the answer; `I reset the password. It's X now.`"""
    match = _REPLIED.match(label.behind) or _SEQUEL.match(label.behind)
    value = value_at(label, match.end()) if match else None
    if match is None or value is None or not CLAUSE.match(label.behind, value.end + value.quoted):
        return None
    if match.re is _SEQUEL and plausible.likeness(value.text, bare=not value.quoted) < PHRASE:
        is_new = label.kind == "password" and _CHANGED.search(match.group()) is not None and is_long(value.text)
        return value if is_new else None
    return judged(label, value, 0.1)


def _below(label: Label) -> Value | None:
    """The word alone in its line and the value in the next, as copied from a page."""
    match = _NEXT_LINE.match(label.behind) if label.kind == "password" and LINE.search(label.before) else None
    value = bare_at(label, match.end()) if match else None
    if value is None or not ENDS.match(label.behind, value.end) or plausible.likeness(value.text, bare=True) < MIXED:
        return None
    return judged(label, value, 0.0)


def _above(label: Label) -> Value | None:
    """The word at the end of a line, as in a heading or a message, and the value alone on the next one."""
    match = _ABOVE.match(label.behind)
    value = value_at(label, match.end()) if match else None
    if match is None or value is None or plausible.likeness(value.text, bare=True) < _least_above(label, value):
        return None
    closed = _CLOSED.match(label.behind, value.end)
    end = closed.end() if closed else value.end
    if not CLAUSE.match(label.behind, end):
        return None
    if match["speaker"] is not None:
        return judged(label, value._replace(quoted=value.quoted or label.kind == "password"), 0.1)
    is_heading = not match["rest"].strip(" *") and _HEADING.search(label.before) is not None
    return judged(label, value, 0.1) if is_heading and ENDS.match(label.behind, end) else None


def _least_above(label: Label, value: Value) -> float:
    """How much a value on the next line looks like a secret at least: less where it is all that someone says."""
    is_whole = label.kind == "password" and is_long(value.text) and ENDS.match(label.behind, value.end) is not None
    return WORD if is_whole else MIXED


def _may_be_told(label: Label, value: Value, link: str) -> bool:
    """Whether a word without quotes is no adjective: it ends its clause, and the password is someone's or *is* it."""
    if label.kind == "pin" or value.text.isdigit() or plausible.likeness(value.text) >= MIXED:
        return True
    if plausible.is_predicate(value.text):
        return False
    is_someones = OURS.search(label.before) is not None or (_IS.search(link) is not None and label.word != "wachtwoord")
    is_someones = is_someones or (not label.is_english and len(value.text) > 8 and not _FOREIGN.search(value.text))
    return is_someones and (value.text[-1] in "!?" or CLAUSE.match(label.behind, value.end) is not None)


def _next(label: Label) -> Value | None:
    """`api key X`, `with the password X`, `IDENTIFIED BY 'X'`"""
    match = (None if label.is_english else _TO.match(label.behind)) or _NEXT.match(label.behind)
    if match is None or "\n" in match.group() or (label.kind == "pass" and not label.is_login):
        return None
    strong = label.word.startswith("identified") or label.before.endswith("--")
    value = quoted_at(label.behind, match.end())
    if value is not None:
        return judged(label, value, 0.2 if strong else 0.1)
    value = bare_at(label, match.end())
    if value is None:
        return None
    if label.kind == "password" and " to " in match.group() and _SETS.search(label.before):
        return _set_to(label, value)
    return _bare_next(label, value, strong=strong)


def _bare_next(label: Label, value: Value, *, strong: bool) -> Value | None:
    if strong and plausible.likeness(value.text) < MIXED and not _OPTION_END.match(label.behind, value.end):
        return None
    if (
        label.word.startswith("identified")
        and plausible.likeness(value.text) < MIXED
        and not _GRANTS.search(label.before)
    ):
        return None
    if strong or label.kind == "pin":
        return judged(label, value, 0.2 if strong else 0.1)
    if not _may_be_next(label, value):
        return None
    return judged(label, value, -0.2 if label.kind in {"key", "token", "auth"} and len(value.text) < 8 else 0.0)


def _set_to(label: Label, value: Value) -> Value | None:
    """`I changed the password to X`"""
    return None if plausible.is_predicate(value.text) else judged(label, value._replace(quoted=True), 0.1) and value


def _may_be_next(label: Label, value: Value) -> bool:
    """Whether a word right behind the label is no noun or verb of its sentence."""
    if plausible.likeness(value.text, bare=True) >= (PHRASE if label.kind == "password" else MIXED):
        return True
    is_someones = label.is_english and bool(_NAMED.search(label.before) or OURS.search(label.before))
    return is_someones and bool(CLAUSE.match(label.behind, value.end)) and not plausible.is_predicate(value.text)
