"""Secrets beside a word for them: `password: X`, `pw=X`, `<secret>X</secret>`, `my PIN is X`, `IDENTIFIED BY 'X'`.

Every piece of evidence has a score: the word, the sign between it and the value, the value itself, what stands around
them. None of them is enough alone, and each can be outweighed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from hybrid_llm.router.privacy.detectors import plausible
from hybrid_llm.router.privacy.detectors.plausible import MIXED, NOTHING, PHRASE
from hybrid_llm.router.privacy.detectors.text import Found, Regex, View

THRESHOLD: Final = 0.5
_AHEAD: Final = 340
_BEHIND: Final = 80
_SCORES: Final = {"password": 0.3, "pin": 0.2, "key": 0.2, "token": 0.1, "auth": -0.2, "pass": 0.1, "login": 0.1}
_LABEL: Final = Regex(
    rb"(?i)(?P<password>password|passwort|passwd|pass[ _-]?phrase|pass[ _-]?code|pwd|kennwort|contrase[nx][ay]a?|palavra[ -]passe|senha"
    rb"|mot[ _]de[ _]passe|wachtwoord|has[lx]o|l[o]senord|adgangskode|passord|salasana|sifre|jelsz[o]|kata[ _]sandi|mat khau"
    rb"|identified\s+by|(?:seed|recovery|mnemonic|secret)[ _-]?phrase|requirepass|masterauth|psk|pw|mdp)"
    rb"|(?P<key>api[ _-]?(?:key|secret)|(?:secret|access|private|auth|account|encryption|signing|master|license|subscription|function"
    rb"|storage|shared|webhook|app|application|consumer|service)[ _-]?key|client[ _-]?secret|secret|(?:access|auth|bearer|refresh|session|api"
    rb"|security|private|personal|bot|id|oauth|user|csrf|deploy|service|admin|sas|device)[ _-]?tok[e]n|session[ _-]?id|sess?id|credentials?)"
    rb"|(?P<pin>pin(?:[ _-]?(?:code|number|nummer))?|otp|totp|tan|one[ -]?time[ -]?pass(?:word|code)|(?:verification|security|one[ -]?time|2fa|mfa|login|access|unlock|door|gate"
    rb"|alarm|confirmation|authentication|backup|recovery|sms|entry)[ _-]?(?:code|pin)|cvv2?|cvc2?|codice pin|code pin)"
    rb"|(?P<token>token)|(?P<auth>auth)"
    rb"|(?P<pass>pass|clave|parola)|(?P<login>logins?|log[ -]?in|sign[ -]?in)"
)
_SUFFIX: Final = re.compile(r"s?[0-9]{0,2}(?:[_-][A-Za-z0-9]{1,20}|[A-Z][A-Za-z0-9]{1,20}){0,4}")
_META: Final = re.compile(
    r"hash(?:ed|er|es)?|hints?|fields?|types?|ids?|urls?|uris?|files?|path|names?|len(?:gth)?|min|max|polic(?:y|ies)|labels?|placeholder|prompt"
    r"|messages?|msg|errors?|regex|pattern|validators?|validation|expir\w*|ttl|timeout|counts?|limit|size|prefix|suffix|headers?|param\w*|env"
    r"|var|inputs?|widget|forms?|class|format|version|algorithm|alg|required|reset|changed?|strength|manager|store|storage|provider|service"
    r"|endpoint|lifetime|age|date|at|index|embedding\w*|classification|position|mask|usage|generator|factory|help|text|title|description|info"
    r"|method|handler|getter|callback|func|fn|backend|location|source|ref|context|attr\w*|column|rotation|enc|encrypted|encryption|separator|sep|delimiter|list|set|lookup|cost|list|table",
    re.IGNORECASE,
)
"""Parts of a longer name that make it speak of something about a secret: `password_hash`, `tokenType`."""
_PARTS: Final = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")
_OTHERS: Final = re.compile(
    r"(?:eos|bos|pad|unk|mask|sep|cls|special|next|prev(?:ious)?|stop|start|end|begin|max|min|num|n|first|last|image|video|audio|text|current"
    r"|per|total|prompt|completion|extra|sub|word|input|output|old_?pos|lex|new_?line|is|has|no|public)[_-]?",
    re.IGNORECASE,
)
"""What stands before *token* where it is a unit of text or a flag."""
_BEFORE: Final = re.compile(r"[A-Za-z0-9_$-]*")

_CLOSE: Final = r"[\"'`*_\])}]{0,4}"
_SIGN: Final = re.compile(
    rf"{_CLOSE}[ \t]{{0,12}}(?P<about>\([^()\n]{{1,40}}\)[ \t]{{0,3}})?"
    rf"(?:(?P<sign>:=|=>|->|===?|!==?|=|::?|\xa1)"
    rf"|(?P<attribute>[,\s]{{1,4}}[\"'`]?(?:value|val|content|default)[\"'`]?[ \t]{{0,3}}[:=])|(?P<call>\()|(?P<item>[,|;]|\t|[ ]-[ ]))"
    rf"(?P<space>(?:\*\*|__)?\s{{0,16}})(?:\*\*|__)?",
    re.IGNORECASE,
)
_TYPED: Final = re.compile(
    rf"{_CLOSE}(?:\s{{0,3}}:\s{{0,3}}[\w.\[\]|&*?, ]{{1,40}}=|[ \t][A-Za-z]+(?:\([0-9]+\))?[ \t]+default)\s{{0,4}}", re.IGNORECASE
)
_COPULA: Final = re.compile(
    rf"{_CLOSE}(?:\s(?:for|to|of|on|at|in|you|we|I|that|from|used|here|now|below|zum|zur|fuer|fur|para|pour|de|del|do|da|di|voor)\b[^\n!?;:=]{{0,60}}?)?"
    r"\s{1,3}(?:(?:is|was|are|will be|has been|ist|war|lautet|es|est|e|er|ar|adalah|jest|je)(?:\s(?:now|currently|still|just|simply|only|actually))?"
    r"(?:\s(?:set|changed|reset|updated)\sto)?|set to|changed to|reset to|=)(?P<colon>:?)\s{1,3}(?:\*\*|__)?",
    re.IGNORECASE,
)
_FOR: Final = re.compile(rf"{_CLOSE}\s(?:for|to|of|on|at|fuer|fur|para|pour|voor|de)\s[^\n!?;=:]{{1,50}}(?P<sign>:)(?P<space>\s{{1,3}})", re.IGNORECASE)
_NEXT: Final = re.compile(rf"{_CLOSE}(?P<gap>\s{{1,3}})(?:(?:from|to|as|like|of|was|code|number|string|value|no\.?|nr\.?|by|with|changed|reset|updated|rotated)\s{{1,3}}){{0,2}}(?:\*\*|__)?")
_TAG: Final = re.compile(r"(?:\s[^<>]{0,80})?>\s{0,8}(?P<value>[^<\n]{3,200}?)\s{0,8}</")
_QUOTED: Final = re.compile(r"[brfuBRFUL@]{0,2}(?:\"([^\"\r\n]{1,200})\"|'([^'\r\n]{1,200})'|`([^`\r\n]{1,200})`|\(([^()\s`\"']{4,60})\)(?:[\s.,;]|$))")
_BARE: Final = re.compile(r"(?:[^\s\"'`<>]|>[^\s<]|<[^/A-Za-z!\s<>]|[\"'][^\s\"'`,;:)\]}=<>])(?:[^\s\"'`<>]|>[^\s<]|<[^/A-Za-z!\s<>]|[\"'][^\s\"'`,;:)\]}=<>]){0,199}")
_CUT: Final = re.compile(r"[;&,](?:[\w .-]{1,30}[=:]|$|[\"'])|\\[nrt]|[)\]](?:\]?\(|[,;.]|$)")
_CLAUSE: Final = re.compile(r"[ \t]{0,3}(?:$|[.,;!?)\r\n\"*`]|(?:and|but|so|please|thanks|for|on|und|y|et)\b)")
_LINE: Final = re.compile(r"(?:^|[\r\n])[ \t]{0,20}(?:export |set |env |-e |- |ENV |[*-] ){0,2}[\"'\w.*$-]{0,60}$", re.IGNORECASE)
_ENDS: Final = re.compile(r"[ \t]{0,8}(?:$|[\r\n]|#|//)")
_OWNER: Final = re.compile(r"(?:\b(?:my|your|our|his|her|their|the|new|old|temporary|temp|default|initial|current|mein|dein|mi|mon|minha|mijn)\s|--?)[\w-]*$", re.IGNORECASE)
_BEFORE_IT: Final = re.compile(r"(?:^|[\s(])[\"'`]?([^\s\"'`]{5,64})[\"'`]?\s(?:is|as|for|are)\s(?:(?:my|the|your|our|a|his|her|their|new|old)\s){0,2}(?:\w+\s)?$", re.IGNORECASE)
_AGAINST: Final = re.compile(r"(?i)(?:hash|digest|checksum|sha-?(?:1|2|256|512)|md5|integrity|commit|revision|fingerprint|regex|schema|example|e\.g\.)[^\n]{0,20}$")
_TWO: Final = re.compile(
    rf"{_CLOSE}(?:\s?[:=]\s{{0,3}}|\s(?:with|as|using|is|are)\s|\s)(?:(?:the )?user(?:name)?\s)?[\"'`]?[^\s/:|,\"'`=]{{2,60}}[\"'`]?"
    r"(?:\s?[/|,:]\s?|\s(?:and|und|y|et|with)\s)[\"'`]?([^\s/|,\"'`][^\s|,\"'`]{3,63})"
)
_MORE: Final = re.compile(r"\s{0,2}(?:,|/|and|or|to|und|y|et|then)\s{1,2}")
_LOGIN: Final = re.compile(r"(?i)\b(?:user|username|user name|login|log in|account|e-?mail|benutzer|usuario|utilisateur)\b[^\n]{0,60}$")
_NAMED: Final = re.compile(r"(?i)\b(?:user|username|login|account)\s{1,3}[\w.@-]{2,40},?\s(?:and |with |with the )?$")
_OURS: Final = re.compile(r"(?i)\b(?:my|our|meine?|mi|mon|minha|mijn|unser|notre|nuestra|moje|min|mitt|la mia|mia)\s(?:[\w-]{1,12}\s)?$")
_IS: Final = re.compile(r"(?i)\sis:?\s|=")
_OPTION_END: Final = re.compile(r"[ \t]{0,3}(?:$|[\r\n|;&>\"'`)\\]|-|[\w./-]*[/.@:])")
_TYPE: Final = re.compile(r"(?i)\btype[\"']?\s?[=:]\s?[\"']?$")
_OPENED: Final = re.compile(r"<(?:[\w-]{1,20}:)?[\w.-]{0,30}$")
_PIN: Final = re.compile(r"[A-Z]{0,3}-?[0-9]{3,10}|[0-9]{3}[ -][0-9]{3,4}|[A-Z0-9]{2,6}(?:-[A-Z0-9]{2,6}){0,4}")
_SPACED: Final = re.compile(r"[0-9]{2,4}(?:[ -][0-9]{2,4}){1,2}")
_LINK: Final = re.compile("[\x80\x90-\x99\xa1\\s:=]{0,8}")
_OPENING: Final = {")": "(", "]": "[", "}": "{"}
_TYPOGRAPHIC: Final = str.maketrans({**dict.fromkeys("\u201c\u201d\u201e\xab\xbb\u300c\u300d\u300e\u300f\u201f", '"'), **dict.fromkeys("\u2018\u2019\u201a\u2039\u203a", "'")})


class Value(NamedTuple):
    """A text that may be a secret: where it starts in the slice behind the label, and how it stands there."""

    text: str
    start: int
    quoted: bool

    @property
    def end(self) -> int:
        """Where it ends in that slice."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class Label:
    """A word for a secret: its score, what stands *before* it and *behind* it, where in the text that begins, its *length*."""

    kind: str
    word: str
    before: str
    behind: str
    offset: int
    length: int
    score: float

    @property
    def is_login(self) -> bool:
        """Whether a name of a user stands before the word."""
        return _LOGIN.search(self.before) is not None

    @property
    def is_english(self) -> bool:
        """Whether the word is one of English, whose phrases and predicates are known best."""
        return self.word.startswith("pass") or self.word.endswith("phrase") or self.word in {"pwd", "pw"}


