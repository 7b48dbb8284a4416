"""Credentials: passwords, keys and tokens, by their format, by a word beside them and by the rules of gitleaks.

Each find has a score, which its format, its own look (`plausible`), the words beside it (`labels`) and its surroundings
raise and lower: a placeholder, a name of a variable or the password of an example host is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hybrid_llm.router.privacy.detectors.credentials.beside import beside
from hybrid_llm.router.privacy.detectors.credentials.columns import answered, columns, of_script
from hybrid_llm.router.privacy.detectors.credentials.gitleaks import entropy, load_rules
from hybrid_llm.router.privacy.detectors.credentials.labels import script_words, words_in
from hybrid_llm.router.privacy.detectors.credentials.plausible import (
    MIXED,
    NOTHING,
    NUMBER,
    RANDOM,
    is_random,
    likeness,
)
from hybrid_llm.router.privacy.detectors.engine import Candidate, Context, Pattern
from hybrid_llm.router.privacy.detectors.text import Regex, View

_TOKENS: Final = (
    rb"(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}|sk-[A-Za-z0-9_-]{20,200}"
    rb"|[srp]k_(?:live|test)_[A-Za-z0-9]{10,99}|xox[abeprs]-[A-Za-z0-9-]{10,200}|AIza[A-Za-z0-9_-]{35}"
    rb"|glpat-[A-Za-z0-9_-]{20,}"
    rb"|hf_[A-Za-z]{34}|npm_[A-Za-z0-9]{36}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
)
_KEY_BLOCK: Final = (
    rb"(-{4,5} ?BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)? ?-{4,5}"
    rb"(?:\s{0,4}[A-Za-z-]{2,20}: [^\r\n]{1,80}|\s{0,4}Comment: [^\r\n]{1,80})*\s{0,4}(?:[A-Za-z0-9+/=]{16,}\s{0,4})*"
    rb"(?:[A-Za-z0-9+/=]{2,15}\s{0,4})?(?:-{4,5} ?END [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)? ?-{4,5})?)"
)
_PUTTY: Final = (
    rb"(?i)private-lines: [0-9]{1,3}\s{1,4}((?:[A-Za-z0-9+/=]{2,}\s{1,4})*[A-Za-z0-9+/=]{2,}"
    rb"(?:\s{1,4}private-mac: [0-9a-f]{40,64})?)"
)
_USER_INFO: Final = rb"[a-z][a-z0-9+.-]{1,20}://([^\s/:@'\"<>{}$%*]{0,100}:[^\s/@'\"<>{}$*]{1,200})@"
_NO_SCHEME: Final = (
    rb"(?:^|[\s\"'`(=])[A-Za-z0-9_.-]{2,40}:([^\s:@/'\"]{6,64})@[A-Za-z0-9-]{1,40}(?:\.[A-Za-z0-9-]{1,40}){1,4}"
)
_QUERY: Final = (
    rb"(?i)[?&;](?:[a-z]{0,12}_?token|api_?key|key|sig|signature|x-amz-(?:signature|security-token|credential)"
    rb"|client_?secret|secret|pass(?:word|wd)?|pwd"
    rb"|auth|session(?:_?id)?|sid|sas|code|code_verifier|assertion)=([A-Za-z0-9._~%+/=!@$*-]{8,})"
)
_CODE: Final = rb"(?:^|[\s\"'`{,(])code=([A-Za-z0-9._~%/-]{16,})"
_HEADER: Final = Regex(
    rb"(?i)(?:authorization|cookie|x-[a-z-]{0,30}(?:token|auth|key|secret"
    rb"|signature))[\"'\])]{0,3}\s{0,3}[:=,]\s{0,3}[bfr]?[\"'`]?([^\r\n]{6})"
)
_HEADERS: Final = (b"authorization", b"cookie", b"x-")
"""What every such header has."""
_BEARER: Final = rb"(?i)\b(?:bearer|basic)\s{1,3}([A-Za-z0-9._~+/=-]{12,})"
_HEADER_PART: Final = re.compile(r"[A-Za-z0-9._~+/=%|!-]{6,}")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+.-]{1,40} +")
_ANY: Final = rb"[^\n|;]{0,160}?\s"
_SHELL: Final = (
    rb"\b(?:(?:mysql|mariadb)[a-z-]{0,8}" + _ANY + rb"-p['\"]?([^\s'\"-][^\s'\"]{3,63})"
    rb"|(?:sshpass|mongo[a-z]{0,8}|(?:docker|podman|nerdctl|buildah|skopeo|oras|registry) login|cqlsh|influx|az login)"
    + _ANY
    + rb"-p\s{0,2}['\"]?([^\s'\"-][^\s'\"]{3,63})"
    rb"|(?:7z[a-z]?|rar)"
    + _ANY
    + rb"-p['\"]?([^\s'\"-][^\s'\"]{3,63})|(?:zip|unzip|sqlcmd|bcp|osql)"
    + _ANY
    + rb"-P\s{0,2}['\"]?([^\s'\"-][^\s'\"]{3,63})"
    rb"|ldap(?:search|add|modify|delete|whoami|passwd)"
    + _ANY
    + rb"-w\s{0,2}['\"]?([^\s'\"-][^\s'\"]{3,63})|redis-cli"
    + _ANY
    + rb"-a\s{1,2}['\"]?([^\s'\"-][^\s'\"]{3,63})"
    rb"|(?:curl|https?|wget|httpie)"
    + _ANY
    + rb"(?:-u|--user|-a|--auth)[ =]['\"]?[^\s:'\"]{1,64}:['\"]?([^\s'\"]{3,63})"
    rb"|(?:smbclient|mount\.cifs|rpcclient)"
    + _ANY
    + rb"-U\s{0,2}['\"]?[^\s%'\"]{1,64}%([^\s'\"]{3,63})|[a-z]{0,2}freerdp"
    + _ANY
    + rb"/p:['\"]?([^\s'\"]{3,63})"
    rb"|net use [^|;]{0,160}?/user:\S{1,64}\s{1,2}['\"]?([^\s'\"/*][^\s'\"]{3,63})"
    rb"|net user \S{1,64}\s{1,2}['\"]?([^\s'\"/*][^\s'\"]{3,63})['\"]?\s{1,2}/"
    rb"|openssl" + _ANY + rb"-pass(?:in|out)?\s{1,2}pass:([^\s'\"]{3,63})"
    rb"|htpasswd\s{1,2}-[a-zA-Z]{0,3}b[a-zA-Z]{0,3}\s\S{1,80}\s\S{1,64}\s['\"]?([^\s'\"]{3,63})"
    rb"|echo\s{1,2}(?:-n\s)?['\"]?([^\s'\"|]{4,64})['\"]?\s{0,2}\|\s{0,2}(?:sudo\s-S|passwd|docker login"
    rb"|podman login|cryptsetup|su\b)"
    rb"|echo\s{1,2}['\"]?[a-z_][\w-]{0,31}:([^\s'\"|]{4,64})['\"]?\s{0,2}\|\s{0,2}(?:sudo\s)?chpasswd)"
)
_WEBHOOK: Final = (
    rb"https://(?:(?:canary\.|ptb\.)?discord(?:app)?\.com/api/webhooks/[0-9]{5,}/([A-Za-z0-9_-]{20,})"
    rb"|hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9/]{20,})"
    rb"|hooks\.zapier\.com/hooks/catch/([0-9]{3,}/[a-z0-9]{4,}))"
)
_EXAMPLE: Final = re.compile(
    r"(?:localhost|127\.0\.0\.1|host(?:name)?|server|(?:[\w-]+\.)*example|your|some|proxy)\b|dsn\b", re.IGNORECASE
)
"""How the host begins that an example connects to."""
_SOMEONE: Final = frozenset({"user", "username", "scott", "foo", "name", "u", "myuser", "your_user", "your-username"})
_SCOTT: Final = "scott"
"""The user of examples, since the first Oracle."""
_SHOWN: Final = Context(rb"example|sample|dummy|fake|placeholder|e\.g")
_ASIDE: Final = re.compile(r"(?i)(?:hash|checksum|integrity|sha-?[0-9]{1,3}|digest|commit)[^\n]{0,12}$")
_PSEUDONYM: Final = re.compile("[A-Z]{2,12}_[A-Z2-7]{5}")
"""A pseudonym that the privacy guard inserted, such as `SECRET_K7SAI`, is not a secret."""
_ANY_FORMAT: Final = "generic-api-key"
"""The rule of gitleaks for any text beside a word."""
_LITERAL: Final = re.compile(rb"[bfru]{0,2}[\"'](.+)[\"']", re.DOTALL)
"""What a rule found with its quotes."""
_MAX_HEADER: Final = 1200


def _of_token(candidate: Candidate) -> float:
    """A token by its prefix: high unless what follows is a word or a row of one character."""
    body = re.split("[-_]", candidate.value, maxsplit=1)[-1] if candidate.value[:2] != "AK" else candidate.value
    if likeness(candidate.value.replace("EXAMPLE", "")) == NOTHING or entropy(body.encode("latin-1")) < 2.5:
        return 0.0
    is_words = body.replace("-", "").replace("_", "").isalpha() and (body.islower() or "-" in body)
    return 0.3 if is_words else 0.9


def _of_key(candidate: Candidate) -> float:
    """A private key; its first line alone is one too, unless it is a string of program text."""
    return 0.0 if candidate.view.data[candidate.end : candidate.end + 1] in {b'"', b"'", b"`"} else 0.9


def _of_user_info(candidate: Candidate) -> float:
    """A user and a password in a URL (RFC 3986, 3.2.1)."""
    user, _, password = candidate.value.partition(":")
    like = likeness(password)
    if like == NOTHING or len(password) < 4:
        return 0.0
    host = candidate.view.data[candidate.end + 1 : candidate.end + 40].decode("latin-1")
    return 0.4 + like - (0.4 if user == _SCOTT else 0.3 if user in _SOMEONE or _EXAMPLE.match(host) else 0.0)


def _of_pair(candidate: Candidate) -> float:
    """A user and a password before a host, without a scheme."""
    like = likeness(candidate.value)
    is_address = candidate.view.data[max(0, candidate.start - 8) : candidate.start].endswith(
        (b"mailto:", b"sip:", b"xmpp:", b"acct:")
    )
    return 0.4 + like if like >= MIXED and not is_address else 0.0


def _of_argument(candidate: Candidate) -> float:
    like = likeness(candidate.value)
    return 0.0 if like == NOTHING else 0.4 + like


def _of_query(candidate: Candidate) -> float:
    like = likeness(candidate.value, bare=True)
    return 0.3 + like if len(candidate.value) >= 12 or is_random(candidate.value) else like


def _of_bearer(candidate: Candidate) -> float:
    like = NOTHING if candidate.value.startswith("-") else likeness(candidate.value)
    return (
        0.3 + like
        if like >= NUMBER
        else 0.4
        if len(candidate.value) > 20 and entropy(candidate.value.encode("latin-1")) > 3.5
        else 0.0
    )


CREDENTIAL: Final = (
    Pattern(
        Regex(rb"\b(" + _TOKENS + rb")"),
        _of_token,
        needs=(b"_", b"-", b"akia", b"asia", b"aiza", b"eyj"),
        against=_SHOWN,
    ),
    Pattern(Regex(_KEY_BLOCK), _of_key, needs=b"private key", against=_SHOWN),
    Pattern(Regex(_PUTTY), lambda _: 0.9, needs=b"private-lines", against=_SHOWN),
    Pattern(Regex(_USER_INFO), _of_user_info, needs=b"://"),
    Pattern(Regex(_NO_SCHEME), _of_pair, needs=b"@"),
    Pattern(Regex(_QUERY), _of_query, needs=b"=", against=_SHOWN),
    Pattern(Regex(_CODE), _of_query, needs=b"code=", against=_SHOWN),
    Pattern(Regex(_BEARER), _of_bearer, needs=(b"bearer", b"basic"), against=_SHOWN),
    Pattern(Regex(_WEBHOOK), lambda c: 0.3 + likeness(c.value.replace("/", "")), needs=b"hooks", against=_SHOWN),
    Pattern(Regex(_SHELL), _of_argument, needs=(b"-", b"/p:", b"echo", b"net us"), against=_SHOWN),
)


def credentials(view: View) -> Iterator[tuple[int, int]]:
    """Yield each value after a word for a secret, in a header, and each find of the rules of gitleaks."""
    for start, end in _candidates(view):
        if not _PSEUDONYM.fullmatch(view.text, start, end):
            yield start, end


def _candidates(view: View) -> Iterator[tuple[int, int]]:
    if words_in(view):
        yield from beside(view)
    if words_in(view) or not view.text.isascii():
        yield from columns(view)
    if view.before:
        yield from answered(view)
    yield from _headers(view)
    if not view.text.isascii():
        yield from _of_scripts(view)
    for rule, start, end in load_rules().finds(view.data):
        quoted = _LITERAL.fullmatch(view.data, start, end)
        span = quoted.span(1) if quoted else (start, end)
        if _is_secret(Candidate(view, *span), rule):
            yield span


def _is_secret(candidate: Candidate, rule: str) -> bool:
    """Whether what a rule found is neither a placeholder nor, for the rule that knows no format, a hash."""
    like = likeness(candidate.value, bare=True)
    return like > NOTHING and (
        rule != _ANY_FORMAT or (like >= MIXED and not _is_name(candidate.value) and not _is_aside(candidate))
    )


def _is_aside(candidate: Candidate) -> bool:
    before = candidate.view.data[max(0, candidate.start - 30) : candidate.start].decode("latin-1")
    return _ASIDE.search(before) is not None


def _is_name(value: str) -> bool:
    return all(part.isidentifier() or part.isdigit() for part in value.split(".")) and not is_random(value)


def _of_scripts(view: View) -> Iterator[tuple[int, int]]:
    for start, end, kind in script_words(view.text):
        yield from of_script(view, start, end, kind)


def _headers(view: View) -> Iterator[tuple[int, int]]:
    """The secrets in headers of any scheme: `Authorization: Zoho-oauthtoken X`, `Cookie: session=X; csrf=Y`."""
    lower = view.lower
    for found in _HEADER.finditer(view.data) if True in [name in lower for name in _HEADERS] else ():
        rest = view.data[found.start : found.start + _MAX_HEADER].decode("latin-1").splitlines()[0]
        scheme = _SCHEME.match(rest)
        begin = scheme.end() if scheme else 0
        if "=" not in rest[begin : begin + 30] or '"' not in rest[begin : begin + 60]:
            rest = re.split("[\"'`]", rest, maxsplit=1)[0]
        for part in _HEADER_PART.finditer(rest, begin):
            yield from _of_part(part.group(), found.start + part.start(), shortest=8 if begin else 12)


def _of_part(text: str, start: int, shortest: int) -> Iterator[tuple[int, int]]:
    """A part of a header, without its name."""
    name, sign, value = text.partition("=")
    if sign and value.strip("=") and likeness(value) > NOTHING:
        text, start = value, start + len(name) + 1
    if (len(text) >= shortest and likeness(text, bare=True) >= MIXED) or likeness(text) == RANDOM:
        yield start, start + len(text)
