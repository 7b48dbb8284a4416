"""Sentences, labels and layouts that detectors may be tuned on: those of a second half that was held out before."""

# ruff: noqa: E501  (layouts)
from __future__ import annotations

import html
import json
import random
from urllib.parse import quote_plus

from benchmarks._cases import Layout, Turns, Words, camel, marked, person, snake
from benchmarks._tuning_third_words import WORDS

__all__ = ["LAYOUTS", "WORDS"]


def _json(value: str) -> str:
    """*value* as the inside of a JSON string."""
    return json.dumps(value, ensure_ascii=False)[1:-1]


def _single(value: str) -> str:
    """*value* as the inside of a literal in single quotes, of Python or JavaScript."""
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _shell(value: str) -> str:
    """*value* as a word of a shell: in single quotes if it has to be."""
    plain = not set(value) & set(" \t'\"\\$`&|;<>()[]{}*?!~#,^")
    return marked(value) if plain else "'" + marked(value, lambda text: text.replace("'", "'\\''")) + "'"


def prose(rng: random.Random, words: Words, label: str, value: str) -> Turns:
    """A sentence as in a mail or a note, mostly with other sentences around it."""
    text = rng.choice(words.sentences).format(label=label, value=marked(value))
    before = rng.choice(
        [
            "",
            "",
            "hi, quick one - ",
            "Dear Sir or Madam,\n\n",
            "Summarise this mail:\n\n",
            "> On Tue, 4 Nov, Eva wrote:\n> ",
        ]
    )
    after = rng.choice(
        ["", "", "\n\nBest,\nOmar", "\nsent from my phone", " pls advise", "\n\nRewrite this in a friendly tone."]
    )
    return [("user", before + text + after)]