def labelled(view: View) -> Iterator[tuple[int, int]]:
    """Yield each value beside a word for a secret, where the evidence suffices."""
    for found in _LABEL.finditer(view.data):
        label = _label(view, found)
        if label is not None:
            for value in _values(label):
                yield label.offset + value.start, label.offset + value.end


def beside(view: View, start: int, end: int, kind: str) -> Iterator[tuple[int, int]]:
    """Like `labelled`, for a word of another script that stands at *start* to *end*."""
    link = _LINK.match(_shown(view, end, end + 8))
    offset = end + (link.end() if link else 0)
    label = Label(kind, "", "", _shown(view, offset, offset + _AHEAD), offset, offset - start, _SCORES[kind])
    value, is_told = _value(label, 0), link is not None and (":" in link.group() or "=" in link.group())
    if value is not None and _judged(label, value, 0.1 if is_told else -0.1) is not None:
        yield offset + value.start, offset + value.end


def _shown(view: View, start: int, end: int) -> str:
    """The folded text, with typographic quotes as plain ones; one character for each of the text."""
    start = max(start, 0)
    data = view.data[start:end].decode("latin-1")
    if "\xa1" not in data:
        return data
    text = view.text[start:end].translate(_TYPOGRAPHIC)
    return "".join(own if own in "\"'" else folded for folded, own in zip(data, text, strict=True))


