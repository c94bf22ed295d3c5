#!/usr/bin/env python3
"""Goal: docs/events.md has every line that the daemons log, and every exit code, and none that is not there any more.

Method: reads the calls that log (log_error, log_warn, log_info, and the coordinator's act_log, job_note, job_warn and
job_fail) out of the sources, makes "…" of what is filled in, and compares module and text with the first two columns
of the tables. `--missing` prints rows to fill in.
"""
import glob
import os
import re
import sys

from harness import ROOT, Cases

CALL = re.compile(r"\b(log_error|log_warn|log_info|log_write|act_log|job_note|job_warn|job_fail)\s*\(")
PAGE = os.path.join(ROOT, "docs", "events.md")
LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')
ONLY_A_TEXT = {"…", "… '…': …"}  # what was said elsewhere, or by a member, is passed on


def arguments_of(source, at):
    """The text between the parentheses of a call."""
    depth, in_text, i = 1, False, at
    while depth:
        c = source[i]
        if in_text:
            i += c == "\\"
            in_text = c != '"'
        else:
            in_text = c == '"'
            depth += (c == "(") - (c == ")")
        i += 1
    return source[at:i - 1]


def split_arguments(text):
    parts, depth, in_text, start, i = [], 0, False, 0, 0
    while i < len(text):
        c = text[i]
        if in_text:
            i += c == "\\"
            in_text = c != '"'
        else:
            in_text = c == '"'
            depth += (c == "(") - (c == ")")
            if c == "," and not depth:
                parts.append(text[start:i].strip())
                start = i + 1
        i += 1
    return parts + [text[start:].strip()]


def plain(argument):
    """String literals and PRI macros to the text with "…" for each conversion."""
    text = re.sub(r"\bPRI[a-z]+\d+\b", '"u"', argument)
    text = "".join(LITERAL.findall(text)).replace('\\"', '"')
    return re.sub(r"%[-0-9.*]*(?:ll|l|z|j)?[a-zA-Z]", "…", text)


def events_of_sources():
    """{(module, text): [file]}; module "job" for what concerns one job, "failed" for why it failed."""
    found = {}
    for path in sorted(sum((glob.glob(os.path.join(ROOT, d, "*.c")) for d in ("common", "server", "worker")), [])):
        with open(path) as f:
            source = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
        for match in CALL.finditer(source):
            parts = split_arguments(arguments_of(source, match.end()))
            texts = [(i, plain(p)) for i, p in enumerate(parts) if '"' in p]
            if not texts:
                continue
            name = match.group(1)
            if name.startswith("log_"):
                module, formats = texts[0][1], [parts[texts[0][0] + 1]]
            else:
                module = {"act_log": "coordinator", "job_fail": "failed"}.get(name, "job")
                formats = [parts[texts[0][0]]]
                if plain(formats[0]) == "…" and "?" in "".join(parts[texts[0][0] + 1:]):
                    formats = ['"' + t + '"' for t in LITERAL.findall(parts[-1])]
            for text in map(plain, formats):
                if text and text not in ONLY_A_TEXT:
                    found.setdefault((module, text), []).append(os.path.relpath(path, ROOT))
    return found


def rows_of_page():
    found = []
    with open(PAGE, encoding="utf-8") as f:
        for line in f:
            match = re.match(r"\| ([a-z]\w*) \| `(.+?)` \| (.*) \|$", line)
            if match:
                found.append((match.group(1), match.group(2), match.group(3)))
    return found


def exit_codes():
    """Numbers that programs end with, by their sources."""
    found = set()
    for path in ("cli/cli.h", "server/main.c", "worker/main.c"):
        with open(os.path.join(ROOT, path)) as f:
            found |= set(re.findall(r"EXIT_\w+\s*=?\s+(\d+)", f.read()))
    return found


def main():
    cases = Cases()
    events, rows = events_of_sources(), rows_of_page()
    listed = {(module, text) for module, text, _ in rows}
    if "--missing" in sys.argv:
        for module, text in sorted(set(events) - listed):
            print(f"| {module} | `{text}` |  |")
        return
    cases.check("the sources are read: there are events of every kind",
                {"coordinator", "job", "failed", "main", "registry", "agent"} <= {m for m, _ in events}, len(events))
    for module, text in sorted(events):
        cases.check(f"listed: {module} {text}", (module, text) in listed, f"from {events[module, text]}; see --missing")
    for module, text in sorted(listed - set(events)):
        cases.check(f"no longer logged: {module} {text}", False, "remove it from docs/events.md")
    cases.check("every row says what it means", all(len(meaning) > 8 for _, _, meaning in rows),
                [r for r in rows if len(r[2]) <= 8])
    with open(PAGE, encoding="utf-8") as f:
        codes = set(re.findall(r"^\| (\d+) \|", f.read(), re.M))
    wanted = exit_codes() | {"0"}
    cases.check("every exit code is listed", wanted <= codes, f"lacks {wanted - codes}")
    cases.end()


main()