def chat(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """Messages of a chat: corrections, lists on one line, a transcript with the time and names."""
    shown = marked(value)
    texts = (
        f"oh wait, wrong one. {label} is {shown}",
        f"name Jane Doe, {label} {shown}, city Graz",
        f"[09:41] Eva: morning\n[09:42] Omar: here's the {label}\n[09:42] Omar: {shown}\n[09:43] Eva: got it\n\nsummarise",
        f"12/11/2025, 18:02 - Li Wei: {label}: {shown}\n12/11/2025, 18:03 - Eva: thanks!",
        f"{label} → {shown}",
        f"can you put {shown} as {label} in the letter",
        f"the {label} you asked for: {shown} 👍",
        f"fyi my {label} has changed, it's {shown} now",
        f"{label}?? i think {shown}",
    )
    turns = [("user", rng.choice(texts))]
    return turns if rng.random() < 0.6 else [("user", "hey"), ("assistant", "Hi! How can I help?"), *turns]


def json_shapes(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """Questions and answers, bodies inside JSON, GraphQL, literals of Python and JavaScript, lines of JSON."""
    record, text = person(rng), marked(value, _json)
    name, other = snake(label), rng.choice([snake, camel])(label)
    body = f'{{\\"{other}\\": \\"{marked(value, lambda v: _json(_json(v)))}\\", \\"id\\": {record["id"]}}}'
    shapes = (
        f'{{"question": "{label}", "answer": "{text}"}}',
        f'{{"fields": [{{"label": "City", "value": "Graz"}}, {{"label": "{label}", "value": "{text}"}}]}}',
        f'{{"status": 200, "body": "{body}"}}',
        f'{{"query": "mutation($in: UserInput!) {{ update(in: $in) {{ id }} }}", "variables": {{"in": {{"{camel(label)}": "{text}"}}}}}}',
        f"user = {{'id': {record['id']}, '{name}': '{marked(value, _single)}', 'city': '{record['city']}'}}",
        f"const user = {{\n  id: {record['id']},\n  {camel(label)}: '{marked(value, _single)}',\n}};",
        f'{{"id": {record["id"]}, "city": "Lyon"}}\n{{"id": {int(record["id"]) + 1}, "{other}": "{text}"}}',
        f'{{"{name}": ["{text}"], "order": {record["order"]}}}',
        f'{{\n  "{label}": {{\n    "value": "{text}",\n    "verified": false\n  }}\n}}',
        f'{{"op": "replace", "path": "/{other}", "value": "{text}"}}',
    )
    return [("user", rng.choice(["", "Why is this invalid?\n", "```json\n"]) + rng.choice(shapes))]


def tables(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """Everything quoted, tabs, fields downwards, bars, and lines that a spreadsheet has put a title above."""
    rows = [person(rng) for _ in range(3)]
    shown = marked(value, lambda text: text.replace('"', '""'))
    at = rng.randrange(3)
    quoted = [f'"{r["id"]}","{r["name"]}","{shown if n == at else ""}","{r["city"]}"' for n, r in enumerate(rows)]
    tabs = [f"{r['name']}\t{marked(value) if n == at else 'n/a'}\t{r['city']}" for n, r in enumerate(rows)]
    bars = [
        f"{r['id']} | {marked(value) if n == at and '|' not in value else '-'} | {r['status']}"
        for n, r in enumerate(rows)
    ]
    cell = f'"{shown}"' if set(value) & set(',;"') else shown
    titled = [f"{r['id']},{cell if n == at else ''}" for n, r in enumerate(rows)]
    texts = [
        "\n".join([f'"ID","Name","{label}","City"', *quoted]),
        "\n".join([f"Name\t{label}\tCity", *tabs]),
        f"field,value\nname,{rows[0]['name']}\n{label},{cell}\ncity,{rows[0]['city']}",
        "\n".join(["Export of 12 Nov", "", f"id,{label}", *titled]),
        f"{label};order;status\n{cell};{rows[0]['order']};{rows[0]['status']}",
    ]
    if "|" not in value:
        texts.append("\n".join([f"id | {label} | status", *bars]))
    return [("user", rng.choice(texts) + rng.choice(["", "\n\nWhich rows are incomplete?"]))]


def forms(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """Numbered, aligned, two fields on a line, with a remark in brackets, in capitals, answers under their questions."""
    record, shown = person(rng), marked(value)
    title = label[:1].upper() + label[1:]
    texts = (
        f"1. Name: {record['name']}\n2. City: {record['city']}\n3. {title}: {shown}\n4. Order: {record['order']}",
        f"{'Name':<30}{record['name']}\n{title:<30}{shown}\n{'City':<30}{record['city']}",
        f"Name: {record['name']}    {title}: {shown}\nCity: {record['city']}    Status: {record['status']}",
        f"{title} (required): {shown}\nNewsletter (optional): no",
        f"{label.upper()}: {shown}\nCITY: {record['city'].upper()}",
        f"Your name\n{record['name']}\n\nYour {label}\n{shown}\n\nYour city\n{record['city']}",
        f"Q: Name?\nA: {record['name']}\nQ: {title}?\nA: {shown}",
        f"{title} = {shown}\nCity = {record['city']}",
        f"{title}____ {shown} ____   City____ {record['city']} ____",
        f"• {title} – {shown}\n• City – {record['city']}",
    )
    return [("user", rng.choice(["", "APPLICATION\n\n", "Check this form.\n"]) + rng.choice(texts))]


def logs(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """Objects that Java, Ruby and Python print, bodies of forms, messages of validators, a debugger's output."""
    record, name = person(rng), snake(label)
    quoted = marked(value, _json)
    texts = (
        f"10:12:44.120 [http-8080-4] DEBUG UserService - saving User{{id={record['id']}, {camel(label)}='{marked(value, _single)}', city='{record['city']}'}}",
        f'Parameters: {{"utf8"=>"✓", "user"=>{{"{name}"=>"{quoted}", "city"=>"{record["city"]}"}}, "commit"=>"Save"}}',
        f"ValidationError: {label} '{marked(value, _single)}' is already in use",
        f"INFO:app:payload={{'id': {record['id']}, '{name}': '{marked(value, _single)}'}}",
        f"POST /signup HTTP/1.1\nContent-Type: application/x-www-form-urlencoded\n\ncity={record['city']}&{name}={marked(value, quote_plus)}&submit=1",
        f'(gdb) p user.{name}\n$1 = 0x5581c0 "{quoted}"',
        f"Nov 12 08:00:01 app1 worker[311]: job={record['order']} {name}: {marked(value)}",
        f'<134>1 2025-11-12T08:00:01Z app1 auth - - [meta {camel(label)}="{quoted}"] updated profile',
        f"+ echo '{label}: {marked(value, _single)}'",
    )
    return [("user", rng.choice(texts) + rng.choice(["", "\n\nWhat went wrong here?"]))]


def markup(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """Named fields, pairs of name and value, property lists, CDATA, labels and texts of HTML."""
    record, text, name = person(rng), marked(value, html.escape), snake(label)
    data = f"<![CDATA[{marked(value)}]]>" if "]]>" not in value else text
    texts = (
        f'<record><field name="id">{record["id"]}</field><field name="{name}">{text}</field></record>',
        f'<entry key="{camel(label)}">{text}</entry>\n<entry key="city">{record["city"]}</entry>',
        f"<param><name>{name}</name><value>{text}</value></param>",
        f"<dict><key>{camel(label)}</key><string>{text}</string><key>city</key><string>Graz</string></dict>",
        f"<c:customer><c:{camel(label)}>{text}</c:{camel(label)}><c:city>Graz</c:city></c:customer>",
        f"<user><{name}>{data}</{name}></user>",
        f"<p><strong>{label}:</strong> {text}</p>\n<p><strong>City:</strong> {record['city']}</p>",
        f'<label for="f1">{label}</label> <input id="f1" value="{text}">',
        f'<div class="row"><span class="name">{label}</span><span class="val">{text}</span></div>',
        f"<ul><li>City: Graz</li><li>{label}: <b>{text}</b></li></ul>",
        f"<user id='{record['id']}' {camel(label)}='{text}' />",
    )
    return [("user", rng.choice(["", "Convert to JSON: "]) + rng.choice(texts))]


def configuration(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """Lists and one-line mappings of YAML, Compose, .env files, Dockerfiles, Terraform, PowerShell, INI with colons."""
    record, name = person(rng), snake(label)
    quoted = '"' + marked(value, _json) + '"'
    texts = (
        f"users:\n  - id: {record['id']}\n    {camel(label)}: {quoted}\n  - id: 2\n    city: Graz\n",
        f"customer: {{id: {record['id']}, {name}: {quoted}, city: {record['city']}}}\n",
        f'services:\n  app:\n    environment:\n      - CITY=Graz\n      - "{name.upper()}={marked(value, _json)}"\n',
        f"# .env\nCITY=Graz\n{name.upper()}={_shell(value)}\nDEBUG=0\n",
        f"FROM alpine\nENV {name.upper()}={quoted}\nRUN ./start\n",
        f'variable "{name}" {{\n  default = {quoted}\n}}\n',
        f"$env:{name.upper()} = {quoted}\n./run.ps1\n",
        f"[contact]\ncity: {record['city']}\n{name}: {marked(value)}\n",
        f"{name}: |-\n  {marked(value)}\ncity: Graz\n",
        f"--- \n{json.dumps(label, ensure_ascii=False)}: {quoted}\nCity: Graz\n",
        f'{name} = {quoted}   # set by ops\ncity = "Graz"\n',
    )
    return [("user", rng.choice(["", "Is this right?\n\n"]) + rng.choice(texts))]


def tables_and_sql(rng: random.Random, _words: Words, label: str, value: str) -> Turns:
    """Markdown with bold headers or fields downwards, statements of SQL, and what its clients print."""
    record, name = person(rng), snake(label)
    cell = marked(value, lambda text: text.replace("|", "\\|"))
    literal = "'" + marked(value, lambda text: text.replace("'", "''")) + "'"
    width = max(len(value), len(name))
    line = f"+------+-{'-' * width}-+"
    texts = [
        f"| **Name** | **{label}** |\n|---|---|\n| {record['name']} | {cell} |",
        f"| | |\n|---|---|\n| Name | {record['name']} |\n| {label} | {cell} |\n| City | {record['city']} |",
        f"| Question | Answer |\n|:---|:---|\n| {label} | {cell} |",
        f"|{label}|Status|\n|-|-|\n|{cell}|{record['status']}|",
        f"INSERT INTO users (id, {name}, city) VALUES ({record['id']}, {literal}, 'Graz');",
        f"UPDATE users SET city = 'Graz', {name} = {literal} WHERE id = {record['id']};",
        f"SELECT * FROM users WHERE {name} = {literal} LIMIT 1;",
    ]
    if "|" not in value:
        texts += [
            f"{line}\n| id   | {name:<{width}} |\n{line}\n| {record['id']:<4} | {marked(value)}{' ' * (width - len(value))} |\n{line}",
            f"-[ RECORD 1 ]\nid     | {record['id']}\n{name} | {marked(value)}\ncity   | Graz",
        ]
    return [("user", rng.choice(texts) + rng.choice(["", "\n\nExplain."]))]


def asked(rng: random.Random, words: Words, label: str, value: str) -> Turns:
    """The question in the turn before, sometimes with more around it, a pause in between, or a quarrel over the answer."""
    question = rng.choice(words.questions).format(label=label)
    shown = marked(value)
    answer = rng.choice(
        [
            shown,
            f"Of course. {shown}",
            f"{shown} I believe",
            f"yes, {shown}",
            f"{shown}\n\nanything else?",
            f"here: {shown}",
        ]
    )
    turns = rng.choice(
        [
            [("assistant", f"Thanks, Eva. {question}"), ("user", answer)],
            [("user", "I'd like to book a trip."), ("assistant", f"Happy to help! {question}"), ("user", answer)],
            [("assistant", f"{question} You can find it in your documents."), ("user", answer)],
            [("assistant", question), ("user", "one sec"), ("assistant", "No problem."), ("user", shown)],
            [("user", f"Agent: {question}\nCustomer: {shown}\n\nWas the agent polite?")],
            [("system", "You take down customers' data."), ("assistant", question), ("user", answer)],
        ]
    )
    return list(turns)


LAYOUTS: dict[str, Layout] = {
    "prose": prose,
    "chat": chat,
    "JSON": json_shapes,
    "CSV": tables,
    "form": forms,
    "log": logs,
    "XML": markup,
    "YAML": configuration,
    "Markdown table": tables_and_sql,
    "question before": asked,
}
