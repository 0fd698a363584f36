#!/usr/bin/env python3
"""Makes the recorded report of a third party's daemon out of the suite's own.

    report.py NAME SUITE-REPORT.json REPORTS-DIRECTORY

Leaves out the transcripts and what belongs to one machine, refuses to write what must not be published, and writes
NAME.json (after report.schema.json) and NAME.md.
"""

import json
import os
import pathlib
import re
import socket
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
WORDS = {
    "pass": "as asked",
    "fail": "otherwise",
    "warn": "otherwise (SHOULD)",
    "not-applicable": "not bound",
    "untestable": "not seen here",
    "inconclusive": "not seen",
}
ABOUT = """{name} does not claim to conform to local-daemon/1, and nothing here says that it should. The suite asked the
cases of chapters 05, 07, 10 and 11 that are about what any program, or a page in a browser, can see at the daemon's port,
and this table says what it saw. *Otherwise* often is a matter of form, such as 403 where local-daemon/1 has 401. How the
daemon was started, and why these cases, is told in
[`conformance/subjects/third-party`](../subjects/third-party/README.md)."""


def clean(value):
    """The same without the places of this machine."""
    if isinstance(value, str):
        value = value.replace(str(ROOT) + "/", "").replace(str(ROOT), ".")
        value = re.sub(r"/tmp/ld[A-Za-z0-9]+", "/tmp/arena", value)
        return re.sub(r"\b(pid|port) \d+", r"\1 N", value)
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    return value


def cell(text):
    text = re.sub(r"\s+", " ", text or "").strip()
    text = text if len(text) <= 300 else text[:300] + " …"
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


def main():
    name, source, directory = sys.argv[1:]
    report = json.loads(pathlib.Path(source).read_text())
    for result in report["results"]:
        result["transcript"] = []
    report = clean(report)
    facts = f"{report['started'][:10]} · suite {report['suite_version']} · {report['spec']} · seed {report['seed']}"
    engines = [f"{engine['name']} {engine['version']}" for engine in report["host"]["engines"]]
    lines = [
        f"# {report['subject']['version']}, as local-daemon/1 would have it",
        "",
        " · ".join([facts, report["host"]["os"], *engines]),
        "",
        ABOUT.format(name=name),
        "",
        "| Case | Requirements | Seen | What was seen |",
        "|---|---|---|---|",
    ]
    for result in report["results"]:
        word = WORDS.get(result["verdict"], result["verdict"])
        seen = cell(result["observed"])
        lines.append(f"| {result['case']} | {', '.join(result['requirements'])} | {word} | {seen} |")
    lines += [
        "",
        "## Reproduce",
        "",
        "On Linux with Node, npm, Python 3.11, the engines of `ci/browsers` and this repository; it takes some minutes.",
        "",
        "```sh",
        f"ci/third-party install {name}",
        f"ci/third-party report {name}",
        "```",
        "",
    ]
    texts = {"json": json.dumps(report, indent=1, ensure_ascii=False) + "\n", "md": "\n".join(lines)}
    forbidden = [str(ROOT), os.path.expanduser("~") + "/", socket.gethostname(), "registry.", "pypi", "npmjs"]
    for text in texts.values():
        for word in forbidden:
            if word in text:
                sys.exit(f"the report would hold {word!r}")
        if re.search(r"(?i)(bearer|basic|token) [A-Za-z0-9_+/-]{30,}", text):
            sys.exit("the report would hold a credential")
    pathlib.Path(directory).mkdir(exist_ok=True)
    for form, text in texts.items():
        (pathlib.Path(directory) / f"{name}.{form}").write_text(text)


main()