def _label(view: View, found: Found) -> Label | None:
    before, behind = _shown(view, found.start - _BEHIND, found.start), _shown(view, found.end, found.end + _AHEAD)
    word = view.data[found.start : found.end].decode("latin-1")
    match = _SUFFIX.match(behind)
    suffix = match.group() if match else ""
    if behind[len(suffix) : len(suffix) + 1].isalnum() or _TYPE.search(before) or (word.isupper() and suffix[:1].isupper()) or not _begins(before, word, found.kind):
        return None
    score = _SCORES[found.kind] - _loss(before, word.lower(), suffix)
    if score < -0.1:
        return None
    return Label(found.kind, word.lower(), before, behind[len(suffix) :], found.end + len(suffix), len(word + suffix), score)


def _begins(before: str, word: str, kind: str) -> bool:
    """Whether the word begins here: a short one does not in the middle of another."""
    last = before[-1:]
    if not last.isalnum() or (last.islower() and word[0].isupper()):
        return word.lower() != "tan" or word == "TAN"
    return kind in {"password", "key"} and len(word) > 3


def _loss(before: str, word: str, suffix: str) -> float:
    """What the rest of a longer name takes: `password_hash` holds no password, and `eos_token` no token."""
    parts = _PARTS.findall(suffix.lstrip("s") if suffix[:1] == "s" else suffix)
    if any(_META.fullmatch(part) for part in parts):
        return 1.0
    loss = 0.2 if any(part.isalpha() for part in parts) else 0.0
    if suffix[:1] == "s" and not word.startswith("pass"):
        loss += 0.1
    match = _BEFORE.search(before)
    name = match.group() if match else ""
    if word.endswith("token") and _OTHERS.search(name):
        loss += 0.3
    return loss + (0.3 if _AGAINST.search(before) else 0.0)


