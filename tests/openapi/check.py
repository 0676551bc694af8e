"""Holds the API's document against the programs that read such documents; called by tests/openapi/run.

Each check has a gateway and a sandbox of its own: what the demo starts. All are made, whatever fails; the exit code is 0 or 1.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from openapi_spec_validator import OpenAPIV31SpecValidator

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/openapi"
# The same calls in every run, as many as take about a minute.
SEED, EXAMPLES = "7", "12"


class Demo:
    """The demo, while it is up: gateway, sandbox, and a token."""

    def __init__(self, postern):
        self.folder = tempfile.TemporaryDirectory(prefix="postern-openapi-")
        environment = {
            "PATH": os.environ["PATH"],
            "TMPDIR": self.folder.name,
            "POSTERN__SERVER__LISTEN": "127.0.0.1:0",
            "POSTERN__SERVER__ADMIN_LISTEN": "127.0.0.1:0",
            "POSTERN__SERVER__CALLS_MAX": "100000",
        }
        pipe = subprocess.PIPE
        command = [postern, "demo"]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, text=True)

    def __enter__(self):
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("# the calls that reached Graph"):
                break
        said = "".join(said)
        self.token = re.search(r"^TOKEN='(.+)'$", said, re.M).group(1)
        self.address = re.search(r"^ *gateway +(http://\S+)$", said, re.M).group(1)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.stdout.read()
        self.process.wait(60)
        self.folder.cleanup()

    def document(self):
        with urllib.request.urlopen(f"{self.address}/openapi.json") as answer:
            return json.load(answer)


def run(*command, **more):
    """Runs a command that must succeed."""
    ended = subprocess.run(
        [str(part) for part in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **more
    )
    if ended.returncode != 0:
        raise AssertionError(f"{command[0]}: exit code {ended.returncode}\n{ended.stdout[-20000:]}")
    return ended.stdout


def by_openapis_own_schemas(demo, _work):
    OpenAPIV31SpecValidator(demo.document()).validate()


def by_a_client_in_python(demo, work):
    made = work / "client"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    (made / "openapi.json").write_text(json.dumps(demo.document()))
    (made / "config.yml").write_text("package_name_override: postern_client\nproject_name_override: postern-client\n")
    tools = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    said = run(
        tools / "openapi-python-client", "generate", "--path", "openapi.json", "--config", "config.yml",
        "--output-path", "made", cwd=made, env=environment,
    )  # fmt: skip
    # It does not support plain-text bodies and warns about them; that is all it may leave out.
    assert "will not be generated" not in said and said.count("WARNING") == 1, said
    run(sys.executable, "-m", "compileall", "-q", made / "made")
    shutil.copy(HERE / "client.py", made / "made")
    run(sys.executable, "client.py", demo.address, demo.token, cwd=made / "made")


def by_a_client_in_typescript(demo, work):
    node = work / "node"
    (node / "openapi.json").write_text(json.dumps(demo.document()))
    run("node_modules/.bin/openapi-typescript", "openapi.json", "--output", "postern.d.ts", cwd=node)
    strict = ["--strict", "--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes", "--skipLibCheck", "--lib", "es2022,dom"]
    form = ["--target", "es2022", "--module", "nodenext", "--types", "node", "--outDir", "compiled"]
    run("node_modules/.bin/tsc", *strict, *form, "client.ts", cwd=node)
    run("node", "compiled/client.js", demo.address, demo.token, cwd=node)


def by_calls_that_are_made_up(demo, work):
    tools = Path(sys.executable).parent
    command = [
        tools / "schemathesis", "--config-file", HERE / "schemathesis.toml", "run", f"{demo.address}/openapi.json",
        "--header", f"Authorization: Bearer {demo.token}", "--seed", SEED, "--generation-deterministic",
        "--max-examples", EXAMPLES, "--phases", "examples,coverage,fuzzing", "--mode", "all", "--no-color",
    ]  # fmt: skip
    run(*command, cwd=work)


def by_a_browser(demo, work):
    run("node", "page.mjs", demo.address, demo.token, work.resolve() / "docs.png", cwd=work / "node")


def fits(told, found):
    """Whether what is told is a part of what was found; an ellipsis stands for anything."""
    if isinstance(told, dict):
        return isinstance(found, dict) and all(key in found and fits(value, found[key]) for key, value in told.items())
    if isinstance(told, list):
        return isinstance(found, list) and len(told) == len(found) and all(map(fits, told, found))
    if isinstance(told, str) and "…" in told:
        pattern = ".*".join(re.escape(part) for part in told.split("…"))
        return isinstance(found, str) and re.fullmatch(pattern, found, re.S) is not None
    return told == found


def by_the_guide(demo, work):
    """Runs the examples of docs/api.md in their order, and compares each answer with the one that is told."""
    guide = (ROOT / "docs/api.md").read_text()
    blocks = re.findall(r"^```(sh|json|http)\n(.*?)^```$", guide, re.M | re.S)
    before, said, compared = "set -euo pipefail\n", None, 0
    environment = {**os.environ, "POSTERN": demo.address, "TOKEN": demo.token}
    for kind, text in blocks:
        if kind == "sh":
            # Blocks that only set variables apply to all later ones.
            if "curl" not in text:
                before += text
                continue
            said = run("bash", "-c", before + text, env=environment, cwd=work)
        elif kind == "json":
            assert fits(json.loads(text), json.loads(said)), f"docs/api.md tells\n{text}\nbut the answer is\n{said}"
            compared += 1
        else:
            head = said.replace("\r", "").split("\n\n")[0].split("\n")
            for line in text.strip().split("\n"):
                assert any(fits(line, found) for found in head), f"docs/api.md tells {line}, but the answer is\n{said}"
            compared += 1
    assert compared >= 10, compared


CHECKS = [
    by_openapis_own_schemas,
    by_the_guide,
    by_a_client_in_python,
    by_a_client_in_typescript,
    by_a_browser,
    by_calls_that_are_made_up,
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postern", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", help="one check by its name")
    arguments = parser.parse_args()
    failed = 0
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        if arguments.only not in (None, check.__name__):
            continue
        begun = time.monotonic()
        with Demo(arguments.postern.resolve()) as demo:
            try:
                check(demo, arguments.work)
            except Exception as error:  # reported, so that the others still run
                failed += 1
                print(f"the document {name}: {type(error).__name__}: {error}", file=sys.stderr)
                continue
        print(f"the document {name}: good, in {time.monotonic() - begun:.0f} s")
    return 1 if failed else 0


sys.exit(main())
