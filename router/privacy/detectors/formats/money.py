"""Patterns for payment cards, IBANs and wallets of the common cryptocurrencies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hybrid_llm.core.looks import look
from hybrid_llm.router.privacy.detectors.engine import THRESHOLD, Candidate, Context, Pattern
from hybrid_llm.router.privacy.detectors.evidence import evidence
from hybrid_llm.router.privacy.detectors.formats.checksums import base58check, bech32, luhn, mod97
from hybrid_llm.router.privacy.detectors.text import Regex, View, apart

_ISSUERS: Final = (
    "4", "5", "6", "34", "35", "36", "37", "38", "39", "30", "22", "23", "24", "25", "26", "27", "1800", "2131", "9558",
)  # fmt: skip
"""How card numbers begin (ISO/IEC 7812 and the lists of the card schemes)."""
_ABOUT_CARDS: Final = Context(
    rb"(?:credit|debit|bank|payment)?[ _-]?cards?(?:[ _]?(?:no|num|number))?|cc|visa|master-?card|amex|american express"
    rb"|discover|jcb|diners|maestro|union-?pay|pan|paid|pay(?:ing|ments?|s)?|charg(?:e|es|ed|ing)|refund(?:s|ed)?"
    rb"|purchase[ds]?|cvv2?|cvc2?|expir(?:es|y|ed|ing)|karten?(?:nummer)?|kreditkarte|carte|tarjeta|carta|cart[ax]o",
    ("卡号", "银行卡", "信用卡", "储蓄卡", "借记卡", "卡號", "銀行卡", "刷卡"),
)


_NO_CARD: Final = Context(
    rb"ids?|orders?[ _-]?(?:ids?|no|num(?:ber)?|#|ref(?:erence)?)?|invoices?|tracking|shipments?|parcels?|tickets?|isbn"
    rb"|imei|iccid|serials?"
    rb"|sha-?[0-9]*|hash(?:es)?|md5|checksums?|g?uuids?|guids?|timestamps?|epoch|nanos(?:econds)?|skus?|parts?"
    rb"|gtin|ean|upc|barcodes?"
    rb"|phones?|tel|fax|offsets?|seeds?|nonces?|trace(?:[ _-]?id)?|span(?:[ _-]?id)?|(?:user|session|request"
    rb"|message|device|customer"
    rb"|product|item|job|batch|event|tweet|status|snowflake|post|video|object|build|transaction|merchant|store"
    rb"|campaign|ad|page)[ _-]?ids?",
    ("订单", "运单", "单号", "快递", "序列号", "流水号"),
)


def _card(candidate: Candidate) -> float:
    digits = candidate.digits
    issued = digits.startswith(_ISSUERS)
    if len(set(digits)) == 1 or not (issued or _ABOUT_CARDS.within(candidate.view)):
        return 0.0
    return (0.5 if luhn(digits) else 0.0) + (0.3 if issued else 0.0)


PAYMENT_CARD: Final = (
    Pattern(
        apart(
            rb"[0-9]{4}[ .-]?[0-9]{4}[ .-]?[0-9]{4}[ .-]?[0-9]{1,4}(?:[ .-]?[0-9]{3})?"
            rb"|[0-9]{4}[ .-]?[0-9]{6}[ .-]?[0-9]{4,5}|[0-9]{12}"
        ),
        _card,
        near=_ABOUT_CARDS,
        against=_NO_CARD,
        needs=b"9",
    ),
)

_IBAN: Final = Regex(rb"(?i)(?:^|[^a-z0-9_])([a-z]{2}[0-9]{2}(?:[ -]?[a-z0-9]){11,32})")
_ABOUT_IBAN: Final = Context(rb"iban|account|bank|bic|swift|sepa|konto|transfer|wire", ("账号", "账户", "银行", "汇款"))
_NO_IBAN: Final = Context(
    rb"hash(?:es)?|sha-?[0-9]*|md5|checksums?|g?uuids?|guids?|commits?|tokens?|serials?|licen[cs]e[ _-]?keys?"
    rb"|vouchers?|coupons?|skus?"
    rb"|parts?|tracking|orders?[ _-]?(?:ids?|no|num(?:ber)?|#)|isbn|vin|imei|etags?|nonces?|session[ _-]?ids?",
    ("订单", "运单", "单号", "序列号"),
)
_VALID: Final = 0.8
_REGISTRY: Final = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
    "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
    "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
    "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
    "YE30"
)
_LENGTHS: Final = {entry[:2]: int(entry[2:]) for entry in _REGISTRY.split()}
"""Length of an IBAN by country, from the SWIFT registry of ISO 13616."""


def ibans(view: View) -> Iterator[tuple[int, int]]:
    """Yield each IBAN in *view*, cut to the length that its country defines, so that no following word is included."""
    match = _IBAN.search(view.data)
    while match is not None:
        look()
        start, end = match.span(1)
        cut = _cut(view.data, start, end)
        if cut is not None and _is_iban(view, start, cut):
            yield start, cut
            end = cut
        else:
            end = start + 4  # an IBAN may begin within what was no IBAN
        match = _IBAN.search(view.data, end)


def _cut(data: bytes, start: int, end: int) -> int | None:
    """Where the IBAN that begins at *start* ends; None if it is too short or has no known country."""
    left = _LENGTHS.get(data[start : start + 2].decode("ascii").upper())
    if left is None:
        return None
    for position in range(start, end):
        left -= data[position] not in b" -"
        if not left:
            return position + 1
    return None


def _is_iban(view: View, start: int, end: int) -> bool:
    candidate = Candidate(view, start, end)
    if mod97("".join(filter(str.isalnum, view.data[start:end].decode("ascii"))).upper()):
        return _VALID + evidence(candidate, _ABOUT_IBAN, _NO_IBAN) >= THRESHOLD
    is_whole = not view.data[end : end + 1].isalnum() and not view.data[start : start + 2].islower()
    return is_whole and evidence(candidate, _ABOUT_IBAN, None) > 0


_ABOUT_WALLETS: Final = Context(
    rb"bitcoins?|btc|wallets?|crypto(?:currency)?|xbt|satoshis?|addr(?:ess(?:es)?)?|eth(?:er(?:eum)?)?|usdt|usdc"
    rb"|erc-?20|bnb|polygon|metamask|ledger|donat(?:e|ions?)|payouts?|withdraw(?:al)?s?|send|sent",
    ("钱包", "比特币", "地址"),
)
_NO_WALLET: Final = Context(
    rb"hash(?:es)?|sha-?[0-9]*|git|commits?|digests?|checksums?|g?uuids?|guids?|etags?|nonces?|seeds?|salts?"
    rb"|serials?|tracking"
    rb"|orders?|isbn|fingerprints?|signatures?|blobs?|objects?|trees?|revisions?|bytecode|selectors?|topics?"
    rb"|storage|slots?|colou?rs?",
)


def _bitcoin(candidate: Candidate) -> float:
    value = candidate.value
    return 0.85 if (base58check if value[0] in "13" else bech32)(value) else 0.2


_BITCOIN: Final = rb"[13][1-9A-HJ-NP-Za-km-z]{25,34}|bc1[02-9ac-hj-np-z]{11,71}|BC1[02-9AC-HJ-NP-Z]{11,71}"
_WORD: Final = rb"0-9A-Za-z_"
_ETHEREUM: Final = 0.75
CRYPTO_WALLET: Final = (
    Pattern(apart(_BITCOIN, _WORD, _WORD), _bitcoin, near=_ABOUT_WALLETS, against=_NO_WALLET),
    Pattern(
        apart(rb"0x[0-9a-fA-F]{40}", _WORD, _WORD),
        lambda _: _ETHEREUM,
        near=_ABOUT_WALLETS,
        against=_NO_WALLET,
        needs=b"0x",
    ),
)