def _values(label: Label) -> Iterator[Value]:
    """The values beside *label* whose evidence suffices."""
    for found in (_tagged, _typed, _signed, _told, _next):
        value = found(label)
        if value is not None:
            yield value
            yield from _more(label, value)
            break
    yield from _pair(label)
    yield from _ahead(label)


def _tagged(label: Label) -> Value | None:
    """`<password>X</password>`"""
    if not _OPENED.search(label.before):
        return None
    match = _TAG.match(label.behind)
    return _judged(label, Value(match["value"], match.start("value"), quoted=True), 0.2) if match else None


def _typed(label: Label) -> Value | None:
    """`password: str = "X"`"""
    match = _TYPED.match(label.behind)
    value = _quoted(label.behind, match.end()) if match else None
    return _judged(label, value, 0.2) if value is not None else None


def _signed(label: Label) -> Value | None:
    """`password: X`, `password = "X"`, `("password", "X")`"""
    match = _SIGN.match(label.behind)
    if match is None:
        return None
    sign, at = match["sign"], match.end()
    value = _quoted(label.behind, at)
    if value is not None:
        if (match["item"] or match["call"]) and label.word in value.text.lower():
            return None  # names in a row: "password1", "password2"
        return _judged(label, value, 0.2 if sign or match["attribute"] else -0.1 if match["item"] else 0.0)
    if match["call"] or (sign and "==" in sign) or sign == "!=" or match["attribute"]:
        return None
    if sign == ":" and label.kind == "password" and (phrase := _phrase(label, at)) is not None:
        return phrase
    value = _bare(label, at)
    return None if value is None else _judged(label, value, _of_sign(label, match, value))


