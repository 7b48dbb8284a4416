"""What recall is measured on besides the modules `_tuning*`: written by someone who has not read the detectors.

A kind is measured once `WORDS` has its labels, sentences and questions (see `_cases.Words`) and `LAYOUTS` has at least
one layout. The texts of a layout are templates, see `_cases.templates`. `VALUES` may have a generator for a kind, which
replaces that of `_cases.KINDS`. Whoever tunes a detector leaves this module unread. Once its misses were looked at it
becomes one more module to tune on, and this one begins anew, empty.

    WORDS = {"password": Words(("Wi-Fi key",), ("The key of the guest network is {value}.",), ("And the Wi-Fi key?",))}
    LAYOUTS = {
        "prose": templates("{sentence}", "Translate this:\\n\\n{sentence}"),
        "JSON": templates('{{"id": {id}, "{label:camel}": "{value:json}"}}'),
        "question before": templates("{question}\\n---\\n{value}"),
    }
    VALUES = {"password": lambda rng: f"{rng.choice(COLOURS)}-{rng.randint(100, 999)}"}
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from benchmarks import _heldout_values as values
from benchmarks._cases import Layout, Turns, Words, templates
from benchmarks._heldout_words import WORDS as WORDS


def _quoted_unless(plain: str, bare: Layout, quoted: Layout) -> Layout:
    """*bare* for values that all match *plain*, and *quoted* for those that the format wants in quotes."""

    def layout(rng: random.Random, words: Words, label: str, value: str) -> Turns:
        return (bare if re.fullmatch(plain, value) else quoted)(rng, words, label, value)

    return layout


LAYOUTS: dict[str, Layout] = {
    "one sentence": templates("{sentence}"),
    "task with a text": templates(
        "Make this sound more polite:\n\n{sentence}",
        "Translate into Italian: {sentence}",
        "{sentence}\n\nCan you turn that into a short letter? Keep the facts as they are.",
        "tl;dr please\n\n> {name} wrote on Monday:\n> {sentence}\n> Thanks for looking into it.",
    ),
    "aside in prose": templates(
        "I've been a customer for years ({label}: {value}) and never had such trouble before.",
        "Hi, it's {name} from {city}, {label} {value}. Could you draft a complaint about order {order}?",
        "what does it mean if they say the {label} {value} is already taken?",
        "So {name} gave me this - {label} = {value} - and asked me to file it. Which folder would you use?",
    ),
    "e-mail": templates(
        "Subject: Re: case {order}\nFrom: {name}\n\nHello,\n\nas asked, here is what was missing:\n\n"
        "{label:title}: {value}\n\nKind regards,\n{name}\n{city}",
        "Dear team,\n\n{sentence}\n\nThe reference is {order}. Please reply by Friday.\n\nBest,\n{name}",
        "On Tue, {name} wrote:\n> Could you send me your {label}?\n\nSure: {value}\n\nBye, E.",
    ),
    "support ticket": templates(
        "Ticket #{order}\nStatus: {status}\nCustomer: {name}\n{label:title}: {value}\n\nDescription: cannot finish the "
        "order, page stays white.",
        "[#{order}] {name} ({city})\n\n{sentence}\n\n-- Agent note: called back, no answer.",
        "Summary: wrong data in profile\nSteps: open profile, edit\n* Expected {label}: {value}\n* Actual: empty",
    ),
    "form": templates(
        "Full name\n{name}\n{label:title}\n{value}\nCity\n{city}",
        "Name: {name}\n{label:title}: {value}\nPlace: {city}\n[x] I accept the terms",
        "1. Applicant ........ {name}\n2. {label:title} ........ {value}\n3. Residence ........ {city}",
        "{label:title} *\n[ {value} ]\n\nCity *\n[ {city} ]",
    ),
    "notes": templates(
        "- {name}, {city}\n- {label}: {value}\n- call back on Thursday",
        "{name}\n  {label} - {value}\n  order {order}, {status}",
        "Minutes\n* {city} office closes in May\n* {name}'s {label} is now {value}\n* next meeting: 3 pm",
        "**{name}** ({status})\n\n**{label:title}:** {value}\n\n**City:** {city}",
    ),
    "CSV": templates(
        "id,name,{label:snake},city\n{id},{name},{value:csv},{city}",
        "Name,City,{label:title},Status\n{name},{city},{value:csv},{status}\nPaul Ito,Kyoto,,closed",
        '"id";"{label:title}";"order"\n"{id}";"{value}";"{order}"',
    ),
    "pasted spreadsheet": templates(
        "Name\t{label:title}\tCity\n{name}\t{value}\t{city}",
        "Order\t{order}\nName\t{name}\n{label:title}\t{value}\nStatus\t{status}",
    ),
    "Markdown table": templates(
        "| Name | {label:title} | City |\n|---|---|---|\n| {name} | {value:bars} | {city} |",
        "| Field | Value |\n| --- | --- |\n| order | {order} |\n| {label} | {value:bars} |\n| status | {status} |",
        "|{label:title}|Status|\n|:--|:-:|\n|`{value:bars}`|{status}|",
    ),
    "HTML": templates(
        "<tr><th>Name</th><th>{label:title}</th></tr>\n<tr><td>{name}</td><td>{value:html}</td></tr>",
        '<label for="f{id}">{label:title}</label>\n<input id="f{id}" type="text" value="{value:html}">',
        '<input type="hidden" name="{label:snake}" value="{value:html}"/>',
        "<dl><dt>{label:title}</dt><dd>{value:html}</dd><dt>City</dt><dd>{city}</dd></dl>",
        "<p>Hello {name},<br>your {label} is <b>{value:html}</b>.</p>",
    ),
    "JSON": templates(
        '{{"id": {id}, "name": "{name}", "{label:camel}": "{value:json}", "city": "{city}"}}',
        '{{\n  "customer": {{\n    "{label:snake}": "{value:json}",\n    "status": "{status}"\n  }}\n}}',
        '[{{"key":"{label:kebab}","value":"{value:json}"}},{{"key":"city","value":"{city}"}}]',
        '{{"fields": [{{"label": "{label:title}", "type": "text", "answer": "{value:json}"}}]}}',
    ),
    "YAML": _quoted_unless(
        r"[\w+(][\w .,@/+()-]*",
        templates(
            "customer:\n  name: {name}\n  {label:snake}: {value}\n  city: {city}", "{label:camel}: {value}\nid: {id}"
        ),
        templates(
            'customer:\n  name: {name}\n  {label:snake}: "{value:json}"\n  city: {city}',
            "- id: {id}\n  {label:kebab}: '{value:sql}'\n  status: {status}",
        ),
    ),
    "XML": templates(
        "<customer id='{id}'>\n  <name>{name}</name>\n  <{label:camel}>{value:html}</{label:camel}>\n</customer>",
        '<person name="{name}" {label:snake}="{value:html}" status="{status}"/>',
        '<field name="{label:title}"><value>{value:html}</value></field>',
    ),
    "environment and settings": _quoted_unless(
        r"[\w.@:/+-]+",
        templates(
            "# for the demo\nDEMO_{label:upper}={value}\nDEMO_CITY={city}",
            "[demo]\n{label:snake} = {value}\nretries = 3",
            "demo.{label:kebab}={value}\ndemo.retries=3",
            "export {label:upper}={value}",
        ),
        templates(
            'DEMO_{label:upper}="{value}"\nDEMO_CITY={city}',
            '[demo]\n{label:snake} = "{value:json}"\nretries = 3',
            "export {label:upper}='{value}'",
        ),
    ),
    "log": _quoted_unless(
        r"[\w.@:/+-]+",
        templates(
            "2026-02-11T09:14:03Z INFO  signup.handler request={order} {label:snake}={value} status={status}",
            "Feb 11 09:14:03 web-2 app[{order}]: user {id} sent {label:camel}: {value}",
            "WARN  c.t.Validator - invalid {label} '{value}' for customer {id}",
        ),
        templates(
            '2026-02-11T09:14:03Z INFO  signup.handler request={order} {label:snake}="{value:json}" status={status}',
            "[11/Feb/2026 09:14:03] DEBUG payload={{'id': {id}, '{label:snake}': '{value:single}'}}",
            '{{"ts":1770801243,"level":"error","msg":"validation failed","{label:snake}":"{value:json}"}}',
        ),
    ),
    "SQL": templates(
        "INSERT INTO customers (id, name, {label:snake}) VALUES ({id}, '{name}', '{value:sql}');",
        "UPDATE customers SET {label:snake} = '{value:sql}' WHERE id = {id};",
        "SELECT * FROM customers WHERE {label:snake} = '{value:sql}' AND status = '{status}';",
    ),
    "code": templates(
        'customer = {{"name": "{name}", "{label:snake}": "{value:json}"}}\nprint(check(customer))',
        'const {label:camel} = "{value:json}";\nawait submit({{ {label:camel}, id: {id} }});',
        'def test_signup(client):\n    answer = client.post("/signup", {label:snake}="{value:json}")\n'
        "    assert answer.status_code == 201",
        'user.set("{label:snake}", "{value:json}"); // {status}',
    ),
    "web request": templates(
        "GET /api/v2/customers?{label:snake}={value:form}&page=1 HTTP/1.1\nHost: shop.tidewater.io",
        "https://shop.tidewater.io/verify?id={id}&{label:camel}={value:percent}",
        "curl -s https://shop.tidewater.io/signup -d 'name=x' --data-urlencode '{label:snake}={value}'",
        "POST /signup\nContent-Type: application/x-www-form-urlencoded\n\nid={id}&{label:snake}={value:form}",
    ),
    "bare answer": templates(
        "{question}\n---\n{value}", "{question}\n---\nit's {value}", "{question}\n---\n{value} thanks"
    ),
    "answer later in a chat": templates(
        "I'd like to change my booking {order}.\n---\nHappy to help. {question}\n---\n{value}",
        "hello\n---\nHello! I can look that up for you. {question}\n---\nSure, one moment. {value}",
        "Can you fill in the form for me?\n---\nOf course. What is your name, and where do you live? {question}\n---\n"
        "{name}, {city}, {value}",
        "The page says that something is missing.\n---\nIt needs two things: your city and your {label}.\n---\n"
        "{city}\n{value}",
    ),
}
VALUES: dict[str, Callable[[random.Random], str]] = {
    "password": values.password,
    "key or token": values.token,
    "date of birth": values.birthday,
    "passport": values.passport,
    "driver's licence": values.driver_license,
    "US SSN": values.us_ssn,
    "phone": values.phone,
    "medical record": values.medical_record,
    "email": values.email,
    "IP address": values.ip_address,
    "IBAN": values.iban,
    "payment card": values.payment_card,
}
