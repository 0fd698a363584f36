"""The PyPI readers of documents: the OpenAPI document in one file, a client that is generated from it, and the schemas."""

import importlib
import json
import pathlib
import subprocess
import sys
import tempfile

import jsonschema
import openapi_spec_validator

from support import bearer, check, equal, record, url

SPEC = pathlib.Path("spec")
BUNDLE = SPEC / "openapi.bundle.json"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


for path in sorted((SPEC / "schemas").glob("*.schema.json")):
    check("jsonschema", f"accepts {path.name}", lambda: jsonschema.Draft202012Validator.check_schema(read(path)))
check("openapi-spec-validator", "reads the bundled OpenAPI document", lambda: openapi_spec_validator.validate(read(BUNDLE)))


def generate(to):
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--fail-on-warning"]
    made = subprocess.run([*command, "--path", BUNDLE, "--output-path", to], capture_output=True, text=True, check=False)
    equal((made.returncode, "WARNING" in made.stdout, made.stderr), (0, False, ""))


def operation(name):
    return importlib.import_module(f"generated.api.default.{name}").sync_detailed


def use(status, parsed, name, token, **arguments):
    client = importlib.import_module("generated").AuthenticatedClient(base_url=url(), token=token)
    answer = operation(name)(client=client, **arguments)
    equal((answer.status_code, type(answer.parsed).__name__), (status, parsed))
    return answer.parsed


with tempfile.TemporaryDirectory() as folder:
    sys.path.insert(0, folder)
    client = "openapi-python-client"
    check(client, "generates a client without a warning", lambda: generate(f"{folder}/generated"))
    token = bearer()["Authorization"].removeprefix("Bearer ")
    check(client, "parses the status", lambda: equal(use(200, "Status", "status", token).id, record()["id"]))
    check(client, "parses a refusal", lambda: equal(use(401, "Problem", "status", "x").code, "unauthorized"))