def _of_sign(label: Label, match: re.Match[str], value: Value) -> float:
    """What the sign before a value without quotes adds."""
    rest = label.behind[value.end :]
    if match["item"]:
        return -0.1 if not match["space"] or match["item"] not in {",", ";"} else -1.0
    if "\n" in match["space"]:
        return -0.1
    if plausible.likeness(value.text, bare=True) < MIXED and match.group()[0] in "\"'`":
        return -1.0  # a name in program text
    is_alone = _LINE.search(label.before) is not None and _ENDS.match(rest) is not None
    if match["sign"] == "=":
        is_line = is_alone and not match["space"] and match.group()[0] == "="
        return 0.2 if is_line else _of_equals(label, value, rest)
    return 0.1 if is_alone or _CLAUSE.match(rest) else 0.0


def _of_equals(label: Label, value: Value, rest: str) -> float:
    if "_" in value.text and value.text.isidentifier() and not plausible.is_random(value.text):
        return -1.0  # a name in program text
    if label.kind == "pin" or label.before.endswith("--") or rest[:1] in {";", "&"}:
        return 0.1
    return 0.0


def _told(label: Label) -> Value | None:
    """`my password is X`, `the password for the door: X`"""
    match = _COPULA.match(label.behind) or _FOR.match(label.behind)
    if match is None:
        return None
    value = _quoted(label.behind, match.end())
    is_told = _IS.search(match.group()) is not None or _OURS.search(label.before) is not None
    if value is None and is_told and label.kind == "password" and (phrase := _phrase(label, match.end())) is not None:
        return phrase
    value = value or _bare(label, match.end())
    if value is None or (not value.quoted and not _may_be_told(label, value, match.group())):
        return None
    return _judged(label, value, 0.2 if value.quoted else 0.1)


def _may_be_told(label: Label, value: Value, link: str) -> bool:
    """Whether a word without quotes is no adjective: it ends its clause, and the password is someone's or *is* it."""
    if label.kind == "pin" or plausible.likeness(value.text) >= MIXED:
        return True
    is_someones = _OURS.search(label.before) is not None or (_IS.search(link) is not None and label.is_english)
    return is_someones and _CLAUSE.match(label.behind, value.end) is not None


def _next(label: Label) -> Value | None:
    """`api key X`, `with the password X`, `IDENTIFIED BY 'X'`"""
    match = _NEXT.match(label.behind)
    if match is None or "\n" in match["gap"]:
        return None
    if label.kind == "pass" and not label.is_login:
        return None
    strong = label.word.startswith("identified") or label.before.endswith("--")
    value = _quoted(label.behind, match.end())
    if value is not None:
        return _judged(label, value, 0.2 if strong else 0.1)
    value = _bare(label, match.end())
    if value is None:
        return None
    if strong and plausible.likeness(value.text) < MIXED and not _OPTION_END.match(label.behind, value.end):
        return None
    if strong or label.kind == "pin":
        return _judged(label, value, 0.2 if strong else 0.1)
    if plausible.likeness(value.text, bare=True) < MIXED and not (label.kind == "password" and _NAMED.search(label.before) and _CLAUSE.match(label.behind, value.end)):
        return None
    return _judged(label, value, -0.2 if label.kind in {"key", "token", "auth"} and len(value.text) < 8 else 0.0)


