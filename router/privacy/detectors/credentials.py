"""Credentials: passwords, keys and tokens, by their format, by the word before them and by the rules of gitleaks.

The rules of gitleaks (https://github.com/gitleaks/gitleaks, MIT) are applied as its own scanner applies them: a rule
runs only where one of its keywords occurs, and its secret must have the entropy that the rule requires and match no
allowlist. Conditions on file paths do not apply to prompts: rules apply everywhere, allowlists that require a path
never do. `rules/gitleaks.toml` is the project's own file, unchanged.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from hybrid_llm.router.privacy.detectors.engine import Candidate, Pattern
from hybrid_llm.router.privacy.detectors.text import Regex, View, re2_options

_TOKENS: Final = (
    rb"(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}|sk-[A-Za-z0-9_-]{20,200}"
    rb"|[srp]k_(?:live|test)_[A-Za-z0-9]{10,99}|xox[abeprs]-[A-Za-z0-9-]{10,200}|AIza[A-Za-z0-9_-]{35}|glpat-[A-Za-z0-9_-]{20,}"
    rb"|hf_[A-Za-z]{34}|npm_[A-Za-z0-9]{36}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
)
_KEY_BLOCK: Final = (
    rb"(-----BEGIN [A-Z ]{0,32}PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:\s{0,4}[A-Za-z-]{2,20}: [^\r\n]{1,80})*(?:\s{0,4}[A-Za-z0-9+/=]{4,})*"
    rb"(?:\s{0,4}-----END [A-Z ]{0,32}PRIVATE KEY(?: BLOCK)?-----)?)"
)
_USER_INFO: Final = rb"[a-z][a-z0-9+.-]{1,20}://([^\s/:@'\"<>{}$%*]{0,100}:[^\s/@'\"<>{}$*]{1,200})@"
_SHOWN: Final = rb"\s{1,3}([A-Za-z0-9._~+/=-]{12,})"
_HEADER: Final = rb"(?i)authorization['\"]?\s{0,3}[:=]\s{0,3}['\"]?(?:bearer|basic|token|digest)" + _SHOWN
_BEARER: Final = rb"(?i)bearer" + _SHOWN
_WORDS: Final = (
    rb"pass(?:word|wd|phrase|code)?|pwd|passwort|contrase[nx]a|senha|mot de passe|credentials?|secret(?:[ _-]?key)?"
    rb"|token|api[ _-]?(?:key|secret)|access[ _-]?(?:key|token)|auth[ _-]?key|private[ _-]?key|client[ _-]?secret"
    rb"|pin(?:[ _-]?code)?"
)
_ASSIGNED: Final = (
    rb"(?i)(" + _WORDS + rb")['\"]?\s{0,4}(:=|=>|=|:|\bis:?\s)\s{0,4}"
    rb"(?:\"([^\"\r\n]{4,200})\"|'([^'\r\n]{4,200})'|([^\s'\"`,;<>()\[\]{}]{4,200}))"
)  # fmt: skip
_BARE: Final = 5
"""The group of a value without quotes."""
_PLACEHOLDER: Final = re.compile(
    r"[*x•.#?_-]+|<.*|\$.*|%.*|\{.*|\[.*|.*(?:\{\{|\$\{|%\().*|your[_-].*|.*_here|changeme|example", re.IGNORECASE
)
_NO_VALUES: Final = re.compile(
    "none|null|true|false|nil|undefined|str(?:ing)?|bytes|int|bool(?:ean)?|object|any|optional|required|empty|missing|invalid"
    "|incorrect|wrong|correct|valid|expired|needed|necessary|protected|secret|password|passwd|token|username|email|text"
    "|value|default|hidden|private|public|number|type|field|input|self|request|response|config|settings|environ|getpass"
    "|unknown",
    re.IGNORECASE,
)
_CODE: Final = re.compile(r"[A-Za-z_][\w]*(?:[.:]+[A-Za-z_]\w*)*[.:]?")
"""A name, or names joined by dots: unquoted in program text this is a variable, not its value."""
_CHINESE: Final = ("密码", "口令", "密碼", "密钥", "令牌")
_BEHIND: Final = Regex(rb"[\x80\x90-\x99\xa1\s:='\"]{0,6}([!-~]{6,64})")
_PSEUDONYM: Final = re.compile("[A-Z]{2,12}_[A-Z2-7]{5}")
"""A pseudonym that the privacy guard inserted, such as `SECRET_QYSAI`, is not a secret."""
_ASSIGNMENT: Final = Regex(_ASSIGNED)
_MAX_LINE: Final = 1000
"""How many bytes of a line, on each side of a find, an allowlist for lines sees."""


def _assigned(view: View) -> Iterator[tuple[int, int]]:
    """The value after `password:`, `token =` or `secret is`."""
    match = _ASSIGNMENT.search(view.data)
    while match is not None:
        start, end = match.span(match.lastindex)
        is_bare = match.lastindex == _BARE
        value = view.data[start:end].decode("latin-1").rstrip(".!?" if is_bare else "")
        if _is_value(match.group(1).lower(), match.group(2).strip().lower(), value, is_bare=is_bare):
            yield start, start + len(value)
        match = _ASSIGNMENT.search(view.data, start)  # the value may be an assignment itself


def _is_value(word: bytes, sign: bytes, value: str, *, is_bare: bool) -> bool:
    if len(value) < 4 or _PLACEHOLDER.fullmatch(value) or _NO_VALUES.fullmatch(value):
        return False
    if word.startswith(b"pin"):
        return value.isdigit() and len(value) <= 12
    mixed = any(map(str.isdigit, value)) and len(value) >= 6
    if not is_bare:
        return len(value) >= 6 and " " not in value
    if sign.startswith(b"is"):
        return mixed
    return (
        len(value) >= 6
        and (mixed or not _CODE.fullmatch(value))
        and not value.startswith(("/", "\\", "=", "+", "|", "&", "!"))
    )


def _is_user_info(candidate: Candidate) -> float:
    """A user and a password in a URL (RFC 3986, 3.2.1), unless the password is a placeholder."""
    password = candidate.value.partition(":")[2]
    return 0.0 if password.lower() in {"pass", "password", "passwd", "pwd"} or _PLACEHOLDER.fullmatch(password) else 1.0


CREDENTIAL: Final = (
    Pattern(Regex(rb"\b(" + _TOKENS + rb")")),
    Pattern(Regex(_KEY_BLOCK), needs=b"-----begin"),
    Pattern(Regex(_USER_INFO), _is_user_info, needs=b"://"),
    Pattern(Regex(_HEADER), needs=b"authorization"),
    Pattern(Regex(_BEARER), needs=b"bearer"),
)


def credentials(view: View) -> Iterator[tuple[int, int]]:
    """Yield each value after a word for a secret, and each find of the rules of gitleaks."""
    for start, end in _candidates(view):
        if not _PSEUDONYM.fullmatch(view.text, start, end):
            yield start, end


def _candidates(view: View) -> Iterator[tuple[int, int]]:
    yield from _assigned(view)
    if not view.text.isascii():
        matches = view.after(_CHINESE, _BEHIND)
        yield from (match.span(1) for match in matches if any(48 <= byte <= 57 for byte in match.group(1)))
    for start, end in load_rules().spans(view.data):
        quoted = end - start > 2 and view.data[start] == view.data[end - 1] and view.data[start] in b"\"'"
        yield (start + 1, end - 1) if quoted else (start, end)


@dataclass(frozen=True, slots=True)
class Allowlist:
    """What is not a secret. *regexes* run over *target*: `secret`, `match` or `line`."""

    regexes: tuple[Regex, ...]
    stopwords: tuple[str, ...]
    target: str = "secret"

    def allows(self, texts: Mapping[str, bytes]) -> bool:
        """Whether this is no secret; *texts* has the secret, the match and the line."""
        secret = texts["secret"].lower().decode("latin-1")
        return any(regex.search(texts[self.target]) for regex in self.regexes) or any(
            w in secret for w in self.stopwords
        )


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One kind of credential. A secret must have more than *entropy* bits per byte; 0 requires none."""

    id: str
    regex: Regex
    keywords: tuple[str, ...]
    entropy: float
    group: int
    allowlists: tuple[Allowlist, ...]

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield the spans of its secrets in *data*."""
        match = self.regex.search(data)
        while match is not None:
            start, end = self._secret(match)
            if self._is_secret(data, match, start, end):
                yield start, end
            behind = max(end, match.start() + 1)
            match = self.regex.search(data, behind) if behind < len(data) else None

    def _secret(self, match: Any) -> tuple[int, int]:
        """The group that the rule names, else the first that matched, else the whole match."""
        groups = (self.group,) if self.group else range(1, match.re.groups + 1)
        spans = (match.span(group) for group in groups)
        start, end = next((span for span in spans if span[0] >= 0), match.span())
        return start, end

    def _is_secret(self, data: bytes, match: Any, start: int, end: int) -> bool:
        secret = data[start:end]
        if self.entropy and _entropy(secret) <= self.entropy:
            return False
        first = data.rfind(b"\n", max(0, start - _MAX_LINE), start) + 1
        last = data.find(b"\n", end, end + _MAX_LINE)
        line = data[max(first, start - _MAX_LINE) : last if last >= 0 else end + _MAX_LINE]
        texts = {"secret": secret, "match": match.group(), "line": line}
        return not any(allowlist.allows(texts) for allowlist in self.allowlists)


class Rules:
    """Many rules; one search for all keywords selects the few that can match a text."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        import re2

        self.rules = tuple(rules)
        by_keyword: dict[str, list[Rule]] = defaultdict(list)
        for rule in self.rules:
            for keyword in rule.keywords:
                by_keyword[keyword].append(rule)
        options = re2_options(re2)
        options.case_sensitive = False
        self._keywords = re2.Set.SearchSet(options)
        for keyword in by_keyword:
            self._keywords.Add(re2.escape(keyword.encode("ascii")))
        self._keywords.Compile()
        self._by_keyword = list(by_keyword.values())

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield the spans of secrets in *data*; those of different rules may overlap."""
        keywords = self._keywords.Match(data) or ()
        for rule in {rule for keyword in keywords for rule in self._by_keyword[keyword]}:
            yield from rule.spans(data)


@cache
def load_rules() -> Rules:
    """The rules shipped with the library, read once."""
    text = files("hybrid_llm.router.privacy.detectors").joinpath("rules", "gitleaks.toml").read_text("utf-8")
    document = tomllib.loads(text)
    everywhere = _allowlist(document["allowlist"])
    return Rules([_rule(table, everywhere) for table in document["rules"] if "regex" in table])


def _rule(table: Mapping[str, Any], everywhere: Allowlist | None) -> Rule:
    lists = [everywhere, *(_allowlist(entry) for entry in table.get("allowlists", ()))]
    return Rule(
        id=table["id"],
        regex=Regex(table["regex"].encode("utf-8")),
        keywords=tuple(table["keywords"]),
        entropy=table.get("entropy", 0.0),
        group=table.get("secretGroup", 0),
        allowlists=tuple(entry for entry in lists if entry is not None),
    )


def _allowlist(table: Mapping[str, Any]) -> Allowlist | None:
    """None if it requires a file path or has no condition on text."""
    regexes = tuple(Regex(text.encode("utf-8")) for text in table.get("regexes", ()))
    stopwords = tuple(word.lower() for word in table.get("stopwords", ()))
    needs_path = "paths" in table and table.get("condition") == "AND"
    return (
        None
        if needs_path or not (regexes or stopwords)
        else Allowlist(regexes, stopwords, table.get("regexTarget", "secret"))
    )


def _entropy(secret: bytes) -> float:
    """Shannon entropy, bits per byte."""
    size = len(secret)
    return -sum(n / size * math.log2(n / size) for n in Counter(secret).values()) if size else 0.0