def _more(label: Label, value: Value) -> Iterator[Value]:
    """The second of `passwords X and Y`, `from X to Y`."""
    match = _MORE.match(label.behind, value.end + value.quoted)
    if match is None or label.kind != "password":
        return
    other = _value(label, match.end())
    if other is not None and plausible.likeness(other.text, bare=not other.quoted) >= MIXED:
        yield other


def _pair(label: Label) -> Iterator[Value]:
    """The second of `login: bob / X`, `username and password are bob and X`."""
    if label.kind != "login" and not label.is_login and not label.word.startswith("credential"):
        return
    match = _TWO.match(label.behind)
    if match is not None:
        value = _trimmed(match.group(1), match.start(1))
        if plausible.likeness(value.text, bare=True) >= MIXED:
            yield value


def _ahead(label: Label) -> Iterator[Value]:
    """The value before the word: `X is my password`."""
    match = _BEFORE_IT.search(label.before) if label.kind == "password" else None
    if match is not None and plausible.likeness(match.group(1), bare=True) >= MIXED:
        start = match.start(1) - len(label.before) - label.length
        yield Value(match.group(1), start, quoted=False)


def _judged(label: Label, value: Value, score: float) -> Value | None:
    """*value* if the evidence for it suffices."""
    like = plausible.likeness(value.text, bare=not value.quoted)
    if like == NOTHING or len(value.text) < _least(label, value):
        return None
    if label.kind == "pin":
        return value if _PIN.fullmatch(value.text) and label.score + score + 0.2 >= THRESHOLD - 1e-9 else None
    if label.kind == "login":
        return None
    return value if label.score + score + _of_value(label, value, like) >= THRESHOLD - 1e-9 else None


def _of_value(label: Label, value: Value, like: float) -> float:
    """What the value adds, and what its surroundings do for it."""
    if label.kind in {"key", "token", "auth"} and not value.quoted and like == MIXED and value.text.isidentifier():
        like -= 0.2
    if label.kind in {"key", "token", "auth"} and like < MIXED:
        like -= 0.1
    if label.kind == "pass" and label.is_login:
        like += 0.2
    if like < MIXED and label.kind == "password" and (label.is_login or _OWNER.search(label.before)):
        like += 0.1
    return like


def _least(label: Label, value: Value) -> int:
    if label.kind == "pin":
        return 3 if label.word.startswith("cv") else 4
    if label.kind == "password":
        return 4
    return 6 if label.kind == "pass" or value.quoted else 7


def _quoted(behind: str, at: int) -> Value | None:
    match = _QUOTED.match(behind, at)
    if match is None or match.lastindex is None or match.group(match.lastindex)[0] in ",;.)]}+ ":
        return None
    # what is in backticks or brackets may be a name
    return Value(match.group(match.lastindex), match.start(match.lastindex), quoted=match.lastindex < 3)


def _bare(label: Label, at: int) -> Value | None:
    match = _SPACED.match(label.behind, at) if label.kind == "pin" else None
    match = match or _BARE.match(label.behind, at)
    return _trimmed(match.group(), at) if match else None


def _value(label: Label, at: int) -> Value | None:
    return _quoted(label.behind, at) or _bare(label, at)


def _trimmed(text: str, start: int) -> Value:
    """Without what ends a clause or a pair of brackets; a mark of exclamation may belong to a password."""
    cut = _CUT.search(text)
    text = (text[: cut.start()] if cut else text).rstrip(".,;:*_|\\")
    while text and text[-1] in ")]}" and text.count(text[-1]) > text.count(_OPENING[text[-1]]):
        text = text[:-1].rstrip(".,;:")
    return Value(text, start, quoted=False)


def _phrase(label: Label, at: int) -> Value | None:
    """Several words up to the end of the line."""
    line = label.behind[at:].partition("\n")[0].rstrip("\r .")
    if not label.is_english or line.count(" ") < 2 or plausible.likeness(line) != PHRASE:
        return None
    return Value(line, at, quoted=False)
